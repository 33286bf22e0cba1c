package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/bench/world"
	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway"
	"github.com/weir-gateway/weir/gateway/prove"
	"github.com/weir-gateway/weir/gateway/vpn"
)

// A proving is a world with the real program in it.
type proving struct {
	*world.World
	t    *testing.T
	weir string
	file string // its configuration
	from string // the configuration that the proof has its targets from
}

func newProving(t *testing.T) *proving {
	t.Helper()
	corpus.Root(t)
	for _, tool := range []string{"ip", "nft"} {
		corpus.Tool(t, tool)
	}
	p := &proving{World: world.New(t), t: t}
	p.weir = filepath.Join(p.Dir, "weir")
	if out, err := exec.Command("go", "build", "-o", p.weir, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	p.file, p.from = filepath.Join(p.Dir, "weir.yml"), filepath.Join(p.Dir, "from.yml")
	if err := os.WriteFile(p.from, []byte("{}\n"), 0o600); err != nil { // the built-in bans
		t.Fatal(err)
	}
	return p
}

// serve runs the gateway until the test ends, with these lines of configuration.
func (p *proving) serve(lines string) {
	p.t.Helper()
	text := fmt.Sprintf(`dns: {listen: ["0.0.0.0:53", "[::]:53"], upstreams: ["udp://%s"]}
proxy: {listen: ["0.0.0.0:3128"]}
audit: {file: %s}
state: %s
%s`, world.Upstream, filepath.Join(p.Dir, "audit.jsonl"), p.Dir, lines)
	if err := os.WriteFile(p.file, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	log := filepath.Join(p.Dir, "serve.log")
	out, err := os.Create(log)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(p.weir, "serve", "--config", p.file)
	cmd.Stdout, cmd.Stderr = out, out
	if err := p.Gateway.Start(cmd); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if text, err := os.ReadFile(log); err == nil && p.t.Failed() {
			p.t.Logf("serve said:\n%s", text)
		}
	})
	p.until("ready", func() bool {
		text, _ := os.ReadFile(log)
		return bytes.Contains(text, []byte("msg=ready"))
	})
}

func (p *proving) until(what string, ok func() bool) {
	p.t.Helper()
	for range 200 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.t.Fatalf("never: %s", what)
}

// prove runs the proof on the device.
func (p *proving) prove(args ...string) (*prove.Report, int) {
	p.t.Helper()
	cmd := exec.Command(p.weir, append([]string{"prove", "--json", "--dns", world.GatewayV4 + ":53", "--proxy", world.GatewayV4 + ":3128", "--config", p.from}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := p.Device.Run(cmd)
	r := new(prove.Report)
	if jsonErr := json.Unmarshal(out.Bytes(), r); jsonErr != nil {
		p.t.Fatalf("prove: %v, %v\n%s", err, jsonErr, said.String())
	}
	return r, cmd.ProcessState.ExitCode()
}

func table(t *testing.T, r *prove.Report, all bool) string {
	t.Helper()
	var b strings.Builder
	if err := r.WriteTable(&b, all); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// filtered is the configuration of an unavoidable gateway.
func (p *proving) filtered() string {
	return fmt.Sprintf(`transparent: {listen: ["0.0.0.0:3129", "[::]:3129"]}
vpn: {interface: %s, management: []}
`, p.Interface)
}

// TestProveShowsOpenWays: without a packet filter the ways past the gateway are
// open, and the proof shows it. Otherwise it could show nothing.
func TestProveShowsOpenWays(t *testing.T) {
	p := newProving(t)
	p.serve("bans: []\n")
	r, code := p.prove()
	if code != exitError || r.OK() {
		t.Errorf("exit %d", code)
	}
	for _, x := range r.Results {
		// The proxy has its own rules about what a tunnel begins with.
		proxied := x.Route == "connect" || x.Route == "connect-sni" || x.Route == "address-connect"
		// There is nothing to refuse QUIC, and nothing at that port.
		absent := x.Route == "works-fallback" || strings.HasSuffix(x.Tried, "own port 8053")
		if !absent && (x.Outcome == prove.Closed && !proxied || x.Outcome == prove.Broken) {
			t.Errorf("%s, %s: %s with nothing in the way: %s", x.Route, x.Tried, x.Outcome, x.Detail)
		}
	}
}

// TestProve: with the packet filter every way is closed, and what must work
// works.
func TestProve(t *testing.T) {
	p := newProving(t)
	p.serve(p.filtered())
	report, html := filepath.Join(p.Dir, "report.json"), filepath.Join(p.Dir, "report.html")
	r, code := p.prove("--report", report, "--html", html)
	if code != exitOK || !r.OK() || r.Generation == 0 {
		t.Errorf("exit %d\n%s", code, table(t, r, false))
	}
	t.Log(table(t, r, false))
	if n := r.Counts(); n[prove.Closed] < 100 || n[prove.Works] < 10 || n[prove.NotTried] > 0 {
		t.Errorf("%v", n)
	}
	out, err := exec.Command(p.weir, "prove", "verify", report).CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("signed by the key")) {
		t.Errorf("verify: %v\n%s", err, out)
	}
	doc, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(report, bytes.Replace(doc, []byte(`"closed"`), []byte(`"CLOSED"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(p.weir, "prove", "verify", report).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("was changed")) {
		t.Errorf("a changed report: %v\n%s", err, out)
	}
	if text, err := os.ReadFile(html); err != nil || !bytes.Contains(text, []byte("Every way that was tried is closed")) {
		t.Errorf("page: %v", err)
	}
	p.mutate()
}

// mutate takes one rule at a time out of the packet filter. The proof must find
// the way that it closes.
func (p *proving) mutate() {
	p.t.Helper()
	cfg, err := config.Load(p.file, bans.FS)
	if err != nil {
		p.t.Fatal(err)
	}
	rs, err := gateway.PacketFilter("test", cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	k := vpn.Kernel{NetNS: p.Gateway.FD()}
	targets, err := gateway.ProveTargets(cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, rules := range mutations(rs.Names(), targets) {
		mutant := rs
		for _, rule := range rules {
			mutant = mutant.Without(rule)
		}
		if _, err := k.Apply(mutant); err != nil {
			p.t.Fatalf("without %v: %v", rules, err)
		}
		r, code := p.prove("--timeout", "700ms")
		p.t.Logf("without %s: exit %d, %s", strings.Join(rules, " and "), code, strings.Join(failedRoutes(r), " "))
		if _, second := secondLocks[rules[0]]; (code == exitOK) != (second && len(rules) == 1) {
			p.t.Errorf("without %v: exit %d\n%s", rules, code, table(p.t, r, false))
		}
	}
	if _, err := k.Apply(rs); err != nil {
		p.t.Fatal(err)
	}
	if r, code := p.prove(); code != exitOK {
		p.t.Errorf("with every rule again: exit %d\n%s", code, table(p.t, r, false))
	}
}

// mutations are each rule, and both rules of a ban's addresses, of which either
// one is enough, where the ban has such addresses.
func mutations(names []string, targets []prove.Target) [][]string {
	var all [][]string
	for _, n := range names {
		all = append(all, []string{n})
	}
	for _, t := range targets {
		for _, a := range t.Addrs {
			rule := "ban-" + t.Ban + "-v6"
			if a.Is4() {
				rule = "ban-" + t.Ban + "-v4"
			}
			all = append(all, []string{"outbound/" + rule, "inbound/" + rule})
		}
	}
	return all
}

func failedRoutes(r *prove.Report) []string {
	var all []string
	for i := range r.Results {
		if x := &r.Results[i]; x.Failed() && !slices.Contains(all, x.Route) {
			all = append(all, x.Route)
		}
	}
	return all
}

// secondLocks are the rules without which another one still closes what they
// close, or which speak of what one device alone cannot try. The tests of
// gateway/vpn show what each of them does.
var secondLocks = func() map[string]string {
	all := map[string]string{
		"guard/neighbours":     "neighbour discovery, which no tunnel has",
		"guard/spoofed":        "another device's address, which no tunnel lets through",
		"guard/peers":          "another device",
		"guard/embedding":      "disguised addresses, which are in the sets too",
		"guard/private-dns":    "refused at once; else looked into and refused there",
		"forward/to-devices":   "connections to devices from outside",
		"outbound/ping-v4":     "pings",
		"outbound/ping-v6":     "pings",
		"outbound/rest-tcp":    "TCP, all of which is looked into",
		"inbound/big-pongs-v4": "pings",
		"inbound/big-pongs-v6": "pings",
		"inbound/rest":         "connections to devices from outside",
		"refuse/tcp":           "refused with a reset; else dropped",
		"refuse/rest":          "refused with an error; else dropped",
		"gateway/neighbours":   "neighbour discovery, which no tunnel has",
		"gateway/replies":      "answers to the gateway's own questions",
		"gateway/ping-v4":      "pings",
		"gateway/ping-v6":      "pings",
		"gateway/rest-tcp":     "refused with a reset; else dropped",
		"gateway/rest":         "refused by the machine; else dropped",
	}
	for _, ban := range []string{"wechat", "kaspersky", "tiktok", "bypass"} {
		for _, family := range []string{"v4", "v6"} {
			all["outbound/ban-"+ban+"-"+family] = "inbound/ban holds back the answers"
			all["inbound/ban-"+ban+"-"+family] = "outbound/ban holds back the questions"
		}
	}
	return all
}()

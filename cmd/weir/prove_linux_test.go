package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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

func newWorld(t *testing.T) (*world.World, string) {
	t.Helper()
	corpus.Root(t)
	corpus.Tool(t, "ip")
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return world.New(t), path
}

// proves runs "weir prove" on the device and returns its report, whose
// signature it checks.
func proves(t *testing.T, w *world.World, path string, args ...string) (*prove.Report, int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.json")
	args = slices.Concat([]string{"prove", "--gateway", world.GatewayV4, "--json", file, "--wait", "1s",
		"--set", "cloak=" + world.CloakSuffix, "--set", "echo=echo.example.net/echo", "--set", "big=/big/20000000", "--set", "gateway6=" + world.GatewayV6}, args)
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+w.CA.File, "SSL_CERT_DIR=/nonexistent")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := w.Device.Run(cmd); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	r, _, err := prove.Verify(data)
	if err != nil {
		t.Fatal(err)
	}
	if testing.Verbose() && !slices.Contains(args, "--only") {
		t.Log(out.String())
	}
	return r, cmd.ProcessState.ExitCode()
}

// Where nothing filters, every way that can be tried is open: no row is closed
// because it cannot be anything else.
func TestProveSeesWhatIsOpen(t *testing.T) {
	w, path := newWorld(t)
	// There is no gateway, only its address, where the internet's resolver answers.
	w.Forward(t)
	r, code := proves(t, w, path)
	for _, wait := range []string{"4s", "12s"} {
		if slices.ContainsFunc(r.Rows, isHidden) { // or the machine is busy
			r, code = proves(t, w, path, "--wait", wait)
		}
	}
	if code != 1 || r.Passed {
		t.Errorf("exit code %d, passed %v", code, r.Passed)
	}
	for _, row := range r.Rows {
		if isHidden(row) {
			text, _ := json.MarshalIndent(row, "", " ")
			t.Errorf("%s", text)
		}
	}
}

// isHidden reports whether a row is closed, or was not tried, where nothing filters
// and there is no gateway.
func isHidden(row prove.Row) bool {
	switch row.Outcome {
	case prove.Open, prove.Beyond, prove.Works:
		return false
	case prove.NotTried:
		return row.Route != "before-ban" && row.Route != "connect" && row.Route != "connect-sni" && !strings.HasPrefix(row.Route, "address")
	}
	needsGateway := row.Route == "gateway-admin" || row.Route == "works-proxy-v6" || row.Route == "proxy-http" ||
		strings.HasSuffix(row.Attempts[0].Target, "by the proxy") || row.Route == "works-http" || row.Route == "works-tls"
	return !needsGateway
}

const gatewayConfig = `
dns: {listen: ["0.0.0.0:53", "[::]:53"], upstreams: ["udp://63.245.0.53:53"]}
proxy: {listen: ["0.0.0.0:3128", "[::]:3128"]}
transparent: {listen: ["0.0.0.0:3129", "[::]:3129"]}
vpn:
  interface: INTERFACE
  management: []
  tcp: {direct: [25, 143, 587, 993]}
admin: {listen: "127.0.0.1:8053"}
`

// inspectQUIC looks into QUIC where gatewayConfig refuses it.
const inspectQUIC = `quic: {mode: inspect, listen: ["0.0.0.0:3130", "[::]:3130"]}
`

// With the packet filter in place, everything is closed and everything works.
func TestProve(t *testing.T) {
	t.Run("refuse", func(t *testing.T) { provesAll(t, "") })
	t.Run("inspect", func(t *testing.T) { provesAll(t, inspectQUIC) })
}

// provesAll proves what a gateway with a further configuration does.
func provesAll(t *testing.T, further string) {
	w, path := newWorld(t)
	cfg := strings.ReplaceAll(gatewayConfig, "INTERFACE", w.Interface) + further
	p := w.Serve(path, cfg)
	html := filepath.Join(w.Dir, "report.html")
	args := []string{"--config", w.File("device.yml", cfg), "--html", html}
	r, code := proves(t, w, path, args...)
	for _, wait := range []string{"4s", "12s"} {
		if slices.ContainsFunc(r.Rows, func(row prove.Row) bool { return row.Outcome == prove.Broken }) { // or the machine is busy
			r, code = proves(t, w, path, append(args, "--wait", wait)...)
		}
	}
	if code != 0 || !r.Passed {
		t.Errorf("exit code %d, passed %v\n%s", code, r.Passed, p.Log())
	}
	if r.Generation == 0 {
		t.Errorf("no generation: %s", r.Evidence)
	}
	for _, row := range r.Rows {
		if row.Route == "works-quic" && (further != "") != strings.HasPrefix(row.Attempts[0].Seen, "handshake complete") {
			t.Errorf("QUIC to an allowed site: %s", row.Attempts[0].Seen)
		}
		for _, a := range row.Attempts {
			if a.Outcome == prove.Open || a.Outcome == prove.Broken {
				t.Errorf("%s %s: %s: %s: %s", row.Route, row.Ban, a.Target, a.Outcome, a.Seen)
			}
		}
		if row.Outcome == prove.NotTried && !mayBeUntried(row.Route) {
			t.Errorf("%s %s: not tried: %v", row.Route, row.Ban, row.Attempts)
		}
	}
	page, err := os.ReadFile(html)
	if err != nil || !strings.Contains(string(page), "Interdiction de WeChat") {
		t.Errorf("page: %v, %d bytes", err, len(page))
	}
}

// mayBeUntried are rows that need what is not there: addresses in the lists, an
// operator, or somebody who answers where the filter says nothing.
func mayBeUntried(route string) bool {
	return strings.HasPrefix(route, "address") || slices.Contains([]string{"before-ban", "udp-tunnel", "ip-tunnel"}, route)
}

// without says which route sees that a rule of the packet filter is not there.
var without = map[string]string{
	"prerouting/from-devices":   "dot",
	"guard/embedding":           "address-v6",
	"guard/private-dns":         "dot",
	"guard/quic":                "works-quic",
	"guard/inspect-quic-v4":     "works-quic",
	"guard/inspect-quic-v6":     "works-quic",
	"nat/from-devices":          "works-tls",
	"divert/dns-udp-v4":         "works-dns",
	"divert/dns-tcp-v4":         "works-dns",
	"divert/dns-udp-v6":         "works-dns",
	"divert/dns-tcp-v6":         "works-dns",
	"divert/to-gateway":         "gateway-admin",
	"divert/tcp-direct":         "works-mail",
	"divert/inspect-v4":         "works-splits",
	"divert/inspect-v6":         "works-v6",
	"forward/from-devices":      "udp-tunnel",
	"outbound/ban-wechat-v4":    "address",
	"outbound/ban-wechat-v6":    "address-v6",
	"outbound/ban-kaspersky-v4": "address",
	"outbound/ban-kaspersky-v6": "address-v6",
	"outbound/ban-bypass-v4":    "address",
	"outbound/ban-bypass-v6":    "address-v6",
	"outbound/ping-v4":          "works-ping",
	"outbound/ping-v6":          "works-ping",
	"outbound/tcp-direct":       "works-mail",
	"outbound/udp-direct":       "works-time",
	"outbound/rest":             "udp-tunnel",
	"inbound/replies":           "works-mail",
	"input/from-devices":        "gateway-admin",
	"gateway/dns-udp-v4":        "works-dns",
	"gateway/dns-tcp-v4":        "works-dns",
	"gateway/dns-udp-v6":        "works-dns",
	"gateway/dns-tcp-v6":        "works-dns",
	"gateway/ping-v4":           "works-ping",
	"gateway/ping-v6":           "works-ping",
	"gateway/proxy-v6":          "works-proxy-v6",
	"gateway/rest-tcp":          "works-refusal",
	"gateway/rest":              "gateway-udp",
	"gateway/proxy-v4":          "works-tls",
	"gateway/inspect-v4":        "works-splits",
	"gateway/inspect-v6":        "works-v6",
}

// unseen are rules whose loss one device cannot see in this world, and why. What
// each of them closes is shown in package vpn.
var unseen = map[string]string{
	"guard/neighbours":         "the tunnel has no neighbours",
	"guard/spoofed":            "WireGuard drops such sources first",
	"guard/peers":              "there is one device",
	"forward/to-devices":       "nobody else opens connections",
	"outbound/ban-tiktok-v4":   "the ban has no addresses in force",
	"outbound/ban-tiktok-v6":   "the ban has no addresses in force",
	"outbound/rest-tcp":        "all other TCP is inspected before it",
	"inbound/ban-wechat-v4":    "for connections from before the ban",
	"inbound/ban-wechat-v6":    "for connections from before the ban",
	"inbound/ban-kaspersky-v4": "for connections from before the ban",
	"inbound/ban-kaspersky-v6": "for connections from before the ban",
	"inbound/ban-tiktok-v4":    "for connections from before the ban",
	"inbound/ban-tiktok-v6":    "for connections from before the ban",
	"inbound/ban-bypass-v4":    "for connections from before the ban",
	"inbound/ban-bypass-v6":    "for connections from before the ban",
	"inbound/big-pongs-v4":     "large requests do not go out; a server that answers more than it was asked would need one of its own",
	"inbound/big-pongs-v6":     "the same",
	"inbound/rest":             "nobody else opens connections",
	"refuse/tcp":               "the rule after it refuses too, in another way",
	"refuse/rest":              "no UDP of a ban's addresses is tried",
	"gateway/neighbours":       "the tunnel has no neighbours",
	"gateway/replies":          "the gateway opens no connections to devices",
}

// Without a rule of the packet filter the proof fails, on the route that the
// rule closes or keeps working.
func TestProveMissesARule(t *testing.T) {
	t.Run("refuse", func(t *testing.T) { missesARule(t, "", func(string) bool { return true }) })
	t.Run("inspect", func(t *testing.T) {
		missesARule(t, inspectQUIC, func(rule string) bool { return strings.Contains(rule, "inspect-quic") })
	})
}

// missesARule takes away the rules that count, one by one, of a gateway with a
// further configuration.
func missesARule(t *testing.T, further string, counts func(rule string) bool) {
	w, path := newWorld(t)
	cfg := strings.ReplaceAll(gatewayConfig, "INTERFACE", w.Interface) + further
	cfg = strings.Replace(cfg, "admin: {listen: \"127.0.0.1:8053\"}", "admin: {listen: \"0.0.0.0:8053\"}", 1)
	file := w.File("filter.yml", cfg)
	off := strings.Replace(cfg, "interface: "+w.Interface, "interface: \"\"", 1)
	w.Serve(path, off) // so that it does not put back what is taken away
	c, err := config.Load(file, bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := gateway.PacketFilter("test", c)
	if err != nil {
		t.Fatal(err)
	}
	var only []string
	for _, route := range []string{"dot", "doq", "quic", "address", "address-v6", "udp-tunnel", "ip-tunnel", "gateway-admin",
		"works-dns", "works-mail", "works-tls", "works-v6", "works-splits", "works-time", "works-quic", "works-ping", "works-proxy-v6", "works-refusal", "gateway-udp"} {
		only = append(only, "--only", route)
	}
	k := vpn.Kernel{NetNS: w.Gateway.FD()}
	for _, rule := range rs.Names() {
		if !counts(rule) {
			continue
		}
		route := without[rule]
		if (route == "") != (unseen[rule] != "") {
			t.Errorf("%s: enter the rule in without or in unseen", rule)
		}
		less := rs.Without(rule)
		if ban, ok := strings.CutPrefix(rule, "outbound/ban-"); ok {
			less = less.Without("inbound/ban-" + ban) // which drops the answers
		}
		if _, err := k.Apply(less); err != nil {
			t.Fatalf("without %s: %v", rule, err)
		}
		failed := failedRoutes(t, w, path, route, slices.Concat([]string{"--config", file}, only))
		t.Logf("without %-24s %s", rule, strings.Join(failed, " "))
		if route == "" && len(failed) > 0 {
			t.Errorf("without %s: %v fail, and unseen says none would", rule, failed)
		}
		if route != "" && !slices.Contains(failed, route) {
			t.Errorf("without %s: %v fail, want %s among them", rule, failed, route)
		}
	}
}

// failedRoutes are those on which the proof fails: with more patience, where the
// one that is expected is not among them and the machine may be busy.
func failedRoutes(t *testing.T, w *world.World, path, want string, args []string) (failed []string) {
	t.Helper()
	for _, wait := range []string{"600ms", "3s", "10s"} {
		r, _ := proves(t, w, path, slices.Concat(args, []string{"--wait", wait})...)
		failed = nil
		for _, row := range r.Rows {
			if row.Outcome == prove.Open || row.Outcome == prove.Broken {
				failed = append(failed, row.Route)
			}
		}
		if want == "" && len(failed) == 0 || slices.Contains(failed, want) {
			break
		}
	}
	return slices.Compact(failed)
}

// A ban that comes into force cuts the tunnel that is open to what it bans, at
// once; other tunnels go on and lose nothing.
func TestBanCutsOpenTunnel(t *testing.T) {
	w, path := newWorld(t)
	cfg := strings.ReplaceAll(gatewayConfig, "INTERFACE", w.Interface)
	p := w.Serve(path, cfg+"bans: [wechat, kaspersky]\n")
	tunnels := map[string]*tls.Conn{}
	for _, name := range []string{"www.tiktok.com", "www.example.com"} {
		for kind, open := range map[string]func() (net.Conn, error){
			"proxy":       func() (net.Conn, error) { return w.Device.Connect(world.GatewayV4+":3128", name+":443") },
			"transparent": func() (net.Conn, error) { return w.Device.Dial("tcp", w.Address(name)+":443") },
		} {
			c, err := open()
			if err != nil {
				t.Fatalf("%s to %s: %v\n%s", kind, name, err, p.Log())
			}
			s, err := w.Secure(c, name)
			if err != nil {
				t.Fatalf("%s to %s: %v\n%s", kind, name, err, p.Log())
			}
			defer func() { _ = s.Close() }()
			_ = s.SetDeadline(time.Now().Add(5 * time.Minute))
			if _, err := fmt.Fprintf(s, "GET /big/40000000 HTTP/1.0\r\nHost: %s\r\n\r\n", name); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(s, make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
			tunnels[kind+" "+name] = s
		}
	}
	w.File("weir.yml", cfg+"bans: [wechat, kaspersky, tiktok]\n") // noticed by itself
	begin := time.Now()
	for !strings.Contains(p.Log(), "generation=2") && time.Since(begin) < time.Minute {
		time.Sleep(5 * time.Millisecond)
	}
	force := time.Now()
	var all sync.WaitGroup
	for name, c := range tunnels {
		all.Go(func() {
			n, err := io.Copy(io.Discard, c)
			took := time.Since(force)
			t.Logf("%s: %d bytes, ended %v after the ban: %v", name, n, took, err)
			whole := err == nil && n > 40_000_000-4096
			switch banned := strings.HasSuffix(name, "tiktok.com"); {
			case banned && (whole || took > 30*time.Second):
				t.Errorf("%s: not cut at once", name)
			case !banned && !whole:
				t.Errorf("%s: bytes were lost", name)
			}
		})
	}
	all.Wait()
}

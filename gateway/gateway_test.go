package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
)

// upstream is a real DNS server on loopback. Names under cloak.example answer
// with what their first label says; all others with 192.0.2.1.
func upstream(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(answerUpstream), NotifyStartedFunc: func() { close(ready) }}
	go func() { _ = s.ActivateAndServe() }()
	<-ready
	t.Cleanup(func() { _ = s.Shutdown() })
	return "udp://" + pc.LocalAddr().String()
}

func answerUpstream(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	name := dns.CanonicalName(q.Question[0].Name)
	add := func(format string, args ...any) {
		rr, err := dns.NewRR(fmt.Sprintf(format, args...))
		if err != nil {
			panic(err)
		}
		m.Answer = append(m.Answer, rr)
	}
	first, _, _ := strings.Cut(name, ".")
	switch qtype := q.Question[0].Qtype; {
	case first == "missing":
		m.Rcode = dns.RcodeNameError
	case first == "cname":
		add("%s 60 IN CNAME cdn.wechat.com.", name)
	case first == "addr" && qtype == dns.TypeA:
		add("%s 60 IN A 43.130.30.240", name)
	case first == "svcb" && qtype == dns.TypeHTTPS:
		add("%s 60 IN HTTPS 1 www.tiktok.com. alpn=h2", name)
	case first == "hint" && qtype == dns.TypeHTTPS:
		add("%s 60 IN HTTPS 1 . alpn=h2 ipv4hint=43.130.30.240", name)
	case qtype == dns.TypeA:
		add("%s 60 IN A 192.0.2.1", name)
	}
	_ = w.WriteMsg(m)
}

// A fixture is a running gateway on free ports with its own folder.
type fixture struct {
	*Gateway
	t    *testing.T
	dir  string
	file string

	version string
	log     *logged // since the start
	stop    func()
}

// newFixture writes the files (weir.yml among them, with UPSTREAM for a real
// upstream) and runs a gateway on them.
func newFixture(t *testing.T, files map[string]string) *fixture {
	t.Helper()
	f := &fixture{t: t, dir: t.TempDir()}
	f.file = filepath.Join(f.dir, "weir.yml")
	up := upstream(t)
	for name, text := range files {
		f.write(name, strings.ReplaceAll(text, "UPSTREAM", up))
	}
	f.version = "test"
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.stop() })
	return f
}

// load reads the configuration; the state is in the fixture's folder.
func (f *fixture) load() (*config.Config, error) {
	cfg, err := config.Load(f.file, bans.FS)
	if err == nil && cfg.State == "" {
		cfg.State = filepath.Join(f.dir, "state")
	}
	return cfg, err
}

// start runs a gateway on what the files say.
func (f *fixture) start() error { return f.startWith(f.load) }

func (f *fixture) startWith(load func() (*config.Config, error)) error {
	cfg, err := load()
	if err != nil {
		return err
	}
	f.log = new(logged)
	g, err := New(cfg, Options{Version: f.version, Log: slog.New(slog.NewTextHandler(f.log, nil)), Load: load})
	if err != nil {
		return err
	}
	f.Gateway = g
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	f.stop = func() {
		f.t.Helper()
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("Run: %v", err)
		}
		done <- nil // to stop twice is to stop once
	}
	return nil
}

func (f *fixture) write(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) read(name string) string {
	f.t.Helper()
	b, err := os.ReadFile(filepath.Join(f.dir, name))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b)
}

// rewrite writes a file and has everything read again, in one change of the owner:
// it is also who looks for files that have changed, and would take this one alone if
// it had the time.
func (f *fixture) rewrite(name, text string) error {
	f.t.Helper()
	c := change{who: "operator", why: "asked", kind: changeReload}
	c.do = func() error {
		f.write(name, text)
		return f.reload(c)
	}
	return f.change(f.t.Context(), c)
}

// exchange asks the gateway. A failure is asked about again: it is that of an upstream
// which the machine had no time for.
func (f *fixture) exchange(c *dns.Client, q *dns.Msg) *dns.Msg {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) {
		r, _, err := c.Exchange(q, f.DNSAddrs()[0].String())
		if err != nil {
			f.t.Fatal(err)
		}
		if r.Rcode != dns.RcodeServerFailure || time.Now().After(end) {
			return r
		}
	}
}

func (f *fixture) rcode(name string) string {
	f.t.Helper()
	r := f.exchange(&dns.Client{Timeout: 20 * time.Second}, new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA))
	return dns.RcodeToString[r.Rcode]
}

func (f *fixture) get(path string) string {
	f.t.Helper()
	resp, err := http.Get("http://" + f.AdminAddr().String() + path)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return string(b)
}

const listeners = `
dns: {listen: ["127.0.0.1:0"], upstreams: ["UPSTREAM"]}
proxy: {listen: ["127.0.0.1:0"]}
admin: {listen: "127.0.0.1:0"}
`

const ownBan = listeners + `
bans:
- wechat
- id: own
  title: {en: Own, fr: Propre}
  authority: us
  reference: "https://example.org/own"
  lists: [{name: own, source: "file:own.txt", format: domains}]
`

func TestBothPlanesOneVerdict(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": ownBan + "audit: {file: audit.jsonl}\n", "own.txt": "banned.example\n"})
	if got := f.rcode("x.banned.example"); got != "NXDOMAIN" {
		t.Errorf("DNS: %s", got)
	}
	if got := f.rcode("good.example"); got != "NOERROR" {
		t.Errorf("DNS, innocent: %s", got)
	}
	conn, err := net.Dial("tcp", f.ProxyAddrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = fmt.Fprint(conn, "CONNECT x.banned.example:443 HTTP/1.1\r\nHost: x.banned.example:443\r\n\r\n")
	reply, _ := io.ReadAll(conn)
	if !strings.HasPrefix(string(reply), "HTTP/1.1 403 ") {
		t.Errorf("CONNECT: %q", reply)
	}
	deadline := time.Now().Add(time.Minute)
	for strings.Count(f.read("audit.jsonl"), "\n") < 3 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	log := f.read("audit.jsonl")
	for _, plane := range []string{"dns", "proxy"} {
		found := false
		for line := range strings.Lines(log) {
			found = found || strings.Contains(line, `"plane":"`+plane+`"`) && strings.Contains(line, `"rule_id":"own:1"`) && strings.Contains(line, `"action":"block"`)
		}
		if !found {
			t.Errorf("no audit record of the block on the %s plane with rule own:1 in\n%s", plane, log)
		}
	}
}

func TestReloadOnFileChange(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": ownBan, "own.txt": "banned.example\n"})
	// Other programs may have the processors for a while: it is measured again then.
	took := time.Hour
	for round := uint64(1); round <= 5 && took > 10*time.Second; round++ {
		began, next := time.Now(), fmt.Sprintf("next%d.example", round)
		f.write("own.txt", "banned.example\n"+next+"\n")
		waitFor(t, "the changed list", func() bool { return f.rcode(next) == "NXDOMAIN" })
		took = time.Since(began)
		// The policy is in force before the status says so.
		waitFor(t, "its generation", func() bool { return f.Status().Generation > round })
		if got := f.Status().Generation; got != round+1 {
			t.Errorf("generation %d, want %d", got, round+1)
		}
	}
	if took > 10*time.Second {
		t.Errorf("a changed list took %v to be in force", took)
	}
}

// A list that is mostly skipped says so when it is loaded.
func TestSkippedListIsLogged(t *testing.T) {
	dir := t.TempDir()
	file, list := filepath.Join(dir, "weir.yml"), filepath.Join(dir, "own.txt")
	text := strings.ReplaceAll(ownBan, "UPSTREAM", upstream(t))
	var log strings.Builder
	for lines, want := range map[string]bool{
		"a.example\nb.example\nno name\n":              false,
		"a.example\n||b.example^\n||c.example^\n# x\n": true,
	} {
		for name, text := range map[string]string{file: text, list: lines} {
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cfg, err := config.Load(file, bans.FS)
		if err != nil {
			t.Fatal(err)
		}
		log.Reset()
		g, err := New(cfg, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		g.close()
		if got := strings.Contains(log.String(), "list=own source=file:"+list+" format=domains skipped=2 used=1"); got != want {
			t.Errorf("%q: warned=%t, want %t: %s", lines, got, want, log.String())
		}
	}
}

// A reload that the machine was in the way of is tried again by itself, and
// said once: the change that was to be put in force must not be forgotten.
func TestReloadTriedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "weir.yml")
	text := strings.ReplaceAll(ownBan, "UPSTREAM", upstream(t))
	for name, text := range map[string]string{file: text, filepath.Join(dir, "own.txt"): "banned.example\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(file, bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	var loads atomic.Int32
	var log strings.Builder
	g, err := New(cfg, Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Load: func() (*config.Config, error) {
		if loads.Add(1) < 3 {
			return nil, &os.PathError{Op: "open", Path: file, Err: syscall.EMFILE}
		}
		return config.Load(file, bans.FS)
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	if err := g.Reload(ctx); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("Reload: %v", err)
	}
	for end := time.Now().Add(20 * retryEvery); g.Status().Generation == 1 && time.Now().Before(end); {
		time.Sleep(watchEvery)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if st := g.Status(); st.Generation != 2 || st.LastError != "" || loads.Load() != 3 {
		t.Errorf("after %d loads: generation %d, error %q", loads.Load(), st.Generation, st.LastError)
	}
	if n := strings.Count(log.String(), "reload rejected"); n != 1 {
		t.Errorf("the error is logged %d times, want once:\n%s", n, log.String())
	}
}

func TestBrokenReloadChangesNothing(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": ownBan, "own.txt": "banned.example\n"})
	good := f.read("weir.yml")
	for _, tt := range []struct{ name, file, text, want string }{
		{"bad key", "weir.yml", good + "nonsense: 1\n", "nonsense"},
		{"bad yaml", "weir.yml", "dns: [\n", "weir.yml:"},
		{"html list", "own.txt", "<!DOCTYPE html><html><body>404</body></html>\n", "HTML"},
		{"empty list", "own.txt", "# nothing left\n", "no rules"},
		{"wrong dialect", "own.txt", "||banned.example^\n", "no rules"},
		{"listener moved", "weir.yml", strings.Replace(good, `proxy: {listen: ["127.0.0.1:0"]}`, `proxy: {listen: []}`, 1), "restart"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			old, before := f.read(tt.file), f.Status().Generation
			err := f.rewrite(tt.file, tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("reload: %v, want an error with %q", err, tt.want)
			}
			if got := f.Status(); got.Generation != before || got.LastError == "" {
				t.Errorf("status after a broken reload: generation %d, want %d, error %q", got.Generation, before, got.LastError)
			}
			if f.rcode("banned.example") != "NXDOMAIN" || f.rcode("good.example") != "NOERROR" {
				t.Error("the old policy is not in force")
			}
			if m := f.get("/metrics"); !strings.Contains(m, "weir_reload_last_successful 0\n") {
				t.Error("metrics do not show the failure")
			}
			if err := f.rewrite(tt.file, old); err != nil {
				t.Fatal(err)
			}
		})
	}
	m := f.get("/metrics")
	for _, want := range []string{"weir_reload_last_successful 1\n", "weir_policy_generation ", `weir_list_rules{ban="own",list="own"} 1`} {
		if !strings.Contains(m, want) {
			t.Errorf("metrics lack %q", want)
		}
	}
}

// TestReloadUnderLoad reloads again and again while questions come in: none is
// lost, and none that is asked after a reload is answered from before it.
func TestReloadUnderLoad(t *testing.T) {
	const clients = 20
	rate, length := 5000, 3*time.Second // questions a second
	switch {
	case underRace:
		rate = 500
	case os.Getenv("WEIR_REQUIRE") == "all":
		length = 30 * time.Second
	}
	f := newFixture(t, map[string]string{"weir.yml": ownBan, "own.txt": "banned.example\nflip.example\n"})
	dropped := kernelDrops()

	// epoch is odd while a reload is under way; in an even epoch n flip.example
	// is blocked if n/2 is even.
	var epoch atomic.Int64
	var asked, lost, wrong atomic.Int64
	stop := make(chan struct{})
	began := time.Now()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			c, err := net.Dial("udp", f.DNSAddrs()[0].String())
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			conn := &dns.Conn{Conn: c}
			q := new(dns.Msg)
			next := time.Now().Add(time.Duration(i) * time.Millisecond)
			for n := uint16(1); ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Until(next)):
				}
				next = next.Add(time.Second * clients / time.Duration(rate))
				q.SetQuestion("flip.example.", dns.TypeA)
				before := epoch.Load()
				asked.Add(1)
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				if err := conn.WriteMsg(q); err != nil {
					lost.Add(1)
					continue
				}
				r, err := conn.ReadMsg()
				if err != nil || r.Id != q.Id {
					lost.Add(1)
					continue
				}
				blocked := r.Rcode == dns.RcodeNameError
				if after := epoch.Load(); before == after && before%2 == 0 && blocked != (before/2%2 == 0) || r.Rcode != dns.RcodeSuccess && !blocked {
					wrong.Add(1)
				}
			}
		})
	}
	reloads := 0
	for every := min(time.Second, length/6); reloads < 2 || time.Since(began)+every < length; reloads++ {
		time.Sleep(every)
		epoch.Add(1)
		list := "banned.example\n"
		if (reloads+1)%2 == 0 {
			list += "flip.example\n"
		}
		f.write("own.txt", list)
		if err := f.Reload(t.Context()); err != nil {
			t.Error(err)
		}
		epoch.Add(1)
	}
	close(stop)
	wg.Wait()
	length = time.Since(began)
	t.Logf("%d questions in %v (%.0f/s), %d reloads: %d lost, %d answered from an older generation",
		asked.Load(), length, float64(asked.Load())/length.Seconds(), reloads, lost.Load(), wrong.Load())
	// A busy machine's loopback loses a packet now and then, of which no gateway knows.
	if dropped = min(kernelDrops()-dropped, asked.Load()/10_000); lost.Load() > dropped || wrong.Load() > 0 || reloads < 2 {
		t.Errorf("lost %d, of them by the kernel up to %d, wrong %d, reloads %d; the server says %+v", lost.Load(), dropped, wrong.Load(), reloads, f.dns.Stats())
	}
}

// kernelDrops returns how many packets the kernel has dropped, because too many waited
// for a processor (softnet_stat) or for a socket's reader (snmp), 0 where it does not say.
func kernelDrops() (n int64) {
	cpus, _ := os.ReadFile("/proc/net/softnet_stat")
	for line := range strings.Lines(string(cpus)) {
		if f := strings.Fields(line); len(f) > 1 {
			drops, _ := strconv.ParseInt(f[1], 16, 64)
			n += drops
		}
	}
	snmp, _ := os.ReadFile("/proc/net/snmp")
	var names []string
	for line := range strings.Lines(string(snmp)) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "Udp:" {
			continue
		}
		if i := slices.Index(names, "RcvbufErrors"); i > 0 && i < len(f) {
			drops, _ := strconv.ParseInt(f[i], 10, 64)
			n += drops
		}
		names = f
	}
	return n
}

func TestExplainThroughAnswers(t *testing.T) {
	cfg, err := config.Parse("weir.yml", []byte(strings.ReplaceAll(listeners, "UPSTREAM", upstream(t))), bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	e, err := NewExplainer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ target, via, ban, proxy string }{
		{"cname.example.org", "CNAME cdn.wechat.com", "wechat", "wechat"},
		{"addr.example.org", "A 43.130.30.240", "wechat", "wechat"},
		// The proxy never asks for HTTPS records.
		{"svcb.example.org", "HTTPS www.tiktok.com", "tiktok", ""},
		{"hint.example.org", "HTTPS ipv4hint 43.130.30.240", "wechat", ""},
		{"good.example.org", "", "", ""},
	} {
		x, err := e.Explain(t.Context(), tt.target, netip.Addr{}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if x.Blocked != (tt.ban != "") || x.DNS.Ban != tt.ban || x.Proxy.Ban != tt.proxy || x.DNS.Via != tt.via || !x.Answers.Checked {
			t.Errorf("%s: %+v", tt.target, x)
		}
	}
}

func TestVectorsAreChecked(t *testing.T) {
	for _, tt := range []struct{ vectors, want string }{
		{"block banned.example\nallow other.example\n", ""},
		{"block other.example\n", "line 1"},
		{"# fine\nallow x.banned.example\n", "line 2"},
		{"allow banned.example unless exclusive\n", ""},
		{"block other.example if vendor\n", ""},
		{"permit other.example\n", "is not a vector"},
		{"allow banned.example perhaps vendor\n", "if or unless"},
		{"block http://[::1/\n", "line 1"},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"own.txt": "banned.example\n", "v.txt": tt.vectors,
			"weir.yml": strings.Replace(ownBan, "format: domains}]", "format: domains}]\n  vectors: \"file:v.txt\"", 1)} {
			text = strings.ReplaceAll(text, "UPSTREAM", "udp://127.0.0.1:9")
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cfg, err := config.Load(filepath.Join(dir, "weir.yml"), bans.FS)
		if err != nil {
			t.Fatal(err)
		}
		_, err = compile(cfg, 1, nil)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("vectors %q: %v, want %q", tt.vectors, err, tt.want)
		}
	}
}

func TestNewLeavesNothingBehind(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	free := corpus.Port(t).String()
	text := fmt.Sprintf("dns: {listen: [%q], upstreams: [\"udp://127.0.0.1:9\"]}\nproxy: {listen: [%q]}\nadmin: {listen: \"127.0.0.1:0\"}\n", free, taken.Addr())
	cfg, err := config.Parse("weir.yml", []byte(text), bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = New(cfg, Options{Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Fatal("New bound an address that is taken")
	}
	var op *net.OpError
	if !errors.As(err, &op) {
		t.Errorf("the error does not say which address: %v", err)
	}
	l, err := net.Listen("tcp", free)
	if err != nil {
		t.Fatalf("a failed New still holds its DNS listener: %v", err)
	}
	_ = l.Close()
}

package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// recorder is a sink that keeps records.
type recorder struct {
	mu      sync.Mutex
	records []audit.Record
}

func (r *recorder) Put(rec audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, rec)
}

func (r *recorder) all() []audit.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]audit.Record(nil), r.records...)
}

// clear forgets the records.
func (r *recorder) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = nil
}

// begun returns the first record from that one on that is no end of a tunnel,
// which may come late.
func (r *recorder) begun(tb testing.TB, from int) (rec audit.Record) {
	tb.Helper()
	eventually(tb, "record", func() bool {
		for _, rec = range r.all()[from:] {
			if rec.Event != "close" {
				return true
			}
		}
		return false
	})
	return rec
}

// names is a resolver of a fixed answer for each name; "*" is every other one.
type names struct {
	mu      sync.Mutex
	answers map[string][]netip.Addr
	links   map[string][]resolver.Link
	lookups []string
	hook    func(name string)
}

func (n *names) LookupAddrs(ctx context.Context, name string) ([]netip.Addr, []resolver.Link, error) {
	n.mu.Lock()
	hook := n.hook
	n.mu.Unlock()
	if hook != nil {
		hook(name)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lookups = append(n.lookups, name)
	a, ok := n.answers[name]
	if !ok {
		a = n.answers["*"]
	}
	if len(a) == 0 {
		return nil, n.links[name], fmt.Errorf("resolving %s: %w", name, resolver.ErrNotFound)
	}
	return a, n.links[name], nil
}

func (n *names) setHook(f func(name string)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hook = f
}

func (n *names) set(name string, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[name] = parseAddrs(addrs...)
}

func parseAddrs(ss ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range ss {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

var testBan = blocklists.Ban{
	ID:        "tiktok",
	Title:     blocklists.Text{EN: "TikTok", FR: "TikTok (interdit)"},
	Authority: blocklists.Text{EN: "the <Chief> Information Officer", FR: "la dirigeante principale de l’information"},
	Reference: "https://www.example.org/decision?a=1&b=2",
	Reason:    blocklists.Text{EN: "An unacceptable level of risk.", FR: "Un niveau de risque inacceptable."},
	Contact:   blocklists.Text{EN: "Call 5555.", FR: "Composez le 5555."},
}

// anyHello lets tunnels begin with anything, as most tests here have them.
var anyHello = policy.HelloPolicy{Missing: policy.Allow, Mismatch: policy.Allow, ECH: policy.Allow,
	NotTLS: policy.Allow, Malformed: policy.Allow, Timeout: policy.Allow}

// signature returns the rule of a line of the signatures dialect.
func signature(kind, pattern string, line int) blocklists.Rule {
	r := blocklists.Rule{Action: blocklists.Block, Path: pattern, Line: line}
	switch kind {
	case "bytes":
		r.Kind = blocklists.Bytes
	case "path":
		r.Kind = blocklists.Target
	default:
		r.Kind = blocklists.Field
		r.Name, r.Path, _ = strings.Cut(pattern, " ")
	}
	return r
}

// snapshot returns a policy whose one ban has the rules: names, prefixes,
// name/path, or signatures.
func snapshot(tb testing.TB, generation uint64, rules ...string) *policy.Snapshot {
	tb.Helper()
	return snapshotHello(tb, generation, anyHello, rules...)
}

func snapshotHello(tb testing.TB, generation uint64, hello policy.HelloPolicy, rules ...string) *policy.Snapshot {
	tb.Helper()
	var b blocklists.Builder
	for i, s := range rules {
		r := blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Block, Name: s, Line: i + 1}
		if kind, pattern, ok := strings.Cut(s, " "); ok {
			r = signature(kind, pattern, i+1)
		} else if p, err := netip.ParsePrefix(s); err == nil {
			r.Kind, r.Name, r.Prefix = blocklists.Prefix, "", p
		} else if name, path, ok := strings.Cut(s, "/"); ok {
			r.Name, r.Path = name, "/"+path
		}
		if err := b.Add(0, r); err != nil {
			tb.Fatal(err)
		}
	}
	ban := testBan
	snap, err := policy.NewSnapshot(policy.Spec{
		Generation: generation, Set: b.Build(), Hello: hello, Bans: []*blocklists.Ban{&ban},
		Lists: []policy.List{{Name: "tiktok", Role: policy.RoleBan, Signal: blocklists.SignalApp}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return snap
}

// bench is a proxy that runs, with everything around it.
type harness struct {
	tb     testing.TB
	s      *Server
	store  *policy.Store
	names  *names
	audit  *recorder
	addr   string
	cancel context.CancelFunc
	done   chan error
}

var banned = []string{"tiktok.com", "wechat.com", "93.184.216.0/24", "127.0.0.66/32", "paths.example/secret"}

// startPortable has start run proxies without the engine.
var startPortable bool

// patience bounds a hang, and says nothing about what is tested: it is longer than
// a machine with other work keeps anybody waiting.
const patience = 2 * time.Minute

// serving is how many proxies of the test are not cleaned up.
var serving int

// start runs a proxy that may reach 127.0.0.0/8 on the ports. Every name but
// the banned ones resolves to 127.0.0.1. It is patient: a test that is about one
// of its times sets that.
func start(tb testing.TB, ports []uint16, edit func(*Options)) *harness {
	tb.Helper()
	h := &harness{tb: tb, store: new(policy.Store), audit: new(recorder), done: make(chan error, 1),
		names: &names{answers: map[string][]netip.Addr{"*": parseAddrs("127.0.0.1")}, links: map[string][]resolver.Link{}}}
	h.store.Swap(snapshot(tb, 1, banned...))
	opts := Options{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
		Policy: h.store, Resolver: h.names, Audit: h.audit,
		ConnectPorts: ports, HTTPPorts: ports,
		AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Drain:         500 * time.Millisecond,
		HeaderTimeout: patience, PeekTimeout: patience, ResolveTimeout: patience, DialTimeout: patience,
		portable: startPortable,
	}
	if edit != nil {
		edit(&opts)
	}
	var err error
	if h.s, err = Listen(opts); err != nil {
		tb.Fatal(err)
	}
	h.addr = h.s.Addrs()[0].String()
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	serving++
	go func() { h.done <- h.s.Serve(ctx) }()
	tb.Cleanup(func() {
		h.stop()
		serving--
		for end := time.Now().Add(patience); serving == 0 && proxyGoroutines() > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				tb.Errorf("goroutines are left after Serve:\n%s", stacks())
				return
			}
		}
	})
	return h
}

func stacks() string {
	buf := make([]byte, 4<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// proxyGoroutines counts the goroutines that run the proxy, and no test of it.
func proxyGoroutines() (n int) {
	for stack := range strings.SplitSeq(stacks(), "\n\n") {
		if strings.Contains(stack, "gateway/proxy.(*") && !strings.Contains(stack, "_test.go:") {
			n++
		}
	}
	return n
}

// stop ends the proxy once and checks how it ended.
func (h *harness) stop() {
	h.cancel()
	if h.done == nil {
		return
	}
	select {
	case err := <-h.done:
		if err != nil {
			h.tb.Errorf("Serve: %v", err)
		}
	case <-time.After(patience):
		h.tb.Error("Serve does not end")
	}
	h.done = nil
}

// raw is a client connection to the proxy.
type raw struct {
	*net.TCPConn
	tb testing.TB
	br *bufio.Reader
}

func (h *harness) dial() *raw { return dialRaw(h.tb, h.addr) }

func dialRaw(tb testing.TB, addr string) *raw {
	tb.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return &raw{c.(*net.TCPConn), tb, bufio.NewReader(c)}
}

func (c *raw) send(s string) {
	c.tb.Helper()
	if _, err := io.WriteString(c.TCPConn, s); err != nil {
		c.tb.Fatalf("sending: %v", err)
	}
}

// response reads one response with its content.
func (c *raw) response(method string) (*http.Response, string) {
	c.tb.Helper()
	resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		c.tb.Fatalf("reading the response: %v", err)
	}
	if method == http.MethodConnect && resp.StatusCode == http.StatusOK {
		return resp, ""
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.tb.Fatalf("reading the response's content: %v", err)
	}
	return resp, string(b)
}

// ask sends the beginning of a request and returns the response. A proxy with
// little patience may let a client go that was kept from speaking: it comes again.
func (h *harness) ask(method, head string) (c *raw, resp *http.Response, body string) {
	h.tb.Helper()
	for range 20 {
		c = h.dial()
		_, err := io.WriteString(c, head)
		if err == nil {
			_, err = c.br.Peek(1)
		}
		if err == nil {
			resp, body = c.response(method)
			return c, resp, body
		}
	}
	h.tb.Fatalf("%q gets no answer", head)
	return nil, nil, ""
}

// atEOF fails unless the proxy has closed the connection.
func (c *raw) atEOF() {
	c.tb.Helper()
	if b, err := io.ReadAll(c.br); err != nil || len(b) > 0 {
		c.tb.Errorf("after the response: %q, %v; want the end", b, err)
	}
}

// origin is a listener that counts what it accepts.
type origin struct {
	net.Listener
	port  uint16
	mu    sync.Mutex
	count int
}

func (o *origin) Accept() (net.Conn, error) {
	c, err := o.Listener.Accept()
	if err == nil {
		o.mu.Lock()
		o.count++
		o.mu.Unlock()
	}
	return c, err
}

func (o *origin) accepted() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count
}

func listenOrigin(tb testing.TB) *origin {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return &origin{Listener: l, port: uint16(l.Addr().(*net.TCPAddr).Port)}
}

// httpOrigin serves HTTP.
func httpOrigin(tb testing.TB, h http.HandlerFunc) *origin {
	tb.Helper()
	o := listenOrigin(tb)
	srv := &http.Server{Handler: h}
	go func() { _ = srv.Serve(o) }()
	tb.Cleanup(func() { _ = srv.Close() })
	return o
}

// rawOrigin hands each connection to f, one goroutine each, and closes it.
func rawOrigin(tb testing.TB, f func(c *net.TCPConn, br *bufio.Reader)) *origin {
	tb.Helper()
	o := listenOrigin(tb)
	var wg sync.WaitGroup
	tb.Cleanup(wg.Wait)
	tb.Cleanup(func() { _ = o.Close() })
	wg.Go(func() {
		for {
			c, err := o.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(patience))
				f(c.(*net.TCPConn), bufio.NewReader(c))
			})
		}
	})
	return o
}

// eventually waits for a condition that another goroutine makes true.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within %v: %s", patience, what)
		}
	}
}

package dnsserver

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// upstream is a real DNS server on loopback. Names it has no records for have
// the address 192.0.2.1, of every other type nothing.
type upstream struct {
	addr    netip.AddrPort
	records map[string][]dns.RR // by name, lower case with the final dot
	mu      sync.Mutex
	asked   map[string]int
	gate    chan struct{} // names under slow.example wait for it
}

func startUpstream(tb testing.TB, zone string) *upstream {
	tb.Helper()
	u := &upstream{records: map[string][]dns.RR{}, asked: map[string]int{}, gate: make(chan struct{})}
	p := dns.NewZoneParser(strings.NewReader(zone), ".", "")
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		u.records[rr.Header().Name] = append(u.records[rr.Header().Name], rr)
	}
	if err := p.Err(); err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	u.addr = l.Addr().(*net.TCPAddr).AddrPort()
	pc, err := net.ListenPacket("udp4", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: l, Handler: u}, {PacketConn: pc, Handler: u}} {
		go func() { _ = s.ActivateAndServe() }()
		tb.Cleanup(func() { _ = s.Shutdown() })
	}
	return u
}

func (u *upstream) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	name := strings.ToLower(q.Question[0].Name)
	u.mu.Lock()
	u.asked[name]++
	u.mu.Unlock()
	if strings.HasSuffix(name, ".slow.example.") {
		<-u.gate
	}
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	u.answer(m, name, q.Question[0].Qtype)
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
		if w.LocalAddr().Network() == "udp" {
			m.Truncate(int(opt.UDPSize()))
		}
	} else if w.LocalAddr().Network() == "udp" {
		m.Truncate(dns.MinMsgSize)
	}
	_ = w.WriteMsg(m)
}

func (u *upstream) answer(m *dns.Msg, name string, qtype uint16) {
	if strings.HasPrefix(name, "servfail.") {
		m.Rcode = dns.RcodeServerFailure
		return
	}
	for range 8 {
		rrs, known := u.records[name]
		var alias *dns.CNAME
		for _, rr := range rrs {
			if rr.Header().Rrtype == qtype {
				m.Answer = append(m.Answer, rr)
			} else if c, ok := rr.(*dns.CNAME); ok {
				alias = c
			}
		}
		if !known && qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.IPv4(192, 0, 2, 1)})
		}
		if alias == nil || len(m.Answer) > 0 && m.Answer[len(m.Answer)-1].Header().Rrtype == qtype {
			return
		}
		m.Answer = append(m.Answer, alias)
		name = alias.Target
	}
}

func (u *upstream) count(name string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[dns.CanonicalName(name)]
}

// resolver returns a real resolver that asks the upstream.
func (u *upstream) resolver(tb testing.TB) *resolver.Resolver {
	tb.Helper()
	r, err := resolver.New(resolver.Options{
		Upstreams: []*url.URL{{Scheme: "udp", Host: u.addr.String()}}, CacheEntries: 1000,
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = r.Close() })
	return r
}

// hooked is a real resolver that can be made to fail.
type hooked struct {
	*resolver.Resolver
	resolve func(ctx context.Context, q *dns.Msg) (*resolver.Answer, error)
}

func (h *hooked) Cached(q *dns.Msg) *resolver.Answer {
	if h.Resolver == nil {
		return nil
	}
	return h.Resolver.Cached(q)
}

func (h *hooked) Resolve(ctx context.Context, q *dns.Msg) (*resolver.Answer, error) {
	if h.resolve != nil {
		return h.resolve(ctx, q)
	}
	return h.Resolver.Resolve(ctx, q)
}

// recorder is an audit.Sink that keeps everything.
type recorder struct {
	mu      sync.Mutex
	records []audit.Record
}

func (r *recorder) Put(rec audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, rec)
}

func (r *recorder) take() []audit.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	recs := r.records
	r.records = nil
	return recs
}

// A testBan is a ban with the rules of its one list.
type testBan struct {
	blocklists.Ban
	rules []blocklists.Rule
}

func suffix(names ...string) (rules []blocklists.Rule) {
	for i, n := range names {
		rules = append(rules, blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Block, Name: n, Line: i + 1})
	}
	return rules
}

func prefixes(ps ...string) (rules []blocklists.Rule) {
	for i, p := range ps {
		rules = append(rules, blocklists.Rule{Kind: blocklists.Prefix, Action: blocklists.Block, Prefix: netip.MustParsePrefix(p), Line: i + 1})
	}
	return rules
}

func withMode(id string, a blocklists.Answer) testBan {
	return testBan{blocklists.Ban{ID: id, Title: blocklists.Text{EN: id}, EDE: 15, Answer: a}, suffix(id + ".example")}
}

// bans are what the tests ban.
func bans() []testBan {
	addr := netip.MustParseAddr
	return []testBan{
		{blocklists.Ban{ID: "wechat", Title: blocklists.Text{EN: "WeChat on government devices"}, Reference: "https://ban.example/wechat", EDE: 15}, suffix("wechat.com", "weixin.qq.com")},
		{blocklists.Ban{ID: "kaspersky", Title: blocklists.Text{EN: "Kaspersky"}, EDE: 16}, suffix("kaspersky.com")},
		{blocklists.Ban{ID: "tiktok", Title: blocklists.Text{EN: "TikTok"}, EDE: 17}, suffix("tiktok.com")},
		{blocklists.Ban{ID: "quiet", Title: blocklists.Text{EN: "Quiet"}}, suffix("quiet.example")},
		{blocklists.Ban{ID: "addresses", Title: blocklists.Text{EN: "Addresses"}, EDE: 15}, prefixes("203.0.113.0/24", "2001:db8:bad::/48")},
		{blocklists.Ban{ID: "future", Title: blocklists.Text{EN: "Future"}, EDE: 15, Effective: time.Now().Add(time.Hour)}, suffix("future.example")},
		withMode("m-nodata", blocklists.Answer{Mode: blocklists.NODATA}),
		withMode("m-null", blocklists.Answer{Mode: blocklists.Null}),
		withMode("m-refused", blocklists.Answer{Mode: blocklists.Refused}),
		withMode("m-drop", blocklists.Answer{Mode: blocklists.Drop}),
		withMode("m-addresses", blocklists.Answer{Mode: blocklists.Addresses, IPv4: addr("198.51.100.9"), IPv6: addr("2001:db8::9")}),
		withMode("m-v4only", blocklists.Answer{Mode: blocklists.Addresses, IPv4: addr("198.51.100.9")}),
	}
}

func snapshot(tb testing.TB, generation uint64, list []testBan) *policy.Snapshot {
	tb.Helper()
	spec := policy.Spec{Generation: generation, CacheEntries: 1000}
	var b blocklists.Builder
	for i := range list {
		for _, r := range list[i].rules {
			if err := b.Add(i, r); err != nil {
				tb.Fatal(err)
			}
		}
		spec.Bans = append(spec.Bans, &list[i].Ban)
		spec.Lists = append(spec.Lists, policy.List{Name: list[i].ID, Ban: i})
	}
	spec.Set = b.Build()
	s, err := policy.NewSnapshot(spec)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// A rig is a Server that serves, with all that is around it.
type rig struct {
	*Server
	up     *upstream
	store  *policy.Store
	audit  *recorder
	addr   string
	end    context.CancelFunc
	served chan error
}

// start runs a server for the test. The options may leave out everything.
func start(tb testing.TB, zone string, opts Options) *rig {
	tb.Helper()
	r := &rig{up: startUpstream(tb, zone), store: new(policy.Store), audit: new(recorder), served: make(chan error, 1)}
	r.store.Swap(snapshot(tb, 1, bans()))
	if opts.Listen == nil {
		opts.Listen = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}
	}
	if opts.Policy == nil {
		opts.Policy = r.store
	}
	if opts.Resolver == nil {
		opts.Resolver = r.up.resolver(tb)
	}
	if opts.Audit == nil {
		opts.Audit = r.audit
	}
	var err error
	if r.Server, err = Listen(opts); err != nil {
		tb.Fatal(err)
	}
	r.addr = r.Addrs()[0].String()
	ctx, cancel := context.WithCancel(context.Background())
	r.end = cancel
	go func() { r.served <- r.Serve(ctx) }()
	tb.Cleanup(func() { r.stop(tb) })
	return r
}

// stop ends the server and waits for it; a second time it does nothing.
func (r *rig) stop(tb testing.TB) {
	tb.Helper()
	r.end()
	select {
	case err, open := <-r.served:
		if open && err != nil {
			tb.Errorf("Serve: %v", err)
		}
		if open {
			close(r.served)
		}
	case <-time.After(15 * time.Second):
		tb.Error("Serve did not return")
	}
}

func query(name string, qtype uint16) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), qtype)
	return m
}

func edns(m *dns.Msg, size uint16) *dns.Msg {
	m.SetEdns0(size, false)
	return m
}

// ask exchanges one message, over udp or tcp.
func (r *rig) ask(tb testing.TB, network string, q *dns.Msg) *dns.Msg {
	tb.Helper()
	c := dns.Client{Net: network, Timeout: 10 * time.Second, UDPSize: 65535}
	m, _, err := c.Exchange(q, r.addr)
	if err != nil {
		tb.Fatalf("%s over %s: %v", q.Question[0].String(), network, err)
	}
	return m
}

func edeOf(m *dns.Msg) *dns.EDNS0_EDE {
	opt := m.IsEdns0()
	if opt == nil {
		return nil
	}
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			return e
		}
	}
	return nil
}

// dial opens a raw connection.
func (r *rig) dial(tb testing.TB, network string) net.Conn {
	tb.Helper()
	c, err := net.Dial(network, r.addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

func frame(p []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...)
}

// readFrame reads one framed message, or nil at the end or after the time.
func readFrame(tb testing.TB, c net.Conn, d time.Duration) *dns.Msg {
	tb.Helper()
	_ = c.SetReadDeadline(time.Now().Add(d))
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil
	}
	p := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(c, p); err != nil {
		tb.Fatalf("reply over TCP: %v", err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(p); err != nil {
		tb.Fatalf("reply over TCP: %v", err)
	}
	return m
}

func pack(tb testing.TB, m *dns.Msg) []byte {
	tb.Helper()
	p, err := m.Pack()
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// eventually waits for a condition that other goroutines bring about.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within 20 s: %s", what)
		}
	}
}

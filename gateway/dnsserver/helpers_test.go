package dnsserver

import (
	"cmp"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
)

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

// onEngines runs the test with each way of moving UDP. Where there is only one,
// both are the same.
func onEngines(t *testing.T, test func(t *testing.T, portable bool)) {
	t.Run("batches", func(t *testing.T) { test(t, false) })
	t.Run("portable", func(t *testing.T) { test(t, true) })
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
		opts.Resolver = r.up.slow(tb)
	}
	if opts.Audit == nil {
		opts.Audit = r.audit
	}
	// Where other programs have the processors, seconds are not long: a test that is
	// about one of these times sets it.
	for _, d := range []*time.Duration{&opts.Timeout, &opts.WriteTimeout, &opts.ReadTimeout, &opts.Idle, &opts.IdleEncrypted} {
		*d = cmp.Or(*d, secs(60))
	}
	opts.HandshakeTimeout = cmp.Or(opts.HandshakeTimeout, secs(20)) // and so long lives what nobody goes on with
	var err error
	if r.Server, err = Listen(opts); err != nil {
		tb.Fatal(err)
	}
	r.addr = atLoopback(r.Addrs()[0]).String()
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
	case <-time.After(2 * time.Minute):
		tb.Error("Serve did not return")
	}
}

// addrPorts are addresses to listen on.
func addrPorts(ss ...string) (out []netip.AddrPort) {
	for _, s := range ss {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

// atLoopback is where a listener can be asked.
func atLoopback(a netip.AddrPort) netip.AddrPort {
	switch {
	case !a.Addr().IsUnspecified():
		return a
	case a.Addr().Is4():
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), a.Port())
	}
	return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
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
	c := dns.Client{Net: network, Timeout: secs(60), UDPSize: 65535}
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
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("not within two minutes: %s", what)
		}
	}
}

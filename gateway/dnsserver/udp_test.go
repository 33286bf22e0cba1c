package dnsserver

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
	"github.com/weir-gateway/weir/gateway/wire"
)

func secs(n int) time.Duration { return time.Duration(n) * time.Second }

func readPacket(tb testing.TB, c net.Conn) *dns.Msg {
	tb.Helper()
	_ = c.SetReadDeadline(time.Now().Add(secs(30)))
	buf := make([]byte, 65535)
	n, err := c.Read(buf)
	if err != nil {
		return nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(buf[:n]); err != nil {
		tb.Fatalf("reply over UDP: %v", err)
	}
	return m
}

func TestListenBindsAllOrNothing(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		taken, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = taken.Close() }()
		busy := taken.LocalAddr().(*net.UDPAddr).AddrPort()
		free := corpus.Port(t)
		opts := Options{portable: portable, Policy: new(policy.Store), Resolver: &hooked{}, Listen: []netip.AddrPort{free, busy}}
		if _, err := Listen(opts); err == nil {
			t.Fatal("Listen on a taken port: no error")
		}
		opts.Listen = opts.Listen[:1]
		s, err := Listen(opts)
		if err != nil {
			t.Fatalf("the free port after a failed Listen: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for name, o := range map[string]Options{
			"no address":  {Policy: new(policy.Store), Resolver: &hooked{}},
			"no policy":   {Listen: opts.Listen, Resolver: &hooked{}},
			"no resolver": {Listen: opts.Listen, Policy: new(policy.Store)},
		} {
			if _, err := Listen(o); err == nil {
				t.Errorf("Listen with %s: no error", name)
			}
		}
	})
}

func TestPortZeroIsOnePortForBoth(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "", Options{portable: portable})
		if r.Addrs()[0].Port() == 0 {
			t.Fatalf("addresses %v, want the port that is bound", r.Addrs())
		}
		for _, network := range transports {
			if m := r.ask(t, network, query("wechat.com", dns.TypeA)); m.Rcode != dns.RcodeNameError {
				t.Errorf("%s: %v", network, m)
			}
		}
	})
}

// A reply must come from the address that was asked, on a socket bound to all.
func TestWildcardSource(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		listen := []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:0")}
		if l, err := net.ListenPacket("udp6", "[::1]:0"); err == nil {
			_ = l.Close()
			listen = append(listen, netip.MustParseAddrPort("[::]:0"))
		}
		r := start(t, "", Options{portable: portable, Listen: listen})
		targets := []netip.AddrPort{
			netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), r.Addrs()[0].Port()),
			netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), r.Addrs()[0].Port()),
		}
		if len(listen) > 1 {
			targets = append(targets, netip.AddrPortFrom(netip.IPv6Loopback(), r.Addrs()[1].Port()))
		}
		for _, to := range targets {
			c, err := net.ListenUDP(network("udp", to), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			for _, name := range []string{"wechat.com", "good.example", "good.example"} { // inline, a worker, the cache
				if _, err := c.WriteToUDPAddrPort(pack(t, query(name, dns.TypeA)), to); err != nil {
					t.Fatal(err)
				}
				_ = c.SetReadDeadline(time.Now().Add(secs(30)))
				_, from, err := c.ReadFromUDPAddrPort(make([]byte, 4096))
				if err != nil || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != to {
					t.Errorf("%s asked at %v: reply from %v, %v", name, to, from, err)
				}
			}
		}
		// The device on the record is a plain IPv4 address.
		for _, rec := range r.audit.take() {
			if rec.Device.Is4In6() || !rec.Device.IsValid() {
				t.Errorf("device %v, want it unmapped", rec.Device)
			}
		}
	})
}

// padded is a query of exactly that many octets, by padding (RFC 7830).
func padded(tb testing.TB, octets int) []byte {
	tb.Helper()
	q := edns(query("wechat.com", dns.TypeA), 1232)
	bare := len(pack(tb, q))
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, octets-bare-4)}}
	p := pack(tb, q)
	if len(p) != octets {
		tb.Fatalf("a query of %d octets, want %d", len(p), octets)
	}
	return p
}

// Datagrams of every length, up to the longest there is. What is longer than
// any question with a purpose need not be understood, and is never judged by
// half.
func TestDatagramLengths(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "", Options{portable: portable})
		c := r.dial(t, "udp")
		for n := range uint64(2) { // too short for any reply
			if _, err := c.Write(make([]byte, 11*n)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is dropped", func() bool { return r.Stats().Dropped["short"] == n+1 })
		}
		for _, tc := range []struct {
			p    []byte
			most bool // longer than what every engine reads
		}{
			{wire12(), false}, {plainQuery(), false}, {padded(t, 512), false}, {padded(t, 1500), false}, {padded(t, 2111), false}, {padded(t, 2112), false},
			{padded(t, 2113), true}, {padded(t, 4096), true}, {padded(t, 65507), true},
		} {
			want := dns.RcodeNameError
			if len(tc.p) == wire.HeaderLen {
				want = dns.RcodeFormatError
			}
			was := r.Stats()
			if _, err := c.Write(tc.p); err != nil {
				t.Fatal(err)
			}
			m := readPacket(t, c)
			if m == nil || m.Rcode != want && !(tc.most && m.Rcode == dns.RcodeFormatError) {
				t.Fatalf("%d octets: %v, want %s", len(tc.p), m, dns.RcodeToString[want])
			}
			st, recs := r.Stats(), r.audit.take()
			judged := m.Rcode == dns.RcodeNameError
			if judged != (len(recs) == 1) || judged != (st.Blocked == was.Blocked+1) || judged != (st.Rejected == was.Rejected) || st.UDP != was.UDP+1 {
				t.Errorf("%d octets: %d records, stats %+v", len(tc.p), len(recs), st)
			}
		}
	})
}

// Full workers and a full queue: the rest is answered at once, and what policy
// and the cache know, of every shape, as ever.
func TestOverload(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		gate := make(chan struct{})
		hook := &hooked{Resolver: startUpstream(t, zones).resolver(t)}
		for _, name := range []string{"warm.example", "cloak.example", `o\.dd.example`} {
			if _, err := hook.Resolver.Resolve(t.Context(), query(name, dns.TypeA)); err != nil {
				t.Fatal(err)
			}
		}
		hook.resolve = func(ctx context.Context, q *dns.Msg) (*resolver.Answer, error) {
			select {
			case <-gate:
				return nil, resolver.ErrNoUpstream
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		r := start(t, "", Options{portable: portable, Resolver: hook, Workers: 4, Queue: 6, MaxPerClient: 10, Timeout: secs(30)})
		c := r.dial(t, "udp")
		for i := range 10 {
			q := edns(query("good.example", dns.TypeA), 1232)
			q.Id = uint16(i)
			if _, err := c.Write(pack(t, q)); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "ten questions wait", func() bool { return r.Stats().Inflight == 10 })
		for _, network := range transports {
			m := r.ask(t, network, edns(query("good.example", dns.TypeA), 1232))
			if e := edeOf(m); m.Rcode != dns.RcodeServerFailure || e == nil || e.InfoCode != 0 {
				t.Errorf("over %s beyond the queue: %v, want SERVFAIL with EDE 0", network, m)
			}
			if m := r.ask(t, network, query("wechat.com", dns.TypeA)); m.Rcode != dns.RcodeNameError {
				t.Errorf("over %s a banned name meanwhile: %v, want NXDOMAIN", network, m)
			}
		}
		version1 := edns(query("warm.example", dns.TypeA), 1232)
		version1.IsEdns0().SetVersion(1)
		for _, tc := range []struct {
			q     *dns.Msg
			rcode int
		}{
			{query("warm.example", dns.TypeA), dns.RcodeSuccess},
			{query(`o\.dd.example`, dns.TypeA), dns.RcodeSuccess},
			{query("warm.example", dns.TypeANY), dns.RcodeSuccess},
			{query("cloak.example", dns.TypeA), dns.RcodeNameError},
			{query("wechat.com", dns.TypeANY), dns.RcodeNameError},
			{version1, dns.RcodeBadVers},
		} {
			if m := r.ask(t, "udp", tc.q); m.Rcode != tc.rcode {
				t.Errorf("%s meanwhile: %v, want %s", tc.q.Question[0].String(), m, dns.RcodeToString[tc.rcode])
			}
		}
		close(gate)
		seen := map[uint16]bool{}
		for range 10 {
			if m := readPacket(t, c); m != nil {
				seen[m.Id] = true
			}
		}
		if st := r.Stats(); len(seen) != 10 || st.Overloaded != 2 || st.Failed != 10 || st.Cached != 2 || st.Blocked != 4 || st.Synthesized != 1 || st.Rejected != 1 || st.Inflight != 0 {
			t.Errorf("%d answered; stats %+v, want 10, 2 overloaded, 2 cached, 4 blocked and one of each other kind", len(seen), st)
		}
		if got := len(r.audit.take()); got != 19 {
			t.Errorf("%d audit records, want 19", got)
		}
	})
}

// A question does not wait longer than its time, in the queue or at the
// resolver.
func TestTimeout(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "", Options{portable: portable, Timeout: 100 * time.Millisecond, Workers: 1})
		defer close(r.up.gate)
		begin := time.Now()
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				m := r.ask(t, "udp", edns(query("a.slow.example", dns.TypeA), 1232))
				if e := edeOf(m); m.Rcode != dns.RcodeServerFailure || e == nil || e.InfoCode != 22 {
					t.Errorf("got %v, want SERVFAIL with EDE 22", m)
				}
			})
		}
		wg.Wait()
		if d := time.Since(begin); d > secs(20) {
			t.Errorf("took %v, want about 100 ms", d)
		}
	})
}

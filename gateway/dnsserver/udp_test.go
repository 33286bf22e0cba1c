package dnsserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
)

func secs(n int) time.Duration { return time.Duration(n) * time.Second }

func readPacket(tb testing.TB, c net.Conn) *dns.Msg {
	tb.Helper()
	_ = c.SetReadDeadline(time.Now().Add(secs(5)))
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
	taken, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	busy := taken.LocalAddr().(*net.UDPAddr).AddrPort()
	free := freePort(t)
	opts := Options{Policy: new(policy.Store), Resolver: &hooked{}, Listen: []netip.AddrPort{free, busy}}
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
}

// freePort returns an address that is free for TCP and, most likely, for UDP.
func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	s, err := Listen(Options{Policy: new(policy.Store), Resolver: &hooked{}, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	return s.Addrs()[0]
}

func TestPortZeroIsOnePortForBoth(t *testing.T) {
	r := start(t, "", Options{})
	if r.Addrs()[0].Port() == 0 {
		t.Fatalf("addresses %v, want the port that is bound", r.Addrs())
	}
	for _, network := range transports {
		if m := r.ask(t, network, query("wechat.com", dns.TypeA)); m.Rcode != dns.RcodeNameError {
			t.Errorf("%s: %v", network, m)
		}
	}
}

// A reply must come from the address that was asked, on a socket bound to all.
func TestWildcardSource(t *testing.T) {
	listen := []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:0")}
	if l, err := net.ListenPacket("udp6", "[::1]:0"); err == nil {
		_ = l.Close()
		listen = append(listen, netip.MustParseAddrPort("[::]:0"))
	}
	r := start(t, "", Options{Listen: listen})
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
			_ = c.SetReadDeadline(time.Now().Add(secs(5)))
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
}

// replyID is the id of every mutant that is a reply, and of no other.
const replyID = 0xFFFF

// mutant returns random bytes, or a query with random damage.
func mutant(rnd *rand.Rand, seeds [][]byte) []byte {
	var p []byte
	if rnd.IntN(4) == 0 {
		p = make([]byte, rnd.IntN(600))
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
	} else {
		p = bytes.Clone(seeds[rnd.IntN(len(seeds))])
		for range 1 + rnd.IntN(6) {
			switch i := rnd.IntN(len(p)); rnd.IntN(3) {
			case 0:
				p[i] = byte(rnd.Uint32())
			case 1:
				p[i] ^= 1 << rnd.IntN(8)
			case 2:
				p = p[:i+1]
			}
		}
	}
	if len(p) > 2 {
		id := uint16(rnd.UintN(replyID))
		if p[2]&0x80 != 0 {
			id = replyID
		}
		binary.BigEndian.PutUint16(p, id)
	}
	return p
}

func seeds(tb testing.TB) [][]byte {
	update := query("wechat.com", dns.TypeSOA)
	update.Opcode = dns.OpcodeUpdate
	reply := query("wechat.com", dns.TypeA)
	reply.Response = true
	many := edns(query("good.example", dns.TypeHTTPS), 512)
	many.IsEdns0().Option = []dns.EDNS0{
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"},
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(192, 0, 2, 0)},
		&dns.EDNS0_PADDING{Padding: make([]byte, 40)},
	}
	var out [][]byte
	for _, m := range []*dns.Msg{query("wechat.com", dns.TypeA), edns(query("a.B.c.TikTok.com", dns.TypeAAAA), 1232), query(".", dns.TypeNS), update, reply, many, query("m-drop.example", dns.TypeANY)} {
		out = append(out, pack(tb, m))
	}
	return out
}

// 10,000 damaged packets over each transport: nothing breaks, no reply is
// answered, every reply is one, and nothing is left behind.
func TestDamagedPackets(t *testing.T) {
	r := start(t, "", Options{MaxTCPPerClient: 1000})
	r.ask(t, "udp", query("good.example", dns.TypeA))
	before := runtime.NumGoroutine()
	all := seeds(t)
	const packets = 10_000
	rnd := rand.New(rand.NewPCG(1, 2))

	c := r.dial(t, "udp")
	stop := make(chan struct{})
	var replies atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() { checkReplies(t, c, stop, &replies) })
	for i := range packets {
		if _, err := c.Write(mutant(rnd, all)); err != nil {
			t.Fatal(err)
		}
		if i%64 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	eventually(t, "every packet is received", func() bool { return r.Stats().UDP >= packets*9/10 && r.Stats().Inflight == 0 })
	close(stop)
	_ = c.SetReadDeadline(time.Now())
	wg.Wait()
	if st := r.Stats(); st.Dropped["response"] == 0 || st.Dropped["short"] == 0 || st.Rejected == 0 || st.Blocked == 0 || replies.Load() == 0 {
		t.Errorf("stats %+v: the packets were not of every kind", st)
	}

	rejected := r.Stats().TCP
	for range packets / 20 {
		damagedConnection(t, r, rnd, all)
	}
	if got := r.Stats().TCP - rejected; got < packets/20 {
		t.Errorf("%d messages received over TCP", got)
	}
	if m := r.ask(t, "udp", query("wechat.com", dns.TypeA)); m.Rcode != dns.RcodeNameError {
		t.Errorf("afterwards: %v, want NXDOMAIN", m)
	}
	eventually(t, "goroutines are back to their number", func() bool { return runtime.NumGoroutine() <= before+2 })
}

// checkReplies checks what comes back until stop.
func checkReplies(t *testing.T, c net.Conn, stop chan struct{}, n *atomic.Int64) {
	buf := make([]byte, 65535)
	for {
		size, err := c.Read(buf)
		if err != nil {
			select {
			case <-stop:
				return
			default:
				continue
			}
		}
		n.Add(1)
		if size > maxUDP {
			t.Errorf("reply of %d bytes", size)
		}
		checkReply(t, buf[:size])
	}
}

func checkReply(t *testing.T, p []byte) {
	t.Helper()
	var m dns.Msg
	if err := m.Unpack(p); err != nil {
		t.Errorf("reply %x: %v", p, err)
	} else if !m.Response || m.Id == replyID {
		t.Errorf("reply %v is none, or one to a reply", &m)
	}
}

// damagedConnection sends 20 damaged messages over one connection, which may
// be closed on the way.
func damagedConnection(t *testing.T, r *rig, rnd *rand.Rand, all [][]byte) {
	t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for range 20 {
		if _, err := c.Write(frame(mutant(rnd, all))); err != nil {
			break
		}
	}
	_ = c.(*net.TCPConn).CloseWrite()
	for {
		m := readFrame(t, c, secs(10))
		if m == nil {
			return
		}
		if !m.Response || m.Id == replyID {
			t.Errorf("reply %v is none, or one to a reply", m)
		}
	}
}

// Full workers and a full queue: the rest is answered at once.
func TestOverload(t *testing.T) {
	gate := make(chan struct{})
	hook := &hooked{}
	hook.resolve = func(ctx context.Context, q *dns.Msg) (*resolver.Answer, error) {
		select {
		case <-gate:
			return nil, resolver.ErrNoUpstream
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r := start(t, "", Options{Resolver: hook, Workers: 4, Queue: 6, Timeout: secs(30)})
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
	close(gate)
	seen := map[uint16]bool{}
	for range 10 {
		if m := readPacket(t, c); m != nil {
			seen[m.Id] = true
		}
	}
	if st := r.Stats(); len(seen) != 10 || st.Overloaded != 2 || st.Failed != 10 || st.Inflight != 0 {
		t.Errorf("%d answered; stats %+v, want 10 and 2 overloaded", len(seen), st)
	}
	if got := len(r.audit.take()); got != 14 {
		t.Errorf("%d audit records, want 14", got)
	}
}

// A question does not wait longer than its time, in the queue or at the
// resolver.
func TestTimeout(t *testing.T) {
	r := start(t, "", Options{Timeout: 100 * time.Millisecond, Workers: 1})
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
	if d := time.Since(begin); d > secs(2) {
		t.Errorf("took %v, want about 100 ms", d)
	}
}

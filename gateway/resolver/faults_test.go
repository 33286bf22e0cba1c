package resolver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A culprit is an upstream on real sockets, over UDP and TCP, that can be told to
// misbehave. Its right answer to every name is the address that rightAddr makes
// of it, and poisonAddr is in none.
type culprit struct {
	t     testing.TB
	pc    net.PacketConn
	other net.PacketConn // another source address
	addr  netip.AddrPort
	fault atomic.Pointer[misdeed]
	born  time.Time
}

// A misdeed is how datagrams and messages over TCP are answered: with what, after
// what, and from where.
type misdeed struct {
	name string
	// udp and tcp return what is sent for a query whose right response is m.
	udp, tcp func(c *culprit, q, m *dns.Msg) [][]byte
	delay    time.Duration
	spoofed  bool // from another address
}

const poisonAddr = "192.0.2.66"

func rightAddr(name string) net.IP {
	var n uint32
	for _, c := range []byte(dns.CanonicalName(name)) {
		n = n*31 + uint32(c)
	}
	return net.IPv4(10, byte(n>>16), byte(n>>8), byte(n))
}

func newCulprit(t testing.TB) *culprit {
	t.Helper()
	c := &culprit{t: t, born: time.Now()}
	c.fault.Store(&misdeed{udp: honest, tcp: honest})
	var l net.Listener
	for range 20 {
		var err error
		if c.pc, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if l, err = net.Listen("tcp", c.pc.LocalAddr().String()); err == nil {
			break
		}
		_ = c.pc.Close()
	}
	var err error
	if c.other, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil || l == nil {
		t.Fatal(err)
	}
	c.addr = netip.MustParseAddrPort(c.pc.LocalAddr().String())
	t.Cleanup(func() {
		_, _, _ = c.pc.Close(), c.other.Close(), l.Close()
	})
	go c.datagrams()
	go c.accept(l)
	return c
}

func (c *culprit) datagrams() {
	buf := make([]byte, maxMsg)
	for {
		n, from, err := c.pc.ReadFrom(buf)
		if err != nil {
			return
		}
		q := new(dns.Msg)
		if q.Unpack(buf[:n]) != nil {
			continue
		}
		f := c.fault.Load()
		go func() {
			time.Sleep(f.delay)
			to := c.pc
			if f.spoofed {
				to = c.other
			}
			for _, b := range f.udp(c, q, right(c.t, q)) {
				_, _ = to.WriteTo(b, from)
			}
		}()
	}
}

func (c *culprit) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			for q := readQuery(conn); q != nil; q = readQuery(conn) {
				f := c.fault.Load()
				time.Sleep(f.delay)
				for _, b := range f.tcp(c, q, right(c.t, q)) {
					_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
				}
			}
		}()
	}
}

func right(t testing.TB, q *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if q.Question[0].Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}, A: rightAddr(q.Question[0].Name)}}
	}
	return m
}

func honest(c *culprit, _, m *dns.Msg) [][]byte { return [][]byte{pack(c.t, m)} }

func nothing(*culprit, *dns.Msg, *dns.Msg) [][]byte { return nil }

// forged returns an answer that would lead astray, changed.
func forged(change func(m *dns.Msg)) func(*culprit, *dns.Msg, *dns.Msg) [][]byte {
	return func(c *culprit, q, m *dns.Msg) [][]byte {
		m.Answer = []dns.RR{rr(c.t, q.Question[0].Name+" 30 IN A "+poisonAddr)}
		change(m)
		return [][]byte{pack(c.t, m)}
	}
}

// faults are what upstreams do that fail, and what attackers do beside them.
func faults() []misdeed {
	both := func(name string, f func(*culprit, *dns.Msg, *dns.Msg) [][]byte) misdeed {
		return misdeed{name: name, udp: f, tcp: f}
	}
	cut := func(_ *culprit, q, m *dns.Msg) { m.Truncated, m.Answer = true, nil }
	return []misdeed{
		both("dead", nothing),
		{name: "slow", udp: honest, tcp: honest, delay: 1500 * time.Millisecond},
		both("lossy", func(c *culprit, q, m *dns.Msg) [][]byte {
			if rand.IntN(2) == 0 {
				return nil
			}
			return honest(c, q, m)
		}),
		both("flapping", func(c *culprit, q, m *dns.Msg) [][]byte {
			if time.Since(c.born)/(150*time.Millisecond)%2 == 0 {
				return nil
			}
			return honest(c, q, m)
		}),
		both("wrong ID", forged(func(m *dns.Msg) { m.Id++ })),
		both("wrong question", forged(func(m *dns.Msg) { m.Question[0].Name = "other.example." })),
		both("wrong type", forged(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA })),
		both("no question", forged(func(m *dns.Msg) { m.Question = nil })),
		both("another's answer", forged(func(m *dns.Msg) { m.Answer[0].Header().Name = "other.example." })),
		both("a query", forged(func(m *dns.Msg) { m.Response = false })),
		{name: "spoofed source", udp: forged(func(*dns.Msg) {}), tcp: nothing, spoofed: true},
		both("TC loop", func(c *culprit, q, m *dns.Msg) [][]byte { cut(c, q, m); return honest(c, q, m) }),
		both("SERVFAIL", forged(func(m *dns.Msg) { m.Answer, m.Rcode = nil, dns.RcodeServerFailure })),
		both("REFUSED", forged(func(m *dns.Msg) { m.Answer, m.Rcode = nil, dns.RcodeRefused })),
		both("ends early", func(c *culprit, q, m *dns.Msg) [][]byte { b := pack(c.t, m); return [][]byte{b[:len(b)-3]} }),
		both("garbage", func(c *culprit, q, m *dns.Msg) [][]byte {
			b := bytes.Repeat([]byte{0xa5}, 600)
			like := pack(c.t, m)[:headerLen]
			return [][]byte{{}, {1}, b, append(slices.Clone(like), b...), append(like, bytes.Repeat([]byte{0xc0, 0x0c}, 300)...)}
		}),
		both("oversized", func(c *culprit, q, m *dns.Msg) [][]byte {
			m.Answer = nil
			m.Rcode = dns.RcodeServerFailure
			return [][]byte{append(pack(c.t, m), make([]byte, 60_000)...)}
		}),
	}
}

// TestFaults: whatever an upstream does, names that were known are still
// answered, nothing that is said is wrong, and where there is another upstream it
// is asked in time.
func TestFaults(t *testing.T) {
	for _, f := range faults() {
		t.Run(f.name, func(t *testing.T) {
			t.Run("known names", func(t *testing.T) { knownNames(t, f) })
			t.Run("another upstream", func(t *testing.T) { anotherUpstream(t, f) })
		})
	}
}

// knownNames asks for names whose TTL is over, of the culprit alone.
func knownNames(t *testing.T, f misdeed) {
	const n = 1000
	c, clk := newCulprit(t), newClock()
	r := openAt(t, Options{Upstreams: udp(t, c.addr), CacheEntries: 2 * n, MaxInFlight: 2 * n,
		Stale: Stale{time.Hour, 250 * time.Millisecond}, Timeout: 2 * time.Second}, clk.now, portDNS)
	askRight(t, r, n)
	clk.move(time.Minute)
	c.fault.Store(&f)
	start := time.Now()
	answered := askRight(t, r, n)
	if answered < n*999/1000 {
		t.Errorf("%d of %d names that were known are answered", answered, n)
	}
	t.Logf("%d of %d names answered in %v, %d of them stale", answered, n, time.Since(start).Round(time.Millisecond), r.Stats().Stale)
}

// askRight asks for the names, and returns how many were answered. A wrong
// answer is an error.
func askRight(t *testing.T, r *Resolver, n int) int {
	t.Helper()
	const lanes = 100
	var good atomic.Int64
	var wg sync.WaitGroup
	for lane := range lanes {
		wg.Go(func() {
			for i := lane; i < n; i += lanes {
				if isRight(t, r, fmt.Sprintf("name%d.example", i)) {
					good.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return int(good.Load())
}

func isRight(t *testing.T, r *Resolver, name string) bool {
	a, err := r.Resolve(t.Context(), question(name, dns.TypeA))
	if err != nil || !answered(a.Rcode()) {
		return false
	}
	got := a.addrs()
	if len(got) != 1 || got[0].String() != rightAddr(name+".").String() {
		t.Errorf("%s: wrong answer %v", name, got)
	}
	return true
}

// anotherUpstream asks for new names while the first of two upstreams has the
// fault.
func anotherUpstream(t *testing.T, f misdeed) {
	const n = 60
	bad, good := newCulprit(t), newCulprit(t)
	r := open(t, Options{Upstreams: udp(t, bad.addr, good.addr)})
	isRight(t, r, "first.example")
	bad.fault.Store(&f)
	took := make([]time.Duration, n)
	var wg sync.WaitGroup
	for lane := range 6 {
		wg.Go(func() {
			for i := lane; i < n; i += 6 {
				start := time.Now()
				if !isRight(t, r, fmt.Sprintf("new%d.example", i)) {
					t.Errorf("name %d has no answer", i)
				}
				took[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	t.Logf("p50 %v, slowest %v", took[n/2].Round(time.Millisecond), took[n-1].Round(time.Millisecond))
	limit := 300*time.Millisecond + slack
	if f.name == "lossy" {
		limit += lateAfter // the query to the other upstream may wait for its budget
	}
	if took[n-1] > limit {
		t.Errorf("a question took %v, want at most 300 ms", took[n-1])
	}
}

// TestPoison: what comes along with a right answer is not believed, and what was
// asked for is.
func TestPoison(t *testing.T) {
	c := newCulprit(t)
	r := open(t, Options{Upstreams: udp(t, c.addr), CacheEntries: 100})
	poison := func(c *culprit, q, m *dns.Msg) [][]byte {
		victims := []string{"victim.example.", "www.victim.example."}
		for _, v := range victims {
			m.Answer = append(m.Answer, rr(c.t, v+" 86400 IN A "+poisonAddr))
			m.Extra = append(m.Extra, rr(c.t, v+" 86400 IN A "+poisonAddr))
		}
		m.Answer = append(m.Answer, rr(c.t, "www.victim.example. 86400 IN CNAME evil.test."))
		m.Ns = append(m.Ns, rr(c.t, "victim.example. 86400 IN NS ns.evil.test."), rr(c.t, "victim.example. 86400 IN SOA ns.evil.test. a.evil.test. 1 2 3 4 5"))
		m.Extra = append(m.Extra, rr(c.t, "ns.evil.test. 86400 IN A "+poisonAddr))
		return [][]byte{pack(c.t, m)}
	}
	c.fault.Store(&misdeed{name: "poison", udp: poison, tcp: poison})
	isRight(t, r, "asked.example")
	a := r.Cached(question("asked.example", dns.TypeA))
	if a == nil {
		t.Fatal("the answer is not kept")
	}
	if m := a.Reply(question("asked.example", dns.TypeA)); len(m.Answer) != 1 || len(m.Ns) != 0 || len(m.Extra) != 0 {
		t.Errorf("%v", m)
	}
	c.fault.Store(&misdeed{udp: honest, tcp: honest})
	for _, v := range []string{"victim.example", "www.victim.example", "ns.evil.test"} {
		if r.Cached(question(v, dns.TypeA)) != nil {
			t.Errorf("%s is cached", v)
		}
		isRight(t, r, v)
	}
}

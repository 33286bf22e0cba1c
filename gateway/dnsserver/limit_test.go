package dnsserver

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

func TestBuckets(t *testing.T) {
	l := newLimiter(&Limits{Device: Rate{PerSecond: 10, Burst: 5}})
	a, b := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	now := l.base.Add(time.Hour)
	asked := func(from netip.Addr, n int) (passed int) {
		for range n {
			if _, over := l.over(from, now); !over {
				passed++
			}
		}
		return passed
	}
	for i, step := range []struct {
		after     time.Duration
		ask, want int
	}{
		{0, 100, 5},                       // the burst
		{99 * time.Millisecond, 100, 0},   // refused questions cost nothing
		{time.Millisecond, 100, 1},        // one for each tenth of a second
		{250 * time.Millisecond, 100, 2},  //
		{50 * time.Millisecond, 100, 1},   // what was left of it
		{time.Hour, 100, 5},               // a pause gives no more than the burst
		{time.Second, 3, 3},               //
		{0, 100, 2},                       //
		{-time.Hour, 1, 0},                // not that the clock would
		{time.Hour + time.Second, 100, 5}, //
	} {
		now = now.Add(step.after)
		if got := asked(a, step.ask); got != step.want {
			t.Errorf("step %d: %d passed, want %d", i, got, step.want)
		}
	}
	if got := asked(b, 10); got != 5 {
		t.Errorf("another device: %d passed, want its own 5", got)
	}
	if newLimiter(&Limits{Slip: 2}) != nil {
		t.Error("the zero limit is one")
	}
}

func TestLimitedTogether(t *testing.T) {
	for _, tc := range []struct {
		limits Limits
		ask    []string
		passed int
		why    drop
	}{
		{Limits{Device: Rate{1, 3}}, []string{"192.0.2.2", "192.0.2.3"}, 6, dropRateDevice},
		{Limits{Device: Rate{1, 3}}, []string{"2001:db8::1", "2001:db8::2"}, 3, dropRateDevice},
		{Limits{Device: Rate{1, 3}}, []string{"2001:db8:0:1::1", "2001:db8:0:2::1"}, 6, dropRateDevice},
		{Limits{Network: Rate{1, 3}}, []string{"192.0.2.2", "192.0.2.3", "192.0.2.255"}, 3, dropRateNetwork},
		{Limits{Network: Rate{1, 3}}, []string{"192.0.2.2", "192.0.3.2"}, 6, dropRateNetwork},
		{Limits{Network: Rate{1, 3}}, []string{"2001:db8:0:100::1", "2001:db8:0:1ff::2"}, 3, dropRateNetwork},
		{Limits{Network: Rate{1, 3}}, []string{"2001:db8:0:100::1", "2001:db8:0:200::2"}, 6, dropRateNetwork},
		{Limits{Device: Rate{1, 30}, Network: Rate{1, 4}}, []string{"192.0.2.2", "192.0.2.3"}, 4, dropRateNetwork},
		{Limits{Device: Rate{1, 3}, Network: Rate{1, 100}}, []string{"192.0.2.2"}, 3, dropRateDevice},
		{Limits{Device: Rate{1, 0}}, []string{"192.0.2.2"}, 1, dropRateDevice},
		{Limits{Device: Rate{1, 3}, Exempt: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/30")}}, []string{"192.0.2.2", "192.0.2.5"}, 13, dropRateDevice},
	} {
		l := newLimiter(&tc.limits)
		passed, last := 0, drop(0)
		for range 10 {
			for _, a := range tc.ask {
				why, over := l.over(netip.MustParseAddr(a), l.base)
				if !over {
					passed++
				} else {
					last = why
				}
			}
		}
		if passed != tc.passed || last != tc.why {
			t.Errorf("%+v, %v: %d passed and then %s, want %d and %s", tc.limits, tc.ask, passed, dropNames[last], tc.passed, dropNames[tc.why])
		}
	}
}

// Neighbours do not share buckets.
func TestBucketsAreApart(t *testing.T) {
	l := newLimiter(&Limits{Device: Rate{1, 1}})
	a := netip.MustParseAddr("10.8.0.0")
	for i := range 20_000 {
		if why, over := l.over(a, l.base); over {
			t.Fatalf("device %d, %v: %s at its first question", i, a, dropNames[why])
		}
		a = a.Next()
	}
	if full := l.full.Load(); full > 200 {
		t.Errorf("no room for %d of 20,000 devices", full)
	}
}

// More who ask at once than there are buckets: memory stays, questions pass and
// are counted, and all is well a moment later.
func TestBucketsFull(t *testing.T) {
	l := newLimiter(&Limits{Device: Rate{1, 1}})
	a := netip.MustParseAddr("10.0.0.0")
	for range 200_000 {
		if _, over := l.over(a, l.base); over {
			t.Fatal("a device that asked nothing is limited")
		}
		a = a.Next()
	}
	full := l.full.Load()
	if full < 200_000-4*bucketSets {
		t.Errorf("no room for %d, want at least what is more than all buckets", full)
	}
	for range 2 {
		l.over(a, l.base.Add(2*time.Second))
	}
	if l.full.Load() != full {
		t.Error("buckets are not free again")
	}
}

// Whatever the number of readers, a device gets what it may and no more.
func TestBucketsConcurrent(t *testing.T) {
	l := newLimiter(&Limits{Device: Rate{1, 1000}})
	from := netip.MustParseAddr("192.0.2.2")
	l.over(from, l.base)
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if _, over := l.over(from, l.base); !over {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got := passed.Load(); got != 999 {
		t.Errorf("%d passed, want 999", got)
	}
}

func TestLimitAllocates(t *testing.T) {
	l := newLimiter(&Limits{Device: Rate{1000, 1000}, Network: Rate{1000, 1000}})
	from := netip.MustParseAddr("192.0.2.2")
	if n := testing.AllocsPerRun(1000, func() { l.over(from, l.base) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// dialFrom opens a socket of that address.
func dialFrom(tb testing.TB, network, from, to string) net.Conn {
	tb.Helper()
	var local net.Addr = &net.UDPAddr{IP: net.ParseIP(from)}
	if network == "tcp" {
		local = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	d := net.Dialer{LocalAddr: local}
	c, err := d.Dial(network, to)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

func TestLimitUDP(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable, Limits: Limits{Device: Rate{1, 10}, Slip: 4}})
		c := dialFrom(t, "udp", "127.0.0.2", r.addr)
		p := pack(t, edns(query("wechat.com", dns.TypeA), 1232))
		begin := time.Now()
		for range 50 {
			if _, err := c.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		// 10 and one for each second that it takes; of the rest, each fourth.
		eventually(t, "all are dealt with", func() bool {
			st := r.Stats()
			return st.Blocked+st.Slipped+st.Dropped["rate_device"] == 50
		})
		st := r.Stats()
		if st.Blocked < 10 || st.Blocked > 11+uint64(time.Since(begin).Seconds()) || st.Slipped != (50-st.Blocked)/4 {
			t.Errorf("%d answered and %d with TC, want 10 and 10", st.Blocked, st.Slipped)
		}
		answered, truncated := 0, 0
		for range st.Blocked + st.Slipped {
			m := readPacket(t, c)
			switch {
			case m == nil:
				t.Fatal("a reply is missing")
			case m.Truncated && m.Rcode == dns.RcodeSuccess && len(m.Question) == 1 && len(m.Answer)+len(m.Ns) == 0:
				truncated++
				if m.Len() > len(p) {
					t.Errorf("%d octets for a question of %d", m.Len(), len(p))
				}
			case m.Rcode == dns.RcodeNameError:
				answered++
			}
		}
		if uint64(answered) != st.Blocked || uint64(truncated) != st.Slipped {
			t.Errorf("%d answers and %d with TC came, counted were %d and %d", answered, truncated, st.Blocked, st.Slipped)
		}
		// Others are not concerned, and over TCP it is served.
		r.ask(t, "udp", query("wechat.com", dns.TypeA))
		if n := len(r.audit.take()); n != int(st.Blocked)+1 {
			t.Errorf("%d records, want those of answers only", n)
		}
	})
}

// What is no question gets no reply, however much comes.
func TestLimitNeverAnswersReplies(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "", Options{portable: portable, Limits: Limits{Device: Rate{1, 1}, Slip: 1}})
		reply := query("wechat.com", dns.TypeA)
		reply.Response = true
		odd := query("wechat.com", dns.TypeANY)
		for device := range 20 {
			c := dialFrom(t, "udp", fmt.Sprintf("127.0.0.%d", 2+device), r.addr)
			begin := time.Now()
			for _, p := range [][]byte{pack(t, reply), pack(t, reply), []byte("short"), pack(t, odd), pack(t, query("wechat.com", dns.TypeA))} {
				if _, err := c.Write(p); err != nil {
					t.Fatal(err)
				}
			}
			m := readPacket(t, c)
			if time.Since(begin) >= time.Second {
				continue // the device may ask again by then
			}
			if m == nil || !m.Truncated || m.Question[0].Qtype != dns.TypeA {
				t.Errorf("first reply %v, want TC for the one plain question", m)
			}
			return
		}
		t.Error("this machine cannot send five packets within a second")
	})
}

// A connection is read as slowly as its client may ask, and closed when that is
// too slow.
func TestLimitTCP(t *testing.T) {
	r := start(t, zones, Options{Limits: Limits{Device: Rate{5, 5}}})
	c := dialFrom(t, "tcp", "127.0.0.2", r.addr)
	p := frame(pack(t, query("wechat.com", dns.TypeA)))
	begin := time.Now()
	if _, err := c.Write(bytes.Repeat(p, 12)); err != nil { // at once, or there may be nothing to wait for
		t.Fatal(err)
	}
	for range 12 {
		if readFrame(t, c, secs(30)) == nil {
			t.Fatal("an answer is missing")
		}
	}
	if d := time.Since(begin); d < 1200*time.Millisecond {
		t.Errorf("12 answers within %v, want 5 and 5 a second", d)
	}
	if st := r.Stats(); st.Paced == 0 || st.Dropped["rate_device"] != 0 {
		t.Errorf("stats %+v, want questions that waited", st)
	}
	// Many connections do not get more.
	var open []net.Conn
	for range 30 {
		c := dialFrom(t, "tcp", "127.0.0.2", r.addr)
		for range 3 {
			if _, err := c.Write(p); err != nil {
				break // it was closed already
			}
		}
		open = append(open, c)
	}
	eventually(t, "what cannot be served in time is closed", func() bool { return r.Stats().Dropped["rate_device"] > 0 })
	other := dialFrom(t, "tcp", "127.0.0.3", r.addr)
	begin = time.Now()
	if _, err := other.Write(p); err != nil || readFrame(t, other, secs(30)) == nil {
		t.Error("another device gets no answer")
	}
	if d := time.Since(begin); d > secs(16) { // those 90 questions take longer
		t.Errorf("another device waited for %v", d)
	}
	for _, c := range open {
		_ = c.Close()
	}
}

// Over HTTPS and QUIC too a question beyond the limit waits for its turn, and one
// that would have to wait for too long is refused.
func TestLimitEncrypted(t *testing.T) {
	for _, transport := range []string{"HTTP/1.1", "HTTP/2.0", "HTTP/3.0", "DoQ"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel() // it is all waiting
			r, ca := startAll(t, "", Options{Limits: Limits{Device: Rate{2, 5}}})
			ask := askerOver(t, r, ca, transport)
			begin, asked := time.Now(), 0
			for asked < 8 || r.Stats().Paced == 0 && asked < 100 { // a slow client need not wait
				if !ask()() {
					t.Fatal("a question was refused that could have waited")
				}
				asked++
			}
			if d := time.Since(begin); d < time.Duration(asked-6)*time.Second/2 {
				t.Errorf("%d answers within %v, want 5 and 2 a second", asked, d)
			}
			if st := r.Stats(); st.Paced == 0 || st.Dropped["rate_device"] != 0 {
				t.Errorf("stats %+v, want questions that waited", st)
			}
			if transport == "HTTP/2.0" {
				return // what comes over one connection waits for what came before
			}
			var all []func() bool
			for range 30 {
				all = append(all, ask())
			}
			answered := 0
			for _, wait := range all {
				if wait() {
					answered++
				}
			}
			if refused := r.Stats().Dropped["rate_device"]; refused == 0 || int(refused)+answered != 30 {
				t.Errorf("of 30 at once %d refused and %d answered", refused, answered)
			}
		})
	}
}

// askerOver returns how to ask over the transport, and then how to wait for whether
// there was an answer.
func askerOver(t *testing.T, r *rig, ca *testCA, transport string) func() (answered func() bool) {
	p := doqQuery(t, "wechat.com", dns.TypeA)
	if transport == "DoQ" {
		c := dialDoQ(t, r, ca)
		return func() func() bool {
			s := sendDoQ(t, c, p)
			return func() bool {
				m, err := readDoQ(s)
				if e, ok := errors.AsType[*quic.StreamError](err); err != nil && (!ok || e.ErrorCode != doqExcessiveLoad) {
					t.Error(err)
				}
				return m != nil
			}
		}
	}
	c := webClients(t, ca)[transport]
	return func() func() bool {
		status := make(chan int, 1)
		go func() {
			resp, err := c.Do(request(t, "POST", r.dohURL(), p[2:]))
			if err != nil {
				t.Error(err)
				status <- 0
				return
			}
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusOK && resp.Header.Get("Retry-After") == "" {
				t.Errorf("%s without a time to come again", resp.Status)
			}
			status <- resp.StatusCode
		}()
		return func() bool { return <-status == http.StatusOK }
	}
}

// One device's questions cannot take all the places before the resolver.
func TestWaitingPerClient(t *testing.T) {
	r := start(t, zones, Options{Workers: 8, Queue: 8, MaxPerClient: 6})
	flood := dialFrom(t, "udp", "127.0.0.2", r.addr)
	for i := range 40 {
		if _, err := flood.Write(pack(t, query(fmt.Sprintf("n%d.slow.example", i), dns.TypeA))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the rest is told so", func() bool { return r.Stats().Overloaded == 34 })
	if got := r.Stats().Inflight; got != 6 {
		t.Errorf("%d wait, want 6", got)
	}
	if m := r.ask(t, "udp", query("good.example", dns.TypeA)); m.Rcode != dns.RcodeSuccess {
		t.Errorf("another device: %v, want its answer", m)
	}
	close(r.up.gate)
	eventually(t, "all are done", func() bool {
		r.core.exit.mu.Lock()
		defer r.core.exit.mu.Unlock()
		return len(r.core.exit.clients) == 0
	})
}

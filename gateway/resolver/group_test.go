package resolver

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const wwwA = "www.example. 300 IN A 192.0.2.1"

// closedPort returns an address on which nothing listens, over UDP and TCP.
func closedPort(t testing.TB) netip.AddrPort {
	t.Helper()
	for range 20 {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", c.LocalAddr().String())
		_ = c.Close()
		if err == nil {
			_ = l.Close()
			return netip.MustParseAddrPort(c.LocalAddr().String())
		}
	}
	t.Fatal("no port is free for both UDP and TCP")
	return netip.AddrPort{}
}

func TestFailover(t *testing.T) {
	good := records(t, wwwA)
	for _, tt := range []struct {
		name    string
		first   func() netip.AddrPort
		atmost  time.Duration
		atleast time.Duration
	}{
		{"refused connection", func() netip.AddrPort { return closedPort(t) }, 300 * time.Millisecond, 0},
		{"silence", func() netip.AddrPort { return listen(t, silent()) }, 900 * time.Millisecond, 380 * time.Millisecond},
		{"SERVFAIL", func() netip.AddrPort { return listen(t, rcode(dns.RcodeServerFailure)) }, 300 * time.Millisecond, 0},
		{"REFUSED", func() netip.AddrPort { return listen(t, rcode(dns.RcodeRefused)) }, 300 * time.Millisecond, 0},
		{"NOTIMP", func() netip.AddrPort { return listen(t, rcode(dns.RcodeNotImplemented)) }, 300 * time.Millisecond, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := open(t, Options{Upstreams: udp(t, tt.first(), listen(t, good)), Timeout: time.Second})
			start := time.Now()
			a := resolve(t, r, "www.example", dns.TypeA)
			wantTexts(t, "answer", a.Reply(question("www.example", dns.TypeA)).Answer, wwwA)
			if d := time.Since(start); d > tt.atmost || d < tt.atleast {
				t.Errorf("it took %v, want %v to %v", d, tt.atleast, tt.atmost)
			}
		})
	}
}

func TestNXDOMAINIsAnAnswer(t *testing.T) {
	second := records(t, wwwA)
	r := open(t, Options{Upstreams: udp(t, listen(t, rcode(dns.RcodeNameError)), listen(t, second))})
	if a := resolve(t, r, "www.example", dns.TypeA); a.Rcode() != dns.RcodeNameError || second.queries.Load() != 0 {
		t.Errorf("%s, and the second upstream saw %d queries", dns.RcodeToString[a.Rcode()], second.queries.Load())
	}
}

func TestAllSayNo(t *testing.T) {
	first, last := rcode(dns.RcodeServerFailure), rcode(dns.RcodeRefused)
	r := open(t, Options{Upstreams: udp(t, listen(t, first), listen(t, last), closedPort(t)), CacheEntries: 10})
	if a := resolve(t, r, "www.example", dns.TypeA); a.Rcode() != dns.RcodeRefused {
		t.Errorf("got %s, want the last response, REFUSED", dns.RcodeToString[a.Rcode()])
	}
	if first.queries.Load() != 1 || last.queries.Load() != 1 {
		t.Errorf("upstreams saw %d and %d queries, want 1 each", first.queries.Load(), last.queries.Load())
	}
	if r.Cached(question("www.example", dns.TypeA)) != nil {
		t.Error("REFUSED was cached")
	}
}

func TestServfailIsCachedBriefly(t *testing.T) {
	z := rcode(dns.RcodeServerFailure)
	clk := newClock()
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10}, clk.now, portDNS)
	for range 3 {
		resolve(t, r, "www.example", dns.TypeA)
	}
	if n := z.queries.Load(); n != 1 {
		t.Errorf("%d queries, want 1", n)
	}
	clk.move(servfailTTL * time.Second)
	resolve(t, r, "www.example", dns.TypeA)
	if n := z.queries.Load(); n != 2 {
		t.Errorf("%d queries after it ended, want 2", n)
	}
}

// TestHealth follows an upstream that stops responding and comes back.
func TestHealth(t *testing.T) {
	var up atomic.Bool
	first := records(t, wwwA)
	inner := first.answer
	first.answer = func(q *dns.Msg) *dns.Msg {
		if up.Load() {
			return inner(q)
		}
		return nil
	}
	second := records(t, wwwA)
	clk := newClock()
	r := openAt(t, Options{Upstreams: udp(t, listen(t, first), listen(t, second)), Timeout: 1500 * time.Millisecond}, clk.now, portDNS)
	ask := func() (toFirst, toSecond int64) {
		f, s := first.queries.Load(), second.queries.Load()
		resolve(t, r, "www.example", dns.TypeA)
		return first.queries.Load() - f, second.queries.Load() - s
	}
	for i := range failLimit {
		if f, s := ask(); f != 1 || s != 1 {
			t.Fatalf("question %d: %d and %d queries, want 1 and 1", i, f, s)
		}
	}
	if s := r.Stats().Upstreams; s[0].Healthy || s[0].Failures != failLimit || !s[1].Healthy {
		t.Errorf("after %d failures: %+v", failLimit, s)
	}
	for range 5 {
		if f, s := ask(); f != 0 || s != 1 {
			t.Fatalf("while backing off: %d and %d queries", f, s)
		}
	}
	// The interval doubles with each failed probe, up to the cap.
	for want := minBackoff; want < 2*maxBackoff; want *= 2 {
		want := min(want, maxBackoff)
		clk.move(want - time.Millisecond)
		if f, _ := ask(); f != 0 {
			t.Fatalf("asked before %v", want)
		}
		clk.move(time.Millisecond)
		if f, s := ask(); f != 1 || s != 1 {
			t.Fatalf("after %v: %d and %d queries, want one probe", want, f, s)
		}
	}
	up.Store(true)
	clk.move(maxBackoff)
	if f, s := ask(); f != 1 || s != 0 {
		t.Errorf("it came back: %d and %d queries", f, s)
	}
	if s := r.Stats().Upstreams; !s[0].Healthy {
		t.Errorf("after a response: %+v", s[0])
	}
	if f, s := ask(); f != 1 || s != 0 {
		t.Errorf("healthy again: %d and %d queries", f, s)
	}
}

// TestLastResort: upstreams that back off are still better than none.
func TestLastResort(t *testing.T) {
	var up atomic.Bool
	z := records(t, wwwA)
	inner := z.answer
	z.answer = func(q *dns.Msg) *dns.Msg {
		if up.Load() {
			return inner(q)
		}
		return nil
	}
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), Timeout: 100 * time.Millisecond})
	for range 2 {
		_, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
		wantErr(t, err, context.DeadlineExceeded)
	}
	if s := r.Stats().Upstreams[0]; s.Healthy {
		t.Errorf("after 2 questions with 2 tries each: %+v", s)
	}
	up.Store(true)
	resolve(t, r, "www.example", dns.TypeA)
}

// TestOneProbe: of many questions, one goes to an upstream whose back-off is
// over; the others do not wait for it.
func TestOneProbe(t *testing.T) {
	dead, good := silent(), records(t, wwwA)
	clk := newClock()
	r := openAt(t, Options{Upstreams: udp(t, listen(t, dead), listen(t, good)), Timeout: 1500 * time.Millisecond}, clk.now, portDNS)
	for range failLimit {
		resolve(t, r, "www.example", dns.TypeA)
	}
	if r.Stats().Upstreams[0].Healthy {
		t.Error("it is healthy after the last failure")
	}
	clk.move(minBackoff)
	if !r.Stats().Upstreams[0].Healthy {
		t.Error("it has not got its place back after the back-off")
	}
	before := dead.queries.Load()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			q := question(fmt.Sprintf("h%d.example", i), dns.TypeA)
			if _, err := r.Resolve(t.Context(), q); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := dead.queries.Load() - before; n != 1 {
		t.Errorf("%d of 20 questions went to it, want one probe", n)
	}
}

// TestNoFault: what may be due to a zone or to ourselves does not send an
// upstream to the back.
func TestNoFault(t *testing.T) {
	for _, err := range []error{errMalformed, syscall.EMFILE, syscall.ENFILE} {
		if fault(fmt.Errorf("upstream: %w", err)) {
			t.Errorf("%v counts as a fault", err)
		}
	}
	if !fault(context.DeadlineExceeded) || !fault(syscall.ECONNREFUSED) {
		t.Error("silence or refusal does not count")
	}
}

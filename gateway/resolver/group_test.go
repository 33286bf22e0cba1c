package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

const (
	wwwA = "www.example. 300 IN A 192.0.2.1"
	anyA = "*. 300 IN A 192.0.2.1"
)

func TestFailover(t *testing.T) {
	good := records(t, wwwA)
	for _, tt := range []struct {
		name    string
		first   func() netip.AddrPort
		atmost  time.Duration
		atleast time.Duration
	}{
		{"refused connection", func() netip.AddrPort { return corpus.Port(t) }, 300 * time.Millisecond, 0},
		{"silence", func() netip.AddrPort { return listen(t, silent()) }, 600 * time.Millisecond, 180 * time.Millisecond},
		{"SERVFAIL", func() netip.AddrPort { return listen(t, rcode(dns.RcodeServerFailure)) }, 300 * time.Millisecond, 0},
		{"REFUSED", func() netip.AddrPort { return listen(t, rcode(dns.RcodeRefused)) }, 300 * time.Millisecond, 0},
		{"NOTIMP", func() netip.AddrPort { return listen(t, rcode(dns.RcodeNotImplemented)) }, 300 * time.Millisecond, 0},
		{"referral", func() netip.AddrPort { return listen(t, referral(t)) }, 300 * time.Millisecond, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			within(t, tt.atmost, func() time.Duration {
				r := open(t, Options{Upstreams: udp(t, tt.first(), listen(t, good)), late: lateAfter})
				start := time.Now()
				a := resolve(t, r, "www.example", dns.TypeA)
				d := time.Since(start)
				wantTexts(t, "answer", a.Reply(question("www.example", dns.TypeA)).Answer, wwwA)
				if d < tt.atleast {
					t.Errorf("it took %v, want %v at least", d, tt.atleast)
				}
				return d
			})
		})
	}
}

// referral returns a zone of a server that does not resolve: it says who may know.
func referral(t testing.TB) *zone {
	return &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Ns = []dns.RR{rr(t, "example. 300 NS ns.example.")}
		return m
	}}
}

// A referral is no answer, and above all not that there is no such record.
func TestReferralOnly(t *testing.T) {
	r := open(t, Options{Upstreams: udp(t, listen(t, referral(t))), CacheEntries: 10})
	if a := resolve(t, r, "www.example", dns.TypeA); a.Rcode() != dns.RcodeServerFailure {
		t.Errorf("got %s, want SERVFAIL", dns.RcodeToString[a.Rcode()])
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
	r := open(t, Options{Upstreams: udp(t, listen(t, first), listen(t, last), corpus.Port(t)), CacheEntries: 10})
	if a := resolve(t, r, "www.example", dns.TypeA); a.Rcode() != dns.RcodeRefused {
		t.Errorf("got %s, want the last response, REFUSED", dns.RcodeToString[a.Rcode()])
	}
	if first.queries.Load() != 1 || last.queries.Load() != 1 {
		t.Errorf("upstreams saw %d and %d queries, want 1 each", first.queries.Load(), last.queries.Load())
	}
	if r.Stats().Entries != 0 {
		t.Error("REFUSED has a place in the cache")
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

// TestBreaker follows an upstream that stops responding and comes back: after
// failLimit misses it is asked no more, but for probes, and the first probe that
// it answers brings it back.
func TestBreaker(t *testing.T) {
	var up atomic.Bool
	var asked, probed atomic.Int64
	first := records(t, wwwA)
	inner := first.answer
	first.answer = func(q *dns.Msg) *dns.Msg {
		if q.Question[0].Name == "." {
			probed.Add(1)
		} else {
			asked.Add(1)
		}
		if up.Load() {
			return inner(q)
		}
		return nil
	}
	ups := udp(t, listen(t, first), listen(t, records(t, wwwA)))
	var r *Resolver
	within(t, 0, func() time.Duration { // as if nobody else had the processors
		r = open(t, Options{Upstreams: ups, backoff: 50 * time.Millisecond, late: unhurried})
		if !opens(t, r) {
			return 1
		}
		return 0
	})
	before := asked.Load()
	for range 20 {
		resolve(t, r, "www.example", dns.TypeA)
	}
	late := r.Stats().Upstreams[1].Late // the last resort is for these
	if n := asked.Load() - before; n > int64(late) {
		t.Errorf("while it was down, %d of 20 questions went to it; the other was late for %d", n, late)
	}
	until(t, "a probe", func() bool { return probed.Load() > 0 })
	up.Store(true)
	until(t, "its return", func() bool { return r.Stats().Upstreams[0].Healthy })
	before = asked.Load()
	resolve(t, r, "www.example", dns.TypeA)
	if n := asked.Load() - before; n != 1 {
		t.Errorf("it is back, and %d of 1 questions went to it", n)
	}
	if st := r.Stats().Upstreams[0]; st.Probes == 0 || st.RTT <= 0 {
		t.Errorf("%+v", st)
	}
}

// opens reports whether the breaker of the first of two upstreams opens with the
// question that is its failLimit-th miss, and not before.
func opens(t *testing.T, r *Resolver) bool {
	t.Helper()
	for i := range failLimit {
		start := time.Now()
		resolve(t, r, "www.example", dns.TypeA)
		if d := time.Since(start); d < lateAfter-minHedge {
			t.Logf("question %d was answered after %v, before the first upstream was late", i, d)
			return false
		}
	}
	st := r.Stats().Upstreams
	if st[0].Healthy || st[0].Late != failLimit || st[0].Opened != 1 || !st[1].Healthy {
		t.Logf("after %d misses: %+v", failLimit, st)
		return false
	}
	return true
}

// until waits for the condition.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("%s did not come", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestLastResort: upstreams that are down are still better than none.
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
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), Timeout: time.Second, backoff: time.Hour})
	for range 2 {
		_, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
		wantErr(t, err, context.DeadlineExceeded)
	}
	if s := r.Stats().Upstreams[0]; s.Healthy {
		t.Errorf("after 2 questions with 2 tries each: %+v", s)
	}
	up.Store(true)
	resolve(t, r, "www.example", dns.TypeA)
	if s := r.Stats().Upstreams[0]; !s.Healthy {
		t.Errorf("after an answer: %+v", s)
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

package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// An outage is a zone that can be told what to do.
type outage struct {
	zone
	mode atomic.Int32
	slow time.Duration // for how long it thinks when it is slow
}

const (
	well int32 = iota
	mute
	broken
	slow
)

func newOutage(t testing.TB, rrs ...string) *outage {
	o := &outage{slow: 400 * time.Millisecond}
	inner := records(t, rrs...).answer
	o.answer = func(q *dns.Msg) *dns.Msg {
		switch o.mode.Load() {
		case mute:
			return nil
		case broken:
			return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
		case slow:
			time.Sleep(o.slow)
		}
		return inner(q)
	}
	return o
}

const brief = "www.example. 30 IN A 192.0.2.1"

// TestStale: whatever is the matter with the upstream, what was known is still
// said, as long as it may be.
func TestStale(t *testing.T) {
	for _, tt := range []struct {
		name string
		mode int32
		most time.Duration
	}{
		{"SERVFAIL", broken, 250 * time.Millisecond},
		{"silence", mute, 450 * time.Millisecond},
		{"slow", slow, 350 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			within(t, tt.most+slack, func() time.Duration { return staleOnce(t, tt.mode) })
		})
	}
}

// staleOnce returns how long a question takes whose answer is known and over.
func staleOnce(t *testing.T, mode int32) time.Duration {
	clk, z := newClock(), newOutage(t, "www.example. 100 IN CNAME a.cdn.test.", "a.cdn.test. 40 IN A 192.0.2.1")
	z.slow = 2 * time.Second // nobody may see its answer
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10, Stale: Stale{time.Hour, 200 * time.Millisecond}, backoff: time.Hour, late: lateAfter}, clk.now, portDNS)
	if resolve(t, r, "www.example", dns.TypeA).Stale() {
		t.Error("a fresh answer says that it is stale")
	}
	z.mode.Store(mode)
	clk.move(40 * time.Second)
	start := time.Now()
	a := resolve(t, r, "www.example", dns.TypeA)
	took := time.Since(start)
	q := question("www.example", dns.TypeA)
	wantTexts(t, "stale answer", a.Reply(q).Answer, "www.example. 30 IN CNAME a.cdn.test.", "a.cdn.test. 30 IN A 192.0.2.1")
	if !a.Stale() || a.Plain() || len(a.Links()) != 2 || a.standing.Load() != 0 {
		t.Errorf("stale %v, plain %v, links %v", a.Stale(), a.Plain(), a.Links())
	}
	if n := r.Stats().Stale; n != 1 {
		t.Errorf("%d stale answers are counted", n)
	}
	z.mode.Store(mute)
	clk.move(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if a, err := r.Resolve(ctx, q); err == nil && a.Rcode() == dns.RcodeSuccess && a.Stale() {
		t.Error("an answer is given though its time is over")
	}
	return took
}

// TestStaleOff: without a bound nothing is kept.
func TestStaleOff(t *testing.T) {
	clk, z := newClock(), newOutage(t, brief)
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10}, clk.now, portDNS)
	resolve(t, r, "www.example", dns.TypeA)
	z.mode.Store(broken)
	clk.move(30 * time.Second)
	if a := resolve(t, r, "www.example", dns.TypeA); a.Rcode() != dns.RcodeServerFailure || a.Stale() {
		t.Errorf("rcode %d, stale %v", a.Rcode(), a.Stale())
	}
}

// TestStaleSparesUpstreams: during a failure the upstream is asked once in a
// while and not for each client; after it, the next one gets a fresh answer.
func TestStaleSparesUpstreams(t *testing.T) {
	clk, z := newClock(), newOutage(t, brief)
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10, Stale: Stale{time.Hour, leisurely}}, clk.now, portDNS)
	resolve(t, r, "www.example", dns.TypeA)
	clk.move(30 * time.Second)
	z.mode.Store(broken)
	before := z.queries.Load()
	for range 20 {
		if a := resolve(t, r, "www.example", dns.TypeA); !a.Stale() {
			t.Fatal("no stale answer")
		}
	}
	if n := z.queries.Load() - before; n != 1 {
		t.Errorf("%d queries for 20 questions", n)
	}
	z.mode.Store(well)
	clk.move(lastFailure)
	if resolve(t, r, "www.example", dns.TypeA).Stale() {
		t.Error("it is stale though the upstream is well")
	}
}

// TestStaleAtOnce: where no upstream responds at all, nobody waits to hear what
// is known; and an upstream that only takes long is not taken for silent.
func TestStaleAtOnce(t *testing.T) {
	clk, z := newClock(), newOutage(t, "*.example. 30 IN A 192.0.2.1")
	inner := z.answer
	z.answer = func(q *dns.Msg) *dns.Msg {
		m := inner(q)
		if m != nil && len(m.Answer) > 0 {
			m.Answer[0].Header().Name = q.Question[0].Name
		}
		return m
	}
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 100, Stale: Stale{time.Hour, leisurely / 2}, backoff: time.Hour, late: lateAfter, try: leisurely}, clk.now, portDNS)
	for i := range 20 {
		resolve(t, r, fmt.Sprintf("n%d.example", i), dns.TypeA)
	}
	clk.move(30 * time.Second)
	z.mode.Store(mute)
	go func() { // brings the upstream down
		for range failLimit {
			_, _ = r.Resolve(t.Context(), question("other.example", dns.TypeA))
			_, _ = r.Resolve(t.Context(), question("another.example", dns.TypeA))
		}
	}()
	until(t, "the breaker", func() bool { return !r.Stats().Upstreams[0].Healthy })
	before := z.queries.Load()
	within(t, slack, func() time.Duration { // 20 of them together
		start := time.Now()
		for i := range 20 {
			if !resolve(t, r, fmt.Sprintf("n%d.example", i), dns.TypeA).Stale() {
				t.Fatal("it is not stale")
			}
		}
		return time.Since(start)
	})
	if n := z.queries.Load() - before; n > 2 {
		t.Errorf("%d queries to an upstream that is silent", n)
	}
	// It comes back slow: its breaker stays open, and answers are fresh again.
	z.mode.Store(slow)
	until(t, "a slow answer", func() bool {
		_, _ = r.Resolve(t.Context(), question(fmt.Sprintf("new%d.example", time.Now().UnixNano()), dns.TypeA))
		return !r.main.silent()
	})
	if r.Stats().Upstreams[0].Healthy {
		t.Fatal("the upstream is not slow enough for this test")
	}
	if resolve(t, r, "n1.example", dns.TypeA).Stale() {
		t.Error("an upstream that takes 0.4 s is not waited for")
	}
}

// TestStaleBusy: questions for which there is no room have stale answers too.
func TestStaleBusy(t *testing.T) {
	clk, z := newClock(), newOutage(t, brief)
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10, MaxInFlight: 1, Stale: Stale{Max: time.Hour}}, clk.now, portDNS)
	resolve(t, r, "www.example", dns.TypeA)
	clk.move(30 * time.Second)
	z.mode.Store(mute)
	go func() { _, _ = r.Resolve(t.Context(), question("other.example", dns.TypeA)) }()
	until(t, "a question", func() bool { return r.Stats().InFlight == 1 })
	if !resolve(t, r, "www.example", dns.TypeA).Stale() {
		t.Error("it is not stale")
	}
}

// TestPrefetch: what somebody asked for again is fetched before it ends, once;
// the hot path leaves it to the slow one, and finds the new answer.
func TestPrefetch(t *testing.T) {
	clk, z := newClock(), newOutage(t, "www.example. 100 IN A 192.0.2.1")
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10}, clk.now, portDNS)
	hot, q := NewHot(10), Question{Name: "www.example", Type: dns.TypeA}
	first := resolve(t, r, "www.example", dns.TypeA)
	clk.move(89 * time.Second)
	if hot.Get(r, q, clk.now()) != first {
		t.Fatal("the hot path has not got it")
	}
	clk.move(time.Second)
	if hot.Get(r, q, clk.now()) != nil {
		t.Error("the hot path keeps what should be fetched anew")
	}
	first.touched.Store(0)
	if a := r.Cached(question("www.example", dns.TypeA)); a != first || z.queries.Load() != 1 {
		t.Errorf("the first to ask for it again: %v, %d queries", a, z.queries.Load())
	}
	for range 5 {
		if a := r.Cached(question("www.example", dns.TypeA)); a == nil {
			t.Error("the answer is gone before its TTL is over")
		}
	}
	until(t, "the new answer", func() bool {
		a := hot.Get(r, q, clk.now())
		return a != nil && a != first
	})
	if st := r.Stats(); z.queries.Load() != 2 || st.Prefetched != 1 || st.Misses != 1 {
		t.Errorf("%d queries, %+v", z.queries.Load(), st)
	}
}

// TestPrefetchFails: the answer is given until its end, and the upstream is not
// asked over and over.
func TestPrefetchFails(t *testing.T) {
	clk, z := newClock(), newOutage(t, "www.example. 100 IN A 192.0.2.1")
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10}, clk.now, portDNS)
	resolve(t, r, "www.example", dns.TypeA)
	z.mode.Store(broken)
	clk.move(95 * time.Second)
	for i := range 20 {
		a := r.Cached(question("www.example", dns.TypeA))
		if a == nil || a.Stale() {
			t.Fatalf("question %d: %v", i, a)
		}
		if i == 5 {
			until(t, "the failure", func() bool { return r.Stats().InFlight == 0 && z.queries.Load() == 2 })
		}
	}
	if n := z.queries.Load(); n != 2 {
		t.Errorf("%d queries, want 2", n)
	}
}

// TestPrefetchIsBounded: where there is much to do, clients come first.
func TestPrefetchIsBounded(t *testing.T) {
	clk, z := newClock(), newOutage(t, "www.example. 100 IN A 192.0.2.1")
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10, MaxInFlight: prefetchRoom}, clk.now, portDNS)
	resolve(t, r, "www.example", dns.TypeA)
	z.mode.Store(mute)
	go func() { _, _ = r.Resolve(t.Context(), question("other.example", dns.TypeA)) }()
	until(t, "a question", func() bool { return r.Stats().InFlight == 1 })
	clk.move(95 * time.Second)
	for range 3 {
		if r.Cached(question("www.example", dns.TypeA)) == nil {
			t.Fatal("no answer")
		}
	}
	if st := r.Stats(); st.Prefetched != 0 || st.Unfetched == 0 {
		t.Errorf("%+v", st)
	}
	var m meter
	n := 0
	for range 2 * prefetchRate {
		if m.allow(clk.now()) {
			n++
		}
	}
	if n != prefetchRate || m.allow(clk.now()) {
		t.Errorf("%d in a second, want %d", n, prefetchRate)
	}
	if clk.move(time.Second); !m.allow(clk.now()) {
		t.Error("the next second has nothing")
	}
}

// TestFailuresAreRemembered (RFC 9520): a question that failed is not asked
// again at once, and ever more rarely.
func TestFailuresAreRemembered(t *testing.T) {
	clk, z := newClock(), newOutage(t, brief)
	z.mode.Store(mute)
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10, Timeout: 400 * time.Millisecond, backoff: time.Hour}, clk.now, portDNS)
	asked := func() bool {
		before := r.Stats().Upstreams[0].Queries
		_, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
		wantErr(t, err, context.DeadlineExceeded)
		return r.Stats().Upstreams[0].Queries > before
	}
	if !asked() {
		t.Fatal("the first question is not asked")
	}
	for wait := firstFailure; wait < 4*lastFailure; wait *= 2 {
		clk.move(min(wait, lastFailure) - time.Millisecond)
		if asked() {
			t.Fatalf("asked again before %v", wait)
		}
		clk.move(time.Millisecond)
		if !asked() {
			t.Fatalf("not asked after %v", wait)
		}
	}
	if _, err := r.Forget("www.example", false); err != nil || !asked() {
		t.Error("a flush leaves the failure")
	}
	z.mode.Store(well)
	clk.move(lastFailure)
	resolve(t, r, "www.example", dns.TypeA)
	if f := r.failures.get(key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}.cacheKey(), clk.now()); f != nil {
		t.Error("the failure outlives the answer")
	}
	if lasting(fmt.Errorf("x: %w", ErrNoUpstream)) || lasting(context.Canceled) || !lasting(context.DeadlineExceeded) {
		t.Error("what is remembered is not what lasts")
	}
}

func TestTTLBounds(t *testing.T) {
	const soa8h = "example. 28800 IN SOA ns.example. admin.example. 1 2 3 4 28800"
	for _, tt := range []struct {
		name string
		ttl  TTLs
		rrs  []string
		want uint32 // of the record, and of the answer
	}{
		{"none", TTLs{}, []string{"www.example. 100 IN A 192.0.2.1"}, 100},
		{"floor", TTLs{Min: 200 * time.Second}, []string{"www.example. 100 IN A 192.0.2.1"}, 200},
		{"floor of none", TTLs{Min: 200 * time.Second}, []string{"www.example. 0 IN A 192.0.2.1"}, 200},
		{"cap", TTLs{Max: 50 * time.Second}, []string{"www.example. 100 IN A 192.0.2.1"}, 50},
		{"cap below floor", TTLs{Min: 200 * time.Second, Max: 50 * time.Second}, []string{"www.example. 100 IN A 192.0.2.1"}, 50},
		{"a day", TTLs{Max: 100 * time.Hour}, []string{"www.example. 1000000 IN A 192.0.2.1"}, maxTTL},
		{"negative", TTLs{}, []string{soa8h}, maxNegativeTTL},
		{"negative cap", TTLs{Max: time.Minute}, []string{soa8h}, 60},
	} {
		clk := newClock()
		r := openAt(t, Options{Upstreams: udp(t, listen(t, records(t, tt.rrs...))), CacheEntries: 10, TTL: tt.ttl}, clk.now, portDNS)
		a := resolve(t, r, "www.example", dns.TypeA)
		m := a.Reply(question("www.example", dns.TypeA))
		for _, rr := range append(m.Answer, m.Ns...) {
			if rr.Header().Ttl != tt.want {
				t.Errorf("%s: TTL %d, want %d", tt.name, rr.Header().Ttl, tt.want)
			}
		}
		if a.ttl != tt.want {
			t.Errorf("%s: kept for %d s, want %d", tt.name, a.ttl, tt.want)
		}
	}
	// What must not be cached (RFC 2308, section 5) is not for the sake of a floor.
	r := open(t, Options{Upstreams: udp(t, listen(t, rcode(dns.RcodeNameError))), CacheEntries: 10, TTL: TTLs{Min: time.Hour}})
	if resolve(t, r, "www.example", dns.TypeA); r.Stats().Entries != 0 {
		t.Error("a negative answer without SOA is kept")
	}
}

func TestForget(t *testing.T) {
	z := &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 60 IN A 192.0.2.1")}
		return m
	}}
	names := []string{"example.org", "www.example.org", "a.www.example.org", "notexample.org", "example.net"}
	for _, tt := range []struct {
		name  string
		under bool
		want  []bool // still there
	}{
		{"example.org", false, []bool{false, true, true, true, true}},
		{"example.org", true, []bool{false, false, false, true, true}},
		{"www.example.org", true, []bool{true, false, false, true, true}},
		{"org", false, []bool{true, true, true, true, true}},
		{"org", true, []bool{false, false, false, false, true}},
		{".", true, []bool{false, false, false, false, false}},
	} {
		r := open(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 100})
		hot := NewHot(10)
		for _, n := range names {
			resolve(t, r, n, dns.TypeA)
			hot.Get(r, Question{Name: n, Type: dns.TypeA}, time.Now())
		}
		gone := 0
		n, err := r.Forget(tt.name, tt.under)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range names {
			if !tt.want[i] {
				gone++
			}
			if got := hot.Get(r, Question{Name: name, Type: dns.TypeA}, time.Now()) != nil; got != tt.want[i] {
				t.Errorf("%q under %v: %s is kept: %v", tt.name, tt.under, name, got)
			}
		}
		if n != gone {
			t.Errorf("%q under %v: %d answers, want %d", tt.name, tt.under, n, gone)
		}
	}
}

// TestCacheRoom: bytes bound the cache as well as entries do.
func TestCacheRoom(t *testing.T) {
	c := newCache(100_000, 2<<20, 0)
	now := time.Now()
	for i := range 4096 {
		c.put(key{name: fmt.Sprintf("%d.", i)}.cacheKey(), &Answer{ttl: 60, stored: now, size: 1000})
	}
	if n := c.size(); n > 2<<20 || n < 1<<20 {
		t.Errorf("%d bytes, want at most %d", n, 2<<20)
	}
}

// TestRefreshed: an upstream that says that the name is gone, or that its address
// is another one for this moment only, has refreshed what was known, though its
// answer is not kept: it is not given again when the upstream fails after that
// (RFC 8767, section 5).
func TestRefreshed(t *testing.T) {
	for what, then := range map[string][]string{
		"NXDOMAIN":             {"", "example. 60 IN SOA ns.example. a.example. 1 2 3 4 60"},
		"NXDOMAIN without SOA": {""},
		"no data":              {"", "example. 60 IN SOA ns.example. a.example. 1 2 3 4 60"},
		"a TTL of zero":        {"www.example. 0 IN A 192.0.2.2"},
	} {
		t.Run(what, func(t *testing.T) {
			var step atomic.Int32
			first := records(t, brief)
			z := &zone{answer: func(q *dns.Msg) *dns.Msg {
				switch step.Load() {
				case 0:
					return first.answer(q)
				case 2:
					return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
				}
				m := records(t, slices.DeleteFunc(slices.Clone(then), func(s string) bool { return s == "" })...).answer(q)
				if strings.HasPrefix(what, "NXDOMAIN") {
					m.Rcode = dns.RcodeNameError
				}
				return m
			}}
			clk := newClock()
			r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10, Stale: Stale{time.Hour, leisurely}}, clk.now, portDNS)
			resolve(t, r, "www.example", dns.TypeA)
			clk.move(31 * time.Second)
			step.Store(1)
			if a := resolve(t, r, "www.example", dns.TypeA); a.Stale() || slices.Contains(a.addrs(), netip.MustParseAddr("192.0.2.1")) {
				t.Fatalf("%v is given in place of what the upstream says", a.addrs())
			}
			clk.move(61 * time.Second)
			step.Store(2)
			a, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
			if err == nil && slices.Contains(a.addrs(), netip.MustParseAddr("192.0.2.1")) {
				t.Errorf("%v is given again", a.addrs())
			}
		})
	}
}

package resolver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// delayed returns a zone that answers after what delay says.
func delayed(t testing.TB, delay func() time.Duration) *zone {
	z := records(t, anyA)
	inner := z.answer
	z.answer = func(q *dns.Msg) *dns.Msg {
		time.Sleep(delay())
		return inner(q)
	}
	return z
}

func fixed(d time.Duration) func() time.Duration { return func() time.Duration { return d } }

// TestStrategies: who is asked how often. Which upstream is the fastest is not to be
// seen while other programs have the processors: then it is counted again.
func TestStrategies(t *testing.T) {
	const n = 200
	for _, tt := range []struct {
		strategy    Strategy
		delay       time.Duration // of all but the second
		least, most [3]int64      // queries that each upstream may see
	}{
		{Ordered, 8 * time.Millisecond, [3]int64{n, 0, 0}, [3]int64{n, n / 10, n / 10}},
		{Fastest, 50 * time.Millisecond, [3]int64{0, n / 2, 0}, [3]int64{n / 4, n, n / 4}},
		{Parallel, 8 * time.Millisecond, [3]int64{n, n, n}, [3]int64{n, n, n}},
		{Random, 8 * time.Millisecond, [3]int64{n / 6, n / 6, n / 6}, [3]int64{n * 2 / 3, n * 2 / 3, n * 2 / 3}},
	} {
		t.Run(string(tt.strategy), func(t *testing.T) {
			ok := func(seen [3]int64) bool {
				for i := range seen {
					if seen[i] < tt.least[i] || seen[i] > tt.most[i] {
						return false
					}
				}
				return true
			}
			var seen [3]int64
			for range 5 {
				if seen = asked(t, tt.strategy, tt.delay, n, tt.least); ok(seen) {
					return
				}
			}
			t.Errorf("upstreams saw %d queries, want from %d to %d, in the last of 5 rounds", seen, tt.least, tt.most)
		})
	}
	if _, err := New(Options{Strategy: "best"}); err == nil {
		t.Error("an unknown strategy is taken")
	}
}

// asked returns how many queries three upstreams see for so many questions, of which
// the second is the fastest. They have the time to see the least.
func asked(t *testing.T, s Strategy, delay time.Duration, n int, least [3]int64) (seen [3]int64) {
	t.Helper()
	zones := []*zone{delayed(t, fixed(delay)), records(t, anyA), delayed(t, fixed(delay))}
	r := open(t, Options{Strategy: s, MaxInFlight: 4096,
		Upstreams: udp(t, listen(t, zones[0]), listen(t, zones[1]), listen(t, zones[2]))})
	for range n {
		resolve(t, r, "www.example", dns.TypeA)
	}
	for i, z := range zones {
		for end := time.Now().Add(10 * time.Second); z.queries.Load() < least[i] && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		seen[i] = z.queries.Load()
	}
	return seen
}

// TestOrder: those that are down come last, in their order.
func TestOrder(t *testing.T) {
	ups := []*upstream{{address: "a"}, {address: "b"}, {address: "c"}}
	ups[0].down.Store(true)
	for _, s := range []Strategy{"", Ordered, Fastest, Parallel, Random} {
		for range 50 {
			if out := s.order(ups); out[2] != ups[0] || len(out) != 3 {
				t.Fatalf("%q: the one that is down is not last", s)
			}
		}
	}
	if out := Ordered.order(ups); out[0] != ups[1] || ups[0].address != "a" {
		t.Error("the order is not that of the configuration")
	}
}

// TestFailoverUnderLoad: where the upstream of many questions dies under them,
// each is answered within 300 ms, though the budget is for a few of them only.
func TestFailoverUnderLoad(t *testing.T) {
	var dead atomic.Bool
	first, second := records(t, anyA), records(t, anyA)
	inner := first.answer
	first.answer = func(q *dns.Msg) *dns.Msg {
		if dead.Load() {
			return nil
		}
		return inner(q)
	}
	within(t, 300*time.Millisecond+slack, func() time.Duration {
		dead.Store(false)
		ups := udp(t, listen(t, first), listen(t, second))
		calm := askMany(t, open(t, Options{Upstreams: ups, late: unhurried}), 300)
		if calm[len(calm)-1] == unanswered {
			return unanswered
		}
		r := open(t, Options{Upstreams: ups, late: lateAfter})
		resolve(t, r, "www.example", dns.TypeA)
		dead.Store(true)
		took := askMany(t, r, 300)
		if st := r.Stats(); st.Upstreams[0].Healthy || st.Upstreams[1].Queries < 300 {
			t.Errorf("%+v", st.Upstreams)
		}
		return took[len(took)-1] - calm[len(calm)-1] // what so many take where nothing fails
	})
}

// slack is what a machine with other work may add.
const slack = 200 * time.Millisecond

// unanswered is how long a question takes that has no answer.
const unanswered = time.Hour

// askMany asks that many different questions at once, and returns how long each
// took, sorted.
func askMany(t testing.TB, r *Resolver, n int) []time.Duration {
	t.Helper()
	took := make([]time.Duration, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			start := time.Now()
			_, err := r.Resolve(t.Context(), question(fmt.Sprintf("n%d.example", i), dns.TypeA))
			if took[i] = time.Since(start); err != nil {
				t.Logf("question %d: %v", i, err)
				took[i] = unanswered
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	return took
}

// TestHedge: of an upstream that takes long for one question in 32, a second
// one saves the tail, at less than half more queries. The unhedged tail of the
// same upstream stands beside it.
func TestHedge(t *testing.T) {
	const n, fast, slow = 1000, 2 * time.Millisecond, 150 * time.Millisecond
	tail := func() time.Duration {
		if rand.IntN(32) == 0 {
			return slow
		}
		return fast
	}
	const most = int64(n + n/hedgeShare + hedgeBurst)
	p99 := func(s Strategy, zones ...*zone) time.Duration {
		o := Options{Strategy: s, late: lateAfter}
		for _, z := range zones {
			o.Upstreams = append(o.Upstreams, udp(t, listen(t, z))...)
		}
		r := open(t, o)
		var took []time.Duration
		askPaced(t, r, 2*timesKept) // until it knows its upstreams
		for range 10 {              // so many at once that the machine is not what is measured
			took = append(took, askPaced(t, r, n/10)...)
		}
		slices.Sort(took)
		return took[len(took)*99/100]
	}
	for range 5 { // other programs may have the processors for a while
		unhedged := p99(Ordered, delayed(t, tail))
		a, b := delayed(t, tail), delayed(t, tail)
		hedged := p99(Fastest, a, b)
		sent := a.queries.Load() + b.queries.Load() - 2*timesKept
		t.Logf("one question in 32 takes %v: p99 unhedged %v, hedged %v with %.0f%% more queries", slow, unhedged, hedged, float64(sent-n)*100/n)
		if unhedged >= slow && hedged <= slow*2/3 && sent <= most || t.Failed() {
			return
		}
	}
	t.Errorf("in none of 5 rounds the p99 is saved with %d queries at the most for %d questions", most, n)
}

// askPaced asks one after the other from a few goroutines.
func askPaced(t testing.TB, r *Resolver, n int) []time.Duration {
	t.Helper()
	const lanes = 6
	took := make([]time.Duration, n)
	var wg sync.WaitGroup
	for lane := range lanes {
		wg.Go(func() {
			for i := lane; i < n; i += lanes {
				start := time.Now()
				if _, err := r.Resolve(t.Context(), question(fmt.Sprintf("p%d.example", i), dns.TypeA)); err != nil {
					t.Error(err)
				}
				took[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	return took
}

// TestHedgeBudget: what is late because everything is slow is not asked twice
// for ever.
func TestHedgeBudget(t *testing.T) {
	for range 5 { // other programs may have the processors for a while, and tries end
		if hedgesWithinBudget(t) || t.Failed() {
			return
		}
	}
	t.Error("more second queries than the budget has, in each of 5 rounds")
}

func hedgesWithinBudget(t *testing.T) bool {
	t.Helper()
	const n = 300
	zones := []*zone{delayed(t, fixed(450*time.Millisecond)), delayed(t, fixed(450*time.Millisecond))}
	r := open(t, Options{Strategy: Fastest, Upstreams: udp(t, listen(t, zones[0]), listen(t, zones[1])), late: lateAfter})
	first := askMany(t, r, n)
	sent := zones[0].queries.Load() + zones[1].queries.Load()
	// Those asked before it was known that both are slow change over in vain.
	const most = int64(n + n/hedgeShare + hedgeBurst)
	before := sent
	second := askMany(t, r, n)
	then := zones[0].queries.Load() + zones[1].queries.Load() - before
	t.Logf("%d queries for %d questions, %d for as many further ones; the budget denied %d", sent, n, then, r.Stats().Unhedged)
	all := first[n-1] < unanswered && second[n-1] < unanswered
	return all && sent <= most+n && then <= most && r.Stats().Unhedged > 0
}

// TestDeadStream: an upstream to which no connection comes about is found out
// too, though another one answers before its time is over.
func TestDeadStream(t *testing.T) {
	addr := streams(t, func(_ int, c net.Conn) {
		for readQuery(c) != nil {
		}
	})
	r := open(t, Options{Upstreams: upstreams(t, "tcp://"+addr.String(), "udp://"+listen(t, records(t, anyA)).String()), backoff: time.Hour, late: lateAfter})
	until(t, "the breaker", func() bool {
		resolve(t, r, "www.example", dns.TypeA)
		return !r.Stats().Upstreams[0].Healthy
	})
	within(t, lateAfter-1, func() time.Duration { // does not wait for the one that is down
		start := time.Now()
		resolve(t, r, "www.example", dns.TypeA)
		return time.Since(start)
	})
}

// TestBudget counts.
func TestBudget(t *testing.T) {
	b := newBudget()
	for range hedgeBurst {
		if !b.spend() {
			t.Fatal("the store is smaller than it should be")
		}
	}
	if b.spend() {
		t.Error("more than is in store")
	}
	for range hedgeShare - 1 {
		b.earn()
	}
	if b.spend() {
		t.Error("a question earned more than its share")
	}
	if b.earn(); !b.spend() {
		t.Error("questions earn nothing")
	}
	for range 10 * hedgeShare * hedgeBurst {
		b.earn()
	}
	n := 0
	for b.spend() {
		n++
	}
	if n != hedgeBurst {
		t.Errorf("%d in store, want %d at the most", n, hedgeBurst)
	}
}

// TestLoserTeaches: a try that lost its race still says how long its upstream
// takes, or that it is silent.
func TestLoserTeaches(t *testing.T) {
	slow, fast := delayed(t, fixed(60*time.Millisecond)), records(t, anyA)
	r := open(t, Options{Strategy: Parallel, Upstreams: udp(t, listen(t, slow), listen(t, fast), listen(t, silent())), late: lateAfter})
	for range failLimit {
		resolve(t, r, "www.example", dns.TypeA)
	}
	until(t, "the loser's time", func() bool { return r.Stats().Upstreams[0].RTT >= 50*time.Millisecond })
	until(t, "the silent one's end", func() bool { return !r.Stats().Upstreams[2].Healthy })
	before := r.Stats().Upstreams[2].Queries
	resolve(t, r, "www.example", dns.TypeA)
	if n := r.Stats().Upstreams[2].Queries - before; n != 0 {
		t.Error("what is down is asked in parallel")
	}
}

// TestNoRaceAfterClose: nothing is asked of a closed resolver, and waiting ends.
func TestNoRaceAfterClose(t *testing.T) {
	r := open(t, Options{Upstreams: udp(t, listen(t, silent())), Timeout: time.Minute})
	done := make(chan error, 1)
	go func() {
		_, err := r.Resolve(context.Background(), question("www.example", dns.TypeA))
		done <- err
	}()
	until(t, "the query", func() bool { return r.Stats().Upstreams[0].Queries > 0 })
	start := time.Now()
	_ = r.Close()
	if err := <-done; err == nil || time.Since(start) > leisurely {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	if _, err := r.main.forward(t.Context(), probeKey); err == nil {
		t.Error("a closed resolver asks")
	}
}

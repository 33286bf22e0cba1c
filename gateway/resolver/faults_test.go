package resolver

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

// TestFaults: whatever an upstream does, names that were known are still
// answered, nothing that is said is wrong, and where there is another upstream it
// is asked in time. What clients of the whole gateway see of it stands in
// gateway.TestUpstreamFaults.
func TestFaults(t *testing.T) {
	for _, f := range corpus.Misdeeds() {
		t.Run(f.Name, func(t *testing.T) {
			t.Run("known names", func(t *testing.T) { knownNames(t, f) })
			t.Run("another upstream", func(t *testing.T) { anotherUpstream(t, f) })
		})
	}
}

// knownNames asks for names whose TTL is over, of the culprit alone.
func knownNames(t *testing.T, f corpus.Misdeed) {
	const n = 1000
	c, clk := corpus.NewCulprit(t, 30), newClock()
	r := openAt(t, Options{Upstreams: udp(t, c.Addr), CacheEntries: 2 * n, MaxInFlight: 2 * n,
		Stale: Stale{time.Hour, 250 * time.Millisecond}, Timeout: 20 * time.Second, late: lateAfter}, clk.now, portDNS)
	known := 0
	for range 5 { // where other programs have the processors some answers come too late
		if known = askRight(t, r, n); known == n {
			break
		}
		clk.move(lastFailure)
	}
	if known != n {
		t.Fatalf("%d of %d names are answered before anything fails", known, n)
	}
	clk.move(time.Minute)
	c.Do(f)
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
	if len(got) != 1 || got[0] != corpus.RightAddr(name) {
		t.Errorf("%s: wrong answer %v", name, got)
	}
	return true
}

// anotherUpstream asks for new names while the first of two upstreams has the
// fault.
func anotherUpstream(t *testing.T, f corpus.Misdeed) {
	limit := 300*time.Millisecond + slack
	if f.Name == "lossy" {
		limit += lateAfter // the query to the other upstream may wait for its budget
	}
	within(t, limit, func() time.Duration { return failOver(t, f) })
}

// failOver returns how long the slowest of many questions takes.
func failOver(t *testing.T, f corpus.Misdeed) time.Duration {
	const n = 60
	bad, good := corpus.NewCulprit(t, 30), corpus.NewCulprit(t, 30)
	r := open(t, Options{Upstreams: udp(t, bad.Addr, good.Addr), late: lateAfter})
	isRight(t, r, "first.example")
	bad.Do(f)
	took := make([]time.Duration, n)
	var wg sync.WaitGroup
	for lane := range 6 {
		wg.Go(func() {
			for i := lane; i < n; i += 6 {
				start := time.Now()
				right := isRight(t, r, fmt.Sprintf("new%d.example", i))
				if took[i] = time.Since(start); !right {
					took[i] = unanswered
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(took)
	t.Logf("p50 %v, slowest %v", took[n/2].Round(time.Millisecond), took[n-1].Round(time.Millisecond))
	return took[n-1]
}

// TestPoison: what comes along with a right answer is not believed, and what was
// asked for is.
func TestPoison(t *testing.T) {
	c := corpus.NewCulprit(t, 30)
	r := open(t, Options{Upstreams: udp(t, c.Addr), CacheEntries: 100})
	c.Do(corpus.Both("poison", corpus.PoisonedAdditional))
	isRight(t, r, "asked.example")
	a := r.Cached(question("asked.example", dns.TypeA))
	if a == nil {
		t.Fatal("the answer is not kept")
	}
	if m := a.Reply(question("asked.example", dns.TypeA)); len(m.Answer) != 1 || len(m.Ns) != 0 || len(m.Extra) != 0 {
		t.Errorf("%v", m)
	}
	c.Repent()
	for _, v := range corpus.Victims {
		if r.Cached(question(v, dns.TypeA)) != nil {
			t.Errorf("%s is cached", v)
		}
		isRight(t, r, v)
	}
}

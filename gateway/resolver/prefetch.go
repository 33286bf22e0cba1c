package resolver

import (
	"sync"
	"time"
)

const (
	// A popular answer is fetched anew in the last tenth of its life. Answers that
	// live for less than minPrefetch are not: that would be a query for each of
	// their seconds.
	prefetchShare = 10
	minPrefetch   = 10 * time.Second
	// prefetchRate bounds what is fetched ahead in a second, and prefetchRoom is
	// the share of MaxInFlight that it may take: clients come first.
	prefetchRate = 500
	prefetchRoom = 4
	// askedFor is what Answer.asked is once the answer is being fetched anew.
	askedFor = 2
)

// hotLife is for how long the hot path may give an answer that holds for life.
// After that it leaves for the slow path, which finds the answer still good and
// has it fetched anew: so the hot path knows nothing of fetching, and pays
// nothing for it.
func hotLife(life time.Duration) time.Duration {
	if life < minPrefetch {
		return life
	}
	return life - life/prefetchShare
}

// A meter lets prefetchRate things happen in a second.
type meter struct {
	mu     sync.Mutex
	second int64
	n      int
}

func (m *meter) allow(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := now.Unix(); s != m.second {
		m.second, m.n = s, 0
	}
	m.n++
	return m.n <= prefetchRate
}

// prefetch has an answer that will end soon fetched anew, if somebody has asked
// for it since it came: the one who asks now and was never followed is not worth
// a query. It is done once for each answer; what comes is a new one, about which
// nothing is known, so policy judges it like any other.
func (r *Resolver) prefetch(k key, a *Answer) {
	n := a.asked.Load()
	if n == 0 && a.touched.Load() == 0 {
		a.asked.CompareAndSwap(0, 1)
		return
	}
	if n == askedFor || !a.asked.CompareAndSwap(n, askedFor) {
		return // somebody does it, or has
	}
	if !r.meter.allow(r.now()) || !r.fetchAhead(k) {
		r.count.prefetchDenied.Add(1)
		a.asked.Store(1)
		return
	}
	r.count.prefetched.Add(1)
}

// fetchAhead starts an exchange that nobody waits for, where there is room.
func (r *Resolver) fetchAhead(k key) bool {
	r.mu.Lock()
	crowded := len(r.calls) >= max(r.max/prefetchRoom, 1)
	r.mu.Unlock()
	if crowded {
		return false
	}
	_, err := r.join(k)
	return err == nil
}

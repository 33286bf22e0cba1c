package resolver

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// A Strategy is in which order upstreams are asked. Whichever it is, those that
// are down come last, and the next one is asked when one fails or is late.
type Strategy string

// The strategies. The zero Strategy is Ordered.
const (
	// Ordered asks them as they are written: a second resolver often knows less
	// than the first (a public one beside an internal one), so only a fault of the
	// first may bring it in.
	Ordered Strategy = "ordered"
	// Fastest asks the one that has been responding soonest, and a second one when
	// that takes longer than it mostly does.
	Fastest Strategy = "fastest"
	// Parallel asks all that are not down at once. It multiplies the load.
	Parallel Strategy = "parallel"
	// Random asks any, so that no upstream sees all that is asked.
	Random Strategy = "random"
)

// explore is how many questions of Fastest share one that asks another upstream
// first: what was slow once is not slow for ever.
const explore = 32

func (s Strategy) check() error {
	switch s {
	case "", Ordered, Fastest, Parallel, Random:
		return nil
	}
	return fmt.Errorf("strategy %q is not known: use ordered, fastest, parallel or random", string(s))
}

// hedges reports whether a second upstream may be asked before the first is
// late. Not where the order has a meaning.
func (s Strategy) hedges() bool { return s == Fastest || s == Random }

// order returns the upstreams as they are to be asked; it does not change ups.
func (s Strategy) order(ups []*upstream) []*upstream {
	out := slices.Clone(ups)
	switch s {
	case Random:
		rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	case Fastest:
		sortByLatency(out)
		if up := rand.IntN(explore * len(out)); up < len(out) {
			out[0], out[up] = out[up], out[0]
		}
	}
	slices.SortStableFunc(out, func(a, b *upstream) int { return downRank(a) - downRank(b) })
	return out
}

// sortByLatency puts those that nothing is known of first.
func sortByLatency(ups []*upstream) {
	type timed struct {
		*upstream
		rtt int64
	}
	all := make([]timed, len(ups))
	for i, u := range ups {
		all[i] = timed{u, int64(u.latency())}
	}
	slices.SortStableFunc(all, func(a, b timed) int { return int(min(max(a.rtt-b.rtt, -1), 1)) })
	for i := range all {
		ups[i] = all[i].upstream
	}
}

func downRank(u *upstream) int {
	if u.down.Load() {
		return 1
	}
	return 0
}

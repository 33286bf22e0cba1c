package resolver

import (
	"fmt"
	"strings"
)

// Flush empties the cache. Exchanges under way end for those who wait for them
// and leave nothing in it.
func (r *Resolver) Flush() int { return r.forget(nil) }

// Forget takes out of the cache what is kept of that name, and with under of all
// names under it as well; it returns how many answers that were. Answers that
// lead through the name on the way from another one stay.
func (r *Resolver) Forget(name string, under bool) (int, error) {
	full, ok := canonical(name)
	if !ok {
		return 0, fmt.Errorf("%q is no name", name)
	}
	name = full[:len(full)-1]
	return r.forget(func(n string) bool {
		rest, ok := strings.CutSuffix(n, name)
		return ok && (rest == "" || under && (name == "" || strings.HasSuffix(rest, ".")))
	}), nil
}

func (r *Resolver) forget(match func(name string) bool) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.cache.forget(match)
	r.failures.forget(match)
	// The number comes last: a Hot that has seen it finds nothing from before.
	r.epoch.Store(epochs.Add(1))
	return n
}

package config

import "net/url"

// A Strategy is in which order upstreams are asked. Those that are down come
// last in each.
type Strategy string

const (
	StrategyOrdered  Strategy = "ordered"  // as they are written
	StrategyFastest  Strategy = "fastest"  // the one that has been responding soonest
	StrategyParallel Strategy = "parallel" // all at once
	StrategyRandom   Strategy = "random"
)

// A Route has names, and all under them, asked at upstreams of their own.
type Route struct {
	Names     []string // canonical
	Upstreams []*url.URL
	Strategy  Strategy
}

// routes returns the routes. A name that is in two of them would be asked at
// either.
func (v value) routes() ([]Route, bool) {
	seen := make(map[string]bool)
	return listOf(func(v value) (Route, bool) { return v.route(seen) })(v)
}

func (v value) route(seen map[string]bool) (Route, bool) {
	r := Route{Strategy: StrategyOrdered}
	v.object(fields{
		"names": set(&r.Names, listOf(func(v value) (string, bool) {
			name, ok := v.suffix()
			if ok && seen[name] {
				v.fail("there is a route for %s already", quote(name))
				return "", false
			}
			seen[name] = true
			return name, ok
		})),
		"upstreams": func(v value) {
			list, ok := listOf(value.upstream)(v)
			if ok {
				r.Upstreams = list
				v.unique(len(list), func(i int) any { return urlText(list[i]) })
			}
			if ok && len(list) == 0 {
				v.fail("there are no upstreams; these names would have no answers")
			}
		},
		"strategy": set(&r.Strategy, word(StrategyOrdered, StrategyFastest, StrategyParallel, StrategyRandom)),
	}, "names", "upstreams")
	return r, true
}

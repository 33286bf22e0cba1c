package resolver

import (
	"fmt"
	"net/url"
	"strings"
)

// A Route has the names, and all under them, asked at upstreams of their own
// (split horizon). The longest name that fits decides. Nothing under it is ever
// asked elsewhere, however its upstreams fail: a name of an inner zone is
// nobody's business outside, and what would be said there is wrong.
type Route struct {
	Names     []string // canonical, without the final dot; empty is the root
	Upstreams []*url.URL
	Strategy  Strategy // empty: Ordered
}

// routes are groups by the names that are asked there, with the final dot.
type routes map[string]*group

// of returns the group that is asked for the name, nil for the one of all others.
func (r routes) of(name string) *group {
	if len(r) == 0 {
		return nil
	}
	for name != "." {
		if g := r[name]; g != nil {
			return g
		}
		dot := strings.IndexByte(name, '.')
		for dot > 0 && escaped(name, dot) {
			next := strings.IndexByte(name[dot+1:], '.')
			dot += 1 + next
		}
		if name = name[dot+1:]; name == "" {
			break
		}
	}
	return r["."]
}

// escaped reports whether the dot belongs to a label.
func escaped(name string, dot int) bool {
	n := 0
	for n < dot && name[dot-1-n] == '\\' {
		n++
	}
	return n%2 == 1
}

// routeGroups makes the groups of the routes.
func (b *builder) routeGroups(all []Route) (routes, error) {
	out := make(routes)
	for _, r := range all {
		if len(r.Upstreams) == 0 || len(r.Names) == 0 {
			return nil, fmt.Errorf("route for %q has no names or no upstreams", strings.Join(r.Names, ", "))
		}
		if err := r.Strategy.check(); err != nil {
			return nil, err
		}
		g, err := b.upstreamGroup(r.Upstreams, r.Strategy, nil)
		if err != nil {
			return nil, err
		}
		for _, n := range r.Names {
			name, ok := canonical(n + ".")
			if !ok {
				return nil, fmt.Errorf("route for %q: that is no name", n)
			}
			if out[name] != nil {
				return nil, fmt.Errorf("route for %q: there is another one", n)
			}
			out[name] = g
		}
	}
	return out, nil
}

// group is who is asked for the name.
func (r *Resolver) group(name string) *group {
	if g := r.routes.of(name); g != nil {
		return g
	}
	return r.main
}

// localAnswer returns the answer of local data, or nil. What is routed is not
// without meaning here, as special names are: only a record comes before it.
func (r *Resolver) localAnswer(k key) *Answer {
	l := r.local.Load()
	if l != nil && r.routes.of(k.name) != nil {
		if s, _ := l.find(k.name); s == nil {
			return nil
		}
	}
	return l.answer(k, r.now)
}

// groups are all groups, each once.
func (r *Resolver) groups() []*group {
	all := []*group{r.main}
	seen := make(map[*group]bool, len(r.routes))
	for _, g := range r.routes {
		if !seen[g] {
			seen[g] = true
			all = append(all, g)
		}
	}
	return all
}

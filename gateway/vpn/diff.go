package vpn

import (
	"fmt"
	"strings"

	"github.com/weir-gateway/weir/gateway/policy"
)

// A Difference is what Apply would change in the kernel.
type Difference struct {
	// Missing says that there is no table at all.
	Missing bool `json:"missing,omitempty"`
	// Rules are those that would come (+), go (-) or become others (~), and what
	// of chains and sets would.
	Rules []string `json:"rules,omitempty"`
	// Sets are those whose elements would change.
	Sets []SetDifference `json:"sets,omitempty"`
	// Routes are those of diverted packets that would come (+) or go (-).
	Routes []string `json:"routes,omitempty"`

	mark string // of the table that is there
}

// A SetDifference is which elements of a set would come and go.
type SetDifference struct {
	Name   string `json:"name"`
	Add    int    `json:"add"`
	Remove int    `json:"remove"`
	// Some are examples, marked + or -.
	Some []string `json:"some"`

	add, remove []policy.Range
	there       bool // the set itself is
}

// Empty reports whether there is no difference.
func (d *Difference) Empty() bool { return !d.Missing && len(d.Rules)+len(d.Sets)+len(d.Routes) == 0 }

// setsOnly reports whether no rule, chain or set differs but for elements.
func (d *Difference) setsOnly() bool { return !d.Missing && len(d.Rules) == 0 }

// String returns the difference in lines.
func (d *Difference) String() string {
	var b strings.Builder
	if d.Missing {
		fmt.Fprintf(&b, "+ table inet %s, which is not there\n", Table)
	}
	for _, r := range d.Rules {
		fmt.Fprintln(&b, r)
	}
	for _, s := range d.Sets {
		fmt.Fprintf(&b, "~ set %s: +%d -%d (%s)\n", s.Name, s.Add, s.Remove, strings.Join(s.Some, ", "))
	}
	for _, r := range d.Routes {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

const maxSome = 5 // examples of one set

// diffSet returns what changes the elements old to next, and whether anything
// does. Both are in order and disjoint.
func diffSet(name string, old, next []policy.Range) (SetDifference, bool) {
	d := SetDifference{Name: name}
	if len(old) == len(next) && (len(old) == 0 || &old[0] == &next[0]) {
		return d, false // one list, most of the time
	}
	for len(old) > 0 || len(next) > 0 {
		switch {
		case len(old) > 0 && len(next) > 0 && old[0] == next[0]:
			old, next = old[1:], next[1:]
		case len(next) == 0 || len(old) > 0 && before(old[0], next[0]):
			d.remove = append(d.remove, old[0])
			old = old[1:]
		default:
			d.add = append(d.add, next[0])
			next = next[1:]
		}
	}
	d.Add, d.Remove = len(d.add), len(d.remove)
	for i := 0; i < len(d.add) && i < maxSome; i++ {
		d.Some = append(d.Some, "+"+spell(d.add[i]))
	}
	for i := 0; i < len(d.remove) && i < maxSome; i++ {
		d.Some = append(d.Some, "-"+spell(d.remove[i]))
	}
	return d, d.Add+d.Remove > 0
}

func before(a, b policy.Range) bool {
	if c := a.First.Compare(b.First); c != 0 {
		return c < 0
	}
	return a.Last.Compare(b.Last) < 0
}

// diffSets compares the elements of the address sets of two rulesets with the
// same structure.
func diffSets(old, next Ruleset) []SetDifference {
	var out []SetDifference
	for i := range next.Sets {
		if s := &next.Sets[i]; s.Type != Port {
			if d, changed := diffSet(s.Name, old.Sets[i].Ranges, s.Ranges); changed {
				out = append(out, d)
			}
		}
	}
	return out
}

// setTypes returns the type of each set by its name.
func (rs Ruleset) setTypes() map[string]SetType {
	types := make(map[string]SetType, len(rs.Sets))
	for i := range rs.Sets {
		types[rs.Sets[i].Name] = rs.Sets[i].Type
	}
	return types
}

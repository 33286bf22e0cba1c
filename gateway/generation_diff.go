package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/generation"
	"github.com/weir-gateway/weir/gateway/policy"
)

const (
	diffRules    = 100  // rules that a difference shows, unless it is asked for more or fewer
	maxDiffRules = 5000 // and at most
)

// A RuleChange is a rule that one generation has and another has not.
type RuleChange struct {
	Change string `json:"change"` // added or removed
	Ban    string `json:"ban,omitempty"`
	List   string `json:"list"`
	Rule   string `json:"rule"`
	Line   int    `json:"line"`
}

// A NameChange is what two generations say about a name, of a device in no group.
type NameChange struct {
	Name string `json:"name"`
	From string `json:"from"`
	To   string `json:"to"`
}

// A GenerationDiff is what differs between two generations.
type GenerationDiff struct {
	From    uint64       `json:"from"`
	To      uint64       `json:"to"`
	Added   int          `json:"added"`
	Removed int          `json:"removed"`
	Rules   []RuleChange `json:"rules"`             // the first of them
	More    int          `json:"more,omitempty"`    // that are not shown
	Others  []string     `json:"others,omitempty"`  // what else differs: bans, groups, exemptions, answers, unusual connections
	Verdict *NameChange  `json:"verdict,omitempty"` // where a name was asked for
	Seen    *Seen        `json:"seen,omitempty"`    // where it was asked what devices would notice
}

// A diffQuery says what is compared. Zero for To is the newest generation, for
// From the one before it.
type diffQuery struct {
	from, to uint64
	limit    int
	name     string        // canonical; empty for none
	seen     time.Duration // how far to look back for what was asked; 0 for not
}

// diff returns what differs between two generations. It reads both beside the
// one in force, so there is one at a time.
func (g *Gateway) diff(q diffQuery) (*GenerationDiff, error) {
	g.diffing.Lock()
	defer g.diffing.Unlock()
	if err := g.diffDefaults(&q); err != nil {
		return nil, err
	}
	from, err := g.generation(q.from)
	if err != nil {
		return nil, err
	}
	to, err := g.generation(q.to)
	if err != nil {
		return nil, err
	}
	d := &GenerationDiff{From: q.from, To: q.to, Rules: []RuleChange{}, Others: others(from, to)}
	d.Added = d.rules(to, from, "added", q.limit)
	d.Removed = d.rules(from, to, "removed", q.limit)
	d.More = d.Added + d.Removed - len(d.Rules)
	if q.name != "" {
		now := time.Now()
		d.Verdict = &NameChange{q.name, says(from.snapshot, q.name, now), says(to.snapshot, q.name, now)}
	}
	if q.seen > 0 {
		if d.Seen, err = g.seen(from, to, q.seen, q.limit); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (g *Gateway) diffDefaults(q *diffQuery) error {
	history, err := g.History()
	if err != nil {
		return err
	}
	if q.to == 0 && len(history) > 0 {
		q.to = history[0].Number
	}
	if q.from == 0 {
		for _, h := range history {
			if h.Number == q.to {
				q.from = h.Parent
			}
		}
	}
	if q.from == 0 || q.to == 0 {
		return fmt.Errorf("there is no generation before %d to compare it with", q.to)
	}
	return nil
}

// generation reads a generation, with a snapshot to ask. Where a group went ahead,
// it is what that had.
func (g *Gateway) generation(number uint64) (*policySet, error) {
	return loadGeneration(g.gens.store, number)
}

func loadGeneration(store *generation.Store, number uint64) (*policySet, error) {
	gen, rules, err := store.Load(number)
	if err != nil {
		return nil, err
	}
	set, _, err := restore(gen, rules)
	if err == nil {
		set = set.ahead()
		err = set.number(number)
	}
	if err != nil {
		return nil, fmt.Errorf("generation %d: %w", number, err)
	}
	return set, nil
}

// rules counts the rules of one policy that the other has not, list by list, and
// notes the first of them.
func (d *GenerationDiff) rules(of, than *policySet, change string, limit int) (n int) {
	lists := make(map[string]int)
	for i := range than.parts {
		lists[listKey(&than.parts[i].status)] = i
	}
	other := make([]int, len(of.parts))
	for i := range of.parts {
		other[i] = -1
		if j, ok := lists[listKey(&of.parts[i].status)]; ok {
			other[i] = j
		}
	}
	for m := range of.set.All() {
		if j := other[m.List]; j >= 0 && than.set.Holds(j, m.Rule) {
			continue
		}
		if n++; len(d.Rules) < limit {
			st := &of.parts[m.List].status
			d.Rules = append(d.Rules, RuleChange{change, st.Ban, st.Name, m.Rule.String(), m.Rule.Line})
		}
	}
	return n
}

func listKey(st *ListStatus) string { return st.Role + "\x00" + st.Ban + "\x00" + st.Name }

// others names what differs beside the rules.
func others(a, b *policySet) []string {
	var out []string
	for _, of := range []struct {
		name string
		a, b any
	}{
		{"bans", a.spec.Bans, b.spec.Bans},
		{"groups", a.spec.Groups, b.spec.Groups},
		{"exemptions", a.spec.Exemptions, b.spec.Exemptions},
		{"answers", a.spec.Answer, b.spec.Answer},
		{"unusual connections", a.spec.Hello, b.spec.Hello},
		{"lists", listShapes(a), listShapes(b)},
	} {
		x, err := json.Marshal(of.a)
		y, err2 := json.Marshal(of.b)
		if err != nil || err2 != nil || !bytes.Equal(x, y) {
			out = append(out, of.name)
		}
	}
	return out
}

// listShapes is which lists there are and where they come from.
func listShapes(set *policySet) (out []string) {
	for i := range set.parts {
		st := &set.parts[i].status
		out = append(out, listKey(st)+"\x00"+st.Source+"\x00"+string(st.Format))
	}
	return out
}

// says is what a policy says about a name of a device in no group.
func says(s *policy.Snapshot, name string, now time.Time) string {
	v := s.Name(policy.Subject{}, name, now)
	return tell(&v)
}

// tell says a verdict in a line.
func tell(v *policy.Verdict) string {
	out := v.Action.String()
	if v.Ban != nil {
		out += " by ban " + v.Ban.ID
	}
	if v.List != "" {
		out += fmt.Sprintf(" (%s, line %d: %s)", v.List, v.Rule.Line, v.Rule)
	}
	return out
}

// canonicalName is for names that are asked for by hand.
func canonicalName(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	return blocklists.CanonicalName(s)
}

package blocklists

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestAllAgainstDraft: all rules are given once, with their lines, and held;
// after any edits.
func TestAllAgainstDraft(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(25, 26))}
	rules := 0
	for i := range 100 {
		text := draft{}
		for range i % 40 {
			list := d.IntN(4)
			text[list] = append(text[list], d.rule(0))
		}
		s, _ := text.compile(t)
		for range 4 {
			var e Edit
			if d.IntN(4) == 0 {
				text, e = d.replace(text, d.IntN(4))
			} else {
				text, e = d.amend(text, d.IntN(4))
			}
			var err error
			if s, err = s.Edit(e); err != nil {
				t.Fatal(err)
			}
		}
		want := map[Change]int{}
		for list, lines := range text {
			for _, r := range lines {
				if r.Kind != 0 {
					c := Change{list, r}
					want[c.key()] = text.first(list, r)
				}
			}
		}
		for m := range s.All() {
			rules++
			c := Change(m)
			key := c.key()
			if line, ok := want[key]; !ok || line != m.Rule.Line {
				t.Errorf("list %d: %s on line %d, want line %d", m.List, m.Rule, m.Rule.Line, line)
			}
			if !s.Holds(m.List, m.Rule) || s.Holds(m.List+7, m.Rule) {
				t.Errorf("list %d: %s is held: %v", m.List, m.Rule, s.Holds(m.List, m.Rule))
			}
			delete(want, key)
		}
		if len(want) > 0 {
			t.Errorf("missing: %v", want)
		}
	}
	if rules < 500 {
		t.Errorf("only %d rules were compared", rules)
	}
}

// TestAllSaysWhoAsks: rules about who asks are among all, and held by their list.
func TestAllSaysWhoAsks(t *testing.T) {
	var b Builder
	who := Rule{Kind: Client, Action: Block, Prefix: netip.MustParsePrefix("192.0.2.0/24"), Line: 7}
	for _, r := range []Rule{{Kind: Exact, Action: Block, Name: "a.example", Line: 1}, who} {
		if err := b.Add(3, r); err != nil {
			t.Fatal(err)
		}
	}
	s := b.Build()
	found := false
	for m := range s.All() {
		found = found || m == Match{List: 3, Rule: who}
	}
	allowed := who
	allowed.Action = Allow
	if !found || !s.Holds(3, who) || s.Holds(2, who) || s.Holds(3, allowed) {
		t.Errorf("among all: %t, held %t, by another %t, said otherwise %t", found, s.Holds(3, who), s.Holds(2, who), s.Holds(3, allowed))
	}
}

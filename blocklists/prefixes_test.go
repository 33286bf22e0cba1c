package blocklists

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func prefixRule(s string, line int) Rule {
	r := Rule{Kind: Prefix, Action: Block, Line: line}
	if rest, ok := strings.CutPrefix(s, "@@"); ok {
		s, r.Action = rest, Allow
	}
	r.Prefix = netip.MustParsePrefix(s)
	return r
}

// listed are the prefix rules of a set, as text.
func listed(s *Set) []string {
	var out []string
	for m := range s.Prefixes() {
		out = append(out, fmt.Sprintf("%d %v:%d", m.List, m.Rule, m.Rule.Line))
	}
	return out
}

func TestPrefixes(t *testing.T) {
	var zero Set
	if got := listed(&zero); got != nil {
		t.Errorf("the zero set has %q", got)
	}
	var b Builder
	for i, r := range []Rule{
		prefixRule("192.0.2.0/24", 1), prefixRule("@@192.0.2.128/25", 2), prefixRule("2001:db8::/32", 3),
		prefixRule("10.0.0.0/8", 4), {Kind: Suffix, Action: Block, Name: "a.example", Line: 5},
	} {
		if err := b.Add(i%2, r); err != nil {
			t.Fatal(err)
		}
	}
	set := b.Build()
	want := []string{"1 10.0.0.0/8:4", "0 192.0.2.0/24:1", "1 @@192.0.2.128/25:2", "0 2001:db8::/32:3"}
	if got := listed(set); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	edited, err := set.Edit(Edit{
		Remove: []Change{{List: 0, Rule: prefixRule("192.0.2.0/24", 0)}},
		Shift:  []Shift{{List: 0, After: 1, By: -1}},
		Add:    []Change{{List: 0, Rule: prefixRule("172.16.0.0/12", 9)}, {List: 1, Rule: prefixRule("2001:db8::/32", 7)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := listed(edited)
	want = []string{"1 10.0.0.0/8:4", "0 172.16.0.0/12:9", "1 @@192.0.2.128/25:2", "0 2001:db8::/32:2", "1 2001:db8::/32:7"}
	if !slices.Equal(got, want) {
		t.Errorf("after an edit: got %q, want %q", got, want)
	}
	for range edited.Prefixes() {
		break // whoever has seen enough may leave
	}
	if got := listed(set); len(got) != 4 {
		t.Errorf("the edit changed the set it was made from: %q", got)
	}
}

package blocklists

import (
	"net/netip"
	"slices"
	"testing"
)

func localRule(kind Kind, target, data string, line int) Rule {
	r := Rule{Kind: kind, Action: Block, Mode: LocalData, Data: MakeData(data), Line: line}
	if kind == Prefix {
		r.Prefix = netip.MustParsePrefix(target)
	} else {
		r.Name = target
	}
	return r
}

// The data of a trigger is all that rules of its list and shape say, in the base
// and in what was edited since, and nothing of others.
func TestAppendData(t *testing.T) {
	var b Builder
	for list, rules := range [][]Rule{
		{
			localRule(Exact, "a.example", "A1", 1), localRule(Exact, "a.example", "A2", 2), localRule(Exact, "a.example", "A1", 3),
			localRule(Under, "a.example", "U", 4), localRule(Exact, "one.example", "O", 5),
			localRule(Prefix, "192.0.2.0/24", "P1", 6), localRule(Prefix, "192.0.2.0/24", "P2", 7), localRule(Prefix, "192.0.2.1/32", "P3", 8),
			{Kind: Exact, Action: Block, Mode: NXDOMAIN, Name: "plain.example", Line: 9},
		},
		{localRule(Exact, "a.example", "other list", 1)},
	} {
		for _, r := range rules {
			if err := b.Add(list, r); err != nil {
				t.Fatal(err)
			}
		}
	}
	base := b.Build()
	edited, err := base.Edit(Edit{
		Remove: []Change{{0, localRule(Exact, "a.example", "A1", 0)}},
		Add:    []Change{{0, localRule(Exact, "a.example", "A3", 10)}, {0, localRule(Prefix, "192.0.2.0/24", "P4", 11)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		set  *Set
		of   Rule
		list int
		want []string
	}{
		{base, Rule{Kind: Exact, Name: "a.example"}, 0, []string{"A1", "A2"}},
		{base, Rule{Kind: Under, Name: "a.example"}, 0, []string{"U"}},
		{base, Rule{Kind: Exact, Name: "a.example"}, 1, []string{"other list"}},
		{base, Rule{Kind: Exact, Name: "one.example"}, 0, []string{"O"}},
		{base, Rule{Kind: Under, Name: "one.example"}, 0, nil},
		{base, Rule{Kind: Exact, Name: "plain.example"}, 0, nil},
		{base, Rule{Kind: Exact, Name: "none.example"}, 0, nil},
		{base, Rule{Kind: Prefix, Prefix: netip.MustParsePrefix("192.0.2.0/24")}, 0, []string{"P1", "P2"}},
		{base, Rule{Kind: Prefix, Prefix: netip.MustParsePrefix("192.0.2.1/32")}, 0, []string{"P3"}},
		{base, Rule{Kind: Prefix, Prefix: netip.MustParsePrefix("192.0.2.2/32")}, 0, nil},
		{edited, Rule{Kind: Exact, Name: "a.example"}, 0, []string{"A2", "A3"}},
		{edited, Rule{Kind: Prefix, Prefix: netip.MustParsePrefix("192.0.2.0/24")}, 0, []string{"P1", "P2", "P4"}},
		{new(Set), Rule{Kind: Exact, Name: "a.example"}, 0, nil},
		{new(Set), Rule{Kind: Prefix, Prefix: netip.MustParsePrefix("192.0.2.0/24")}, 0, nil},
	} {
		var got []string
		for _, d := range tc.set.AppendData(nil, Match{List: tc.list, Rule: tc.of}) {
			got = append(got, d.String())
		}
		slices.Sort(got)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%v of list %d: got %q, want %q", tc.of, tc.list, got, tc.want)
		}
	}
	if d := MakeData(""); d != (Data{}) || d.String() != "" {
		t.Errorf("no data is %q", d)
	}
}

// Several records of one trigger are one match, which cites the first.
func TestDataMatch(t *testing.T) {
	var b Builder
	for _, r := range []Rule{localRule(Exact, "a.example", "A2", 7), localRule(Exact, "a.example", "A1", 4)} {
		if err := b.Add(0, r); err != nil {
			t.Fatal(err)
		}
	}
	ms := b.Build().AppendName(nil, "a.example")
	if len(ms) != 1 || ms[0].Rule.Line != 4 || ms[0].Rule.Mode != LocalData || ms[0].Rule.Data.String() != "A1" || ms[0].Rule.Policy() != "qname local-data" {
		t.Errorf("%+v", ms)
	}
}

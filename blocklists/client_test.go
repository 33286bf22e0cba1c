package blocklists

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
)

func clientRule(prefix string, action Action, mode Mode, line int) Rule {
	return Rule{Kind: Client, Action: action, Mode: mode, Prefix: netip.MustParsePrefix(prefix), Line: line}
}

func clientSet(t *testing.T) *Set {
	t.Helper()
	var b Builder
	for list, rules := range [][]Rule{
		{
			clientRule("10.0.0.0/8", Block, NXDOMAIN, 1), clientRule("10.1.0.0/16", Allow, Passthru, 2), clientRule("10.0.0.0/8", Block, NXDOMAIN, 9),
			clientRule("2001:db8::/32", Block, NODATA, 3), {Kind: Exact, Action: Block, Mode: NODATA, Name: "a.example", Line: 4},
			localClient("10.2.0.1/32", "A1", 5), localClient("10.2.0.1/32", "A2", 6),
		},
		{{Kind: Suffix, Action: Block, Name: "a.example", Line: 1}},
	} {
		for _, r := range rules {
			if err := b.Add(list, r); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b.Build()
}

func localClient(prefix, data string, line int) Rule {
	r := clientRule(prefix, Block, LocalData, line)
	r.Data = MakeData(data)
	return r
}

// asked is what the lists say of a name that somebody asks for, in short.
func asked(s *Set, name, client string) []string {
	ms := s.AppendName(nil, name)
	ms = s.AppendClient(ms, 0, netip.MustParseAddr(client))
	var out []string
	for _, m := range byList(ms) {
		out = append(out, m.Rule.String()+" "+m.Rule.Mode.String())
	}
	return out
}

// A rule about who asks decides for its list whatever is asked; the longest
// prefix of several does. Other lists go on as before.
func TestAppendClient(t *testing.T) {
	s := clientSet(t)
	again := readAgain(t, s)
	for _, tc := range []struct {
		name, client string
		want         []string
	}{
		{"a.example", "192.0.2.1", []string{"=a.example nodata", "a.example default"}},
		{"a.example", "10.9.9.9", []string{"client 10.0.0.0/8 nxdomain", "a.example default"}},
		{"a.example", "::ffff:10.1.2.3", []string{"@@client 10.1.0.0/16 passthru", "a.example default"}},
		{"b.example", "2001:db8::7", []string{"client 2001:db8::/32 nodata"}},
		{"b.example", "10.2.0.1", []string{"client 10.2.0.1/32 local-data"}},
		{"b.example", "192.0.2.1", nil},
	} {
		for _, s := range []*Set{s, again} {
			if got := asked(s, tc.name, tc.client); !slices.Equal(got, tc.want) {
				t.Errorf("%s from %s: got %q, want %q", tc.name, tc.client, got, tc.want)
			}
		}
	}
	if s.Rules() != 7 || s.RulesOf(0) != 6 || !s.HasClients() || new(Set).HasClients() {
		t.Errorf("%d rules, %d of list 0", s.Rules(), s.RulesOf(0))
	}
	if got := s.AppendClient(nil, 0, netip.Addr{}); got != nil {
		t.Errorf("nobody asks: %v", got)
	}
	if got := s.AppendData(nil, Match{Rule: localClient("10.2.0.1/32", "", 0)}); len(got) != 2 {
		t.Errorf("local data %v", got)
	}
}

// They are edited as all rules are.
func TestEditClients(t *testing.T) {
	s := clientSet(t)
	next, err := s.Edit(Edit{
		Remove: []Change{{0, clientRule("10.1.0.0/16", Allow, Passthru, 77)}},
		Shift:  []Shift{{List: 0, After: 2, By: -1}},
		Add:    []Change{{0, clientRule("10.3.0.0/16", Block, Drop, 8)}, {1, clientRule("10.3.0.0/16", Block, NODATA, 2)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := asked(next, "b.example", "10.3.0.1"), []string{"client 10.3.0.0/16 drop", "client 10.3.0.0/16 nodata"}; !slices.Equal(got, want) {
		t.Errorf("added: got %q, want %q", got, want)
	}
	if got, want := asked(next, "b.example", "10.1.0.1"), []string{"client 10.0.0.0/8 nxdomain"}; !slices.Equal(got, want) {
		t.Errorf("removed: got %q, want %q", got, want)
	}
	if m := next.AppendClient(nil, 0, netip.MustParseAddr("2001:db8::1")); len(m) != 1 || m[0].Rule.Line != 2 {
		t.Errorf("shifted: %+v", m)
	}
	if next, err = next.Edit(Edit{Drop: []int{0}}); err != nil || asked(next, "b.example", "10.9.9.9") != nil {
		t.Errorf("dropped: %v, %v", asked(next, "b.example", "10.9.9.9"), err)
	}
	if got := asked(s, "b.example", "10.1.0.1"); len(got) != 1 {
		t.Errorf("the old set has changed: %q", got)
	}
	if _, err := s.Edit(Edit{Remove: []Change{{0, Rule{Kind: Exact, Action: Block, Name: "none.example"}}}}); !errors.Is(err, ErrNoRule) {
		t.Errorf("got %v", err)
	}
}

func TestBadClients(t *testing.T) {
	for _, r := range []Rule{{Kind: Client, Action: Block}, clientRule("0.0.0.0/0", Block, NXDOMAIN, 1), {Kind: Client, Prefix: netip.MustParsePrefix("10.0.0.0/8")}} {
		var b Builder
		if err := b.Add(0, r); err == nil {
			t.Errorf("%v was taken", r)
		}
	}
}

// A name of a policy zone exists, so that a wildcard above it does not reach
// what is under it. Names of other lists mean nothing of the kind.
func TestWildcardAboveName(t *testing.T) {
	zone := func(kind Kind, name string) Rule {
		return Rule{Kind: kind, Action: Block, Mode: NXDOMAIN, Name: name}
	}
	plain := func(kind Kind, name string) Rule { return Rule{Kind: kind, Action: Block, Name: name} }
	for _, tc := range []struct {
		rules []Rule
		name  string
		want  string
	}{
		{[]Rule{zone(Under, "a.example"), zone(Exact, "b.a.example")}, "x.b.a.example", ""},
		{[]Rule{zone(Under, "a.example"), zone(Exact, "b.a.example")}, "b.a.example", "=b.a.example"},
		{[]Rule{zone(Under, "a.example"), zone(Exact, "b.a.example")}, "c.a.example", "*.a.example"},
		{[]Rule{zone(Under, "a.example"), zone(Exact, "b.a.example"), zone(Under, "b.a.example")}, "x.b.a.example", "*.b.a.example"},
		{[]Rule{zone(Under, "a.example"), zone(Exact, "b.a.example"), zone(Exact, "x.b.a.example")}, "x.b.a.example", "=x.b.a.example"},
		{[]Rule{plain(Under, "a.example"), plain(Exact, "b.a.example")}, "x.b.a.example", "*.a.example"},
	} {
		var b Builder
		var added Builder
		for i, r := range tc.rules {
			if err := b.Add(0, r); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				if err := added.Add(0, r); err != nil {
					t.Fatal(err)
				}
			}
		}
		edited := added.Build()
		for _, r := range tc.rules[1:] {
			var err error
			if edited, err = edited.Edit(Edit{Add: []Change{{0, r}}}); err != nil {
				t.Fatal(err)
			}
		}
		for i, s := range []*Set{b.Build(), edited} {
			got := ""
			for _, m := range s.AppendName(nil, tc.name) {
				got += m.Rule.String()
			}
			if got != tc.want {
				t.Errorf("%v: %s: set %d says %q, want %q", tc.rules, tc.name, i, got, tc.want)
			}
		}
	}
}

package blocklists

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// namesOf are the names of a set, sorted; one that is there twice is an error.
func namesOf(t *testing.T, s *Set) []string {
	t.Helper()
	var out []string
	for name := range s.Names() {
		out = append(out, strings.Clone(name))
		if !s.StandsAt(name) {
			t.Errorf("no rule stands at %s", name)
		}
	}
	slices.Sort(out)
	if n := len(out); len(slices.Compact(out)) != n {
		t.Errorf("a name is there twice: %q", out)
	}
	return out
}

func TestNames(t *testing.T) {
	var zero Set
	if got := namesOf(t, &zero); got != nil {
		t.Errorf("the zero set has %q", got)
	}
	s := compile(t, "a.example\n=a.example\n*.b.example\n@@c.example/path\nd.example/x\nd.example\nf.e.example\n192.0.2.0/24\nnet")
	want := []string{"a.example", "b.example", "d.example", "f.e.example", "net"}
	if got := namesOf(t, s); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, name := range []string{"c.example", "e.example", "example", "x.a.example", ""} {
		if s.StandsAt(name) {
			t.Errorf("a rule stands at %q", name)
		}
	}
	for range s.Names() {
		break // whoever has seen enough may leave
	}
}

// TestNamesAfterEdits: an edited set has the names of one that was built anew.
func TestNamesAfterEdits(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(7, 8))}
	total := 0
	for range 60 {
		text := draft{}
		for range 20 {
			text[d.IntN(3)] = append(text[d.IntN(3)], d.rule(0))
		}
		s, _ := text.compile(t)
		for range 10 {
			next, e := d.amend(text, d.IntN(3))
			edited, err := s.Edit(e)
			if err != nil {
				t.Fatal(err)
			}
			rebuilt, _ := next.compile(t)
			got, want := namesOf(t, edited), namesOf(t, rebuilt)
			if !slices.Equal(got, want) {
				t.Fatalf("Edit(%+v): got %q, want %q", e, got, want)
			}
			s, text, total = edited, next, total+len(got)
		}
	}
	if total < 1000 {
		t.Errorf("only %d names: the dice test nothing", total)
	}
}

func TestAppendPrefix(t *testing.T) {
	s := compile(t, "10.0.0.0/8\n@@10.0.0.0/16\n10.0.0.0/32\n2001:db8::/32")
	for _, tc := range []struct{ prefix, want string }{
		{"10.0.0.0/8", "10.0.0.0/8"},
		{"10.0.0.0/12", "10.0.0.0/8"},
		{"10.0.0.0/16", "@@10.0.0.0/16"},
		{"10.0.0.0/31", "@@10.0.0.0/16"},
		{"10.0.0.0/32", "10.0.0.0/32"},
		{"::ffff:10.0.0.0/104", "10.0.0.0/8"},
		{"2001:db8:1::/48", "2001:db8::/32"},
		{"2001::/16", ""},
		{"0.0.0.0/0", ""},
	} {
		got := ""
		for _, m := range s.AppendPrefix(nil, netip.MustParsePrefix(tc.prefix)) {
			got = fmt.Sprint(m.Rule)
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.prefix, got, tc.want)
		}
	}
	if got := s.AppendPrefix(nil, netip.Prefix{}); got != nil {
		t.Errorf("of no prefix: %v", got)
	}
}

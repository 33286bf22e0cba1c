package blocklists

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A draft is the lines of some lists: what a rebuild starts from. A line without
// a rule is a comment.
type draft map[int][]Rule

func (d draft) clone() draft {
	out := draft{}
	for list, lines := range d {
		out[list] = slices.Clone(lines)
	}
	return out
}

// compile builds the draft anew.
func (d draft) compile(t testing.TB) (*Set, *oracle) {
	t.Helper()
	var b Builder
	var o oracle
	for list, lines := range d {
		for i, r := range lines {
			if r.Line = i + 1; r.Kind == 0 {
				continue
			}
			if err := b.Add(list, r); err != nil {
				t.Fatal(err)
			}
			o.add(list, r)
		}
	}
	return b.Build(), &o
}

// first returns the first line that says so, from 1, or 0 for none.
func (d draft) first(list int, r Rule) int {
	return slices.Index(d[list], r) + 1
}

// amend takes random lines out of a list and puts others in, and returns the
// draft as it is then and the Edit that says so.
func (d dice) amend(old draft, list int) (draft, Edit) {
	var e Edit
	now := old.clone()
	touched := map[Rule]bool{}
	for range d.IntN(3) {
		if n := len(now[list]); n > 0 {
			at := d.IntN(n)
			touched[now[list][at]] = true
			now[list] = slices.Delete(now[list], at, at+1)
			e.Shift = append(e.Shift, Shift{List: list, After: at + 1, By: -1})
		}
	}
	for range d.IntN(3) {
		r := d.rule(0)
		switch n := len(now[list]); {
		case d.IntN(4) == 0:
			r = Rule{} // a comment: lines move, nothing else
		case d.IntN(3) == 0 && n > 0:
			r = now[list][d.IntN(n)] // said again
		}
		at := d.IntN(len(now[list]) + 1)
		touched[r] = true
		now[list] = slices.Insert(now[list], at, r)
		e.Shift = append(e.Shift, Shift{List: list, After: at, By: 1})
	}
	for r := range touched {
		if r.Kind == 0 {
			continue
		}
		if old.first(list, r) > 0 {
			e.Remove = append(e.Remove, Change{list, r})
		}
		if line := now.first(list, r); line > 0 {
			r.Line = line
			e.Add = append(e.Add, Change{list, r})
		}
	}
	return now, e
}

// replace drops a list and says it anew.
func (d dice) replace(old draft, list int) (draft, Edit) {
	now := old.clone()
	e := Edit{Drop: []int{list}}
	delete(now, list)
	for i := range d.IntN(4) {
		r := d.rule(0)
		now[list] = append(now[list], r)
		r.Line = i + 1
		e.Add = append(e.Add, Change{list, r})
	}
	return now, e
}

// TestEditAgainstRebuild: whatever is edited, however often, the Set answers as
// one that was built anew, to the line; and the Sets before it as before.
func TestEditAgainstRebuild(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(5, 6))}
	matches, edits := 0, 0
	for i := range 150 {
		text := draft{}
		for range i % 50 {
			list := d.IntN(4)
			text[list] = append(text[list], d.rule(0))
		}
		s, o := text.compile(t)
		for range 12 {
			var e Edit
			next := text
			if list := d.IntN(4); d.IntN(12) == 0 {
				next, e = d.replace(text, list)
			} else {
				next, e = d.amend(text, list)
			}
			edited, err := s.Edit(e)
			if err != nil {
				t.Fatalf("Edit(%+v): %v", e, err)
			}
			rebuilt, want := next.compile(t)
			if edited.Rules() != rebuilt.Rules() || edited.Lists() != rebuilt.Lists() {
				t.Fatalf("Edit(%+v): %d rules in %d lists, want %d in %d", e, edited.Rules(), edited.Lists(), rebuilt.Rules(), rebuilt.Lists())
			}
			for range 15 {
				matches += d.ask(t, edited, want)
				d.ask(t, rebuilt, want)
				d.ask(t, s, o) // the old one has not moved
			}
			s, o, text = edited, want, next
			edits++
		}
	}
	if matches < edits {
		t.Errorf("%d edits were asked for only %d matches: the dice test nothing", edits, matches)
	}
}

func TestEditErrors(t *testing.T) {
	s := compile(t, "a.example\nb.example/x\n192.0.2.0/24")
	change := func(list int, text string) []Change { return []Change{{list, rule(t, 9, text)}} }
	tests := []struct {
		about string
		edit  Edit
		err   error // nil: any
	}{
		{"no such name", Edit{Remove: change(0, "x.example")}, ErrNoRule},
		{"no such kind", Edit{Remove: change(0, "=a.example")}, ErrNoRule},
		{"no such list", Edit{Remove: change(1, "a.example")}, ErrNoRule},
		{"no such path", Edit{Remove: change(0, "b.example/y")}, ErrNoRule},
		{"a name without its path", Edit{Remove: change(0, "b.example")}, ErrNoRule},
		{"a path without its name", Edit{Remove: change(0, "a.example/x")}, ErrNoRule},
		{"no such prefix", Edit{Remove: change(0, "192.0.2.0/25")}, ErrNoRule},
		{"twice", Edit{Remove: append(change(0, "a.example"), change(0, "a.example")...)}, ErrNoRule},
		{"dropped before", Edit{Drop: []int{0}, Remove: change(0, "a.example")}, ErrNoRule},
		{"list too high", Edit{Remove: change(1<<16, "a.example")}, ErrSetFull},
		{"negative list", Edit{Add: change(-1, "a.example")}, ErrSetFull},
		{"no rule", Edit{Add: []Change{{0, Rule{}}}}, nil},
		{"capitals", Edit{Add: change(0, "A.example")}, nil},
	}
	for _, tt := range tests {
		if n, err := s.Edit(tt.edit); err == nil || n != nil || tt.err != nil && !errors.Is(err, tt.err) {
			t.Errorf("%s: got %v, error %v, want %v", tt.about, n, err, tt.err)
		}
	}
	if got := said(s.AppendURL(nil, "a.example", "/x")); got != "0:1:block" || s.Rules() != 3 {
		t.Errorf("errors changed the Set: %q, %d rules", got, s.Rules())
	}
}

func TestEditOfTheZeroSet(t *testing.T) {
	var zero Set
	s, err := zero.Edit(Edit{Drop: []int{3}, Shift: []Shift{{0, 1, 1}}, Add: []Change{{2, rule(t, 7, "a.example")}, {0, rule(t, 8, "192.0.2.0/24")}}})
	if err != nil {
		t.Fatal(err)
	}
	got := said(s.AppendAddr(s.AppendName(nil, "x.a.example"), netip.MustParseAddr("192.0.2.1")))
	if got != "0:8:block 2:7:block" || s.Rules() != 2 || s.Lists() != 3 {
		t.Errorf("got %q, %d rules in %d lists", got, s.Rules(), s.Lists())
	}
	if s, err = s.Edit(Edit{Drop: []int{0, 2}}); err != nil || s.Rules() != 0 || s.Lists() != 0 {
		t.Errorf("all dropped: %v, %d rules in %d lists", err, s.Rules(), s.Lists())
	}
}

// TestEditIsBounded: an overlay that has grown too large says so, and one that
// goes back and forth does not grow.
func TestEditIsBounded(t *testing.T) {
	s := compile(t, "a.example\nb.example")
	var many Edit
	for i := range maxEdits {
		many.Add = append(many.Add, Change{1, Rule{Kind: Suffix, Action: Block, Name: fmt.Sprintf("n%d.example", i), Line: i + 1}})
	}
	full, err := s.Edit(many)
	if err != nil || full.Rules() != maxEdits+2 {
		t.Fatalf("%d rules: %v", maxEdits, err)
	}
	for about, e := range map[string]Edit{
		"one more":   {Add: []Change{{1, rule(t, 1, "more.example")}}},
		"one less":   {Remove: []Change{{0, rule(t, 1, "a.example")}}},
		"lines":      {Shift: []Shift{{0, 1, 1}}},
		"whole list": {Drop: []int{0}},
	} {
		if _, err := full.Edit(e); !errors.Is(err, ErrRebuild) {
			t.Errorf("%s: error %v, want %v", about, err, ErrRebuild)
		}
	}
	if got := said(full.AppendName(nil, "x.n77.example")); got != "1:78:block" {
		t.Errorf("a full overlay: got %q", got)
	}
	const toggles = 2000
	for i := range toggles {
		e := Edit{Remove: []Change{{0, rule(t, 1, "a.example")}}, Shift: []Shift{{0, 1, -1}}}
		if i%2 == 1 {
			e = Edit{Shift: []Shift{{0, 0, 1}}, Add: []Change{{0, rule(t, 1, "a.example")}}}
		}
		if s, err = s.Edit(e); err != nil {
			t.Fatalf("edit %d: %v", i, err)
		}
	}
	if s.over.size() > 4 {
		t.Errorf("the overlay of a Set like its base holds %d edits", s.over.size())
	}
	if got := said(s.AppendName(nil, "b.example")); got != "0:2:block" || s.Rules() != 2 {
		t.Errorf("after %d edits: got %q", toggles, got)
	}
}

// TestEditKeepsNothingOfTheCaller: rules may come from buffers.
func TestEditKeepsNothingOfTheCaller(t *testing.T) {
	text := []byte("a.example/x")
	r := rule(t, 1, view(text))
	s, err := compile(t, "b.example").Edit(Edit{Add: []Change{{0, r}}})
	copy(text, "zzzzzzzzzzzzzz")
	if err != nil || said(s.AppendURL(nil, "a.example", "/x")) != "0:1:block" {
		t.Errorf("the rule changed with the buffer: %v", err)
	}
	if _, err := s.Edit(Edit{Remove: []Change{{0, rule(t, 1, "a.example/x")}}}); err != nil {
		t.Error(err)
	}
}

// TestEditIsConcurrent has a meaning under the race detector only: Sets that
// share a base are asked while others are made of it.
func TestEditIsConcurrent(t *testing.T) {
	s := compile(t, "a.example\nb.example/x\n192.0.2.0/24")
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			mine := s
			for i := range 300 {
				name := strings.Repeat("x", i%3+1) + ".example"
				e := Edit{Shift: []Shift{{0, 1, 1}}, Add: []Change{{0, rule(t, 2, name)}}}
				if i%4 == 3 {
					e = Edit{Remove: []Change{{0, rule(t, 0, "a.example")}}, Add: []Change{{0, rule(t, 1, "a.example")}}}
				}
				next, err := mine.Edit(e)
				if err != nil {
					t.Error(err)
					return
				}
				if got := said(mine.AppendName(nil, "a.example")); got != "0:1:block" {
					t.Errorf("got %q", got)
				}
				mine = next
			}
		})
	}
	wg.Wait()
}

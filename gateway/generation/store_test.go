package generation

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/blocklists"
)

func built(t testing.TB, names ...string) *blocklists.Set {
	t.Helper()
	var b blocklists.Builder
	for i, n := range names {
		if err := b.Add(0, blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Block, Name: n, Line: i + 1}); err != nil {
			t.Fatal(err)
		}
	}
	return b.Build()
}

func with(t testing.TB, s *blocklists.Set, name string) *blocklists.Set {
	t.Helper()
	n, err := s.Edit(blocklists.Edit{Add: []blocklists.Change{{Rule: blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Block, Name: name, Line: 99}}}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func open(t testing.TB, dir string, l Limits) *Store {
	t.Helper()
	s, err := Open(dir, l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func write(t testing.TB, s *Store, set *blocklists.Set) uint64 {
	t.Helper()
	n := s.Next()
	if err := s.Write(Header{Number: n, Who: "alice", Kind: "test"}, fmt.Appendf(nil, `{"n":%d}`, n), set, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Prune(); err != nil {
		t.Fatal(err)
	}
	return n
}

func files(t testing.TB, dir, end string) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*"+end))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// What was written is there for the next process, and edits of one base write
// it once.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, DefaultLimits)
	base := built(t, "a.example", "b.example")
	write(t, s, base)
	write(t, s, with(t, base, "c.example"))
	write(t, s, built(t, "d.example"))
	if got := files(t, dir, baseEnd); got != 2 {
		t.Errorf("%d bases, want 2", got)
	}
	s = open(t, dir, DefaultLimits)
	g, set, err := s.Newest()
	if err != nil || g.Number != 3 || string(g.Policy) != `{"n":3}` || g.Who != "alice" {
		t.Fatalf("newest: %+v, %v", g, err)
	}
	s.Adopt(g, set)
	if n := s.Next(); n != 4 {
		t.Errorf("next: %d, want 4", n)
	}
	for number, want := range map[uint64][3]bool{1: {true, false, false}, 2: {true, true, false}, 3: {false, false, true}} {
		_, set, err := s.Load(number)
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range []string{"a.example", "c.example", "d.example"} {
			if got := len(set.AppendName(nil, n)) > 0; got != want[i] {
				t.Errorf("generation %d, %s: %v, want %v", number, n, got, want[i])
			}
		}
	}
	if _, _, err := s.Load(9); !errors.Is(err, ErrNotKept) {
		t.Errorf("one that never was: %v", err)
	}
	var numbers []uint64
	for _, h := range s.History() {
		numbers = append(numbers, h.Number)
	}
	if !slices.Equal(numbers, []uint64{3, 2, 1}) {
		t.Errorf("history: %v, want the newest first", numbers)
	}
	if err := s.Write(Header{Number: 3}, nil, base, nil, nil); err == nil {
		t.Error("a number was given twice")
	}
}

// TestLimits: the oldest go, but neither the newest, nor what is pinned, nor a
// base that is in use.
func TestLimits(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Limits{Count: 3, Bytes: 1 << 20})
	first := built(t, "a.example")
	write(t, s, first)
	second := write(t, s, with(t, first, "b.example"))
	if err := s.Pin(second, true); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		write(t, s, built(t, fmt.Sprintf("n%d.example", i)))
	}
	if got := s.numbers; !slices.Equal(got, []uint64{2, 7, 8}) {
		t.Errorf("kept: %v, want the pinned one and the newest", got)
	}
	if got := files(t, dir, baseEnd); got != 3 {
		t.Errorf("%d bases, want 3", got)
	}
	if _, set, err := open(t, dir, DefaultLimits).Load(2); err != nil || len(set.AppendName(nil, "b.example")) == 0 {
		t.Errorf("the pinned one: %v", err)
	}
	if err := s.Pin(second, false); err != nil {
		t.Fatal(err)
	}
	write(t, s, built(t, "z.example"))
	if got := s.numbers; !slices.Equal(got, []uint64{7, 8, 9}) {
		t.Errorf("kept after it was let go: %v", got)
	}
	if err := s.Pin(1, true); !errors.Is(err, ErrNotKept) {
		t.Errorf("pin of one that is gone: %v", err)
	}
	tiny := open(t, dir, Limits{Count: 100, Bytes: 1})
	write(t, tiny, built(t, "y.example"))
	if got := tiny.numbers; len(got) != 1 {
		t.Errorf("kept within one byte: %v, want the newest only", got)
	}
}

// A file that is damaged, whichever byte of it, is an error, and the start takes
// the newest that is whole.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, DefaultLimits)
	write(t, s, built(t, "a.example"))
	n := write(t, s, built(t, "b.example"))
	for _, file := range []string{name(n, fileEnd), name(n, baseEnd)} {
		path := filepath.Join(dir, file)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := range whole {
			b := bytes.Clone(whole)
			b[i] ^= 0x20
			if i%3 == 0 {
				b = b[:i]
			}
			if bytes.Equal(b, whole[:len(whole)-1]) {
				continue // the line end alone
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			g, _, err := open(t, dir, DefaultLimits).Newest()
			if err == nil || g == nil || g.Number != 1 {
				t.Fatalf("%s, byte %d: %v, %v; want the one before, and an error", file, i, g, err)
			}
		}
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if g, _, err := open(t, dir, DefaultLimits).Newest(); err != nil || g.Number != 2 {
		t.Errorf("whole again: %v, %v", g, err)
	}
}

// What a killed process has left is taken away, and its numbers are not given
// again.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, DefaultLimits)
	write(t, s, built(t, "a.example"))
	for _, file := range []string{"00000002.set", "00000002.json.tmp-1"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir, DefaultLimits)
	if n := write(t, s, built(t, "b.example")); n != 3 {
		t.Errorf("number %d, want 3", n)
	}
	left, _ := os.ReadDir(dir)
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "00000001.json 00000001.set 00000003.json 00000003.set" {
		t.Errorf("left: %s", got)
	}
}

// TestCanaryOnDisk: a generation in which a group has rules of its own has both
// sets, shares what they have in common, and takes neither base away from those
// before and after it.
func TestCanaryOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Limits{Count: 2, Bytes: 1 << 20})
	writeBoth := func(set, canary *blocklists.Set) uint64 {
		t.Helper()
		n := s.Next()
		h := Header{Number: n, Who: "alice", Kind: "canary", Canary: "pilot"}
		if err := errors.Join(s.Write(h, []byte(`{}`), set, canary, nil), s.Prune()); err != nil {
			t.Fatal(err)
		}
		return n
	}
	has := func(what string, set *blocklists.Set, name string, want bool) {
		t.Helper()
		if got := len(set.AppendName(nil, name)) > 0; got != want {
			t.Errorf("%s, %s: %v, want %v", what, name, got, want)
		}
	}
	base, other := built(t, "a.example"), built(t, "b.example")
	write(t, s, base)
	writeBoth(base, with(t, base, "c.example"))
	if got := files(t, dir, baseEnd); got != 1 {
		t.Errorf("%d bases where the canary is an edit, want 1", got)
	}
	n := writeBoth(base, with(t, other, "c.example"))
	last := writeBoth(with(t, base, "d.example"), other)
	if got := files(t, dir, baseEnd); got != 2 {
		t.Errorf("%d bases, want that of all and that of the canary", got)
	}
	for _, reopen := range []bool{false, true} {
		if reopen {
			s = open(t, dir, Limits{Count: 2, Bytes: 1 << 20})
		}
		g, set, err := s.Load(n)
		if err != nil || g.CanarySet == nil || g.Canary != "pilot" || g.CanaryRules != 2 || g.CanaryBase != "00000003.canary.set" {
			t.Fatalf("%+v, %v", g, err)
		}
		has("all", set, "a.example", true)
		has("all", set, "b.example", false)
		has("canary", g.CanarySet, "a.example", false)
		has("canary", g.CanarySet, "b.example", true)
		has("canary", g.CanarySet, "c.example", true)
	}
	g, set, err := s.Newest()
	if err != nil || g.Number != last {
		t.Fatalf("newest: %+v, %v", g, err)
	}
	s.Adopt(g, set)
	write(t, s, g.CanarySet) // promoted: the base of the canary is everybody's
	write(t, s, g.CanarySet)
	if got := files(t, dir, baseEnd); got != 1 {
		t.Errorf("%d bases after the canary was promoted, want its own alone", got)
	}
	s = open(t, dir, DefaultLimits)
	if g, set, err = s.Newest(); err != nil || g.CanarySet != nil || g.Base != "00000003.canary.set" {
		t.Fatalf("after a restart: %+v, %v", g, err)
	}
	has("promoted", set, "b.example", true)
	if next := s.Next(); next != last+3 {
		t.Errorf("next: %d, want %d", next, last+3)
	}
}

// TestCanaryDamaged: a generation whose canary is not whole is none.
func TestCanaryDamaged(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, DefaultLimits)
	base := built(t, "a.example")
	write(t, s, base)
	h := Header{Number: 2, Canary: "pilot"}
	if err := s.Write(h, []byte(`{}`), base, built(t, "b.example"), nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "00000002.canary.set"), 20); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, DefaultLimits)
	if g, _, err := s.Newest(); err == nil || g == nil || g.Number != 1 {
		t.Errorf("newest: %+v, %v, want the one before and an error", g, err)
	}
}

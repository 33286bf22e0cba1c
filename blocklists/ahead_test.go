package blocklists

import (
	"fmt"
	"strings"
	"testing"
)

// large returns a Set whose table is too long for an Ahead to leave alone, and
// names of it: plain ones, ones under others, and one with paths.
func large(t testing.TB) (s *Set, names []string) {
	b := new(Builder)
	for i := range 220_000 {
		name := fmt.Sprintf("n%d.example", i)
		if i%3 == 0 {
			name = fmt.Sprintf("a.b.n%d.test", i)
		}
		if err := b.Add(0, rule(t, i+1, name)); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	for i, r := range []string{"n1.example", "=n1.example", "com"} {
		if err := b.Add(1, rule(t, i+1, r)); err != nil {
			t.Fatal(err)
		}
	}
	s = b.Build()
	if n := len(s.base.table.buckets); n < aheadTable {
		t.Fatalf("table has %d buckets, wanted at least %d", n, aheadTable)
	}
	return s, names
}

func TestAhead(t *testing.T) {
	s, names := large(t)
	odd := []string{"", "com", "example", "nowhere.org", `a\.b.example`, `x.a\\.n1.example`, "n1.example", strings.Repeat("a.", 126) + "a"}
	for _, tt := range []struct {
		name  string
		asked []string
		want  int
	}{
		{"nothing", nil, 0},
		{"one of two labels, but com has a rule", names[1:2], 2},
		{"one of four labels", names[:1], aheadParts},
		{"a name as long as names get", odd[7:], aheadParts},
		{"the root", odd[:1], 0},
		{"odd ones", odd, 0 + 1 + 1 + 2 + 2 + 3 + 2 + 3},
		{"more than fit", names[:200], aheadNames},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var a Ahead
			for _, name := range tt.asked {
				a.Add(s, name)
			}
			if a.n != tt.want {
				t.Errorf("%d parts were noted, wanted %d", a.n, tt.want)
			}
			a.Fetch(s)
			if a.n != 0 {
				t.Errorf("%d parts are left after the reading", a.n)
			}
		})
	}
}

func TestAheadLeavesShortTablesAlone(t *testing.T) {
	for _, s := range []*Set{{}, compile(t, "a.example")} {
		var a Ahead
		a.Add(s, "a.example")
		if a.n != 0 {
			t.Errorf("%d parts were noted", a.n)
		}
		a.Fetch(s)
	}
}

func TestAheadAllocatesNothing(t *testing.T) {
	s, names := large(t)
	var a Ahead
	if n := testing.AllocsPerRun(100, func() {
		for _, name := range names[:32] {
			a.Add(s, name)
		}
		a.Fetch(s)
	}); n != 0 {
		t.Errorf("%v allocations a batch, wanted none", n)
	}
}

// BenchmarkAhead asks for names of a list in batches, as a reader does, without
// and with reading ahead.
func BenchmarkAhead(b *testing.B) {
	all := names(b, union, 3e6)
	for _, size := range []int{100_000, million} {
		list := sampled(all, size)
		s := spread(b, list, 1)
		asked := sideBySide(questions(s, "hit", list, nil))
		for _, with := range []bool{false, true} {
			b.Run(fmt.Sprintf("names=%d/ahead=%v", size, with), func(b *testing.B) { askInBatches(b, s, asked, with) })
		}
	}
}

func askInBatches(b *testing.B, s *Set, asked []string, ahead bool) {
	const batch = 32
	var a Ahead
	buf := make([]Match, 0, 8)
	i, found := 0, 0
	for b.Loop() {
		if i++; (i+1)*batch > len(asked) {
			i = 0
		}
		names := asked[i*batch:][:batch]
		if ahead {
			for _, name := range names {
				a.Add(s, name)
			}
			a.Fetch(s)
		}
		for _, name := range names {
			found += len(s.AppendName(buf, name))
		}
	}
	if found == 0 {
		b.Fatal("nothing was found")
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/name")
}

package blocklists

import (
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestSketchCounts: the table is made as large as the sketch says.
func TestSketchCounts(t *testing.T) {
	seed := maphash.MakeSeed()
	var s sketch
	n := 0
	for _, want := range []int{0, 1, 10, 1000, 5000, 10_000, 15_000, 30_000, 300_000} {
		for ; n < want; n++ {
			h := maphash.Comparable(seed, n)
			s.add(h)
			s.add(h)
		}
		if got := s.count(); got < want*9/10 || got > want*11/10 {
			t.Errorf("%d different hashes are counted as %d", want, got)
		}
	}
}

// TestTableOfAWrongEstimate: an estimate that is far too small costs time and
// nothing else, whether it is found out by the rules or by what is above them.
func TestTableOfAWrongEstimate(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(7, 8))}
	for _, size := range []int{5, 50, 2000} {
		var b Builder
		var o oracle
		for i := range size {
			r := d.rule(i + 1)
			if i >= 60 { // the oracle is slow: most rules are nobody's answer
				r = Rule{Kind: Suffix, Action: Block, Name: fmt.Sprintf("x.n%d.n%d.invalid", i, i%7), Line: i + 1}
			}
			if err := b.Add(0, r); err != nil {
				t.Fatal(err)
			}
			o.add(0, r)
		}
		b.nodes = sketch{}
		s := b.Build()
		if size == 2000 && len(s.base.table.buckets) < size/width {
			t.Fatalf("%d buckets: the table did not grow", len(s.base.table.buckets))
		}
		for i := range 200 {
			d.ask(t, s, &o)
			name := fmt.Sprintf("x.n%d.n%d.invalid", i*10, i*10%7)
			compare(t, &oracle{}, name, s.AppendName(nil, name), o.url(name, ""))
		}
	}
}

// TestManyClasses: what rules say is a number of one byte for the first 127 ways
// to say it, and more for the others.
func TestManyClasses(t *testing.T) {
	var b Builder
	const lists = 1000
	for i := range lists {
		for _, name := range []string{"a.example", fmt.Sprintf("n%d.example", i)} {
			if err := b.Add(i, Rule{Kind: Suffix, Action: Block, Name: name, Line: i}); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := b.Build()
	ms := byList(s.AppendName(nil, "a.example"))
	if len(ms) != lists {
		t.Fatalf("%d lists speak, want %d", len(ms), lists)
	}
	for i, m := range ms {
		if m.List != i || m.Rule.Line != i {
			t.Fatalf("match %d is %+v", i, m)
		}
		if got, want := said(s.AppendName(nil, fmt.Sprintf("x.n%d.example", i))), fmt.Sprintf("%d:%d:block", i, i); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// TestRecordsOverChunks: rules of all lengths over several chunks, with repeats
// and other lists' rules between them, so that records move when the table is
// made; all are found, with the line they were first on.
func TestRecordsOverChunks(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(9, 10))}
	want := map[Change]int{}
	var rules []Change
	var b Builder
	for i, size := 0, 0; size < 8*chunkSize; i++ {
		c := Change{List: d.IntN(3), Rule: Rule{Kind: Suffix, Action: Block}}
		c.Rule.Name = fmt.Sprintf("n%d.%s.top%d", i, strings.Repeat("long.", d.IntN(20)), i%300)
		c.Rule.Name = strings.ReplaceAll(c.Rule.Name, "..", ".")
		switch d.IntN(40) {
		case 0:
			c.Rule.Path = "/" + strings.Repeat("p", d.IntN(maxPath))
		case 1, 2, 3, 4, 5, 6, 7, 8, 9, 10:
			if i > 0 {
				c = rules[d.IntN(len(rules))]
				c.List = d.IntN(3)
			}
		}
		size += len(c.Rule.Name) + len(c.Rule.Path)
		rules = append(rules, c)
		if want[c] == 0 {
			want[c] = i + 1
		}
		c.Rule.Line = i + 1
		if err := b.Add(c.List, c.Rule); err != nil {
			t.Fatal(err)
		}
	}
	s := b.Build()
	if s.Rules() != len(want) || len(want) == len(rules) {
		t.Errorf("%d rules, want %d of %d", s.Rules(), len(want), len(rules))
	}
	for _, c := range rules {
		found := false
		for _, m := range s.AppendURL(nil, c.Rule.Name, c.Rule.Path) {
			line := m.Rule.Line
			m.Rule.Line = 0
			found = found || Change(m) == c && line == want[c]
			if line != want[Change(m)] {
				t.Fatalf("%v of line %d, want %d", m.Rule, line, want[Change(m)])
			}
		}
		if !found {
			t.Fatalf("%.80s of list %d is not found", c.Rule, c.List)
		}
	}
	for i, chunk := range s.base.records {
		if len(chunk) > chunkSize || cap(chunk)-len(chunk) > chunkSize/16 {
			t.Errorf("chunk %d has %d bytes in %d", i, len(chunk), cap(chunk))
		}
	}
}

func TestLongPathIsRefused(t *testing.T) {
	var b Builder
	r := Rule{Kind: Suffix, Action: Block, Name: "a.example", Path: "/" + strings.Repeat("p", maxPath)}
	if err := b.Add(0, r); err == nil {
		t.Error("a path longer than a record may be was taken")
	}
	r.Path = r.Path[:maxPath]
	if err := b.Add(0, r); err != nil {
		t.Error(err)
	}
	if got := b.Build().AppendURL(nil, "a.example", r.Path); len(got) != 1 || got[0].Rule.Path != r.Path {
		t.Error("the longest path does not match itself")
	}
}

// TestBuilderKeepsNothingOfTheCaller: rules may come from buffers that their
// reader uses again.
func TestBuilderKeepsNothingOfTheCaller(t *testing.T) {
	var b Builder
	buf := make([]byte, 64)
	var lines []string
	for i := range 1000 {
		lines = append(lines, fmt.Sprintf("n%d.top%d/p%d", i, i%200, i))
	}
	for i, line := range lines {
		text := view(buf[:copy(buf, line)])
		slash := strings.IndexByte(text, '/')
		for _, path := range []string{"", text[slash:]} {
			if err := b.Add(0, Rule{Kind: Suffix, Action: Block, Name: text[:slash], Path: path, Line: i + 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	clear(buf)
	s := b.Build()
	for i, line := range lines {
		name, path, _ := strings.Cut(line, "/")
		got := s.AppendURL(nil, name, "/"+path)
		if len(got) != 1 || got[0].Rule.Line != i+1 || got[0].Rule.Path != "/"+path {
			t.Fatalf("%s: got %+v", line, got)
		}
	}
}

// TestEntriesOfABucket pins the arithmetic on tags to a loop.
func TestEntriesOfABucket(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 2000 {
		var b bucket
		var tags [width]uint8
		for i := range tags {
			tags[i] = uint8(r.IntN(4)) * 0x7f
			if i < 8 {
				b.lo |= uint64(tags[i]) << (8 * i)
			} else {
				b.hi |= uint32(tags[i]) << (8 * (i - 8))
			}
		}
		for _, tag := range []uint8{0, 1, 0x7f, 0x7d, 0x80, 0xfe, 0xff} {
			var got, want []int
			for m := b.match(tag); m != 0; m &= m - 1 {
				got = append(got, entry(m))
			}
			for i := range tags {
				if tags[i] == tag {
					want = append(want, i)
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				t.Fatalf("tag %x in %x: got %v, want %v", tag, tags, got, want)
			}
		}
	}
}

// TestBuildPace pins that Build calls Pace all the time, also where the table
// grows, and that the Set is the same.
func TestBuildPace(t *testing.T) {
	const rules = 50_000
	calls := 0
	b := Builder{Pace: func() { calls++ }}
	for i := range rules {
		if err := b.Add(0, Rule{Kind: Suffix, Action: Block, Name: fmt.Sprintf("n%d.example%d.org", i, i%99), Line: i + 1}); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 0 {
		t.Errorf("Add called Pace %d times", calls)
	}
	s := b.Build()
	if least := 2 * rules / ahead; calls < least {
		t.Errorf("Build called Pace %d times for %d rules, want at least %d", calls, rules, least)
	}
	if got := s.Rules(); got != rules {
		t.Errorf("the set has %d rules, want %d", got, rules)
	}
	calls = 0
	s.base.grow(func() { calls++ })
	if least := len(s.base.table.buckets) / 2 / width; calls < least {
		t.Errorf("growing called Pace %d times, want at least %d", calls, least)
	}
}

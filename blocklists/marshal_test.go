package blocklists

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"
)

// written returns the Set as bytes.
func written(t testing.TB, s *Set) (base, edits []byte) {
	t.Helper()
	var b, e bytes.Buffer
	if err := s.WriteBase(&b, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.WriteEdits(&e); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), e.Bytes()
}

// readAgain returns the Set that its bytes say.
func readAgain(t testing.TB, s *Set) *Set {
	t.Helper()
	base, edits := written(t, s)
	n, err := ReadSet(base, edits, nil)
	if err != nil {
		t.Fatal(err)
	}
	if n.Rules() != s.Rules() || n.Lists() != s.Lists() {
		t.Errorf("%d rules of %d lists, want %d of %d", n.Rules(), n.Lists(), s.Rules(), s.Lists())
	}
	for list := range s.Lists() {
		if got, want := n.RulesOf(list), s.RulesOf(list); got != want {
			t.Errorf("list %d: %d rules, want %d", list, got, want)
		}
	}
	return n
}

// TestReadSetAgainstRebuild: a Set that was written and read answers as one that
// was built anew, to the line, whatever edits came before and after.
func TestReadSetAgainstRebuild(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(15, 16))}
	matches := 0
	for i := range 120 {
		text := draft{}
		for range i % 60 {
			list := d.IntN(4)
			text[list] = append(text[list], d.rule(0))
		}
		s, o := text.compile(t)
		for range 8 {
			s = readAgain(t, s)
			matches += d.ask(t, s, o)
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
			_, o = text.compile(t)
			matches += d.ask(t, s, o)
		}
	}
	if matches < 1000 {
		t.Errorf("only %d matches were compared", matches)
	}
}

func TestReadSetOfNothing(t *testing.T) {
	s := readAgain(t, new(Set))
	if got := s.AppendName(nil, "a.example"); len(got) > 0 {
		t.Errorf("an empty set says %v", got)
	}
	if s, err := s.Edit(Edit{Add: []Change{{0, Rule{Kind: Suffix, Action: Block, Name: "a.example", Line: 1}}}}); err != nil || len(s.AppendName(nil, "a.example")) != 1 {
		t.Errorf("an edit of it: %v", err)
	}
}

func TestReadSetOfLocalData(t *testing.T) {
	s := readAgain(t, readAgain(t, everything(t)))
	ms := s.AppendName(nil, "f.example")
	if len(ms) != 1 || ms[0].Rule.Data.String() != "60 IN A 192.0.2.7" || len(s.AppendData(nil, ms[0])) != 1 {
		t.Errorf("local data that was written: %+v", ms)
	}
}

func TestReadSetOfSignatures(t *testing.T) {
	var b Builder
	for i, r := range []Rule{
		{Kind: Bytes, Action: Block, Path: "16 f1 04"}, {Kind: Field, Action: Block, Name: "user-agent", Path: "^ MicroMessenger"}, {Kind: Suffix, Action: Block, Name: "a.example"},
	} {
		r.Line = i + 1
		if err := b.Add(0, r); err != nil {
			t.Fatal(err)
		}
	}
	s := readAgain(t, b.Build())
	if got, _ := s.AppendFlow(nil, []byte{0x16, 0xf1, 0x04}); len(got) != 1 || got[0].Rule.Line != 1 {
		t.Errorf("a signature that was written: %v", got)
	}
}

// TestClassIsWhole: whoever adds to what rules say must write it, too, and count
// the version of the format up.
func TestClassIsWhole(t *testing.T) {
	if n := reflect.TypeFor[class]().NumField(); n != 6 {
		t.Errorf("a class has %d fields, marshal.go writes 6", n)
	}
	if n := reflect.TypeFor[overlay]().NumField(); n != 6 {
		t.Errorf("an overlay has %d fields, marshal.go knows 6", n)
	}
}

// sealed gives the bytes the checksum that belongs to them.
func sealed(b []byte) []byte {
	b = b[:max(len(b)-4, 0)]
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// TestReadSetDamaged: each single byte that is another one, and each end that
// comes early, is an error.
func TestReadSetDamaged(t *testing.T) {
	base, edits := written(t, everything(t))
	check := func(what string, b, e []byte) {
		t.Helper()
		if _, err := ReadSet(b, e, nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, want %v", what, err, ErrDamaged)
		}
	}
	for i := range base {
		b := bytes.Clone(base)
		b[i] ^= 1 << (i % 8)
		check(fmt.Sprintf("byte %d of the base", i), b, edits)
		check(fmt.Sprintf("base cut at %d", i), base[:i:i], edits)
	}
	for i := range edits {
		e := bytes.Clone(edits)
		e[i] ^= 1 << (i % 8)
		check(fmt.Sprintf("byte %d of the edits", i), bytes.Clone(base), e)
	}
	next := sealed(append([]byte(baseMagic[:7]+"\x09"), base[8:]...))
	if _, err := ReadSet(next, edits, nil); err == nil || !strings.Contains(err.Error(), "format 9, this version reads 1") {
		t.Errorf("another version: %v", err)
	}
}

// everything is a Set with all there may be in one.
func everything(t testing.TB) *Set {
	t.Helper()
	s := compile(t, "a.example\n=b.example\n*.c.example\n192.0.2.0/24\n2001:db8::/32\nexample\n@@d.a.example\n", "a.example\nb.example/path/*\n192.0.2.0/24\n")
	s, err := s.Edit(Edit{
		Remove: []Change{{0, Rule{Kind: Suffix, Action: Block, Name: "a.example"}}},
		Shift:  []Shift{{0, 1, -1}},
		Add:    []Change{{0, Rule{Kind: Exact, Action: Block, Mode: LocalData, Data: MakeData("60 IN A 192.0.2.7"), Name: "f.example", Line: 10}}, {0, Rule{Kind: Suffix, Action: Block, Name: "e.example", Line: 9}}, {1, Rule{Kind: Target, Action: Block, Path: "^/mmtls/", Line: 4}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// FuzzReadSet: whatever the bytes say, what comes is an error or a Set that is
// safe to ask, to edit and to write again.
func FuzzReadSet(f *testing.F) {
	for _, s := range []*Set{everything(f), new(Set), apart(f)} {
		base, edits := written(f, s)
		f.Add(base, edits)
	}
	d := dice{rand.New(rand.NewPCG(1, 2))}
	f.Fuzz(func(t *testing.T, base, edits []byte) {
		s, err := ReadSet(sealed(bytes.Clone(base)), sealed(bytes.Clone(edits)), nil)
		if err != nil {
			return
		}
		for range 20 {
			for _, m := range s.AppendURL(nil, d.name(3, "a", "b", "example"), "/path/x") {
				s.AppendData(nil, m)
			}
			addr := d.addr()
			for _, m := range s.AppendClient(s.AppendAddr(nil, addr), 0, addr) {
				s.AppendData(nil, m)
			}
		}
		s.AppendFlow(nil, []byte("\x16\xf1\x04 is no TLS"))
		s.AppendFields(nil, "/mmtls/", nil)
		for m := range s.All() {
			s.Holds(m.List, m.Rule)
			s.AppendPrefix(nil, m.Rule.Prefix)
		}
		for name := range s.Names() {
			s.StandsAt(name)
		}
		for range s.Prefixes() {
		}
		s.NameRules(0, 1, 100)
		_, _ = s.Edit(Edit{Drop: []int{0}, Add: []Change{{1, Rule{Kind: Suffix, Action: Block, Name: "z.example", Line: 1}}}})
		written(t, s)
	})
}

// apart is a Set of all kinds of rules that are in no base.
func apart(t testing.TB) *Set {
	t.Helper()
	var b Builder
	for i, r := range []Rule{
		{Kind: Bytes, Path: "16 f1 04"},
		{Kind: Field, Name: "user-agent", Path: "^ MicroMessenger"},
		{Kind: Target, Path: "^/mmtls/"},
		{Kind: Client, Prefix: netip.MustParsePrefix("10.0.0.0/8"), Mode: LocalData, Data: MakeData("60 IN A 192.0.2.7")},
	} {
		r.Action, r.Line = Block, i+1
		if err := b.Add(0, r); err != nil {
			t.Fatal(err)
		}
	}
	return b.Build()
}

// TestReadSetDamagedButSealed runs the fuzz target's idea over many bytes at
// random, so that each run of the tests has some of it.
func TestReadSetDamagedButSealed(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 9))
	base, edits := written(t, everything(t))
	good := 0
	for range 30_000 {
		b, e := bytes.Clone(base), bytes.Clone(edits)
		for range 1 + rnd.IntN(3) {
			b[8+rnd.IntN(len(b)-8)] = byte(rnd.Uint32())
			e[8+rnd.IntN(len(e)-8)] ^= 1 << rnd.IntN(8)
		}
		s, err := ReadSet(sealed(b), sealed(e), nil)
		if err != nil {
			continue
		}
		good++
		for _, n := range []string{"x.a.example", "b.example", "example", "a.c.example", "e.example"} {
			s.AppendURL(nil, n, "/path/x")
		}
		written(t, s)
	}
	if good == 0 {
		t.Error("every one was refused: nothing was asked of any")
	}
}

// TestReadMillion: a million real names are there again in much less time than it
// took to compile them, and leave the collector nothing to follow. The promise is
// 150 ms (BenchmarkReadMillion, on a quiet machine); what is held here is true on
// a busy one, too.
func TestReadMillion(t *testing.T) {
	list := names(t, union, million)
	base, edits := []byte(nil), []byte(nil)
	best, compiled := time.Hour, time.Hour
	var s *Set
	for range 5 {
		began := time.Now()
		var build Builder
		suffixes(t, &build, 0, list)
		s = build.Build()
		compiled = min(compiled, time.Since(began))
		base, edits = written(t, s)
		runtime.GC()
		began = time.Now()
		var err error
		if s, err = ReadSet(base, edits, nil); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(began))
	}
	t.Logf("%d names, %d bytes, compiled in %v, read in %v", s.Rules(), len(base), compiled, best)
	if s.Rules() != million {
		t.Errorf("%d rules, want %d", s.Rules(), million)
	}
	for _, n := range list[:1000] {
		if len(s.AppendName(nil, n)) == 0 {
			t.Errorf("%s is not there", n)
		}
	}
	before := liveObjects()
	runtime.KeepAlive(s)
	s = nil
	if n := before - liveObjects(); n > 200 {
		t.Errorf("the set is of %d objects", n)
	}
	if best > compiled*3/4 {
		t.Errorf("reading took %v, compiling %v", best, compiled)
	}
}

func liveObjects() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapObjects)
}

func BenchmarkReadMillion(b *testing.B) {
	var build Builder
	suffixes(b, &build, 0, names(b, union, million))
	base, edits := written(b, build.Build())
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		bytes := bytes.Clone(base)
		b.StartTimer()
		if _, err := ReadSet(bytes, edits, nil); err != nil {
			b.Fatal(err)
		}
	}
}

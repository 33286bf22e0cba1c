package blocklists

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// An oracle answers what a Set answers, by walking all rules of all lists. It
// shares nothing with the Set but the words.
type oracle struct {
	lists map[int][]Rule
}

func (o *oracle) add(list int, r Rule) {
	if o.lists == nil {
		o.lists = make(map[int][]Rule)
	}
	o.lists[list] = append(o.lists[list], r)
}

// labels splits a name at its dots, those after a backslash excepted.
func labels(name string) []string {
	out := []string{""}
	for i := 0; i < len(name); i++ {
		last := &out[len(out)-1]
		switch {
		case name[i] == '\\' && i+1 < len(name):
			*last += name[i : i+2]
			i++
		case name[i] == '.':
			out = append(out, "")
		default:
			*last += name[i : i+1]
		}
	}
	return out
}

func (o *oracle) speaks(r Rule, name, path string) bool {
	if r.Kind == Prefix || r.Path != "" && (path == "" || !slowMatch(r.Path, path)) {
		return false
	}
	asked, ruled := labels(name), labels(r.Name)
	under := len(asked) - len(ruled)
	if under < 0 || !slices.Equal(asked[under:], ruled) {
		return false
	}
	switch r.Kind {
	case Exact:
		return under == 0
	case Under:
		return under > 0
	}
	return true
}

// decides orders rules of one list that speak about the same question: the
// first is the one that decides.
func decides(a, b Rule) int {
	truth := map[bool]int{true: 1}
	return cmp.Or(
		-cmp.Compare(a.Priority, b.Priority),
		-cmp.Compare(len(labels(a.Name)), len(labels(b.Name))),
		-cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
		-cmp.Compare(truth[a.Kind == Exact], truth[b.Kind == Exact]),
		-cmp.Compare(len(a.Path), len(b.Path)),
		cmp.Compare(truth[a.Action == None], truth[b.Action == None]),
		-cmp.Compare(truth[a.Action == Allow], truth[b.Action == Allow]),
		cmp.Compare(a.Line, b.Line),
	)
}

func (o *oracle) ask(speaks func(Rule) bool) []Match {
	var out []Match
	for list, rules := range o.lists {
		var said []Rule
		for _, r := range rules {
			if speaks(r) {
				said = append(said, r)
				continue
			}
			// A name of a policy zone keeps wildcards above it from what is below.
			if below := (Rule{Kind: Under, Name: r.Name, Line: r.Line}); r.Kind == Exact && r.Mode != ModeDefault && r.Path == "" && speaks(below) {
				said = append(said, below)
			}
		}
		if len(said) == 0 {
			continue
		}
		if r := slices.MinFunc(said, decides); r.Action != None {
			out = append(out, Match{list, r})
		}
	}
	return byList(out)
}

func (o *oracle) url(name, path string) []Match {
	return o.ask(func(r Rule) bool { return o.speaks(r, name, path) })
}

func (o *oracle) addr(a netip.Addr) []Match {
	bits := func(a netip.Addr) string {
		s := ""
		for _, b := range a.AsSlice() {
			s += fmt.Sprintf("%08b", b)
		}
		return s
	}
	return o.ask(func(r Rule) bool {
		return r.Kind == Prefix && r.Prefix.Addr().BitLen() == a.BitLen() && bits(a)[:r.Prefix.Bits()] == bits(r.Prefix.Addr())[:r.Prefix.Bits()]
	})
}

func byList(ms []Match) []Match {
	slices.SortFunc(ms, func(a, b Match) int { return cmp.Compare(a.List, b.List) })
	return ms
}

// A dice makes rules and questions out of few labels, so that they meet.
type dice struct{ *rand.Rand }

func (d dice) pick(words ...string) string { return words[d.IntN(len(words))] }

func (d dice) name(depth int, words ...string) string {
	name := d.pick(words...)
	for range d.IntN(depth) {
		name = d.pick(words...) + "." + name
	}
	return name
}

func (d dice) rule(line int) Rule {
	r := Rule{
		Kind: Suffix + Kind(d.IntN(4)), Action: Block, Line: line,
		Mode: Mode(max(0, d.IntN(5)-2)), Priority: uint8(max(0, d.IntN(6)-3)),
	}
	if d.IntN(3) == 0 {
		r.Action = Allow
	}
	if r.Kind == Prefix {
		a := d.addr()
		r.Prefix = netip.PrefixFrom(a, d.IntN(a.BitLen()+1)).Masked()
		return r
	}
	r.Name = d.name(4, "a", "b", "c", "ab")
	if d.IntN(4) == 0 {
		r.Path = d.pick("/", "/a", "/b", "/a^", "*b", "/*|", "/a|")
	}
	return r
}

func (d dice) addr() netip.Addr {
	b := []byte{10, byte(d.IntN(2) * 128), byte(d.IntN(3)), byte(d.IntN(4))}
	if d.IntN(2) == 0 {
		b = append(make([]byte, 11), append([]byte{1}, b...)...)
		b[0] = 0x20
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (d dice) build(t testing.TB, rules int) (*Set, *oracle) {
	var b Builder
	var o oracle
	for i := range rules {
		list, r := d.IntN(4), d.rule(1+i)
		if err := b.Add(list, r); err != nil {
			t.Fatalf("Add(%v): %v", r, err)
		}
		o.add(list, r)
	}
	return b.Build(), &o
}

func compare(t testing.TB, o *oracle, question string, got, want []Match) {
	t.Helper()
	if got = byList(got); !slices.Equal(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", question, got, want)
		for list, rules := range o.lists {
			t.Logf("list %d: %+v", list, rules)
		}
		t.FailNow()
	}
}

// ask puts one random question of each kind to both and returns how many
// matches there were.
func (d dice) ask(t testing.TB, s *Set, o *oracle) int {
	name := d.name(6, "a", "b", "c", "ab", "d", `x\.a`, `b\\`)
	path := CanonicalPath(d.pick("", "/", "/A", "/a/b", "/ab", "/b?a"))
	addr := d.addr()
	byName, byURL, byAddr := o.url(name, ""), o.url(name, path), o.addr(addr)
	compare(t, o, name, s.AppendName(nil, name), byName)
	compare(t, o, name+path, s.AppendURL(nil, name, path), byURL)
	compare(t, o, addr.String(), s.AppendAddr(nil, addr), byAddr)
	return len(byName) + len(byURL) + len(byAddr)
}

func TestSetAgainstOracle(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(3, 4))}
	questions, matches := 0, 0
	for i := range 800 {
		s, o := d.build(t, i%60)
		for range 100 {
			matches += d.ask(t, s, o)
			questions += 3
		}
	}
	if matches < questions/2 {
		t.Errorf("%d questions met only %d matches: the dice test nothing", questions, matches)
	}
}

func FuzzSetAgainstOracle(f *testing.F) {
	f.Add(uint64(1), uint8(5), "a.b.c", "/a")
	f.Add(uint64(2), uint8(50), `x\.a.b`, "/a/../b")
	f.Fuzz(func(t *testing.T, seed uint64, rules uint8, name, path string) {
		d := dice{rand.New(rand.NewPCG(seed, 0))}
		s, o := d.build(t, int(rules))
		for range 8 {
			d.ask(t, s, o)
		}
		if path = CanonicalPath(path); strings.Count(path, "") > 100 || len(name) > 300 {
			return
		}
		name = strings.ToLower(name)
		if c, err := CanonicalName(name); err == nil {
			name = c
		} else if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") || strings.HasSuffix(name, `\`) || name == "" {
			return // no spelling of a DNS name
		}
		compare(t, o, name+path, s.AppendURL(nil, name, path), o.url(name, path))
	})
}

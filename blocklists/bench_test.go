package blocklists

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const million = 1_000_000

// BenchmarkName asks Sets of real names. A hit is a name of the list; a near
// miss stands beside one, under the same parent, which leads on; a far miss has
// a domain that no list knows under a top-level domain that all know. Questions
// lie side by side in random order, as they do in a reader's buffer: so what is
// cold is the Set.
func BenchmarkName(b *testing.B) {
	all := names(b, union, 3e6)
	popular := names(b, umbrella, 100_000)
	for _, size := range []int{100_000, million, len(all)} {
		b.Run(fmt.Sprintf("names=%d", size), func(b *testing.B) {
			list := sampled(all, size)
			s := spread(b, list, 1)
			for _, kind := range []string{"hit", "near", "far", "popular"} {
				asked := sideBySide(questions(s, kind, list, popular))
				b.Run(kind, func(b *testing.B) { askFor(b, s, asked, kind) })
			}
		})
	}
}

// BenchmarkLists deals the same names to more and more lists.
func BenchmarkLists(b *testing.B) {
	list := sampled(names(b, union, 3e6), million)
	popular := names(b, umbrella, 100_000)
	for _, lists := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("lists=%d", lists), func(b *testing.B) {
			s := spread(b, list, lists)
			for _, kind := range []string{"hit", "near", "far"} {
				asked := sideBySide(questions(s, kind, list, popular))
				b.Run(kind, func(b *testing.B) { askFor(b, s, asked, kind) })
			}
		})
	}
}

func askFor(b *testing.B, s *Set, asked []string, kind string) {
	buf := make([]Match, 0, 8)
	i, found := 0, 0
	b.ReportAllocs()
	for b.Loop() {
		if i++; i == len(asked) {
			i = 0
		}
		if len(s.AppendName(buf, asked[i])) > 0 {
			found++
		}
	}
	b.ReportMetric(float64(found)/float64(b.N), "hits/op")
	if kind == "hit" && found != b.N || (kind == "near" || kind == "far") && found > 0 {
		b.Errorf("%d of %d found", found, b.N)
	}
}

// sampled returns that many of the names, at random but always the same, in
// their order.
func sampled(all []string, size int) []string {
	out := slices.Clone(all)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	out = out[:size]
	slices.Sort(out)
	return out
}

// spread deals the names to lists in turn.
func spread(tb testing.TB, list []string, lists int) *Set {
	tb.Helper()
	var b Builder
	for i, n := range list {
		if err := b.Add(i%lists, Rule{Kind: Suffix, Action: Block, Name: n, Line: i + 1}); err != nil {
			tb.Fatal(err)
		}
	}
	return b.Build()
}

func questions(s *Set, kind string, list, popular []string) []string {
	var out []string
	switch kind {
	case "hit":
		return sampled(list, 100_000)
	case "popular":
		return popular
	case "near":
		for _, n := range list {
			_, parent, _ := strings.Cut(n, ".")
			if n = "0q0q." + parent; strings.Contains(parent, ".") && len(s.AppendName(nil, n)) == 0 {
				out = append(out, n)
			}
		}
	case "far":
		for _, n := range popular {
			top := strings.LastIndexByte(n, '.')
			if n = n[:max(0, top)] + "0q0q" + n[max(0, top):]; len(s.AppendName(nil, n)) == 0 {
				out = append(out, n)
			}
		}
	}
	return sampled(out, min(len(out), 100_000))
}

// sideBySide puts the names in random order into one run of bytes.
func sideBySide(names []string) []string {
	out := slices.Clone(names)
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	all := strings.Join(out, "")
	for i, n := range out {
		out[i], all = all[:len(n)], all[len(n):]
	}
	return out
}

// BenchmarkEdit puts one name in force and takes it out again, in a Set of a
// million names that has been edited so often already.
func BenchmarkEdit(b *testing.B) {
	base := spread(b, names(b, union, million), 1)
	for _, before := range []int{0, 100, 1000, maxEdits - 10} {
		b.Run(fmt.Sprintf("overlay=%d", before), func(b *testing.B) {
			var e Edit
			for i := range before {
				e.Add = append(e.Add, Change{1, Rule{Kind: Suffix, Action: Block, Name: fmt.Sprintf("n%d.example", i), Line: i + 1}})
			}
			s, err := base.Edit(e)
			if err != nil {
				b.Fatal(err)
			}
			one := Edit{
				Shift: []Shift{{0, 500_000, 1}},
				Add:   []Change{{0, Rule{Kind: Suffix, Action: Block, Name: "new.example", Line: 500_001}}},
			}
			b.ReportAllocs()
			for b.Loop() {
				n, err := s.Edit(one)
				if err != nil || len(n.AppendName(nil, "x.new.example")) != 1 {
					b.Fatal("the edit is not in force", err)
				}
			}
		})
	}
}

func BenchmarkBuildMillion(b *testing.B) {
	list := names(b, union, million)
	b.ReportAllocs()
	for b.Loop() {
		var build Builder
		suffixes(b, &build, 0, list)
		if build.Build().Rules() != million {
			b.Fatal("rules are missing")
		}
	}
}

func BenchmarkAddr(b *testing.B) {
	var build Builder
	for i := range 2000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i >> 8), byte(i), 0, 0}), 24)
		if err := build.Add(0, Rule{Kind: Prefix, Action: Block, Prefix: p, Line: i + 1}); err != nil {
			b.Fatal(err)
		}
	}
	s := build.Build()
	for kind, a := range map[string]netip.Addr{"hit": netip.MustParseAddr("1.2.0.9"), "miss": netip.MustParseAddr("200.2.3.9")} {
		b.Run(kind, func(b *testing.B) {
			buf := make([]Match, 0, 8)
			b.ReportAllocs()
			for b.Loop() {
				if len(s.AppendAddr(buf, a)) > 0 != (kind == "hit") {
					b.Fatal("wrong answer")
				}
			}
		})
	}
}

func BenchmarkCanonicalName(b *testing.B) {
	for kind, name := range map[string]string{"canonical": "short.weixin.qq.com", "capitals": "Short.Weixin.QQ.com.", "idna": "bücher.example"} {
		b.Run(kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := CanonicalName(name); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

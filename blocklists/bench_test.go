package blocklists

import (
	"net/netip"
	"testing"
)

const million = 1_000_000

// BenchmarkName asks a Set of a million real names. A near miss walks as deep
// as a hit and finds nothing; a far miss leaves at the first or second label.
func BenchmarkName(b *testing.B) {
	list := names(b, union, million)
	var build Builder
	suffixes(b, &build, 0, list)
	s := build.Build()
	popular := names(b, umbrella, 100_000)

	questions := map[string][]string{"popular": popular}
	for i := 0; i < len(list); i += 10 {
		questions["hit"] = append(questions["hit"], list[i])
		if near := "q" + list[i]; len(s.AppendName(nil, near)) == 0 {
			questions["near"] = append(questions["near"], near)
		}
	}
	for _, n := range popular {
		questions["far"] = append(questions["far"], n+".invalid")
	}
	for _, kind := range []string{"hit", "near", "far", "popular"} {
		b.Run(kind, func(b *testing.B) {
			asked := questions[kind]
			buf := make([]Match, 0, 8)
			i, found := 0, 0
			b.ReportAllocs()
			for b.Loop() {
				// A stride that is prime to the length: the order of the list
				// must not help the processor's cache.
				if i += 7919; i >= len(asked) {
					i %= len(asked)
				}
				if len(s.AppendName(buf, asked[i])) > 0 {
					found++
				}
			}
			b.ReportMetric(float64(found)/float64(b.N), "hits/op")
			if (kind == "hit") != (found == b.N) || kind == "far" && found > 0 {
				b.Errorf("%d of %d found", found, b.N)
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

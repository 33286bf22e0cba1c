package resolver

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
)

// The cache alone; what a miss costs is the upstream's business. Names are as
// many as a reader has at hand in a steady state.
const benchNames = 10_000

func benchQuestions(n int) []Question {
	qs := make([]Question, n)
	for i := range qs {
		// Strided, so that neighbours in time are none in memory.
		qs[i] = askA(hotName(i * 7919 % n))
	}
	return qs
}

func BenchmarkHot(b *testing.B) {
	clk := newClock()
	r := filled(b, clk, 2*benchNames, benchNames)
	now := clk.now()
	absent := askA("absent.example")
	for _, size := range []int{0, 1024, 16384} {
		h := NewHot(size)
		qs := benchQuestions(benchNames)
		what := map[int]string{0: "shared hit", 1024: "hit, too small", 16384: "hit"}[size]
		b.Run(what, func(b *testing.B) {
			for range 2 * hotTurn {
				for _, q := range qs {
					h.Get(r, q, now)
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if h.Get(r, qs[i%benchNames], now) == nil {
					b.Fatal("no answer")
				}
			}
		})
	}
	h := NewHot(16384)
	b.Run("miss", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if h.Get(r, absent, now) != nil {
				b.Fatal("an answer")
			}
		}
	})
}

// BenchmarkHotParallel: readers that share a Resolver, each with a Hot of its
// own, against readers that share its cache.
func BenchmarkHotParallel(b *testing.B) {
	clk := newClock()
	r := filled(b, clk, 2*benchNames, benchNames)
	now := clk.now()
	qs := benchQuestions(benchNames)
	for what, size := range map[string]int{"hit": 16384, "shared hit": 0} {
		b.Run(what, func(b *testing.B) {
			var start atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				h := NewHot(size)
				for _, q := range qs {
					h.Get(r, q, now)
				}
				for i := int(start.Add(benchNames / 7)); pb.Next(); i++ {
					if h.Get(r, qs[i%benchNames], now) == nil {
						b.Error("no answer")
						return
					}
				}
			})
		})
	}
}

func BenchmarkClean(b *testing.B) {
	clk := newClock()
	k := key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}
	a := answerOf(b, clk, k, 0, "www.example. 60 IN CNAME a.cdn.test.", "a.cdn.test. 60 IN A 192.0.2.1", "a.cdn.test. 60 IN A 192.0.2.2")
	s, other := cleanSnapshot(b), cleanSnapshot(b)
	b.Run("known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !a.Clean(s) {
				b.Fatal("not clean")
			}
		}
	})
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !a.Clean(s) || !a.Clean(other) {
				b.Fatal("not clean")
			}
		}
	})
}

// cleanSnapshot is a policy with a list that speaks of something else.
func cleanSnapshot(t testing.TB) *policy.Snapshot { return listSnapshot(t, "banned.test") }

func listSnapshot(t testing.TB, names ...string) *policy.Snapshot {
	t.Helper()
	var b blocklists.Builder
	for i, name := range names {
		if err := b.Add(0, blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Block, Name: name, Line: i + 1}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := policy.NewSnapshot(policy.Spec{Set: b.Build(), Bans: []*blocklists.Ban{{ID: "b"}}, Lists: []policy.List{{Name: "l"}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// BenchmarkReply is the slow path of a hit, and what an answer costs once.
func BenchmarkReply(b *testing.B) {
	for _, records := range []int{1, 4, 16} {
		clk := newClock()
		k := key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}
		lines := []string{"www.example. 60 IN CNAME a.cdn.test."}
		for i := range records {
			lines = append(lines, fmt.Sprintf("a.cdn.test. 60 IN A 192.0.2.%d", i))
		}
		a := answerOf(b, clk, k, 0, lines...)
		q := question("www.example", dns.TypeA)
		b.Run(fmt.Sprintf("reply of %d", records), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if m := a.Reply(q); len(m.Answer) != records+1 {
					b.Fatal("no answer")
				}
			}
		})
		m := a.Reply(q)
		b.Run(fmt.Sprintf("new of %d", records), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if newAnswer(k, m, time.Now).life == 0 {
					b.Fatal("no answer")
				}
			}
		})
	}
}

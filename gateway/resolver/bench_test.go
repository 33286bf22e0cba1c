package resolver

import (
	"context"
	"testing"

	"github.com/miekg/dns"
)

// The cache alone; what a miss costs is the upstream's business.
func BenchmarkCached(b *testing.B) {
	r := open(b, Options{Upstreams: udp(b, listen(b, records(b, wwwA))), CacheEntries: 10000})
	hit, miss := question("www.example", dns.TypeA), question("other.example", dns.TypeA)
	if _, err := r.Resolve(context.Background(), hit); err != nil {
		b.Fatal(err)
	}
	b.Run("hit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if r.Cached(hit) == nil {
				b.Fatal("no answer")
			}
		}
	})
	b.Run("hit and reply", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if m := r.Cached(hit).Reply(hit); len(m.Answer) != 1 {
				b.Fatal("no answer")
			}
		}
	})
	b.Run("miss", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if r.Cached(miss) != nil {
				b.Fatal("an answer")
			}
		}
	})
}

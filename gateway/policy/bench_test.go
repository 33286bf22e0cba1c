package policy

import (
	"fmt"
	"net/netip"
	"testing"
)

func BenchmarkName(b *testing.B) {
	spec := house(b)
	plain := snapshot(b, spec)
	spec.CacheEntries = 1000
	cached := snapshot(b, spec)
	for _, from := range []struct {
		name string
		s    *Snapshot
	}{{"trie", plain}, {"cache", cached}} {
		for kind, name := range map[string]string{"hit": "short.wechat.example", "miss": "www.free.example"} {
			b.Run(from.name+"/"+kind, func(b *testing.B) {
				sub := device("10.8.0.9")
				b.ReportAllocs()
				for b.Loop() {
					if v := from.s.Name(sub, name, noon); v.Blocked() != (kind == "hit") {
						b.Fatal(v.Action)
					}
				}
			})
		}
	}
	// Names that never come again: the cache is all cost.
	b.Run("cache/flood", func(b *testing.B) {
		names := make([]string, 100_000)
		for i := range names {
			names[i] = fmt.Sprintf("n%d.free.example", i)
		}
		i := 0
		b.ReportAllocs()
		for b.Loop() {
			if i++; i == len(names) {
				i = 0
			}
			if v := cached.Name(device("10.8.0.9"), names[i], noon); v.Blocked() {
				b.Fatal(v.Action)
			}
		}
	})
}

func BenchmarkAddr(b *testing.B) {
	s := snapshot(b, house(b))
	for kind, a := range map[string]string{"hit": "192.0.2.1", "embedded": "64:ff9b::192.0.2.1", "miss": "198.51.100.1"} {
		b.Run(kind, func(b *testing.B) {
			addr := netip.MustParseAddr(a)
			b.ReportAllocs()
			for b.Loop() {
				if v := s.Addr(Subject{}, addr, noon); v.Blocked() != (kind != "miss") {
					b.Fatal(v.Action)
				}
			}
		})
	}
}

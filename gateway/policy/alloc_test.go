//go:build !race

// The race detector changes what is allocated.

package policy

import (
	"net/netip"
	"testing"
)

// TestAllocationPins pins what a decision allocates.
func TestAllocationPins(t *testing.T) {
	spec := house(t)
	plain := snapshot(t, spec)
	spec.CacheEntries = 100
	cached := snapshot(t, spec)
	sub, exempt := device("10.8.0.9"), device("10.8.0.7")
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("64:ff9b::192.0.2.1")
	var blocked int
	count := func(v Verdict) {
		if v.Blocked() {
			blocked++
		}
	}
	tests := []struct {
		about string
		f     func()
	}{
		{"blocked, from the cache", func() { count(cached.Name(sub, "a.wechat.example", noon)) }},
		{"free, from the cache", func() { count(cached.Name(sub, "free.example", noon)) }},
		{"blocked, from the trie", func() { count(plain.Name(sub, "a.wechat.example", noon)) }},
		{"free, from the trie", func() { count(plain.Name(sub, "free.example", noon)) }},
		{"exempt", func() { count(plain.Name(exempt, "wechat.example", noon)) }},
		{"URL", func() { count(plain.URL(sub, "host.example", "/app", noon)) }},
		{"address", func() { count(plain.Addr(sub, v4, noon)) }},
		{"embedded address", func() { count(plain.Addr(sub, v6, noon)) }},
	}
	for _, tt := range tests {
		tt.f() // fills the cache
		if got := testing.AllocsPerRun(200, tt.f); got != 0 {
			t.Errorf("%s: %v allocations, want none", tt.about, got)
		}
	}
	if blocked == 0 {
		t.Error("nothing was blocked: the pins hold nothing")
	}
}

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
	many := snapshot(t, manyOfAll(t))
	spec.Exemptions = append(spec.Exemptions, Exemption{ID: "N", Name: "a.wechat.example", Device: netip.MustParsePrefix("10.8.0.10/32"), Until: noon.AddDate(1, 0, 0)})
	named := snapshot(t, spec)
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
		block bool
		f     func()
	}{
		{"blocked", true, func() { count(plain.Name(sub, "a.wechat.example", noon)) }},
		{"free", false, func() { count(plain.Name(sub, "free.example", noon)) }},
		{"exempt", false, func() { count(plain.Name(exempt, "wechat.example", noon)) }},
		{"exempt for a name", false, func() { count(named.Name(device("10.8.0.10"), "b.a.wechat.example", noon)) }},
		{"blocked beside exemptions for a name", true, func() { count(named.Name(sub, "b.a.wechat.example", noon)) }},
		{"blocked by many lists", true, func() { count(many.Name(sub, "a.everywhere.example", noon)) }},
		{"free of many lists", false, func() { count(many.Name(sub, "free.example", noon)) }},
		{"exempt from many bans", false, func() { count(many.Name(device("10.0.0.1"), "everywhere.example", noon)) }},
		{"address in many lists", true, func() { count(many.Addr(sub, v6, noon)) }},
		{"URL", true, func() { count(plain.URL(sub, "host.example", "/app", noon)) }},
		{"blocked URL, from the cache", true, func() { count(cached.URL(sub, "host.example", "/app", noon)) }},
		{"free URL, from the cache", false, func() { count(cached.URL(sub, "free.example", "/app", noon)) }},
		{"address", true, func() { count(plain.Addr(sub, v4, noon)) }},
		{"embedded address", true, func() { count(plain.Addr(sub, v6, noon)) }},
	}
	for _, tt := range tests {
		before := blocked
		tt.f() // fills the cache and the pool
		if got := testing.AllocsPerRun(200, tt.f); got != 0 {
			t.Errorf("%s: %v allocations, want none", tt.about, got)
		}
		if got := blocked > before; got != tt.block {
			t.Errorf("%s: blocked is %v, want %v: the pin holds something else", tt.about, got, tt.block)
		}
	}
}

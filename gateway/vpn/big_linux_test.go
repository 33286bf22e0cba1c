package vpn

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weir-gateway/weir/gateway/policy"
)

// manyRanges are n networks that do not touch.
func manyRanges(n int) []policy.Range {
	var out []policy.Range
	for i := range n {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), 0}), 25)
		out = append(out, policy.Range{First: p.Addr(), Last: lastOf(p)})
	}
	return out
}

// TestManyPrefixes: 100,000 prefixes go into the kernel, and change there, and
// are read back, within what they may take.
func TestManyPrefixes(t *testing.T) {
	ownNetwork(t)
	slow := "never tried"
	for range 5 { // a machine that does something else beside is no proof
		if slow = manyPrefixes(t); slow == "" {
			return
		}
	}
	t.Error(slow)
}

// manyPrefixes says what took too long.
func manyPrefixes(t *testing.T) (slow string) {
	t.Helper()
	const n = 100_000
	var k Kernel
	cfg := parse(t, configs["default"])
	ranges := manyRanges(n)
	ruleset := func(rs []policy.Range) Ruleset { return Rules("v1", cfg, []Ban{{ID: "big", Banned: rs}}) }
	timed := func(what string, limit time.Duration, f func() error) {
		t.Helper()
		began := time.Now()
		if err := f(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		took := time.Since(began)
		t.Logf("%s: %v", what, took)
		if took > slower*limit {
			slow = fmt.Sprintf("%s took %v, want at most %v", what, took, slower*limit)
		}
	}
	first := ruleset(ranges)
	timed("apply to an empty kernel", 3*time.Second, func() error { _, err := k.Apply(first); return err })
	timed("compare", 3*time.Second, func() error { _, err := k.Compare(first); return err })
	types := first.setTypes()
	var half []policy.Range
	for i, r := range ranges {
		if i%2 == 0 {
			half = append(half, r)
		}
	}
	second := ruleset(half)
	timed("half of them go", time.Second, func() error { return k.update(types, diffSets(first, second)) })
	timed("half of them come", time.Second, func() error { return k.update(types, diffSets(second, first)) })
	one := ruleset(ranges[1:])
	timed("one goes", time.Second/4, func() error { return k.update(types, diffSets(first, one)) })
	none := ruleset(nil)
	timed("all go", time.Second, func() error { return k.update(types, diffSets(one, none)) })
	timed("all come", time.Second, func() error { return k.update(types, diffSets(none, first)) })
	if d, err := k.Compare(first); err != nil || !d.Empty() {
		t.Errorf("at the end: %v\n%.500s", err, d.String())
	}
	if _, err := k.Remove(); err != nil {
		t.Fatal(err)
	}
	return slow
}

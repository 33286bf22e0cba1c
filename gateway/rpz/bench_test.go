package rpz

import (
	"fmt"
	"testing"

	"github.com/miekg/dns"
)

// million is a policy of a million names, all in one list.
func million() []testRule {
	rules := make([]testRule, 1_000_000)
	for i := range rules {
		rules[i] = testRule{banA, fmt.Sprintf("name-%d.site-%d.example", i, i%1000)}
	}
	return rules
}

// BenchmarkVersion is what a change of one name costs in the background: a walk
// through both policies.
func BenchmarkVersion(b *testing.B) {
	rules := million()
	v, _ := (*version)(nil).next(view{policy: build(b, rules...), at: testTime, room: 200}, 1)
	changed := view{policy: build(b, append(rules, testRule{banA, "one.more.example"})...), at: testTime, room: 200}
	b.ReportAllocs()
	for b.Loop() {
		if _, d := v.next(changed, 2); d.size() != 2 {
			b.Fatalf("%d changes", d.size())
		}
	}
}

// BenchmarkAXFR is a transfer of all of them, to a client that reads each record.
func BenchmarkAXFR(b *testing.B) {
	s := serve(b, nil)
	put(b, s, 0, million()...)
	b.ReportAllocs()
	for b.Loop() {
		if got, err := ask(b, s, &testKey, question(dns.TypeAXFR, 0)); err != nil || len(got) != 2_000_003 {
			b.Fatalf("%d records, %v", len(got), err)
		}
	}
}

package vpn

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
)

// elsewhere are rules whose loss shows in a test of their own.
var elsewhere = map[string]string{
	"inbound/ban-app-v4":   "TestNewBanEndsFlows",
	"inbound/ban-app-v6":   "TestNewBanEndsFlows",
	"inbound/big-pongs-v4": "TestBigPongs",
	"inbound/big-pongs-v6": "TestBigPongs",
	"outbound/undiverted":  "TestFlowsFromBefore",
}

// TestEachRuleIsNeeded: without any one rule, something is open that was closed,
// or closed that was open, in at least one of the worlds that have the rule.
func TestEachRuleIsNeeded(t *testing.T) {
	var mu sync.Mutex
	needed := make(map[string]bool)
	t.Run("worlds", func(t *testing.T) {
		for name, tt := range worlds {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.settle(t, name)
				k := Kernel{NetNS: w.gateway.fd}
				rs := Rules("v1", parse(t, tt.config), worldBans())
				for _, rule := range rs.Names() {
					if _, err := k.Apply(rs.Without(rule)); err != nil {
						t.Fatalf("without %s: %v", rule, err)
					}
					differs := differences(w.answers(t), tt.want)
					if len(differs) > 0 && elsewhere[rule] != "" {
						differs = w.differs(t, tt.want)
					}
					t.Logf("without %s: %s", rule, strings.Join(differs, "; "))
					mu.Lock()
					needed[rule] = needed[rule] || len(differs) > 0
					mu.Unlock()
				}
			})
		}
	})
	for _, rule := range slices.Sorted(maps.Keys(needed)) {
		if needed[rule] == (elsewhere[rule] != "") {
			t.Errorf("%s: that something changes without it is %v; %s", rule, needed[rule], elsewhere[rule])
		}
	}
}

// differences says which answers are not what they should be.
func differences(got, want map[string]string) []string {
	var out []string
	for _, p := range slices.Sorted(maps.Keys(got)) {
		if should := want[strings.TrimSuffix(strings.TrimSuffix(p, " v4"), " v6")]; got[p] != should {
			out = append(out, p+": "+should+" became "+got[p])
		}
	}
	return out
}

package vpn

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
)

// TestKeeperCanary: for the group of a canary the kernel holds back what either
// policy does, for all others what theirs does; and nothing is left when it ends.
func TestKeeperCanary(t *testing.T) {
	ownNetwork(t)
	k := newKept(t, configs["default"])
	snapshot := func(canary *policy.Canary, prefix string) *policy.Snapshot {
		t.Helper()
		var b blocklists.Builder
		if err := b.Add(0, blocklists.Rule{Kind: blocklists.Prefix, Action: blocklists.Block, Prefix: netip.MustParsePrefix(prefix), Line: 1}); err != nil {
			t.Fatal(err)
		}
		generations++
		s, err := policy.NewSnapshot(policy.Spec{
			Generation: generations, Set: b.Build(), Lists: []policy.List{{Name: "l"}}, Bans: []*blocklists.Ban{{ID: "app"}},
			Groups: []policy.Group{{Name: "pilot", Devices: []netip.Prefix{netip.MustParsePrefix("10.8.0.0/29")}}}, Canary: canary,
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	old := snapshot(nil, "203.0.113.0/24")
	k.store.Swap(old)
	k.steps(t, anyTime)
	k.equal(t, anyTime)
	both := snapshot(&policy.Canary{Group: "pilot", Snapshot: snapshot(nil, "198.51.100.0/24")}, "203.0.113.0/24")
	bans := Bans(both, anyTime)
	if len(bans) != 2 || bans[1].ID != "app.canary" || len(bans[0].Spared) != 0 {
		t.Fatalf("bans: %+v", bans)
	}
	spares := func(b *Ban, device string) bool {
		a := netip.MustParseAddr(device)
		for _, r := range b.Spared {
			if r.First.BitLen() == a.BitLen() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0 {
				return true
			}
		}
		return false
	}
	for device, want := range map[string]bool{"10.8.0.1": false, "10.8.0.8": true, "10.7.255.255": true, "2001:db8::1": true} {
		if got := spares(&bans[1], device); got != want {
			t.Errorf("the canary spares %s: %v, want %v", device, got, want)
		}
	}
	k.store.Swap(both)
	k.steps(t, anyTime)
	k.equal(t, anyTime)
	if d, err := k.opts.Kernel.Compare(Rules("v1", k.cfg, Bans(old, anyTime))); err != nil || !strings.Contains(d.String(), "app.canary") {
		t.Errorf("the kernel has nothing of the canary: %v, %s", err, d.String())
	}
	k.store.Swap(old)
	k.steps(t, anyTime.Add(time.Second))
	k.equal(t, anyTime)
	if st := k.Stats(); st.Failures != 0 || st.Repairs != 0 {
		t.Errorf("stats %+v", st)
	}
}

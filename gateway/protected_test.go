package gateway

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/gateway/policy"
)

const protectedConfig = `
dns: {listen: ["127.0.0.1:0"], upstreams: ["UPSTREAM"]}
proxy: {listen: []}
admin: {listen: ""}
state: "state"
protected: [203.0.113.8/30, "2001:db8::7"]
bans:
- id: own
  title: Own
  authority: us
  reference: "https://ban.example/"
  lists: [{name: nets, source: "file:nets.txt", format: prefixes}]
`

// TestProtectedNetworks: an address that is protected is let through whatever a list
// says, by name servers that follow and by the packet filter too, and no change of a
// list may begin to hold it back.
func TestProtectedNetworks(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": protectedConfig, "nets.txt": "203.0.113.0/24\n198.51.100.0/24\n"})
	now := time.Now()
	for addr, want := range map[string]policy.Reason{
		"203.0.113.7": policy.ReasonBan, "203.0.113.8": policy.ReasonProtected, "203.0.113.11": policy.ReasonProtected,
		"203.0.113.12": policy.ReasonBan, "64:ff9b::203.0.113.9": policy.ReasonProtected, "192.0.2.1": policy.ReasonNoRule,
	} {
		if v := f.compiled.snapshot.Addr(policy.Subject{}, netip.MustParseAddr(addr), now); v.Reason != want || v.Blocked() != (want == policy.ReasonBan) {
			t.Errorf("%s: %+v, want %v", addr, v, want)
		}
	}
	want := []string{"198.51.100.0-198.51.100.255", "203.0.113.0-203.0.113.7", "203.0.113.12-203.0.113.255"}
	for i, r := range f.compiled.snapshot.Banned()[0] {
		if got := r.First.String() + "-" + r.Last.String(); i >= len(want) || got != want[i] {
			t.Errorf("banned range %d: %s, want %v", i, got, want)
		}
	}
	for _, line := range []string{"203.0.113.9", "203.0.112.0/23", "2001:db8::/48"} {
		f.write("nets.txt", "203.0.113.0/24\n198.51.100.0/24\n"+line+"\n")
		if err := f.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "would hold back ") {
			t.Errorf("%s: %v", line, err)
		}
	}
	f.write("nets.txt", "203.0.113.0/24\n203.0.113.16/28\n")
	if err := f.Reload(t.Context()); err != nil {
		t.Errorf("a neighbour: %v", err)
	}
}

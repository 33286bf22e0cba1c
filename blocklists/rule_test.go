package blocklists

import (
	"net/netip"
	"testing"
	"time"
)

func TestWords(t *testing.T) {
	tests := []struct{ got, want string }{
		{None.String(), "none"},
		{Block.String(), "block"},
		{Allow.String(), "allow"},
		{Action(9).String(), "none"},
		{ModeDefault.String(), "default"},
		{NXDOMAIN.String(), "nxdomain"},
		{Addresses.String(), "addresses"},
		{Mode(77).String(), "mode(77)"},
		{Rule{Kind: Suffix, Action: Block, Name: "a.example"}.String(), "a.example"},
		{Rule{Kind: Exact, Action: Block, Name: "a.example"}.String(), "=a.example"},
		{Rule{Kind: Under, Action: Block, Name: "a.example"}.String(), "*.a.example"},
		{Rule{Kind: Suffix, Action: Allow, Name: "a.example"}.String(), "@@a.example"},
		{Rule{Kind: Suffix, Action: Block, Name: "a.example", Path: "/x^"}.String(), "a.example/x^"},
		{Rule{Kind: Prefix, Action: Block, Prefix: netip.MustParsePrefix("192.0.2.0/24")}.String(), "192.0.2.0/24"},
		{Rule{Kind: Prefix, Action: Allow, Prefix: netip.MustParsePrefix("2001:db8::/32")}.String(), "@@2001:db8::/32"},
		{Host{Name: "a.example"}.String(), "a.example"},
		{Host{Addr: netip.MustParseAddr("::1")}.String(), "::1"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestParseMode(t *testing.T) {
	for _, m := range []Mode{NXDOMAIN, NODATA, Null, Refused, Drop} {
		if got, ok := ParseMode(m.String()); !ok || got != m {
			t.Errorf("ParseMode(%q) = %v, %v", m.String(), got, ok)
		}
	}
	for _, s := range []string{"", "default", "addresses", "NXDOMAIN", "nx", "mode(77)"} {
		if got, ok := ParseMode(s); ok || got != ModeDefault {
			t.Errorf("ParseMode(%q) = %v, %v; it is no mode", s, got, ok)
		}
	}
}

func TestBan(t *testing.T) {
	at := time.Date(2023, 10, 30, 0, 0, 0, 0, time.FixedZone("EDT", -4*3600))
	b := Ban{Effective: at, Tiers: []Tier{TierExclusive}}
	if b.InForce(at.Add(-time.Nanosecond)) {
		t.Error("in force before its time")
	}
	if !b.InForce(at) || !b.InForce(at.UTC()) || !b.InForce(at.Add(time.Hour)) {
		t.Error("not in force from its time on")
	}
	if !new(Ban).InForce(time.Time{}) {
		t.Error("a ban without an effective time is not in force")
	}
	if !b.Enabled(TierExclusive) || b.Enabled(TierVendor) || new(Ban).Enabled(TierExclusive) {
		t.Error("tiers are on that were not switched on, or the other way round")
	}
}

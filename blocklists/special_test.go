package blocklists

import (
	"net/netip"
	"testing"
)

func TestSpecialTable(t *testing.T) {
	for _, row := range special {
		if row.prefix != row.prefix.Masked() || row.what == "" {
			t.Errorf("row %v", row)
		}
		if SpecialUse(row.prefix.Addr()) == "" {
			t.Errorf("%s is not special", row.prefix)
		}
	}
}

func TestIsInside(t *testing.T) {
	for _, c := range []struct {
		addr    string
		inside  bool
		special bool // whether the proxy refuses it
	}{
		{"8.8.8.8", false, false}, {"2001:4860::1", false, false}, {"::ffff:8.8.8.8", false, true}, // unmapped before it comes there
		{"0.0.0.0", true, true}, {"0.0.0.1", true, true}, {"10.0.0.1", true, true}, {"127.0.0.1", true, true},
		{"100.64.0.0", true, true}, {"100.128.0.0", false, false}, {"169.254.169.254", true, true},
		{"172.16.0.1", true, true}, {"172.32.0.1", false, false}, {"192.168.1.1", true, true}, {"198.18.0.1", true, true},
		{"192.0.0.1", true, true}, {"224.0.0.251", true, true}, {"255.255.255.255", true, true},
		{"::", true, true}, {"::1", true, true}, {"::ffff:10.0.0.1", true, true}, {"::10.0.0.1", true, true}, {"::ffff:0:10.0.0.1", true, true},
		{"fc00::1", true, true}, {"fd00::1", true, true}, {"fe80::1", true, true}, {"fec0::1", true, true}, {"ff02::fb", true, true},
		{"64:ff9b:1::808:808", false, true}, // made by a resolver of the site, and where its IPv4 address is depends on the site
		{"64:ff9b::a00:1", true, false}, {"64:ff9b::808:808", false, false},
		{"2002:a00:1::1", true, true}, {"2002:808:808::1", false, true},
		{"2001::1", true, true}, {"2001:0:1:1::f7f7:f7f7", false, true}, // Teredo of 255.255.255.254 and 8.8.8.8
		{"2a00:1450::5efe:a00:1", true, false}, {"2a00:1450::5efe:808:808", false, false},
		{"192.0.2.1", false, true}, {"2001:db8::1", false, true}, {"100::1", false, true},
	} {
		a := netip.MustParseAddr(c.addr)
		if got := IsInside(a); got != c.inside {
			t.Errorf("IsInside(%s) = %t", a, got)
		}
		if got := SpecialUse(a); (got != "") != c.special {
			t.Errorf("SpecialUse(%s) = %q", a, got)
		}
	}
	if IsInside(netip.Addr{}) {
		t.Error("no address is inside")
	}
}

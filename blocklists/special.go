package blocklists

import "net/netip"

// special are the networks that are not the Internet's: a destination there is
// somebody's own machine or nobody's. The rows are those of the IANA
// special-purpose address registries that are not globally reachable, with the
// document that says so, and the multicast space. Inside are those that a machine
// may be in, or be itself: what else is special leads nowhere, or to where an
// address in it says.
var special = []struct {
	prefix netip.Prefix
	what   string
	inside bool
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network", true},                         // RFC 791, section 3.2
	{netip.MustParsePrefix("10.0.0.0/8"), "private", true},                             // RFC 1918
	{netip.MustParsePrefix("100.64.0.0/10"), "shared", true},                           // RFC 6598
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback", true},                           // RFC 1122, section 3.2.1.3
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local", true},                      // RFC 3927; cloud metadata too
	{netip.MustParsePrefix("172.16.0.0/12"), "private", true},                          // RFC 1918
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol assignments", true},              // RFC 6890, section 2.1
	{netip.MustParsePrefix("192.0.2.0/24"), "documentation", false},                    // RFC 5737
	{netip.MustParsePrefix("192.88.99.0/24"), "6to4 relay", false},                     // RFC 7526
	{netip.MustParsePrefix("192.168.0.0/16"), "private", true},                         // RFC 1918
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking", true},                     // RFC 2544
	{netip.MustParsePrefix("198.51.100.0/24"), "documentation", false},                 // RFC 5737
	{netip.MustParsePrefix("203.0.113.0/24"), "documentation", false},                  // RFC 5737
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast", true},                          // RFC 5771
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved", true},                           // RFC 1112, section 4; broadcast, RFC 919
	{netip.MustParsePrefix("::/96"), "unspecified, loopback or IPv4-compatible", true}, // RFC 4291, sections 2.5.2, 2.5.3, 2.5.5.1
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4-mapped", true},                      // RFC 4291, section 2.5.5.2; unmapped before it comes here
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "IPv4-translated", true},                // RFC 2765, section 2.1
	{netip.MustParsePrefix("64:ff9b:1::/48"), "local translation", false},              // RFC 8215
	{netip.MustParsePrefix("100::/64"), "discard", false},                              // RFC 6666
	{netip.MustParsePrefix("100:0:0:1::/64"), "dummy", false},                          // RFC 9780
	{netip.MustParsePrefix("2001::/23"), "protocol assignments", false},                // RFC 2928; Teredo, RFC 4380; ORCHID, RFC 7343
	{netip.MustParsePrefix("2001:db8::/32"), "documentation", false},                   // RFC 3849
	{netip.MustParsePrefix("2002::/16"), "6to4", false},                                // RFC 3056; deprecated, RFC 7526
	{netip.MustParsePrefix("3fff::/20"), "documentation", false},                       // RFC 9637
	{netip.MustParsePrefix("5f00::/16"), "segment routing", false},                     // RFC 9602
	{netip.MustParsePrefix("fc00::/7"), "unique local", true},                          // RFC 4193
	{netip.MustParsePrefix("fe80::/10"), "link-local", true},                           // RFC 4291, section 2.5.6
	{netip.MustParsePrefix("fec0::/10"), "site-local", true},                           // RFC 3879
	{netip.MustParsePrefix("ff00::/8"), "multicast", true},                             // RFC 4291, section 2.7
}

var globalUnicast = netip.MustParsePrefix("2000::/3") // RFC 4291, section 2.4, as IANA assigns it

// SpecialUse says what kind of special address it is; empty for an ordinary one.
// It does not look at an IPv4 address in it: see EmbeddedIPv4.
func SpecialUse(a netip.Addr) string {
	for i := range special {
		if special[i].prefix.Contains(a) {
			return special[i].what
		}
	}
	if a.Is6() && !globalUnicast.Contains(a) && !nat64.Contains(a) { // NAT64 is as global as the address in it
		return "not assigned"
	}
	return ""
}

// IsInside reports whether an address is one of networks that are inside of
// something, a site or a machine, and never what a name of the Internet should
// lead to. An address is as much inside as the IPv4 address that traffic to it
// ends at.
func IsInside(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for i := range special {
		if special[i].inside && special[i].prefix.Contains(a) {
			return true
		}
	}
	v4 := EmbeddedIPv4(a)
	return v4.IsValid() && IsInside(v4)
}

package blocklists

import "net/netip"

var (
	nat64   = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixToF  = netip.MustParsePrefix("2002::/16")    // RFC 3056
	teredo  = netip.MustParsePrefix("2001::/32")    // RFC 4380
	v4compt = netip.MustParsePrefix("::/96")        // RFC 4291, section 2.5.5.1, deprecated
	isatap  = [4]byte{0x00, 0x00, 0x5e, 0xfe}       // RFC 5214, section 6.1
)

// EmbeddedIPv4 returns the IPv4 address that traffic to an IPv6 address ends
// at, for the forms that carry one: IPv4-mapped, IPv4-compatible, NAT64, 6to4,
// Teredo and ISATAP. It is invalid for every other address.
func EmbeddedIPv4(a netip.Addr) netip.Addr {
	if !a.Is6() {
		return netip.Addr{}
	}
	if a.Is4In6() {
		return a.Unmap()
	}
	a = a.WithZone("")
	b := a.As16()
	last := netip.AddrFrom4([4]byte(b[12:16]))
	switch {
	case nat64.Contains(a):
		return last
	case sixToF.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6]))
	case teredo.Contains(a):
		// The client's address, each bit inverted.
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
	case v4compt.Contains(a) && a != netip.IPv6Unspecified() && a != netip.IPv6Loopback():
		return last
	case b[8]&^0x02 == isatap[0] && [3]byte(b[9:12]) == [3]byte(isatap[1:]):
		return last
	}
	return netip.Addr{}
}

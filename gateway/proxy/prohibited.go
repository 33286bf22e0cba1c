package proxy

import "net/netip"

// Prohibited says why the proxy would not connect to the address, whatever the
// bans say; it is empty where it would. allow are the special networks that the
// operator lets it reach.
func Prohibited(a netip.Addr, allow []netip.Prefix) string {
	g := newGuard(allow, nil)
	return g.prohibits(netip.AddrPortFrom(a, 0))
}

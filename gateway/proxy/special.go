package proxy

import (
	"net"
	"net/netip"
	"slices"

	"github.com/weir-gateway/weir/blocklists"
)

// special are the networks that are not the Internet's: a destination there is
// somebody's own machine or nobody's. The rows are those of the IANA
// special-purpose address registries that are not globally reachable, with the
// document that says so, and the multicast space.
var special = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this network"},                         // RFC 791, section 3.2
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},                             // RFC 1918
	{netip.MustParsePrefix("100.64.0.0/10"), "shared"},                           // RFC 6598
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},                           // RFC 1122, section 3.2.1.3
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},                      // RFC 3927; cloud metadata too
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},                          // RFC 1918
	{netip.MustParsePrefix("192.0.0.0/24"), "protocol assignments"},              // RFC 6890, section 2.1
	{netip.MustParsePrefix("192.0.2.0/24"), "documentation"},                     // RFC 5737
	{netip.MustParsePrefix("192.88.99.0/24"), "6to4 relay"},                      // RFC 7526
	{netip.MustParsePrefix("192.168.0.0/16"), "private"},                         // RFC 1918
	{netip.MustParsePrefix("198.18.0.0/15"), "benchmarking"},                     // RFC 2544
	{netip.MustParsePrefix("198.51.100.0/24"), "documentation"},                  // RFC 5737
	{netip.MustParsePrefix("203.0.113.0/24"), "documentation"},                   // RFC 5737
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},                          // RFC 5771
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},                           // RFC 1112, section 4; broadcast, RFC 919
	{netip.MustParsePrefix("::/96"), "unspecified, loopback or IPv4-compatible"}, // RFC 4291, sections 2.5.2, 2.5.3, 2.5.5.1
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4-mapped"},                      // RFC 4291, section 2.5.5.2; unmapped before it comes here
	{netip.MustParsePrefix("::ffff:0:0:0/96"), "IPv4-translated"},                // RFC 2765, section 2.1
	{netip.MustParsePrefix("64:ff9b:1::/48"), "local translation"},               // RFC 8215
	{netip.MustParsePrefix("100::/64"), "discard"},                               // RFC 6666
	{netip.MustParsePrefix("100:0:0:1::/64"), "dummy"},                           // RFC 9780
	{netip.MustParsePrefix("2001::/23"), "protocol assignments"},                 // RFC 2928; Teredo, RFC 4380; ORCHID, RFC 7343
	{netip.MustParsePrefix("2001:db8::/32"), "documentation"},                    // RFC 3849
	{netip.MustParsePrefix("2002::/16"), "6to4"},                                 // RFC 3056; deprecated, RFC 7526
	{netip.MustParsePrefix("3fff::/20"), "documentation"},                        // RFC 9637
	{netip.MustParsePrefix("5f00::/16"), "segment routing"},                      // RFC 9602
	{netip.MustParsePrefix("fc00::/7"), "unique local"},                          // RFC 4193
	{netip.MustParsePrefix("fe80::/10"), "link-local"},                           // RFC 4291, section 2.5.6
	{netip.MustParsePrefix("fec0::/10"), "site-local"},                           // RFC 3879
	{netip.MustParsePrefix("ff00::/8"), "multicast"},                             // RFC 4291, section 2.7
}

var (
	globalUnicast = netip.MustParsePrefix("2000::/3")     // RFC 4291, section 2.4, as IANA assigns it
	nat64         = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: as global as the address in it
)

// specialUse says what kind of special address it is; empty for an ordinary one.
func specialUse(a netip.Addr) string {
	for i := range special {
		if special[i].prefix.Contains(a) {
			return special[i].what
		}
	}
	if a.Is6() && !globalUnicast.Contains(a) && !nat64.Contains(a) {
		return "not assigned"
	}
	return ""
}

// A guard says which addresses may be reached, bans apart. The zero guard lets
// through ordinary addresses only.
type guard struct {
	allow []netip.Prefix
	self  []netip.AddrPort
}

func newGuard(allow []netip.Prefix, self []netip.AddrPort) guard {
	g := guard{self: slices.Clone(self)}
	for _, p := range allow {
		g.allow = append(g.allow, blocklists.CanonicalPrefix(p))
	}
	return g
}

// prohibits says why the destination may not be reached; empty where it may.
// An address is as special as the IPv4 address that traffic to it ends at.
func (g *guard) prohibits(dst netip.AddrPort) string {
	a := dst.Addr().Unmap()
	embedded := blocklists.EmbeddedIPv4(a)
	switch {
	case !a.IsValid() || a.Zone() != "":
		return "invalid"
	case g.isSelf(a, dst.Port()), embedded.IsValid() && g.isSelf(embedded, dst.Port()):
		return "the gateway itself"
	case g.allowed(a):
		return ""
	}
	if what := specialUse(a); what != "" {
		return what
	}
	if embedded.IsValid() && !g.allowed(embedded) {
		return specialUse(embedded)
	}
	return ""
}

func (g *guard) allowed(a netip.Addr) bool {
	return slices.ContainsFunc(g.allow, func(p netip.Prefix) bool { return p.Contains(a) })
}

// isSelf reports whether one of the gateway's listeners is there. A listener
// on the unspecified address is on every address of the machine; and the
// unspecified address as a destination is the machine, too.
func (g *guard) isSelf(a netip.Addr, port uint16) bool {
	for _, s := range g.self {
		l := s.Addr().Unmap()
		if s.Port() == port && (l == a || (l.IsUnspecified() || a.IsUnspecified()) && isLocal(a)) {
			return true
		}
	}
	return false
}

func isLocal(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // not knowing is no reason to let through
	}
	return slices.ContainsFunc(addrs, func(n net.Addr) bool {
		p, ok := n.(*net.IPNet)
		if !ok {
			return false
		}
		local, _ := netip.AddrFromSlice(p.IP)
		return local.Unmap() == a
	})
}

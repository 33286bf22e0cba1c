package proxy

import (
	"net"
	"net/netip"
	"slices"

	"github.com/weir-gateway/weir/blocklists"
)

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
	if what := blocklists.SpecialUse(a); what != "" {
		return what
	}
	if embedded.IsValid() && !g.allowed(embedded) {
		return blocklists.SpecialUse(embedded)
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

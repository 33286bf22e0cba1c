package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// listenAddr returns an address to listen on. Port 0 is any free port.
func (v value) listenAddr() (netip.AddrPort, bool) {
	ap, ok := v.addrPort(-1)
	if ok && ap.Addr().IsMulticast() {
		v.fail("%s is a multicast address; nothing can listen there", ap.Addr())
		return netip.AddrPort{}, false
	}
	return ap, ok
}

// listenOrNone is listenAddr, with the empty text for none.
func (v value) listenOrNone() (netip.AddrPort, bool) {
	if s, ok := v.scalar(); !ok || s == "" {
		return netip.AddrPort{}, ok
	}
	return v.listenAddr()
}

// serverAddr returns the address of a DNS server, port 53 if there is none.
func (v value) serverAddr() (netip.AddrPort, bool) {
	ap, ok := v.addrPort(53)
	return ap, ok && v.reachable(ap.Addr()) && v.portInRange(ap.Port())
}

// reachable reports whether something else can be at the address.
func (v value) reachable(a netip.Addr) bool {
	switch {
	case a.IsUnspecified():
		v.fail("%s is not the address of anything", a)
	case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		v.fail("%s is a multicast or broadcast address, not that of one server", a)
	default:
		return true
	}
	return false
}

func (v value) portInRange(port uint16) bool {
	if port == 0 {
		v.fail("port 0 is the port of nothing")
	}
	return port != 0
}

// addrPort returns an address with a port. Without one it has the port
// missing, and -1 makes that an error.
func (v value) addrPort(missing int) (netip.AddrPort, bool) {
	s, ok := v.text()
	if !ok {
		return netip.AddrPort{}, false
	}
	if a, ok := bareAddr(s); ok {
		if missing < 0 {
			v.fail("%s has no port; write %s", quote(s), quote(withPort(s, a)))
			return netip.AddrPort{}, false
		}
		return netip.AddrPortFrom(a.Unmap(), uint16(missing)), v.zone(a)
	}
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 {
		v.fail("want an address and a port such as 127.0.0.1:5353, got %s", quote(s))
		return netip.AddrPort{}, false
	}
	host, portText := s[:colon], s[colon+1:]
	port, err := parsePort(portText)
	if err != nil {
		v.fail("%s is not a port; want a number from 0 to 65535", quote(portText))
		return netip.AddrPort{}, false
	}
	if host == "" {
		v.fail("there is no address before the port; write %s or %s for all of this machine's", quote("0.0.0.0"+s), quote("[::]"+s))
		return netip.AddrPort{}, false
	}
	ap, err := netip.ParseAddrPort(s)
	if err == nil {
		return netip.AddrPortFrom(ap.Addr().Unmap(), port), v.zone(ap.Addr())
	}
	if _, err := blocklists.CanonicalName(host); err == nil {
		v.fail("%s is not an IP address; names are not resolved here, write the address, such as 127.0.0.1:%d", quote(host), port)
	} else {
		v.fail("want an address and a port such as 127.0.0.1:5353 or [::1]:5353, got %s", quote(s))
	}
	return netip.AddrPort{}, false
}

// withPort returns the address with a port as it was probably meant: ::1:5353
// without brackets is an address, but hardly the one.
func withPort(s string, a netip.Addr) string {
	colon := strings.LastIndexByte(s, ':')
	if colon > 0 && s[0] != '[' {
		port, err := parsePort(s[colon+1:])
		if host, badHost := netip.ParseAddr(s[:colon]); err == nil && badHost == nil {
			return netip.AddrPortFrom(host, port).String()
		}
	}
	return netip.AddrPortFrom(a, 53).String()
}

// bareAddr returns an address without a port, in brackets or not.
func bareAddr(s string) (netip.Addr, bool) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if s, ok = strings.CutSuffix(inner, "]"); !ok {
			return netip.Addr{}, false
		}
	}
	a, err := netip.ParseAddr(s)
	return a, err == nil
}

var zoneForm = regexp.MustCompile(`^[A-Za-z0-9._-]{0,15}$`)

// zone reports whether the address has no zone, or one that it may have: that
// of an interface, for link-local addresses (RFC 4007, section 11).
func (v value) zone(a netip.Addr) bool {
	ok := a.Zone() == "" || a.IsLinkLocalUnicast() && zoneForm.MatchString(a.Zone())
	if !ok {
		v.fail("%s: only a link-local address has a zone, and it is the name of an interface", quote(a.String()))
	}
	return ok
}

// parsePort reads decimal digits without a leading zero.
func parsePort(s string) (uint16, error) {
	if len(s) > 1 && s[0] == '0' {
		return 0, strconv.ErrSyntax
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err
}

// prefix returns a network, or one address as the network that holds only it.
func (v value) prefix() (netip.Prefix, bool) {
	s, ok := v.text()
	if !ok {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(s)
	if !strings.Contains(s, "/") {
		var a netip.Addr
		if a, err = netip.ParseAddr(s); err == nil && a.Zone() == "" {
			p = netip.PrefixFrom(a, a.BitLen())
		}
	}
	switch {
	case err != nil || !p.IsValid():
		v.fail("want an address (10.8.0.7) or a network (10.8.0.0/24), got %s", quote(s))
		return netip.Prefix{}, false
	case p.Addr().Is4In6() && p.Bits() < 96:
		v.fail("%s mixes IPv4 and IPv6; write one or the other", quote(s))
		return netip.Prefix{}, false
	case p.Addr().Is4In6():
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		v.fail("%s has bits set beyond the length of the network; write %s for the network or %s for the address", quote(s), p.Masked(), p.Addr())
		return netip.Prefix{}, false
	}
	return p, true
}

// addr4 and addr6 return an address of one family.
func (v value) addr4() (netip.Addr, bool) { return v.addr(netip.Addr.Is4, "an IPv4 address") }
func (v value) addr6() (netip.Addr, bool) { return v.addr(netip.Addr.Is6, "an IPv6 address") }

func (v value) addr(family func(netip.Addr) bool, want string) (netip.Addr, bool) {
	s, ok := v.text()
	if !ok {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !family(a) || a.Is4In6() || a.Zone() != "" {
		v.fail("want %s, got %s", want, quote(s))
		return netip.Addr{}, false
	}
	return a, true
}

// ports returns a list of ports, each once.
func (v value) ports() ([]uint16, bool) {
	list, ok := listOf(number(1, 65535))(v)
	if !ok {
		return nil, false
	}
	v.unique(len(list), func(i int) any { return list[i] })
	ports := make([]uint16, len(list))
	for i, n := range list {
		ports[i] = uint16(n)
	}
	return ports, true
}

// unique reports the elements of a list that are there twice. Zero values
// stand for elements that are wrong already.
func (v value) unique(n int, at func(i int) any) {
	seen := make(map[any]int, n)
	for i := range n {
		x := at(i)
		if x == 0 || x == "" || x == (netip.Prefix{}) || x == (netip.AddrPort{}) {
			continue
		}
		if j, dup := seen[x]; dup {
			v.element(i).fail("%s is there twice, first as %s", clip(fmt.Sprint(x)), v.element(j).key)
			continue
		}
		seen[x] = i
	}
}

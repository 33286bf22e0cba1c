package config

import (
	"fmt"
	"net/netip"
	"slices"
)

func (v value) proxy(c *Proxy) {
	v.object(fields{
		"listen":         set(&c.Listen, listOf(value.listenAddr)),
		"connect_ports":  set(&c.ConnectPorts, value.ports),
		"http_ports":     set(&c.HTTPPorts, value.ports),
		"allow_networks": set(&c.AllowNetworks, value.networks),
		"sni":            func(v value) { v.sni(&c.SNI) },
	})
}

func (v value) sni(c *SNI) {
	action := word(SNIBlock, SNIAllow, SNIReport)
	v.object(fields{
		"missing":   set(&c.Missing, action),
		"mismatch":  set(&c.Mismatch, action),
		"ech":       set(&c.ECH, action),
		"not_tls":   set(&c.NotTLS, action),
		"malformed": set(&c.Malformed, action),
		"timeout":   set(&c.Timeout, action),
	})
}

// networks returns the networks that the proxy may reach against the rule.
func (v value) networks() ([]netip.Prefix, bool) {
	list, ok := listOf(value.prefix)(v)
	if !ok {
		return nil, false
	}
	v.unique(len(list), func(i int) any { return list[i] })
	for i, p := range list {
		if p.IsValid() && p.Bits() == 0 {
			v.element(i).fail("%s would let the proxy reach everything, this machine included; name the networks", p)
		}
	}
	return list, true
}

// A listener is an address of a plane and where the file gives it.
type listener struct {
	addr     netip.AddrPort
	path     []any
	tcp, udp bool
}

// listeners are all that the file has.
func (c *Config) listeners() (all []listener) {
	add := func(addrs []netip.AddrPort, tcp, udp bool, path ...any) {
		for i, a := range addrs {
			all = append(all, listener{a, append(slices.Clone(path), i), tcp, udp})
		}
	}
	add(c.DNS.Listen, true, true, "dns", "listen")
	for _, e := range c.DNS.encrypted() {
		add(e.addrs, e.tcp, e.udp, e.path...)
	}
	add(c.Proxy.Listen, true, false, "proxy", "listen")
	add(c.Transparent.Listen, true, false, "transparent", "listen")
	add(c.QUIC.Listen, false, true, "quic", "listen")
	add(c.RPZ.Listen, true, true, "rpz", "listen")
	return append(all, listener{c.Admin.Listen, []any{"admin", "listen"}, true, false})
}

// checkListeners reports addresses that two listeners would fight for.
func (d *decoder) checkListeners(c *Config) {
	type place struct {
		port uint16
		udp  bool
	}
	byPort := make(map[place][]listener)
	for _, l := range c.listeners() {
		if !l.addr.IsValid() || l.addr.Port() == 0 {
			continue
		}
		if at := (place{l.addr.Port(), false}); l.tcp {
			byPort[at] = append(byPort[at], l)
		}
		if at := (place{l.addr.Port(), true}); l.udp {
			byPort[at] = append(byPort[at], l)
		}
	}
	for at, ls := range byPort {
		d.checkPort(ls, at.udp)
	}
}

// checkPort compares the listeners of one port. Each is reported once: for UDP,
// only what TCP has not.
func (d *decoder) checkPort(ls []listener, udp bool) {
	taken := make(map[netip.Addr]listener, len(ls))
	any4, any6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	for _, l := range ls {
		a := l.addr.Addr()
		all := any6
		if a.Is4() {
			all = any4
		}
		other, clash := taken[a]
		if !clash {
			other, clash = taken[all]
		}
		if !clash && a == all {
			other, clash = sameFamily(ls, taken, a)
		}
		if clash {
			if !udp || !l.tcp || !other.tcp {
				d.clash(l, other)
			}
			continue
		}
		taken[a] = l
	}
}

// sameFamily returns a listener that is taken and of the same family as a.
func sameFamily(ls []listener, taken map[netip.Addr]listener, a netip.Addr) (listener, bool) {
	for _, l := range ls {
		if t, ok := taken[l.addr.Addr()]; ok && t.addr.Addr().Is4() == a.Is4() {
			return t, true
		}
	}
	return listener{}, false
}

// clash reports the later of two listeners, or the one that the file gives
// where the other is the default's.
func (d *decoder) clash(l, other listener) {
	v, given := d.at(l.path...)
	if !given {
		l, other = other, l
		v, _ = d.at(l.path...)
	}
	if l.addr == other.addr {
		v.fail("%s is the address of %s already", l.addr, keyPath(other.path))
		return
	}
	v.fail("%s and %s (%s) take each other's connections", l.addr, other.addr, keyPath(other.path))
}

// keyPath returns the path as errors show it.
func keyPath(path []any) string {
	s := ""
	for _, step := range path {
		switch step := step.(type) {
		case string:
			if s != "" {
				s += "."
			}
			s += step
		case int:
			s += fmt.Sprintf("[%d]", step)
		}
	}
	return s
}

package config

import (
	"fmt"
	"net/netip"
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
	addr netip.AddrPort
	path []any
}

// checkListeners reports addresses that two listeners would fight for. All
// planes use TCP, so one list holds them all.
func (d *decoder) checkListeners(c *Config) {
	var all []listener
	for i, a := range c.DNS.Listen {
		all = append(all, listener{a, []any{"dns", "listen", i}})
	}
	for i, a := range c.Proxy.Listen {
		all = append(all, listener{a, []any{"proxy", "listen", i}})
	}
	for i, a := range c.Transparent.Listen {
		all = append(all, listener{a, []any{"transparent", "listen", i}})
	}
	for i, a := range c.RPZ.Listen {
		all = append(all, listener{a, []any{"rpz", "listen", i}})
	}
	all = append(all, listener{c.Admin.Listen, []any{"admin", "listen"}})
	byPort := make(map[uint16][]listener)
	for _, l := range all {
		if l.addr.IsValid() && l.addr.Port() != 0 {
			byPort[l.addr.Port()] = append(byPort[l.addr.Port()], l)
		}
	}
	for _, ls := range byPort {
		d.checkPort(ls)
	}
}

// checkPort compares the listeners of one port. Each is reported once.
func (d *decoder) checkPort(ls []listener) {
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
			d.clash(l, other)
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

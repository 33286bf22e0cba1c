package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"
)

// A Divert is how TCP reaches the transparent listener.
type Divert string

const (
	DivertRedirect Divert = "redirect" // by changing its destination
	DivertTProxy   Divert = "tproxy"   // as it is, by a route of its own
)

// VPN configures the packet filter for the devices behind one interface.
type VPN struct {
	Interface  string // empty: no packet filter
	Divert     Divert
	Management []netip.Prefix // whose traffic to this machine is never touched
	Internal   []netip.Prefix // that devices reach on all ports without a look into it
	TCP        VPNTCP
	UDP        VPNUDP
	Peers      string // block or allow: traffic between devices
	WireGuard  bool   // read who is who from the interface's peers
}

// VPNTCP says which TCP ports are looked into and which are not; all others are
// refused. A port of Direct is never looked into.
type VPNTCP struct {
	Inspect, Direct Ports
}

// VPNUDP says which UDP ports devices reach beside DNS and QUIC.
type VPNUDP struct {
	Direct Ports
}

// Ports are some ports, or all: then it holds port 0 alone.
type Ports []uint16

// All reports whether they are all ports.
func (p Ports) All() bool { return len(p) == 1 && p[0] == 0 }

func (v value) vpn(c *VPN) {
	v.object(fields{
		"interface":  set(&c.Interface, value.interfaceName),
		"divert":     set(&c.Divert, word(DivertRedirect, DivertTProxy)),
		"management": set(&c.Management, wholeNetworks("would take the packet filter off for everything; name the networks")),
		"internal":   set(&c.Internal, wholeNetworks("would let devices go anywhere unseen; name the networks")),
		"tcp": func(v value) {
			v.object(fields{"inspect": set(&c.TCP.Inspect, value.somePorts), "direct": set(&c.TCP.Direct, value.somePorts)})
		},
		"udp":       func(v value) { v.object(fields{"direct": set(&c.UDP.Direct, value.somePorts)}) },
		"peers":     set(&c.Peers, word("block", "allow")),
		"wireguard": set(&c.WireGuard, value.boolean),
	})
}

// interfaceForm is narrower than what the kernel takes, and holds no character
// that is one of a pattern or needs quoting.
var interfaceForm = identifier(regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`),
	"the name of one network interface, such as wg0: letters, digits, dots, hyphens and underscores, 15 at the most")

// interfaceName returns the name of an interface, or the empty text for none.
func (v value) interfaceName() (string, bool) {
	if s, ok := v.scalar(); !ok || s == "" {
		return "", ok
	}
	s, ok := interfaceForm(v)
	if ok && s == "lo" {
		v.fail("lo is this machine's own interface; name the one that devices come through, such as wg0")
		return "", false
	}
	return s, ok
}

// wholeNetworks returns the decoder of a list of networks, none of which may be
// everything.
func wholeNetworks(why string) func(value) ([]netip.Prefix, bool) {
	return func(v value) ([]netip.Prefix, bool) {
		list, ok := listOf(value.prefix)(v)
		if !ok {
			return nil, false
		}
		v.unique(len(list), func(i int) any { return list[i] })
		for i, p := range list {
			if p.IsValid() && p.Bits() == 0 {
				v.element(i).fail("%s %s", p, why)
			}
		}
		return list, true
	}
}

// somePorts returns a list of ports, or all.
func (v value) somePorts() (Ports, bool) {
	if v.n.Kind == yaml.ScalarNode {
		_, ok := word("all")(v)
		return Ports{0}, ok
	}
	return v.ports()
}

// dnsPorts and quicPorts are those that other keys decide about.
var (
	dnsPorts  = map[uint16]string{53: "DNS, which always comes to dns.listen", 853: "DNS over TLS or QUIC, which is refused", 8853: "DNS over TLS or QUIC, which is refused"}
	quicPorts = map[uint16]string{80: "QUIC's, and quic.mode decides about it", 443: "QUIC's, and quic.mode decides about it", 784: "DNS over QUIC, which is refused"}
)

// checkVPN reports what does not go together with a packet filter.
func (d *decoder) checkVPN(c *Config) {
	d.checkDirect(c.VPN.TCP.Inspect, dnsPorts, "tcp", "inspect")
	d.checkDirect(c.VPN.TCP.Direct, dnsPorts, "tcp", "direct")
	d.checkDirect(c.VPN.UDP.Direct, dnsPorts, "udp", "direct")
	d.checkDirect(c.VPN.UDP.Direct, quicPorts, "udp", "direct")
	if c.VPN.TCP.Inspect.All() && c.VPN.TCP.Direct.All() {
		v, _ := d.at("vpn", "tcp")
		v.fail("inspect and direct are both all; a port is looked into or it is not")
	}
	for i, p := range c.VPN.TCP.Direct {
		if v, _ := d.at("vpn", "tcp", "direct", i); p != 0 && slices.Contains(c.VPN.TCP.Inspect, p) {
			v.fail("port %d is in inspect too; a port is looked into or it is not", p)
		}
	}
	at, given := d.at("vpn", "interface")
	if c.VPN.Interface == "" {
		if v, ok := d.at("vpn", "wireguard"); ok && c.VPN.WireGuard {
			v.fail("there is no interface to read peers from; set vpn.interface")
		}
		return
	}
	if !given {
		return
	}
	if v, ok := d.at("vpn", "management"); !ok {
		v.fail("management is missing; name the networks that administer this machine, or write [] if none comes through %s", c.VPN.Interface)
	}
	d.checkFilterListeners(c, at)
}

func (d *decoder) checkDirect(p Ports, taken map[uint16]string, protocol, key string) {
	for i, n := range p {
		if why, ok := taken[n]; ok {
			v, _ := d.at("vpn", protocol, key, i)
			v.fail("port %d is %s; leave it out", n, why)
		}
	}
}

// checkFilterListeners reports listeners that packets cannot be brought to.
func (d *decoder) checkFilterListeners(c *Config, at value) {
	name := c.VPN.Interface
	if !reaches(c.DNS.Listen) {
		at.fail("no address of dns.listen can be reached through %s; give it one such as 0.0.0.0:5353 or that of %s", name, name)
	}
	switch {
	case len(c.VPN.TCP.Inspect) == 0:
	case len(c.Transparent.Listen) == 0:
		at.fail("TCP from %s has nowhere to go: give transparent.listen an address such as 0.0.0.0:3129, or set vpn.tcp.inspect: []", name)
	case c.VPN.Divert == DivertRedirect && !reaches(c.Transparent.Listen):
		at.fail("no address of transparent.listen can be reached through %s; give it one such as 0.0.0.0:3129, or set vpn.divert: tproxy", name)
	}
	if c.QUIC.Mode == QUICInspect && len(c.QUIC.Listen) == 0 {
		at.fail("QUIC from %s has nowhere to go: give quic.listen an address such as 0.0.0.0:3130, or set quic.mode: refuse", name)
	}
	for _, l := range []struct {
		key  string
		list []netip.AddrPort
	}{{"dns", c.DNS.Listen}, {"proxy", c.Proxy.Listen}, {"transparent", c.Transparent.Listen}, {"quic", c.QUIC.Listen}} {
		for i, a := range l.list {
			if a.IsValid() && a.Port() == 0 {
				v, ok := d.at(l.key, "listen", i)
				if !ok {
					v = at
				}
				v.fail("%s is any free port, and the packet filter of %s must know which; write the port", fmt.Sprint(a), name)
			}
		}
	}
}

// reaches reports whether one of the addresses can be that of an interface. An
// address that is wrong already counts.
func reaches(list []netip.AddrPort) bool {
	return slices.ContainsFunc(list, func(a netip.AddrPort) bool { return !a.Addr().IsLoopback() })
}

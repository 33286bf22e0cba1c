package config

import (
	"net/netip"
	"strings"
)

// A ClientSubnet is what upstreams are told of a client's address (RFC 7871). The
// zero ClientSubnet is nothing.
type ClientSubnet struct {
	Mode    SubnetMode
	Network netip.Prefix // with SubnetFixed
}

// A SubnetMode is where a client subnet is from.
type SubnetMode string

const (
	SubnetStrip SubnetMode = "strip" // there is none
	SubnetPass  SubnetMode = "pass"  // what the client says itself
	SubnetFixed SubnetMode = "fixed" // the same, whoever asks
)

// How much of an address may be told (RFC 7871, section 11.1).
const (
	mostSubnet4 = 24
	mostSubnet6 = 56
)

func (v value) clientSubnet() (c ClientSubnet, ok bool) {
	switch s, ok := v.text(); {
	case !ok:
		return c, false
	case s == string(SubnetStrip), s == string(SubnetPass):
		return ClientSubnet{Mode: SubnetMode(s)}, true
	case !strings.ContainsAny(s, ".:"):
		v.fail("want strip, pass or a network (192.0.2.0/24), got %s", quote(s))
		return c, false
	}
	p, ok := v.prefix()
	if !ok {
		return c, false
	}
	most := mostSubnet6
	if p.Addr().Is4() {
		most = mostSubnet4
	}
	switch a := p.Addr(); {
	case p.Bits() > most:
		v.fail("%s says more of an address than resolvers may be told; want a /%d at the longest", p, most)
	case p.Bits() == 0 || !a.IsGlobalUnicast() || a.IsPrivate():
		v.fail("%s means nothing to others; want a public network, strip or pass", p)
	default:
		return ClientSubnet{SubnetFixed, p}, true
	}
	return c, false
}

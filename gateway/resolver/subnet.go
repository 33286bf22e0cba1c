package resolver

import (
	"net/netip"

	"github.com/miekg/dns"
)

// Subnets says which client subnet upstreams are told (RFC 7871). The zero Subnets
// is none.
type Subnets struct {
	Fixed netip.Prefix // with every question but those of routes; invalid: none
	Pass  bool         // what a client says itself, shortened
}

// How much of an address upstreams are told at the most (RFC 7871, section 11.1).
const (
	mostSubnet4 = 24
	mostSubnet6 = 56
)

// keyOf is keyOf with the client's subnet, where that is passed on.
func (r *Resolver) keyOf(q *dns.Msg) (key, error) {
	k, err := keyOf(q)
	if err == nil && r.subnets.Pass {
		k.subnet = passedSubnet(q)
	}
	return k, err
}

// passedSubnet returns the subnet of a query as it is passed on: none where the
// client says that it wants none told (0 bits), or says one that means nothing to
// others (section 11.3).
func passedSubnet(q *dns.Msg) netip.Prefix {
	o := ClientSubnet(q)
	if o == nil || o.SourceNetmask == 0 {
		return netip.Prefix{}
	}
	a, ok := netip.AddrFromSlice(o.Address)
	a = a.Unmap()
	if !ok || !a.IsGlobalUnicast() || a.IsPrivate() || a.Is4() != (o.Family == 1) {
		return netip.Prefix{}
	}
	most := mostSubnet6
	if a.Is4() {
		most = mostSubnet4
	}
	p, _ := a.Prefix(min(int(o.SourceNetmask), most)) // no more than it has
	return p
}

// ClientSubnet returns the client subnet that a message speaks of, nil for none.
func ClientSubnet(m *dns.Msg) *dns.EDNS0_SUBNET {
	opt := m.IsEdns0()
	if opt == nil {
		return nil
	}
	for _, o := range opt.Option {
		if s, ok := o.(*dns.EDNS0_SUBNET); ok {
			return s
		}
	}
	return nil
}

// subnetOption is the subnet as a query has it.
func subnetOption(p netip.Prefix) *dns.EDNS0_SUBNET {
	o := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: uint8(p.Bits()), Address: p.Addr().AsSlice()}
	if p.Addr().Is6() {
		o.Family = 2
	}
	return o
}

// echoes reports whether a response speaks of the subnet that it was asked for, or
// of none; another one is not ours (section 7.3).
func (k key) echoes(m *dns.Msg) bool {
	o := ClientSubnet(m)
	if o == nil || !k.subnet.IsValid() {
		return true
	}
	a, ok := netip.AddrFromSlice(o.Address)
	return ok && netip.PrefixFrom(a.Unmap(), int(o.SourceNetmask)) == k.subnet
}

// cacheable reports whether what answers one client answers all.
func (k key) cacheable() bool { return !k.subnet.IsValid() }

// Scope is for how many bits of the client's subnet the answer is, as the upstream
// says.
func (a *Answer) Scope() uint8 { return a.scope }

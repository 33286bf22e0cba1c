package resolver

import (
	"fmt"
	"net"
	"strconv"

	"github.com/miekg/dns"
)

// A Special is a kind of names that are answered here by their meaning, because
// nobody beyond this network could know them, and asking says something about it.
type Special string

const (
	SpecialLocalhost Special = "localhost"       // localhost and its addresses (RFC 6761, section 6.3)
	SpecialInvalid   Special = "invalid"         // RFC 6761, section 6.4
	SpecialTest      Special = "test"            // RFC 6761, section 6.2
	SpecialOnion     Special = "onion"           // RFC 7686
	SpecialHome      Special = "home.arpa"       // RFC 8375
	SpecialReverse   Special = "private-reverse" // names of private addresses (RFC 6303, RFC 7793)
)

// A zoneKind is how names under one are answered that have no record.
type zoneKind uint8

const (
	zoneEmpty     zoneKind = iota + 1 // there is nothing
	zoneLocalhost                     // every name is this machine
	zoneLoopback                      // the first address is localhost's
)

const (
	loopback4 = "127.in-addr.arpa."
	loopback6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa."
)

// reverseZones are those of RFC 6303, section 4, but for the loopback's, and of
// RFC 7793.
func reverseZones() []string {
	zones := []string{
		"10.in-addr.arpa.", "168.192.in-addr.arpa.", "0.in-addr.arpa.", "254.169.in-addr.arpa.",
		"2.0.192.in-addr.arpa.", "100.51.198.in-addr.arpa.", "113.0.203.in-addr.arpa.", "255.255.255.255.in-addr.arpa.",
		"0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa.",
		"d.f.ip6.arpa.", "8.e.f.ip6.arpa.", "9.e.f.ip6.arpa.", "a.e.f.ip6.arpa.", "b.e.f.ip6.arpa.", "8.b.d.0.1.0.0.2.ip6.arpa.",
	}
	for n := 16; n < 32; n++ {
		zones = append(zones, strconv.Itoa(n)+".172.in-addr.arpa.")
	}
	for n := 64; n < 128; n++ {
		zones = append(zones, strconv.Itoa(n)+".100.in-addr.arpa.")
	}
	return zones
}

func (l *Local) special(s Special) error {
	switch s {
	case SpecialLocalhost:
		l.zones["localhost."] = zoneLocalhost
		l.zones[loopback4], l.zones[loopback6] = zoneLoopback, zoneLoopback
	case SpecialInvalid, SpecialTest, SpecialOnion, SpecialHome:
		l.zones[string(s)+"."] = zoneEmpty
	case SpecialReverse:
		for _, z := range reverseZones() {
			l.zones[z] = zoneEmpty
		}
	default:
		return fmt.Errorf("unknown kind of special names %q", string(s))
	}
	return nil
}

// inZone answers a question for a name without a record, if it is in a special
// zone; exists is whether others are under it that have some.
func (l *Local) inZone(k key, exists bool) *dns.Msg {
	apex, z := k.name, zoneKind(0)
	for ; apex != ""; apex = parentOf(apex) {
		if z = l.zones[apex]; z != 0 {
			break
		}
	}
	if z == 0 || apex == k.name && k.qtype == dns.TypeDS {
		// Whether a name is signed is for the zone above it to say: a client that
		// validates must see that it is not (RFC 8375, section 4).
		return nil
	}
	m := new(dns.Msg)
	h := func(t uint16) dns.RR_Header {
		return dns.RR_Header{Name: k.name, Rrtype: t, Class: dns.ClassINET, Ttl: localTTL}
	}
	switch {
	case z == zoneLocalhost && k.qtype == dns.TypeA:
		m.Answer = []dns.RR{&dns.A{Hdr: h(dns.TypeA), A: net.IPv4(127, 0, 0, 1)}}
	case z == zoneLocalhost && k.qtype == dns.TypeAAAA:
		m.Answer = []dns.RR{&dns.AAAA{Hdr: h(dns.TypeAAAA), AAAA: net.IPv6loopback}}
	case z == zoneLocalhost:
	case z == zoneLoopback && (k.name == "1.0.0."+loopback4 || k.name == loopback6):
		if k.qtype == dns.TypePTR {
			m.Answer = []dns.RR{&dns.PTR{Hdr: h(dns.TypePTR), Ptr: "localhost."}}
		}
	case apex == k.name && k.qtype == dns.TypeSOA:
		m.Answer = []dns.RR{localSOA(apex)}
	case apex == k.name && k.qtype == dns.TypeNS: // RFC 6303, section 3
		m.Answer = []dns.RR{&dns.NS{Hdr: h(dns.TypeNS), Ns: apex}}
	case apex != k.name && !exists:
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{localSOA(apex)}
	}
	return m
}

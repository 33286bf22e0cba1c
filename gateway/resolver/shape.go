package resolver

import (
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
)

// A Shape is what is taken out of an answer before it is kept, so that the cache
// holds what every client gets. The zero Shape takes out nothing.
type Shape struct {
	// ECH takes the keys of encrypted ClientHellos out of HTTPS and SVCB records: a
	// device without them says in the clear where it goes.
	ECH bool
	// H3 takes HTTP/3 out of their protocols, where QUIC will be refused anyway: a
	// client that is not told of it does not try it first.
	H3 bool
	// Rebinding takes addresses out that are not the Internet's (RFC 1918 and
	// others): a public name must not lead into the networks behind a device.
	Rebinding bool
	// PrivateNames (and all under them) and PrivateNetworks are where that is as it
	// should be. Names are canonical.
	PrivateNames    []string
	PrivateNetworks []netip.Prefix
}

// ownZones have private addresses by their meaning.
var ownZones = []string{
	"home.arpa", // RFC 8375
	"internal",  // reserved by ICANN for private use, 2024
	"local",     // RFC 6762
	"localhost", // RFC 6761, section 6.3
}

// apply changes the message, and reports whether it took addresses out.
//
// A set of records that was changed is not the one that its zone signed. So its
// signatures go, and with them the AD bit (RFC 4035, section 3.2.3: it is about
// all of the answer): a client that validates finds an answer without a proof,
// not one with a wrong one.
func (s *Shape) apply(k key, m *dns.Msg) (filtered bool) {
	var changed []rrset
	private := s.Rebinding && !s.mayBePrivate(k.name)
	kept := m.Answer[:0]
	for _, rr := range m.Answer {
		keep, touched, addr := true, false, false
		switch rr := rr.(type) {
		case *dns.A:
			addr = private && s.isPrivate(rr.A)
			keep = !addr
		case *dns.AAAA:
			addr = private && s.isPrivate(rr.AAAA)
			keep = !addr
		case *dns.HTTPS:
			keep, touched, addr = s.service(&rr.SVCB, private)
		case *dns.SVCB:
			keep, touched, addr = s.service(rr, private)
		}
		if touched || !keep {
			changed = append(changed, setOf(rr.Header().Name, rr.Header().Rrtype))
		}
		if keep {
			kept = append(kept, rr)
		}
		filtered = filtered || addr
	}
	m.Answer = kept
	if len(changed) > 0 {
		m.AuthenticatedData = false
		m.Answer = slices.DeleteFunc(m.Answer, func(rr dns.RR) bool {
			sig, ok := rr.(*dns.RRSIG)
			return ok && slices.Contains(changed, setOf(sig.Hdr.Name, sig.TypeCovered))
		})
	}
	return filtered
}

// An rrset is an owner and a type.
type rrset struct {
	owner string
	typ   uint16
}

func setOf(owner string, typ uint16) rrset { return rrset{dns.CanonicalName(owner), typ} }

// service takes out of an HTTPS or SVCB record what must go. The record itself
// goes where nothing would be left to connect with.
func (s *Shape) service(rr *dns.SVCB, private bool) (keep, touched, filtered bool) {
	drop := func(key dns.SVCBKey) {
		rr.Value = slices.DeleteFunc(rr.Value, func(v dns.SVCBKeyValue) bool { return v.Key() == key })
		touched = true
	}
	var gone []dns.SVCBKey
	for _, v := range slices.Clone(rr.Value) {
		switch v := v.(type) {
		case *dns.SVCBECHConfig:
			if s.ECH {
				drop(dns.SVCB_ECHCONFIG)
				gone = append(gone, dns.SVCB_ECHCONFIG)
			}
		case *dns.SVCBAlpn:
			others := slices.DeleteFunc(slices.Clone(v.Alpn), isHTTP3)
			switch {
			case !s.H3 || len(others) == len(v.Alpn):
			case len(others) > 0:
				v.Alpn, touched = others, true
			case has(rr, dns.SVCB_NO_DEFAULT_ALPN): // RFC 9460, section 7.1.2: nothing else is spoken there
				return false, true, filtered
			default: // the default protocol is left
				drop(dns.SVCB_ALPN)
				gone = append(gone, dns.SVCB_ALPN)
			}
		case *dns.SVCBIPv4Hint:
			if private && slices.ContainsFunc(v.Hint, s.isPrivate) {
				drop(dns.SVCB_IPV4HINT)
				gone, filtered = append(gone, dns.SVCB_IPV4HINT), true
			}
		case *dns.SVCBIPv6Hint:
			if private && slices.ContainsFunc(v.Hint, s.isPrivate) {
				drop(dns.SVCB_IPV6HINT)
				gone, filtered = append(gone, dns.SVCB_IPV6HINT), true
			}
		}
	}
	if len(gone) > 0 {
		unrequire(rr, gone)
	}
	return true, touched, filtered
}

// isHTTP3 reports whether the protocol is HTTP/3 or a draft of it.
func isHTTP3(alpn string) bool { return alpn == "h3" || strings.HasPrefix(alpn, "h3-") }

func has(rr *dns.SVCB, key dns.SVCBKey) bool {
	return slices.ContainsFunc(rr.Value, func(v dns.SVCBKeyValue) bool { return v.Key() == key })
}

// unrequire takes keys that are gone out of those that a client must understand:
// a record that names one it does not have is malformed (RFC 9460, section 8).
func unrequire(rr *dns.SVCB, gone []dns.SVCBKey) {
	rr.Value = slices.DeleteFunc(rr.Value, func(v dns.SVCBKeyValue) bool {
		m, ok := v.(*dns.SVCBMandatory)
		if !ok {
			return false
		}
		m.Code = slices.DeleteFunc(m.Code, func(k dns.SVCBKey) bool { return slices.Contains(gone, k) })
		return len(m.Code) == 0
	})
}

func (s *Shape) mayBePrivate(name string) bool {
	name = strings.TrimSuffix(name, ".")
	under := func(zone string) bool {
		rest, ok := strings.CutSuffix(name, zone)
		return ok && (rest == "" || strings.HasSuffix(rest, "."))
	}
	return slices.ContainsFunc(ownZones, under) || slices.ContainsFunc(s.PrivateNames, under)
}

var sharedSpace = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598

// isPrivate reports whether an address lies in a network behind a device, in
// whatever disguise.
func (s *Shape) isPrivate(ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return false
	}
	a = a.Unmap()
	if slices.ContainsFunc(s.PrivateNetworks, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return false
	}
	if v4 := blocklists.EmbeddedIPv4(a); v4.IsValid() && s.isPrivate(v4.AsSlice()) {
		return true
	}
	return a.IsPrivate() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() || sharedSpace.Contains(a)
}

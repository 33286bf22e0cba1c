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
	"home.arpa",        // RFC 8375
	"internal",         // reserved by ICANN for private use, 2024
	"local",            // RFC 6762
	"localhost",        // RFC 6761, section 6.3
	"ipv4only.arpa",    // RFC 7050: 192.0.0.170 and 192.0.0.171, by which a network's NAT64 is found
	"dns.msftncsi.com", // Windows takes a network that does not say fd3e:4f5a:5b81::1 for one without the Internet
}

// negativeTTL bounds for how long it is kept that nothing was left, in seconds.
const negativeTTL = 300

// apply changes the message, and reports whether it took addresses out.
//
// A set of records that was changed is not the one that its zone signed. So its
// signatures go, and with them the AD bit (RFC 4035, section 3.2.3: it is about
// all of the answer): a client that validates finds an answer without a proof,
// not one with a wrong one. A set that is gone leaves an SOA, so that the client
// need not ask again at once (RFC 2308, section 5); one that answers something
// else than the question is dropped with what does.
func (s *Shape) apply(k key, m *dns.Msg) (filtered bool) {
	var changed, removed []dns.RR
	private := s.Rebinding && !s.mayBePrivate(k.name)
	m.Answer = slices.DeleteFunc(m.Answer, func(rr dns.RR) bool {
		keep, touched, addr := s.record(rr, private)
		if touched || !keep {
			changed = append(changed, rr)
		}
		if !keep {
			removed = append(removed, rr)
		}
		filtered = filtered || addr
		return !keep
	})
	if len(changed) == 0 {
		return false
	}
	m.AuthenticatedData = false
	m.Answer = slices.DeleteFunc(m.Answer, func(rr dns.RR) bool {
		sig, ok := rr.(*dns.RRSIG)
		return ok && slices.ContainsFunc(changed, func(c dns.RR) bool {
			return setOf(c) == rrset{dns.CanonicalName(sig.Hdr.Name), sig.TypeCovered}
		})
	})
	for _, rr := range removed {
		if !slices.ContainsFunc(m.Answer, func(left dns.RR) bool { return setOf(left) == setOf(rr) }) {
			m.Ns = append(m.Ns, soaOf(rr))
		}
	}
	return filtered
}

// record takes out of one record what must go.
func (s *Shape) record(rr dns.RR, private bool) (keep, touched, filtered bool) {
	switch rr := rr.(type) {
	case *dns.A:
		filtered = private && s.isPrivate(rr.A)
	case *dns.AAAA:
		filtered = private && s.isPrivate(rr.AAAA)
	case *dns.HTTPS:
		return s.service(&rr.SVCB, private)
	case *dns.SVCB:
		return s.service(rr, private)
	}
	return !filtered, false, filtered
}

// soaOf says that there is nothing where the record was, for as long as it would
// have been there. Its names never exist (RFC 6761, section 6.4).
func soaOf(rr dns.RR) dns.RR {
	h := *rr.Header()
	ttl := min(cleanTTL(h.Ttl), negativeTTL)
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: h.Name, Rrtype: dns.TypeSOA, Class: h.Class, Ttl: ttl},
		Ns:  "weir.invalid.", Mbox: "nobody.invalid.", Serial: 1,
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: ttl,
	}
}

// An rrset is an owner and a type.
type rrset struct {
	owner string
	typ   uint16
}

func setOf(rr dns.RR) rrset { return rrset{dns.CanonicalName(rr.Header().Name), rr.Header().Rrtype} }

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

// isPrivate reports whether an address lies in a network behind a device, in
// whatever disguise, and not in one that may.
func (s *Shape) isPrivate(ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	if !ok || !blocklists.IsInside(a) {
		return false
	}
	named := func(a netip.Addr) bool {
		return slices.ContainsFunc(s.PrivateNetworks, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return !named(a.Unmap()) && !named(blocklists.EmbeddedIPv4(a))
}

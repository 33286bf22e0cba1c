package resolver

import (
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// A trail follows a response from the question along its aliases and keeps
// only what it passes: an answer's other records were not asked for and may be
// poison.
type trail struct {
	k     key
	rcode int
	rrs   []owned
	names []string // passed, the question's first
	kept  []dns.RR
	found bool // records of the asked type were kept
}

// An owned record is one with its owner's canonical name.
type owned struct {
	owner string
	dns.RR
}

func newTrail(k key, m *dns.Msg) *trail {
	t := &trail{k: k, rcode: m.Rcode, rrs: make([]owned, 0, len(m.Answer))}
	for _, rr := range m.Answer {
		if owner, ok := t.admit(rr); ok {
			t.rrs = append(t.rrs, owned{owner, rr})
		}
	}
	return t
}

// admit normalizes a record of the question's class. It refuses those that a
// dynamic update may have but an answer may not: without data.
func (t *trail) admit(rr dns.RR) (owner string, ok bool) {
	h := rr.Header()
	if h.Class != t.k.qclass || h.Rrtype == dns.TypeOPT {
		return "", false
	}
	switch rr := rr.(type) {
	case *dns.A:
		ok = rr.A.To4() != nil
	case *dns.AAAA:
		ok = len(rr.AAAA) == 16
	case *dns.CNAME:
		ok = rr.Target != ""
	case *dns.DNAME:
		ok = rr.Target != ""
	case *dns.HTTPS:
		ok = rr.Target != ""
	case *dns.SVCB:
		ok = rr.Target != ""
	default:
		ok = true
	}
	if !ok {
		return "", false
	}
	if owner, ok = canonical(h.Name); !ok {
		return "", false
	}
	if owner == t.k.name {
		h.Name = owner // so that Reply finds it
	}
	h.Ttl = cleanTTL(h.Ttl)
	return owner, true
}

// cleanTTL cuts a TTL. One with the top bit set is a very long one (RFC 8767,
// section 4, which changes RFC 2181).
func cleanTTL(ttl uint32) uint32 { return min(ttl, maxTTL) }

// follow keeps what belongs to the question. It is false for aliases that loop
// or do not end.
func (t *trail) follow(name string) bool {
	for range maxChain + 1 {
		if slices.Contains(t.names, name) {
			return false
		}
		t.names = append(t.names, name)
		// In a response without the name, data of the name is a contradiction;
		// the code is about the last name (RFC 6604, section 3).
		if t.rcode == dns.RcodeSuccess {
			n := len(t.kept)
			t.keep(name, t.k.qtype)
			if t.found = len(t.kept) > n; t.found {
				return true
			}
		}
		if name = t.next(name); name == "" {
			return true
		}
	}
	return false
}

// keep keeps the records of a name and type, and on request their signatures.
func (t *trail) keep(name string, qtype uint16) {
	for _, rr := range t.rrs {
		if rr.owner != name {
			continue
		}
		typ := rr.Header().Rrtype
		if typ == qtype || qtype == dns.TypeANY {
			t.kept = append(t.kept, rr.RR)
		} else if sig, ok := rr.RR.(*dns.RRSIG); ok && t.k.do && sig.TypeCovered == qtype {
			t.kept = append(t.kept, rr.RR)
		}
	}
}

// next keeps the alias at the name and returns where it leads, or nothing. A
// DNAME above the name comes before a CNAME at it, which is then only its
// consequence (RFC 6672, sections 2.4 and 3.1).
func (t *trail) next(name string) string {
	for _, rr := range t.rrs {
		d, ok := rr.RR.(*dns.DNAME)
		if !ok || rr.owner == name || !dns.IsSubDomain(rr.owner, name) {
			continue
		}
		t.kept = append(t.kept, d)
		t.keepSig(rr.owner, dns.TypeDNAME)
		target, ok := substitute(name, rr.owner, d.Target)
		if !ok {
			return ""
		}
		t.kept = append(t.kept, &dns.CNAME{
			Hdr:    dns.RR_Header{Name: name, Rrtype: dns.TypeCNAME, Class: t.k.qclass, Ttl: d.Hdr.Ttl},
			Target: target,
		})
		return target
	}
	for _, rr := range t.rrs {
		c, ok := rr.RR.(*dns.CNAME)
		if !ok || rr.owner != name {
			continue
		}
		target, ok := canonical(c.Target)
		if !ok {
			return ""
		}
		t.kept = append(t.kept, c)
		t.keepSig(name, dns.TypeCNAME)
		return target
	}
	return ""
}

func (t *trail) keepSig(name string, covered uint16) {
	for _, rr := range t.rrs {
		if sig, ok := rr.RR.(*dns.RRSIG); ok && t.k.do && rr.owner == name && sig.TypeCovered == covered {
			t.kept = append(t.kept, sig)
		}
	}
}

// substitute returns the name with the owner's labels replaced by the target's.
func substitute(name, owner, target string) (string, bool) {
	target, ok := canonical(target)
	if !ok {
		return "", false
	}
	prefix := name
	if owner != "." {
		prefix = strings.TrimSuffix(name, owner)
	}
	if target == "." {
		return canonical(prefix)
	}
	return canonical(prefix + target)
}

// authority returns what a negative answer is proved and cached by: the SOA of
// a zone that the trail passed, its TTL cut to its MINIMUM (RFC 2308, section
// 5), and on request the denial records that such a zone signed.
func (t *trail) authority(ns []dns.RR) []dns.RR {
	var kept []dns.RR
	signers := t.signers(ns)
	soa := false
	for _, rr := range ns {
		owner, ok := t.admit(rr)
		if !ok {
			continue
		}
		signed := slices.ContainsFunc(signers, func(zone string) bool { return dns.IsSubDomain(zone, owner) })
		switch rr := rr.(type) {
		case *dns.SOA:
			if !t.found && !soa && t.passed(owner) {
				soa = true
				rr.Hdr.Ttl = min(rr.Hdr.Ttl, cleanTTL(rr.Minttl))
				kept = append(kept, rr)
			}
		case *dns.NSEC, *dns.NSEC3:
			if signed {
				kept = append(kept, rr)
			}
		case *dns.RRSIG:
			if signed && (rr.TypeCovered == dns.TypeNSEC || rr.TypeCovered == dns.TypeNSEC3 || rr.TypeCovered == dns.TypeSOA && !t.found) {
				kept = append(kept, rr)
			}
		}
	}
	return kept
}

// signers returns the zones that the trail passed and that signed something,
// or nothing where signatures were not asked for.
func (t *trail) signers(ns []dns.RR) []string {
	var zones []string
	for _, rr := range ns {
		sig, ok := rr.(*dns.RRSIG)
		if !ok || !t.k.do {
			continue
		}
		if zone, ok := canonical(sig.SignerName); ok && t.passed(zone) && !slices.Contains(zones, zone) {
			zones = append(zones, zone)
		}
	}
	return zones
}

// passed reports whether a name of the trail is in the zone.
func (t *trail) passed(zone string) bool {
	return slices.ContainsFunc(t.names, func(name string) bool { return dns.IsSubDomain(zone, name) })
}

// ttl returns for how many seconds the answer holds: as long as every record of
// it. A negative one without SOA is not cached (RFC 2308, section 5).
func (t *trail) ttl(ns []dns.RR) (ttl uint32, keep bool) {
	life, negative := uint32(maxTTL), false
	for _, rr := range t.kept {
		life = min(life, rr.Header().Ttl)
	}
	for _, rr := range ns {
		life = min(life, rr.Header().Ttl)
		negative = negative || rr.Header().Rrtype == dns.TypeSOA
	}
	if !t.found && !negative {
		return 0, false
	}
	return life, true
}

package resolver

import (
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
)

// A Link is something in an answer that leads to another name or to an
// address, and that policy must judge: a ban on it is a ban on the way to it.
//
// Links are the targets of CNAME, DNAME, HTTPS, SVCB and SRV records, the
// address hints of HTTPS and SVCB, and the addresses of A and AAAA. The targets
// of MX, NS, PTR and NAPTR are not: they do not tell a device where to
// connect for the name it asked for, and an innocent domain may have its mail
// or its zone with a banned vendor. Whoever wants to connect to such a target
// asks for its address, and that question is judged.
type Link struct {
	Type string // CNAME, DNAME, HTTPS, SVCB, SRV, "HTTPS ipv4hint", "SVCB ipv6hint", …, A, AAAA
	Name string // canonical (blocklists.CanonicalName); empty for an address
	Addr netip.Addr
}

// String returns the link as audit records have it: "CNAME banned.example".
func (l Link) String() string {
	switch {
	case l.Addr.IsValid():
		return l.Type + " " + l.Addr.String()
	case l.Type == "":
		return ""
	}
	return l.Type + " " + l.Name
}

// Judge puts the links to policy, for a question of that canonical name, or for
// none. It returns the verdict on the first link that may not pass, else on the
// first that may not pass over UDP, else on the first that is to be reported,
// else on the first that an exemption lets through, each with its link, else that
// nothing stands against them, with the zero Link; and when the first of those
// that may pass now may no longer (policy.Verdict.Ends). Without a snapshot
// nothing is decided.
func Judge(s *policy.Snapshot, sub policy.Subject, name string, links []Link, now time.Time) (policy.Verdict, Link, time.Time) {
	if s == nil {
		return policy.Verdict{}, Link{}, time.Time{}
	}
	j := judgement{Inquiry: s.Inquire(sub, name, now)}
	for len(links) > 0 {
		n := 0
		for n < len(links) && links[n].Addr.IsValid() {
			n++
		}
		var more bool
		if n > 0 {
			more = j.addrs(links[:n])
		} else {
			n, more = 1, j.take(links[0], j.Name(links[0].Name))
		}
		if !more {
			break
		}
		links = links[n:]
	}
	if j.v.Action != policy.Undecided || j.stopped {
		return j.v, j.link, j.ends
	}
	return policy.Verdict{Action: policy.Allow, Reason: policy.ReasonNoRule,
		Generation: s.Generation(), Group: s.Group(sub)}, Link{}, time.Time{}
}

// Earlier returns the earlier one of two times, of which zero is never.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// A judgement is what is known of an answer, link after link.
type judgement struct {
	policy.Inquiry
	v       policy.Verdict // the one that counts so far
	link    Link
	ends    time.Time // of the first that may pass now
	stopped bool      // nothing can be worse
}

// addrs judges links to addresses, which are one answer.
func (j *judgement) addrs(links []Link) (more bool) {
	addrs := make([]netip.Addr, len(links))
	for i := range links {
		addrs[i] = links[i].Addr
	}
	more = true
	j.Addrs(addrs, func(i int, v policy.Verdict) bool {
		more = j.take(links[i], v)
		return more
	})
	return more
}

// take takes the verdict on the next link, and reports whether others matter.
func (j *judgement) take(l Link, v policy.Verdict) (more bool) {
	j.ends = Earlier(j.ends, v.Ends())
	free := j.v.Action == policy.Undecided
	switch {
	case !v.Allowed():
		j.v, j.link, j.stopped = v, l, true
	case v.Reason == policy.ReasonTCPOnly && j.v.Reason != policy.ReasonTCPOnly,
		v.Action == policy.Report && (free || j.v.Reason == policy.ReasonExemption),
		v.Reason == policy.ReasonExemption && free:
		j.v, j.link = v, l
	}
	return !j.stopped
}

// JudgeBeside puts the link to policy, without the list of the verdict.
func (l Link) JudgeBeside(s *policy.Snapshot, of *policy.Verdict, sub policy.Subject, now time.Time) policy.Verdict {
	if l.Addr.IsValid() {
		return s.AddrBeside(of, sub, l.Addr, now)
	}
	return s.NameBeside(of, sub, l.Name, now)
}

// linksOf returns the links of the records, in their order.
func linksOf(rrs []dns.RR) []Link {
	var links []Link
	for _, rr := range rrs {
		switch rr := rr.(type) {
		case *dns.A:
			links = appendAddr(links, "A", rr.A)
		case *dns.AAAA:
			links = appendAddr(links, "AAAA", rr.AAAA)
		case *dns.CNAME:
			links = appendName(links, "CNAME", rr.Target)
		case *dns.DNAME:
			links = appendName(links, "DNAME", rr.Target)
		case *dns.SRV:
			links = appendName(links, "SRV", rr.Target)
		case *dns.HTTPS:
			links = appendSVCB(links, "HTTPS", &rr.SVCB)
		case *dns.SVCB:
			links = appendSVCB(links, "SVCB", rr)
		}
	}
	return links
}

// appendSVCB appends the target, in AliasMode and in ServiceMode, and the hints
// (RFC 9460, sections 2.4 and 7.3).
func appendSVCB(links []Link, typ string, rr *dns.SVCB) []Link {
	links = appendName(links, typ, rr.Target)
	for _, kv := range rr.Value {
		switch kv := kv.(type) {
		case *dns.SVCBIPv4Hint:
			for _, ip := range kv.Hint {
				links = appendAddr(links, typ+" ipv4hint", ip)
			}
		case *dns.SVCBIPv6Hint:
			for _, ip := range kv.Hint {
				links = appendAddr(links, typ+" ipv6hint", ip)
			}
		}
	}
	return links
}

// appendName appends a link to a name. The root is none: it means the owner
// itself, or that there is no service (RFC 9460, section 2.5; RFC 2782).
func appendName(links []Link, typ, target string) []Link {
	if name := linkName(target); name != "" {
		links = append(links, Link{Type: typ, Name: name})
	}
	return links
}

func appendAddr(links []Link, typ string, ip net.IP) []Link {
	a, ok := netip.AddrFromSlice(ip)
	if !ok {
		return links
	}
	if typ == "A" || strings.HasSuffix(typ, "ipv4hint") {
		a = a.Unmap() // net.IP keeps IPv4 in either form
	}
	return append(links, Link{Type: typ, Addr: a})
}

// linkName returns the target's canonical name. A byte that host names do not
// have becomes "_": what is under a banned name must not escape by its
// spelling, and no exact rule has such a name.
func linkName(target string) string {
	name := strings.TrimSuffix(dns.CanonicalName(target), ".")
	if name == "" {
		return ""
	}
	if c, err := blocklists.CanonicalName(name); err == nil {
		return c
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '\\':
			b.WriteByte('_')
			if i+3 < len(name) && isDigit(name[i+1]) && isDigit(name[i+2]) && isDigit(name[i+3]) {
				i += 3
			} else {
				i++
			}
		case c == '.' || c == '-' || isDigit(c) || 'a' <= c && c <= 'z':
			b.WriteByte(c)
		default:
			b.WriteByte('_')
		}
	}
	return b.String()
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

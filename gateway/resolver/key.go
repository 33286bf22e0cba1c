package resolver

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// A key is a question as the cache and the upstreams know it: two questions
// with one key have one answer.
type key struct {
	name   string // canonical: lower case, one spelling, with the final dot
	qtype  uint16
	qclass uint16
	do, cd bool
	subnet netip.Prefix // of the client; mostly none, see Subnets
}

// String returns the question for messages to people.
func (k key) String() string { return k.name + " " + dns.Type(k.qtype).String() }

// keyOf returns the key of a query. Transfers, meta types and messages that are
// not one standard question have none.
func keyOf(q *dns.Msg) (key, error) {
	if q == nil || q.Response || q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 {
		return key{}, ErrQuestion
	}
	qu := q.Question[0]
	switch qu.Qtype {
	case dns.TypeNone, dns.TypeOPT, dns.TypeTSIG, dns.TypeTKEY, dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB:
		return key{}, fmt.Errorf("%w: type %s", ErrQuestion, dns.Type(qu.Qtype))
	}
	if qu.Qclass == dns.ClassANY || qu.Qclass == dns.ClassNONE {
		return key{}, fmt.Errorf("%w: class %s", ErrQuestion, dns.Class(qu.Qclass))
	}
	name, ok := canonical(qu.Name)
	if !ok {
		return key{}, fmt.Errorf("%w: name %q", ErrQuestion, qu.Name)
	}
	return key{name: name, qtype: qu.Qtype, qclass: qu.Qclass, do: wantsDNSSEC(q), cd: q.CheckingDisabled}, nil
}

func wantsDNSSEC(q *dns.Msg) bool {
	opt := q.IsEdns0()
	return opt != nil && opt.Do()
}

// maxName is the length of the longest name in a message (RFC 1035, section
// 2.3.4); as text it is one shorter, and dns.IsDomainName does not count so.
const maxName = 255

// canonical returns the one spelling in which names are compared here: lower
// case, with the final dot, escapes only where needed.
func canonical(name string) (string, bool) {
	if name == "" {
		return "", false
	}
	name = dns.Fqdn(name)
	if strings.ContainsFunc(name, func(c rune) bool { return c == '\\' || c >= 0x80 }) {
		var wire [maxName]byte
		n, err := dns.PackDomainName(name, wire[:], 0, nil, false)
		if err != nil {
			return "", false
		}
		if name, _, err = dns.UnpackDomainName(wire[:n], 0); err != nil {
			return "", false
		}
	} else if _, ok := dns.IsDomainName(name); !ok || name != "." && len(name)+1 > maxName {
		return "", false
	}
	return strings.ToLower(name), true
}

// query returns our own message for the question: no record or option of the
// client's message goes upstream. AD asks for the AD bit without DNSSEC records (RFC 6840, section 5.7).
func (k key) query(id uint16, edns bool) *dns.Msg {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: id, RecursionDesired: true, AuthenticatedData: true, CheckingDisabled: k.cd}}
	m.Question = []dns.Question{{Name: k.name, Qtype: k.qtype, Qclass: k.qclass}}
	if edns {
		m.SetEdns0(udpSize, k.do)
		if k.subnet.IsValid() {
			m.IsEdns0().Option = []dns.EDNS0{subnetOption(k.subnet)}
		}
	}
	return m
}

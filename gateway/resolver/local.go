package resolver

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// localTTL is the TTL of what has none of its own, in seconds.
const localTTL = 300

// Local is what is answered here and nobody is asked for: records of the
// operator, the names of their addresses, and names that mean nothing beyond
// this machine or this network (RFC 6761). It is immutable. Policy judges its
// answers as all others; the zero Local has none.
//
// A name with a record is ours for every type. Other names under it are asked
// for as always, but for those that a wildcard stands for (RFC 4592).
type Local struct {
	nodes map[string]sets // by canonical name; nil sets for a name with others under it only
	zones map[string]zoneKind
	id    [sha256.Size]byte // of all that went into it
}

// sets are the records of one name, by type.
type sets map[uint16][]dns.RR

// NewLocal takes the records over, and the special names of those kinds. An
// address gets the first name that has it, unless a PTR record says otherwise.
// An alias must lead to a name that has a record here, because nobody is asked.
func NewLocal(records []dns.RR, special ...Special) (*Local, error) {
	l := &Local{nodes: make(map[string]sets, 2*len(records)), zones: make(map[string]zoneKind)}
	h := sha256.New()
	for _, s := range special {
		if err := l.special(s); err != nil {
			return nil, err
		}
		_, _ = fmt.Fprintln(h, s)
	}
	for _, rr := range records {
		if err := l.add(rr); err != nil {
			return nil, err
		}
		_, _ = fmt.Fprintln(h, rr)
	}
	for _, rr := range records {
		l.reverse(rr)
	}
	h.Sum(l.id[:0])
	return l, l.check(records)
}

// Equal reports whether both have the same answers.
func (l *Local) Equal(o *Local) bool {
	if l == nil || o == nil {
		return l == o
	}
	return l.id == o.id
}

// Names returns how many names there are records for.
func (l *Local) Names() int {
	n := 0
	if l != nil {
		for _, s := range l.nodes {
			if s != nil {
				n++
			}
		}
	}
	return n
}

func (l *Local) add(rr dns.RR) error {
	name, ok := canonical(rr.Header().Name)
	if !ok {
		return fmt.Errorf("local record %s: not a name", rr)
	}
	s := l.nodes[name]
	if s == nil {
		s = make(sets, 1)
		l.nodes[name] = s
	}
	typ := rr.Header().Rrtype
	if !slices.ContainsFunc(s[typ], func(old dns.RR) bool { return dns.IsDuplicate(old, rr) }) {
		s[typ] = append(s[typ], rr)
	}
	if len(s[dns.TypeCNAME]) > 1 || len(s[dns.TypeCNAME]) > 0 && len(s) > 1 {
		return fmt.Errorf("local record %s: an alias is the only record of its name (RFC 1034, section 3.6.2)", rr)
	}
	for parent := parentOf(name); parent != ""; parent = parentOf(parent) {
		if _, there := l.nodes[parent]; there {
			break
		}
		l.nodes[parent] = nil
	}
	return nil
}

// parentOf returns the name without its first label, empty for the root.
func parentOf(name string) string {
	i, end := dns.NextLabel(name, 0)
	if end || i >= len(name) {
		return ""
	}
	return name[i:]
}

// reverse adds the name of an address.
func (l *Local) reverse(rr dns.RR) {
	name, h := "", rr.Header()
	switch rr := rr.(type) {
	case *dns.A:
		name, _ = dns.ReverseAddr(rr.A.String())
	case *dns.AAAA:
		name, _ = dns.ReverseAddr(rr.AAAA.String())
	}
	if name == "" || strings.HasPrefix(h.Name, "*.") || len(l.nodes[name]) > 0 {
		return
	}
	// The name is one of no alias and no other, so that nothing can be wrong.
	_ = l.add(&dns.PTR{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: h.Ttl}, Ptr: dns.Fqdn(strings.ToLower(h.Name))})
}

// check holds aliases to what is here.
func (l *Local) check(records []dns.RR) error {
	for _, rr := range records {
		alias, is := rr.(*dns.CNAME)
		if !is {
			continue
		}
		target, ok := canonical(alias.Target)
		if s, _ := l.find(target); !ok || s == nil {
			return fmt.Errorf("local record %s: there is no local record for %s, and an alias to another name cannot be followed", rr, alias.Target)
		}
		m := l.message(key{name: target, qtype: dns.TypeA, qclass: dns.ClassINET})
		if m == nil || m.Rcode != dns.RcodeSuccess {
			return fmt.Errorf("local record %s: the alias leads in a circle, or too far", rr)
		}
	}
	return nil
}

// find returns the records of a name, its own or those of a wildcard. The name
// exists where exists says so, if only because others are under it.
func (l *Local) find(name string) (s sets, exists bool) {
	s, exists = l.nodes[name]
	if exists {
		return s, true
	}
	for parent := parentOf(name); parent != ""; parent = parentOf(parent) {
		if s := l.nodes["*."+parent]; s != nil {
			return s, true
		}
		if _, closest := l.nodes[parent]; closest {
			return nil, false // RFC 4592, section 2.2.1
		}
	}
	return nil, false
}

// answer returns the local answer to a question, or nil.
func (l *Local) answer(k key, now clock) *Answer {
	if l == nil || k.qclass != dns.ClassINET {
		return nil
	}
	m := l.message(k)
	if m == nil {
		return nil
	}
	return newAnswer(k, m, now)
}

// message is answer as a message, which is the caller's.
func (l *Local) message(k key) *dns.Msg {
	m := new(dns.Msg)
	name := k.name
	for range maxChain {
		s, exists := l.find(name)
		if s == nil {
			if len(m.Answer) > 0 {
				return m // check has ruled that out
			}
			return l.inZone(k, exists)
		}
		set, alias := s[k.qtype], s[dns.TypeCNAME]
		if len(set) > 0 || len(alias) == 0 {
			m.Answer = append(m.Answer, renamed(set, name)...)
			if len(set) == 0 {
				m.Ns = []dns.RR{localSOA(name)}
			}
			return m
		}
		m.Answer = append(m.Answer, renamed(alias, name)...)
		name, _ = canonical(alias[0].(*dns.CNAME).Target)
	}
	return failed()
}

func failed() *dns.Msg { return &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}} }

// renamed returns copies of the records under that name.
func renamed(rrs []dns.RR, name string) []dns.RR {
	out := make([]dns.RR, len(rrs))
	for i, rr := range rrs {
		out[i] = dns.Copy(rr)
		out[i].Header().Name = name
	}
	return out
}

// localSOA lets clients keep that there is nothing (RFC 2308, section 5).
func localSOA(owner string) dns.RR {
	return soaOf(&dns.A{Hdr: dns.RR_Header{Name: owner, Class: dns.ClassINET, Ttl: localTTL}})
}

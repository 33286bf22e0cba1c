package resolver

import (
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"
)

const (
	maxTTL      = 24 * 60 * 60 // seconds; longer ones are cut
	servfailTTL = 5            // seconds; RFC 2308, section 7.1 allows 300
	maxChain    = 16           // aliases in one answer
)

// An Answer is one response, cleaned: what the question asked for, the aliases
// that lead to it, and what proves a negative. It is shared between goroutines
// and never modified.
type Answer struct {
	name   string // canonical
	rcode  int
	ad     bool
	answer []dns.RR
	ns     []dns.RR
	links  []Link
	size   int // as a message
	stored time.Time
	life   time.Duration // in the cache; 0: not cached
	now    clock
}

// Rcode returns the response code. NXDOMAIN and NOERROR are answers; SERVFAIL,
// REFUSED and NOTIMP are what upstreams say when they have none.
func (a *Answer) Rcode() int { return a.rcode }

// Links returns what policy must judge, in the order in which a client would
// follow it. It must not be modified.
func (a *Answer) Links() []Link { return a.links }

// Reply returns a fresh message that answers q. TTLs are what is left of them.
// It has no OPT and is not cut to any size; both are the server's.
func (a *Answer) Reply(q *dns.Msg) *dns.Msg {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{
		Id: q.Id, Response: true, Opcode: q.Opcode, Rcode: a.rcode,
		RecursionDesired: q.RecursionDesired, RecursionAvailable: true,
		CheckingDisabled: q.CheckingDisabled,
		// RFC 6840, section 5.8.
		AuthenticatedData: a.ad && (q.AuthenticatedData || wantsDNSSEC(q)),
	}, Compress: true}
	m.Question = slices.Clone(q.Question)
	name := a.name
	if len(q.Question) == 1 {
		if c, ok := canonical(q.Question[0].Name); ok && c == a.name {
			name = q.Question[0].Name
		}
	}
	age := a.age()
	m.Answer = a.aged(a.answer, age, name)
	m.Ns = a.aged(a.ns, age, name)
	return m
}

// age returns how many seconds the answer is old.
func (a *Answer) age() uint32 {
	d := a.now().Sub(a.stored)
	return uint32(max(0, min(d, 2*maxTTL*time.Second)) / time.Second)
}

// aged returns copies of the records, age seconds later, with the question's
// name as the client spells it.
func (a *Answer) aged(rrs []dns.RR, age uint32, name string) []dns.RR {
	if len(rrs) == 0 {
		return nil
	}
	out := make([]dns.RR, len(rrs))
	for i, rr := range rrs {
		out[i] = dns.Copy(rr)
		h := out[i].Header()
		h.Ttl -= min(h.Ttl, age)
		if h.Name == a.name {
			h.Name = name
		}
	}
	return out
}

// fresh reports whether a cached answer still holds.
func (a *Answer) fresh(now time.Time) bool { return now.Sub(a.stored) < a.life }

// newAnswer cleans a response to the question and takes its records over.
// Records that the question does not lead to are dropped, and so is the
// additional section: nothing a client needs is there, and poison would be.
func newAnswer(k key, m *dns.Msg, now clock) *Answer {
	a := &Answer{name: k.name, rcode: m.Rcode, ad: m.AuthenticatedData, now: now, stored: now()}
	defer a.finish(k)
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeYXDomain:
	case dns.RcodeRefused, dns.RcodeNotImplemented:
		a.ad = false
		return a
	default:
		a.fail()
		return a
	}
	t := newTrail(k, m)
	if !t.follow(k.name) {
		// The zone's fault, not the upstream's; no other one would know better.
		a.fail()
		return a
	}
	a.answer = t.kept
	a.ns = t.authority(m.Ns)
	a.life = time.Duration(t.ttl(a.ns)) * time.Second
	return a
}

// fail makes it an answer that says there is none.
func (a *Answer) fail() {
	a.rcode, a.ad = dns.RcodeServerFailure, false
	a.life = servfailTTL * time.Second
}

func (a *Answer) finish(k key) {
	a.links = linksOf(a.answer)
	m := dns.Msg{Question: []dns.Question{{Name: k.name}}, Answer: a.answer, Ns: a.ns, Compress: true}
	a.size = m.Len()
}

// addrs returns the addresses that the question leads to.
func (a *Answer) addrs() []netip.Addr {
	var addrs []netip.Addr
	for _, l := range a.links {
		if l.Type == "A" || l.Type == "AAAA" {
			addrs = append(addrs, l.Addr)
		}
	}
	return addrs
}

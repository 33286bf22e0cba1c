package resolver

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/wire"
)

const (
	maxTTL      = 24 * 60 * 60 // seconds; longer ones are cut
	servfailTTL = 5            // seconds; RFC 2308, section 7.1 allows 300
	maxChain    = 16           // aliases in one answer
)

// An Answer is one response, cleaned: what the question asked for, the aliases
// that lead to it, and what proves a negative. It is kept as the bytes in which
// clients get it, because records as values take many times the memory and must
// be packed again for each client. It is shared between goroutines; all but its
// atomic notes is never modified.
type Answer struct {
	// What a hit reads stands side by side, here and in memory: see gather.
	stored time.Time
	life   time.Duration // in the cache; 0: not cached
	// standing is what was found out last under which snapshot: four times its ID,
	// and the bits below. One word, so that they never part.
	standing atomic.Uint64
	// touched is the answer's age, in steps of hotTouch, when a Hot last told the
	// cache that it is in use.
	touched atomic.Uint32
	asked   atomic.Uint32 // how often the slow path gave it after life; see prefetch
	name    string        // canonical
	wire    wire.Answer
	ttls    [4]uint16 // those of wire, if they are so few

	links []Link
	notes uint8
	scope uint8  // of the client's subnet
	ttl   uint32 // seconds; life may be over before that, see hotLife
	size  int    // in memory, about
	now   clock
}

// Bits of Answer.standing.
const (
	linksFree = 1 << iota // no list speaks about anything that the answer leads to
	nameFree              // nor about the question's name
)

// Rcode returns the response code. NXDOMAIN and NOERROR are answers; SERVFAIL,
// REFUSED and NOTIMP are what upstreams say when they have none.
func (a *Answer) Rcode() int { return int(a.wire.Rcode) }

// Links returns what policy must judge, in the order in which a client would
// follow it. It must not be modified.
func (a *Answer) Links() []Link { return a.links }

// Wire returns the answer as bytes, for wire.Query.AppendAnswer.
func (a *Answer) Wire() *wire.Answer { return &a.wire }

// Plain reports whether the answer may go out as Wire has it. The codes by
// which upstreams say that they have no answer do not: such a reply says more
// than they do (RFC 8914).
func (a *Answer) Plain() bool {
	return a.notes == 0 && (a.wire.Rcode == wire.Success || a.wire.Rcode == wire.NameError)
}

// Filtered reports whether private addresses were taken out (Shape.Rebinding).
func (a *Answer) Filtered() bool { return a.notes&noteFiltered != 0 }

// Clean reports whether no list of the snapshot speaks about anything that the
// answer leads to, so that it may pass for every subject at every time whose
// question may. That is found out once for each snapshot, whichever goroutine
// comes first; a yes of another snapshot is never taken for one of this.
// Without a snapshot nothing is clean.
func (a *Answer) Clean(s *policy.Snapshot) bool {
	return s != nil && (len(a.links) == 0 || a.stands(s)&linksFree != 0)
}

// Free is Clean, and no list speaks about the question's name either: the
// question and its answer may pass for everybody without being judged.
func (a *Answer) Free(s *policy.Snapshot) bool {
	return s != nil && a.stands(s)&(linksFree|nameFree) == linksFree|nameFree
}

func (a *Answer) stands(s *policy.Snapshot) uint64 {
	id := s.ID() << 2
	v := a.standing.Load()
	if v&^3 == id {
		return v
	}
	v = id
	if !mentioned(s, a.links) {
		v |= linksFree
	}
	if !s.AsksWho() && !s.Mentions(a.name[:len(a.name)-1]) {
		v |= nameFree
	}
	a.standing.Store(v)
	return v
}

// mentioned reports whether a list speaks about one of the links.
func mentioned(s *policy.Snapshot, links []Link) bool {
	return slices.ContainsFunc(links, func(l Link) bool {
		if l.Addr.IsValid() {
			return s.MentionsAddr(l.Addr)
		}
		return s.Mentions(l.Name)
	})
}

// Reply returns a fresh message that answers q. TTLs are what is left of them,
// and names that share labels with the question's have them as the client
// spells them. It has no OPT and is not cut to any size; both are the server's.
func (a *Answer) Reply(q *dns.Msg) *dns.Msg {
	name := a.name
	if len(q.Question) == 1 {
		if c, ok := canonical(q.Question[0].Name); ok && c == a.name {
			name = q.Question[0].Name
		}
	}
	rcode := a.Rcode()
	m := a.message(name)
	if m == nil {
		m, rcode = new(dns.Msg), dns.RcodeServerFailure
	}
	m.MsgHdr = dns.MsgHdr{
		Id: q.Id, Response: true, Opcode: q.Opcode, Rcode: rcode,
		RecursionDesired: q.RecursionDesired, RecursionAvailable: true,
		CheckingDisabled: q.CheckingDisabled,
		// RFC 6840, section 5.8.
		AuthenticatedData: a.wire.AD && (q.AuthenticatedData || wantsDNSSEC(q)),
	}
	m.Compress = true
	m.Question = slices.Clone(q.Question)
	age := a.Age(a.now())
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range rrs {
			h := rr.Header()
			h.Ttl -= min(h.Ttl, age)
		}
	}
	return m
}

// message returns the records behind a question of that name, which must be a
// spelling of the answer's. It is nil if they cannot be read, which newAnswer
// has ruled out.
func (a *Answer) message(name string) *dns.Msg {
	b := make([]byte, headerLen+maxName, headerLen+maxName+4+len(a.wire.Body))
	b[2] = 0x80 // QR
	b[5] = 1
	binary.BigEndian.PutUint16(b[6:], a.wire.Answers)
	binary.BigEndian.PutUint16(b[8:], a.wire.Authorities)
	end, err := dns.PackDomainName(name, b, headerLen, nil, false)
	if err != nil {
		return nil
	}
	b = append(b[:end], 0, 0, 0, 0) // type and class are the caller's
	return unpack(append(b, a.wire.Body...))
}

// unpack reads a message, or returns nil if it is not whole.
func unpack(b []byte) *dns.Msg {
	m := new(dns.Msg)
	if m.Unpack(b) != nil || len(m.Answer) != count(b, 6) || len(m.Ns) != count(b, 8) {
		return nil
	}
	return m
}

// Age returns how many whole seconds the answer is old at that time.
func (a *Answer) Age(now time.Time) uint32 {
	d := now.Sub(a.stored)
	return uint32(max(0, min(d, 2*maxTTL*time.Second)) / time.Second)
}

// fresh reports whether the hot path may give a cached answer.
func (a *Answer) fresh(now time.Time) bool { return now.Sub(a.stored) < a.life }

// A response is what cleaning leaves of an upstream's message.
type response struct {
	rcode      int
	ad         bool
	answer, ns []dns.RR
	life       time.Duration
	keep       bool // it may be cached
	negative   bool
}

// failure is the response that says that there is none.
var failure = response{rcode: dns.RcodeServerFailure, life: servfailTTL * time.Second, keep: true}

// newAnswer cleans a response to the question and takes its records over.
func newAnswer(k key, m *dns.Msg, now clock) *Answer { return newAnswerWithin(TTLs{}, k, m, now) }

func newAnswerWithin(t TTLs, k key, m *dns.Msg, now clock) *Answer {
	a := &Answer{name: k.name, now: now, stored: now()}
	r := clean(k, m)
	if answered(r.rcode) {
		t.apply(&r)
	}
	if !a.pack(k, &r) {
		r = failure
		_ = a.pack(k, &r) // a header and a question
	}
	a.gather(extendedOf(m))
	a.life, a.ttl = r.life, uint32(r.life/time.Second)
	a.links = slices.Clip(linksOf(r.answer))
	a.size = a.bytes()
	return a
}

// clean drops the records that the question does not lead to, and with them the
// additional section: nothing a client needs is there, and poison would be.
func clean(k key, m *dns.Msg) response {
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeYXDomain:
	case dns.RcodeRefused, dns.RcodeNotImplemented:
		return response{rcode: m.Rcode}
	default:
		return failure
	}
	if refers(m) {
		return failure
	}
	t := newTrail(k, m)
	if !t.follow(k.name) {
		// The zone's fault, not the upstream's; no other one would know better.
		return failure
	}
	ns := t.authority(m.Ns)
	even(t.kept)
	even(ns)
	ttl, keep := t.ttl(ns)
	return response{rcode: m.Rcode, ad: m.AuthenticatedData, answer: t.kept, ns: ns,
		life: time.Duration(ttl) * time.Second, keep: keep, negative: !t.found}
}

// pack takes the records over as bytes. It is false for those that cannot be
// written, or that no client could read.
func (a *Answer) pack(k key, r *response) bool {
	m := dns.Msg{
		MsgHdr:   dns.MsgHdr{Response: true, Rcode: r.rcode, AuthenticatedData: r.ad},
		Compress: true,
		Question: []dns.Question{{Name: k.name, Qtype: k.qtype, Qclass: k.qclass}},
		Answer:   r.answer, Ns: r.ns,
	}
	b, err := m.Pack()
	if err != nil {
		return false
	}
	a.wire, err = wire.NewAnswer(b)
	return err == nil && unpack(b) != nil
}

// gather puts the name, the records and an extended error, empty for none, into
// one piece of memory. A server that answers many questions at once finds little
// of its memory in the processor's cache: each piece that a hit reads is a wait.
func (a *Answer) gather(extended []byte) {
	b := make([]byte, 0, len(a.name)+len(a.wire.Body)+len(extended))
	b = append(append(b, a.name...), a.wire.Body...)
	n, end := len(a.name), len(b)
	b = append(b, extended...)
	a.name, a.wire.Body = unsafe.String(&b[0], n), b[n:end:end] // nobody writes to b again
	if len(extended) > 0 {
		a.notes |= noteExtended
		a.wire.Body = b[n:end:len(b)] // Extended finds it behind them
	}
	if len(a.wire.TTLs) <= len(a.ttls) {
		a.wire.TTLs = append(a.ttls[:0], a.wire.TTLs...)
	}
}

// bytes returns what the answer takes in memory, but for what the allocator
// rounds up.
func (a *Answer) bytes() int {
	n := int(unsafe.Sizeof(*a)) + len(a.name) + cap(a.wire.Body) + 2*len(a.wire.TTLs) +
		len(a.links)*int(unsafe.Sizeof(Link{}))
	for i := range a.links {
		n += len(a.links[i].Name)
	}
	return n
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

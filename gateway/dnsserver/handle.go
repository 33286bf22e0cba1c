package dnsserver

import (
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
	"github.com/weir-gateway/weir/gateway/wire"
)

// A transport is how a question came.
type transport uint8

const (
	udp transport = iota
	tcp
	dot  // RFC 7858
	doh  // RFC 8484, over HTTP/1.1 and HTTP/2
	doh3 // the same over HTTP/3
	doq  // RFC 9250
	allTransports
)

var transportNames = [allTransports]string{"udp", "tcp", "dot", "doh", "doh3", "doq"}

func (t transport) encrypted() bool { return t >= dot }

// A question is one well-formed question on its way to its reply. One
// goroutine at a time owns it: the reader, then a worker of the exit, then the
// writer of its connection.
type question struct {
	msg        *dns.Msg // as asked; the resolver may read it at any time, nobody writes to it
	name       string   // canonical, see canonical
	qtype      uint16
	from       policy.Subject
	transport  transport
	limit      int // the longest reply that the client takes
	edns, do   bool
	cookie     string            // for the reply, in hexadecimal digits; empty for none
	pad        bool              // RFC 7830: the question was padded, and so is the reply
	keepalive  bool              // RFC 7828: the client asks how long a connection may idle
	structured bool              // the client reads explanations
	subnet     *dns.EDNS0_SUBNET // the client's, where it is passed on; nil: none
	arrived    time.Time
	// What the resolver said; both are nil before it was asked.
	answer  *resolver.Answer
	err     error
	cached  bool
	rewrite rewrite
	// back is where the question goes when it has been to the exit; nil for one
	// that came over UDP.
	back asker
}

// A core handles questions, whatever they came by.
type core struct {
	policy     *policy.Store
	resolver   Resolver
	audit      audit.Sink
	exit       *exit
	tap        Tap      // nil: none
	limits     *limiter // nil: none
	proxies    proxies
	cookies    *Cookies    // nil: the option means nothing
	structured *Structured // nil: never
	subnets    bool        // client subnets are passed on
	blockTTL   uint32
	timeout    time.Duration
	// endpoints are our encrypted ones, as SVCB records, and name is what we are
	// called; none where nobody shall find them.
	endpoints []dns.RR
	name      string
	idle      [allTransports]time.Duration // how long connections may idle, where clients may know
	hots      chan *hot                    // for connections; their number is how many answer at once
	stats     counters
	latency   latencies
}

var (
	errOverload = errors.New("too many questions wait")
	errNoAnswer = errors.New("the resolver gave neither answer nor error")
)

// A decision is what is done with a question and why.
type decision struct {
	policy.Verdict
	via  string // the link of the answer that decided, empty for the question's name
	kind kind
	now  time.Time
	ends time.Time // when the answer may no longer be used; zero for never
	// local are the records that answer instead; nil but with local data.
	local []dns.RR
	// chain are the aliases of the answer before what a policy zone speaks about;
	// they stay true.
	chain []dns.RR
}

// A kind is how a question is answered. The zero kind is a fault.
type kind uint8

const (
	kindFault     kind = iota // nothing was decided: SERVFAIL
	kindUnready               // no policy yet: SERVFAIL
	kindBlocked               // what the verdict's mode says
	kindAny                   // RFC 8482
	kindRefused               // transfers: not offered
	kindNotImpl               // MAILA and MAILB
	kindSnoop                 // RD=0 without a cached answer
	kindFailed                // upstream failed: SERVFAIL
	kindAnswer                // the answer
	kindRewritten             // the answer to another question, behind an alias
	kindTCPOnly               // truncated: the client comes back over TCP
	kindEndpoints             // our own encrypted endpoints
	kindMiss                  // not yet: the resolver must be asked
)

// reply returns the reply to write now, which is nil for a question that is
// dropped, or says that the resolver must be asked first.
func (c *core) reply(dst []byte, q *question) (reply []byte, miss bool) {
	for {
		snap := c.policy.Load()
		d := c.decide(snap, q)
		if d.Answer.Mode == blocklists.LocalData {
			c.answerLocally(snap, q, &d)
		} else {
			q.rewrite = rewrite{}
		}
		if d.kind == kindMiss {
			return nil, true
		}
		reply := c.build(dst, q, &d)
		if c.policy.Load() != snap {
			// No reply leaves under a policy that is no longer in force.
			c.stats.rejudged.Add(1)
			continue
		}
		c.record(q, &d, reply)
		return reply, false
	}
}

// decide judges the question, and its answer where there is one, under one
// snapshot.
func (c *core) decide(snap *policy.Snapshot, q *question) decision {
	d := decision{now: time.Now()}
	if snap == nil {
		d.kind = kindUnready
		return d
	}
	d.Verdict = snap.Name(q.from, q.name, d.now)
	d.ends = d.Ends()
	if c.asksForUs(q) {
		d.ours()
		return d
	}
	if d.settled(q) {
		return d
	}
	if d.kind = q.local(); d.kind != kindFault {
		return d
	}
	if q.answer == nil && q.err == nil {
		q.answer = c.resolver.Cached(q.msg)
		q.cached = q.answer != nil
	}
	switch {
	case q.answer != nil:
		d.judgeLinks(snap, q)
	case q.err != nil:
		d.kind = kindFailed
	case !q.msg.RecursionDesired:
		// The client forbade asking others, and what is known here has been
		// looked at (RFC 1034, section 4.3.1).
		d.kind = kindSnoop
	default:
		d.kind = kindMiss
	}
	return d
}

// settled reports whether the verdict says how to answer, whatever the answer.
func (d *decision) settled(q *question) bool {
	switch {
	case d.Blocked():
		d.kind = kindBlocked
	case !d.Allowed():
		d.kind = kindFault
	case d.Reason == policy.ReasonTCPOnly && q.transport == udp:
		d.kind = kindTCPOnly
	default:
		return false
	}
	return true
}

// judgeLinks judges every name and address that the answer leads to. An
// operator's allow rule for the question's name does not cover them: whoever
// controls that name could point it anywhere.
func (d *decision) judgeLinks(snap *policy.Snapshot, q *question) {
	d.kind = kindAnswer
	links := q.answer.Links()
	if len(links) == 0 {
		return
	}
	v, link, ends := resolver.Judge(snap, q.from, q.name, links, d.now)
	d.ends = resolver.Earlier(d.ends, ends)
	switch {
	case v.Blocked(), v.Reason == policy.ReasonTCPOnly && q.transport == udp:
		d.Verdict, d.via = v, link.String()
		d.chain = q.chainTo(&d.Verdict, link)
		d.settled(q)
	case !v.Allowed():
		d.Verdict, d.kind = v, kindFault
	case v.Action == policy.Report && d.Action != policy.Report, v.Reason == policy.ReasonExemption && d.Reason < policy.ReasonExemption:
		// It passes, and the link is what the record should speak of.
		d.Verdict, d.via = v, link.String()
	}
}

// local returns how a question is answered that never goes upstream, or
// kindFault.
func (q *question) local() kind {
	switch q.qtype {
	case dns.TypeANY:
		return kindAny
	case dns.TypeAXFR, dns.TypeIXFR:
		return kindRefused
	case dns.TypeMAILA, dns.TypeMAILB:
		return kindNotImpl
	}
	return kindFault
}

// accept turns a message into a question, or into the reply that says why it
// is none. Both are nil for a message that must not be answered.
func (c *core) accept(dst, p []byte, from netip.Addr, tr transport) (q *question, reply []byte) {
	c.stats.received[tr].Add(1)
	return c.look(dst, p, from, tr, time.Now())
}

// look is accept for a message that was counted.
func (c *core) look(dst, p []byte, from netip.Addr, tr transport, arrived time.Time) (q *question, reply []byte) {
	look := wire.Query{Cookies: c.cookies != nil, Subnets: c.subnets}
	switch f, rcode := look.Parse(p); f {
	case wire.Ignore:
		c.stats.drop(ignored(p))
		return nil, nil
	case wire.Reject:
		return nil, c.reject(dst, p, rcode)
	}
	return c.unpack(dst, p, from, tr, arrived)
}

// ignored says why a message is not answered at all.
func ignored(p []byte) drop {
	if len(p) < wire.HeaderLen {
		return dropShort
	}
	return dropResponse
}

// unpack is accept for a message whose header and question were looked at.
func (c *core) unpack(dst, p []byte, from netip.Addr, tr transport, arrived time.Time) (q *question, reply []byte) {
	m, ok := readQuery(p)
	if !ok {
		return nil, c.reject(dst, p, unreadable(p))
	}
	q = &question{msg: m, transport: tr, from: policy.Subject{Addr: from.Unmap().WithZone("")}, arrived: arrived}
	opt, ok := onlyOPT(m)
	if !ok {
		return nil, c.reject(dst, p, dns.RcodeFormatError)
	}
	q.setEDNS(opt)
	q.structured = c.structured.asked(opt)
	if c.subnets {
		q.subnet = resolver.ClientSubnet(m)
	}
	switch rcode := c.bake(q, opt); {
	case rcode == rcodeCookieOnly:
		return nil, c.refuse(dst, q, dns.RcodeSuccess, nil)
	case rcode != dns.RcodeSuccess:
		return nil, c.refuse(dst, q, rcode, nil)
	case len(m.Question) != 1:
		return nil, c.reject(dst, p, unreadable(p))
	}
	q.qtype = m.Question[0].Qtype
	if rcode, ede := q.protocolError(opt); rcode != dns.RcodeSuccess {
		return nil, c.refuse(dst, q, rcode, ede)
	}
	q.name = canonical(m.Question[0].Name)
	return q, nil
}

// refuse answers a message that is not judged.
func (c *core) refuse(dst []byte, q *question, rcode int, e *dns.EDNS0_EDE) []byte {
	c.stats.rejected.Add(1)
	c.stats.rcode(rcode)
	return c.failure(dst, q, rcode, e)
}

// unreadable is the rcode for a message that cannot be read: options of another
// version of EDNS need not look like ours (RFC 6891, section 6.1.3).
func unreadable(p []byte) uint8 {
	if v, ok := wire.Version(p); ok && v != 0 {
		return wire.BadVersion
	}
	return wire.FormatError
}

func (c *core) reject(dst, p []byte, rcode uint8) []byte {
	c.stats.rejected.Add(1)
	c.stats.rcode(int(rcode))
	return wire.AppendReject(dst, p, rcode)
}

// protocolError returns the rcode for a question that is well-formed but not
// one to judge.
func (q *question) protocolError(opt *dns.OPT) (rcode int, ede *dns.EDNS0_EDE) {
	if opt != nil && opt.Version() != 0 {
		return dns.RcodeBadVers, nil // RFC 6891, section 6.1.3
	}
	switch q.qtype {
	case dns.TypeNone, dns.TypeOPT, dns.TypeTSIG, dns.TypeTKEY, dns.TypeNXNAME:
		// Never types of data: RFC 6895, section 3.1; RFC 6891, section 6.1.1;
		// RFC 8945, section 4.2; RFC 2930, section 2; RFC 9824, section 3.5.
		return dns.RcodeFormatError, nil
	}
	if q.msg.Question[0].Qclass != dns.ClassINET {
		// version.bind and its kin tell attackers more than operators.
		return dns.RcodeRefused, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNotSupported}
	}
	return dns.RcodeSuccess, nil
}

// canonical returns the form in which policy knows the name of a question:
// lower case and without the final dot; the root is empty. A name of the wire
// may hold any octet, and miekg/dns escapes the special ones. A dot inside a
// label is written \046 here, so that it is never taken for the end of one.
func canonical(name string) string {
	name = strings.TrimSuffix(name, ".")
	if strings.IndexByte(name, '\\') >= 0 {
		name = escapeDots(name)
	}
	return strings.ToLower(name) // all ASCII: other octets are escaped
}

func escapeDots(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		b.WriteByte(name[i])
		if name[i] != '\\' || i+1 == len(name) {
			continue
		}
		i++
		if name[i] == '.' {
			b.WriteString("046")
			continue
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

// record counts the decision and puts it on the record: once for each
// question, here and nowhere else.
func (c *core) record(q *question, d *decision, reply []byte) {
	if len(reply) > 0 {
		c.stats.rcode(int(reply[3] & 0xF))
	}
	c.stats.actions[d.Action].Add(1)
	f := fateNone
	switch d.kind {
	case kindBlocked:
		f = fateBlocked
		if len(reply) == 0 {
			c.stats.drop(dropMode)
		}
	case kindAny, kindRefused, kindNotImpl, kindSnoop, kindTCPOnly, kindEndpoints:
		c.stats.synthesized.Add(1)
		f = fateSynthesized
	case kindAnswer, kindRewritten:
		if q.cached || q.answer != nil && q.answer.Stale() {
			c.stats.cached.Add(1)
			f = fateCached
		} else {
			c.stats.forwarded.Add(1)
			f = fateForwarded
		}
	case kindFailed:
		if isOverload(q.failed()) {
			c.stats.overloaded.Add(1)
			f = fateOverloaded
		} else {
			c.stats.failed.Add(1)
			f = fateFailed
		}
	}
	c.latency.took(q.transport, f, d.now.Sub(q.arrived))
	r := newRecord(&d.Verdict, q.from.Addr, q.name, q.qtype, q.transport, d.via, reply, d.now)
	if d.kind == kindAnswer && q.answer.Filtered() {
		r.Removed = "private addresses"
	}
	c.audit.Put(r)
	if c.tap != nil {
		c.showQuestion(q, reply, d.now)
	}
}

// newRecord is the one place where decisions of this plane become records.
func newRecord(v *policy.Verdict, from netip.Addr, name string, qtype uint16, tr transport, via string, reply []byte, now time.Time) audit.Record {
	if name == "" {
		name = "."
	}
	result := "DROP"
	if len(reply) > 0 {
		result = rcodeWord(int(reply[3] & 0xF))
	}
	r := audit.Record{
		Time: now, Plane: "dns", Transport: transportNames[tr], Device: from,
		Name: name, Type: dns.Type(qtype).String(), Via: via, Result: result,
	}
	r.SetVerdict(v)
	return r
}

func isOverload(err error) bool {
	return errors.Is(err, errOverload) || errors.Is(err, resolver.ErrBusy)
}

package dnsserver

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/resolver"
	"github.com/weir-gateway/weir/gateway/wire"
)

const (
	maxUDP = wire.MaxUDP
	// maxTitle and maxText bound what EXTRA-TEXT says of a ban, and maxVia what
	// it says of a link, so that a blocked reply fits into 512 octets with all
	// but the longest names (RFC 8914, section 3). Official addresses are long:
	// with less room they would be left out.
	maxTitle, maxText, maxVia = 100, 300, 100
	// anyTTL is the TTL of the answer to ANY.
	anyTTL = 3600
)

// onlyOPT returns the OPT record of a query, nil for none. It is not ok for two
// of them, or for one that is not at the root (RFC 6891, sections 6.1.1 and
// 6.1.2).
func onlyOPT(m *dns.Msg) (opt *dns.OPT, ok bool) {
	for _, rr := range m.Extra {
		o, is := rr.(*dns.OPT)
		if !is {
			continue
		}
		if opt != nil || o.Hdr.Name != "." {
			return nil, false
		}
		opt = o
	}
	return opt, true
}

// setEDNS takes over what the client can take.
func (q *question) setEDNS(opt *dns.OPT) {
	q.limit = dns.MinMsgSize // RFC 1035, section 4.2.1
	if opt != nil {
		q.edns, q.do = true, opt.Do()
		// Sizes below 512 mean 512 (RFC 6891, section 6.2.3).
		q.limit = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDP)
	}
	if q.transport != udp {
		q.limit = dns.MaxMsgSize
	}
	if opt != nil {
		q.setOptions(opt)
	}
}

// build returns the reply that the decision asks for, appended to dst. It is
// empty where the decision is to drop.
func (c *core) build(dst []byte, q *question, d *decision) []byte {
	switch d.kind {
	case kindBlocked:
		return c.blocked(dst, q, d)
	case kindAnswer:
		m := q.answer.Reply(q.msg)
		if m.Rcode > 0xF {
			break // extended codes are about our EDNS with the upstream, not the client's
		}
		var e *dns.EDNS0_EDE
		said, ok := q.answer.Extended()
		if ok && !q.answer.Filtered() && !q.answer.Stale() {
			e = q.saidUpstream(said)
		} else if m.Rcode == dns.RcodeServerFailure {
			e = ede(dns.ExtendedErrorCodeOther, "the upstream resolver has no answer")
		} else if q.answer.Stale() {
			e = staleError(m.Rcode)
		} else if q.answer.Filtered() {
			if e = ede(dns.ExtendedErrorCodeFiltered, "private addresses do not belong to a public name"); q.structured {
				c.structured.explain(e, d)
			}
		}
		d.limitTTL(m)
		return c.pack(dst, q, m, e)
	case kindRewritten:
		if m := q.rewritten(d); m.Rcode <= 0xF {
			d.limitTTL(m)
			return c.pack(dst, q, m, c.banError(q, d))
		}
	case kindTCPOnly:
		m := newReply(q, dns.RcodeSuccess)
		m.Truncated = true
		return c.pack(dst, q, m, c.banError(q, d))
	case kindEndpoints:
		return c.endpointsReply(dst, q)
	case kindAny:
		m := newReply(q, dns.RcodeSuccess)
		m.Answer = []dns.RR{&dns.HINFO{Hdr: q.header(dns.TypeHINFO, anyTTL), Cpu: "RFC8482"}} // section 4.2
		return c.pack(dst, q, m, nil)
	case kindRefused:
		return c.failure(dst, q, dns.RcodeRefused, ede(dns.ExtendedErrorCodeNotSupported, ""))
	case kindNotImpl:
		return c.failure(dst, q, dns.RcodeNotImplemented, ede(dns.ExtendedErrorCodeNotSupported, ""))
	case kindSnoop:
		// RFC 8914, section 4.21.
		return c.failure(dst, q, dns.RcodeRefused, ede(dns.ExtendedErrorCodeNotAuthoritative, ""))
	case kindUnready:
		return c.failure(dst, q, dns.RcodeServerFailure, ede(dns.ExtendedErrorCodeNotReady, ""))
	case kindFailed:
		return c.failure(dst, q, dns.RcodeServerFailure, upstreamError(q.failed()))
	}
	return c.failure(dst, q, dns.RcodeServerFailure, ede(dns.ExtendedErrorCodeOther, ""))
}

// limitTTL keeps the client from using an answer for longer than it may: until
// the exemption that let it through ends, or the ban takes effect.
func (d *decision) limitTTL(m *dns.Msg) {
	if d.ends.IsZero() {
		return
	}
	left := uint32(min(max(d.ends.Sub(d.now)/time.Second, 0), math.MaxInt32))
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range rrs {
			rr.Header().Ttl = min(rr.Header().Ttl, left)
		}
	}
}

// upstreamError is the extended error of a question that the resolver could
// not answer (RFC 8914, sections 4.1, 4.23 and 4.24).
func upstreamError(err error) *dns.EDNS0_EDE {
	switch {
	case isOverload(err):
		return ede(dns.ExtendedErrorCodeOther, "too many questions at once")
	case errors.Is(err, resolver.ErrNoUpstream):
		return ede(dns.ExtendedErrorCodeNoReachableAuthority, "the gateway has no upstream resolver")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return ede(dns.ExtendedErrorCodeNoReachableAuthority, "")
	}
	return ede(dns.ExtendedErrorCodeNetworkError, "")
}

// staleError says that the TTL of the answer is over (RFC 8914, sections 4.4 and
// 4.20).
func staleError(rcode int) *dns.EDNS0_EDE {
	if rcode == dns.RcodeNameError {
		return ede(dns.ExtendedErrorCodeStaleNXDOMAINAnswer, "")
	}
	return ede(dns.ExtendedErrorCodeStaleAnswer, "")
}

// blocked builds the reply to a blocked question, for every type of question.
func (c *core) blocked(dst []byte, q *question, d *decision) []byte {
	m := newReply(q, dns.RcodeSuccess)
	switch d.Answer.Mode {
	case blocklists.Drop:
		// Over TCP the connection stays open too: its other questions are owed
		// their answers, and closing makes clients ask again at once (RFC 7766,
		// section 6.2.4).
		return nil
	case blocklists.Refused:
		m.Rcode = dns.RcodeRefused
		return c.pack(dst, q, m, c.banError(q, d))
	case blocklists.NODATA:
	case blocklists.LocalData:
		if d.local == nil { // an alias that leads nowhere
			m.Rcode = dns.RcodeNameError
		}
		m.Answer = slices.Clone(d.local)
	case blocklists.Null:
		m.Answer = q.address(netip.IPv4Unspecified(), netip.IPv6Unspecified(), c.blockTTL)
	case blocklists.Addresses:
		m.Answer = q.address(d.Answer.IPv4, d.Answer.IPv6, c.blockTTL)
	default: // NXDOMAIN, and a mode that nobody set
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{c.soa(q, d)}
	}
	m.Answer = append(slices.Clip(d.chain), m.Answer...)
	return c.pack(dst, q, m, c.banError(q, d))
}

// address returns the record that answers an address question, or nothing.
func (q *question) address(v4, v6 netip.Addr, ttl uint32) []dns.RR {
	switch {
	case q.qtype == dns.TypeA && v4.Is4():
		return []dns.RR{&dns.A{Hdr: q.header(dns.TypeA, ttl), A: v4.AsSlice()}}
	case q.qtype == dns.TypeAAAA && v6.Is6():
		return []dns.RR{&dns.AAAA{Hdr: q.header(dns.TypeAAAA, ttl), AAAA: v6.AsSlice()}}
	}
	return nil
}

func (q *question) header(t uint16, ttl uint32) dns.RR_Header {
	return dns.RR_Header{Name: q.msg.Question[0].Name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

// soa makes a negative answer one that may be kept, for our time: a resolver
// keeps it for the lesser of the SOA's TTL and MINIMUM (RFC 2308, section 5).
// Its names are those that never exist (RFC 6761, section 6.4), and its serial
// is the generation of the policy.
func (c *core) soa(q *question, d *decision) dns.RR {
	h := q.header(dns.TypeSOA, c.blockTTL)
	if h.Name = zone(h.Name, q.name, d.Rule.Name); len(d.chain) > 0 {
		h.Name = d.owner(q) // a negative answer is about the last name
	}
	return &dns.SOA{
		Hdr: h, Ns: "weir.invalid.", Mbox: "nobody.invalid.", Serial: uint32(d.Generation),
		Refresh: 3600, Retry: 600, Expire: 86400, Minttl: c.blockTTL,
	}
}

// zone returns the owner of the SOA: the name of the rule where the question
// is under it, else the question's name. Resolvers do not accept the SOA of a
// zone that the question is not in. It is spelled as the client did, so that
// it compresses.
func zone(asked, name, rule string) string {
	n := zoneLen(name, rule)
	if n == 0 {
		return asked
	}
	return asked[len(asked)-n-1:]
}

// zoneLen returns the length of the rule's name where the question is under it,
// else 0: a rule may also speak about a name that the question's embeds.
func zoneLen(name, rule string) int {
	at := len(name) - len(rule) - 1
	if rule == "" || at < 0 || name[at] != '.' || name[at+1:] != rule {
		return 0
	}
	return len(rule)
}

// banError is the extended error of a blocked question: the code that the ban
// asks for, and in words which ban, where to read it, and through which link.
// A reference is there whole or not at all: half an address leads nowhere.
func banError(d *decision) *dns.EDNS0_EDE {
	b := d.Ban
	if b == nil {
		return ede(dns.ExtendedErrorCodeBlocked, "")
	}
	if b.EDE == 0 {
		return nil
	}
	return ede(b.EDE, errorText(d, b.Title.EN))
}

// errorText says under that title, or the ban's id if it has none, why a question
// is blocked.
func errorText(d *decision, title string) string {
	b, text := d.Ban, title
	if text == "" {
		text = b.ID
	}
	text = cut(text, maxTitle)
	if ref := " (" + b.Reference + ")"; b.Reference != "" && len(text)+len(ref) <= maxText {
		text += ref
	}
	if p := d.Rule.Policy(); p != "" {
		text += ", policy zone: " + p
	}
	if d.via != "" {
		text = cut(text+" through "+d.via, maxText+maxVia)
	}
	return text
}

// banError is the extended error of a blocked question as this client gets it.
func (c *core) banError(q *question, d *decision) *dns.EDNS0_EDE {
	e := banError(d)
	if e != nil && q.structured {
		c.structured.explain(e, d)
	}
	return e
}

func ede(code uint16, text string) *dns.EDNS0_EDE {
	return &dns.EDNS0_EDE{InfoCode: code, ExtraText: text}
}

// cut shortens a text to that many bytes, to whole characters of valid UTF-8.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	n = max(n-len("…"), 0)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	if n == 0 {
		return ""
	}
	return s[:n] + "…"
}

// newReply returns an empty reply to the question: RD and CD are copied, RA is
// set, AA and AD are not.
func newReply(q *question, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q.msg)
	m.RecursionAvailable = true
	m.Rcode = rcode
	return m
}

// failure returns a reply with an rcode and nothing in it.
func (c *core) failure(dst []byte, q *question, rcode int, e *dns.EDNS0_EDE) []byte {
	return c.pack(dst, q, newReply(q, rcode), e)
}

// pack adds the OPT record where the query had one (RFC 6891, section 6.1.1),
// makes the reply fit and appends it to dst. What cannot be packed, which is a
// fault of the answer, becomes SERVFAIL.
func (c *core) pack(dst []byte, q *question, m *dns.Msg, e *dns.EDNS0_EDE) []byte {
	if q.edns {
		m.Extra = append(m.Extra, c.opt(q, e))
	}
	m.Compress = true
	room := dst[len(dst):cap(dst)]
	p, err := m.PackBuffer(room)
	if err == nil && len(p) > q.limit {
		p, err = c.fit(room, q, m, e, len(p))
	}
	if err != nil || len(p) > q.limit {
		m = newReply(q, dns.RcodeServerFailure)
		if p, err = m.PackBuffer(room); err != nil {
			return nil
		}
	}
	if q.pad {
		p = pad(p, q.limit)
	}
	return append(dst, p...) // onto itself where it was packed into dst's room
}

// opt returns our OPT record: our size, DO copied (RFC 3225, section 3),
// version 0, no option of the client's but the cookie.
func (c *core) opt(q *question, e *dns.EDNS0_EDE) *dns.OPT {
	o := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT, Class: maxUDP}}
	if q.do {
		o.SetDo()
	}
	if q.cookie != "" {
		o.Option = append(o.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: q.cookie})
	}
	if e != nil {
		o.Option = append(o.Option, e)
	}
	if q.subnet != nil { // RFC 7871, section 7.2.1: the client's own, and for how much of it the answer is
		s := *q.subnet
		if s.SourceScope = 0; q.answer != nil {
			s.SourceScope = q.answer.Scope()
		}
		o.Option = append(o.Option, &s)
	}
	if d := c.idle[q.transport]; q.keepalive && d > 0 {
		// RFC 7828, section 3.1: in units of 100 ms.
		o.Option = append(o.Option, &dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE, Timeout: uint16(min(d/(100*time.Millisecond), math.MaxUint16))})
	}
	return o
}

// fit makes a reply of that size fit the client: the words of the extended
// error go first (RFC 8914, section 3), then additional records, which nobody
// asked for (RFC 2181, section 9), then records with TC to say so.
func (c *core) fit(room []byte, q *question, m *dns.Msg, e *dns.EDNS0_EDE, size int) ([]byte, error) {
	for q.structured && e != nil && e.ExtraText != "" {
		shorten(e)
		if p, err := m.PackBuffer(room); err != nil || len(p) <= q.limit {
			return p, err
		}
	}
	if e != nil && e.ExtraText != "" {
		e.ExtraText = cut(e.ExtraText, max(len(e.ExtraText)-(size-q.limit), 0))
		if p, err := m.PackBuffer(room); err != nil || len(p) <= q.limit {
			return p, err
		}
	}
	var opt []dns.RR
	if q.edns {
		opt = m.Extra[len(m.Extra)-1:]
	}
	if len(m.Extra) > len(opt) {
		m.Extra = opt
		if p, err := m.PackBuffer(room); err != nil || len(p) <= q.limit {
			return p, err
		}
	}
	m.Truncate(q.limit)
	m.Compress = true
	c.stats.truncated.Add(1)
	p, err := m.PackBuffer(room)
	if err == nil && len(p) > q.limit {
		m.Answer, m.Ns, m.Truncated = nil, nil, true
		p, err = m.PackBuffer(room)
	}
	return p, err
}

package resolver

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/wire"
)

// A client asks a question in its own way.
type client struct {
	name                     string // as it spells it
	qtype                    uint16
	rd, ad, cd, edns, do, tc bool
	size                     uint16
}

func (c client) query(t testing.TB) []byte {
	t.Helper()
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: 0xBEEF, RecursionDesired: c.rd, AuthenticatedData: c.ad, CheckingDisabled: c.cd, Truncated: c.tc}}
	m.Question = []dns.Question{{Name: c.name, Qtype: c.qtype, Qclass: dns.ClassINET}}
	if c.edns {
		m.SetEdns0(c.size, c.do)
	}
	return pack(t, m)
}

// bothWays answers the client's question from the bytes as they are kept, and
// from the message that Reply makes of them, and compares. It is nil for a
// question that package wire leaves to others.
func bothWays(t testing.TB, a *Answer, c client) *dns.Msg {
	t.Helper()
	raw := c.query(t)
	asked := new(dns.Msg)
	if err := asked.Unpack(raw); err != nil {
		t.Fatal(err)
	}
	slow := a.Reply(asked)
	if c.edns {
		slow.SetEdns0(wire.MaxUDP, c.do)
	}
	var q wire.Query
	if f, _ := q.Parse(raw); f != wire.Simple {
		pack(t, slow)
		return nil
	}
	limit := q.Limit
	q.Limit = dns.MaxMsgSize
	head := []byte("before")
	fast, fits := q.AppendAnswer(head, a.Wire(), a.Age(a.now()))
	if !fits {
		if n := len(pack(t, slow)); n < dns.MaxMsgSize-headerLen-maxName-15 {
			t.Fatalf("the fast path finds %d octets too many", n)
		}
		return nil
	}
	fast = fast[len(head):]
	q.Limit = limit
	if _, fits := q.AppendAnswer(nil, a.Wire(), 0); fits != (len(fast) <= limit) {
		t.Fatalf("%d octets fit %d: %v", len(fast), limit, fits)
	}
	got, want := reread(t, fast), reread(t, pack(t, slow))
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("for %+v\nfast: %s\nslow: %s", c, got, want)
	}
	return got
}

// reread unpacks a message. How long a record's data was on the way depends on
// who compressed it.
func reread(t testing.TB, b []byte) *dns.Msg {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		t.Fatalf("%v: %x", err, b)
	}
	if len(m.Answer) != count(b, 6) || len(m.Ns) != count(b, 8) || len(m.Extra) != count(b, 10) {
		t.Fatalf("message ends early: %x", b)
	}
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			rr.Header().Rdlength = 0
		}
	}
	return m
}

// lines are the records as text, so much older, without case.
func lines(rrs []dns.RR, age uint32) []string {
	var out []string
	for _, rr := range rrs {
		rr = dns.Copy(rr)
		h := rr.Header()
		h.Ttl -= min(h.Ttl, age)
		out = append(out, strings.ToLower(rr.String()))
	}
	return out
}

// A mint makes responses of all shapes that answers have.
type mint struct {
	*rand.Rand
	t     testing.TB
	kinds map[string]int
}

func (d *mint) pick(words ...string) string { return words[d.IntN(len(words))] }
func (d *mint) chance(in int) bool          { return d.IntN(in) == 0 }

// spell is the name with every letter in either case.
func (d *mint) spell(name string) string {
	b := []byte(name)
	for i, c := range b {
		if 'a' <= c && c <= 'z' && d.chance(2) && (i == 0 || b[i-1] != '\\') {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}

func (d *mint) name() string {
	long := strings.Repeat("x", 63) + "." + strings.Repeat("y", 63) + "." + strings.Repeat("z", 63) + "." + strings.Repeat("w", 61) + "."
	return d.pick(".", "a.", "www.example.", "example.", "_dns.resolver.example.", "a.b.c.d.e.f.g.h.example.", "xn--bcher-kva.example.",
		long, `a\.b.example.`, `\000\255.example.`, "192-0-2-1.example.", "cdn.example.", "www.cdn.example.", "www.other.test.")
}

func (d *mint) ttl() uint32 {
	return []uint32{0, 1, 59, 60, 300, 86400, 604800, 1<<31 - 1, 1 << 31, 1<<32 - 1}[d.IntN(10)]
}

// data is a record's type and data.
func (d *mint) data(qtype uint16) string {
	host := d.spell(d.pick("www.example.", "cdn.example.", "a.www.example.", "mail.other.test.", "."))
	switch typ := dns.TypeToString[qtype]; qtype {
	case dns.TypeA:
		return fmt.Sprintf("A 192.0.2.%d", d.IntN(256))
	case dns.TypeAAAA:
		return fmt.Sprintf("AAAA 2001:db8::%x", d.IntN(1<<16))
	case dns.TypeTXT:
		return `TXT "v=` + d.spell("spf") + `" "\009\"quoted\" ` + strings.Repeat("long ", d.IntN(50)) + `"`
	case dns.TypeMX:
		return "MX 10 " + host
	case dns.TypeSRV:
		return "SRV 0 5 443 " + host
	case dns.TypeHTTPS, dns.TypeSVCB:
		return typ + d.pick(" 0 "+host, " 1 . alpn=h2,h3 ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1", " 2 "+host+" port=8443 ech=AEj+DQ==", " 1 . key65280=abc")
	case dns.TypeSOA:
		return "SOA ns." + d.spell("example.") + " Admin.example. 1 2 3 4 300"
	case dns.TypeCAA:
		return `CAA 0 issue "ca.example"`
	case dns.TypeNAPTR:
		return `NAPTR 100 10 "u" "sip+E2U" "!^.*$!sip:info@example.com!" .`
	case dns.TypeDNSKEY:
		return "DNSKEY 257 3 13 mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+KkxLbxILfDLUT0rAK9iUzy1L53eKGQ=="
	case dns.TypeNS, dns.TypePTR, dns.TypeCNAME, dns.TypeDNAME:
		return typ + " " + host
	}
	return fmt.Sprintf(`TYPE%d \# 4 0A0B0C0D`, qtype)
}

var mintTypes = []uint16{dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeMX, dns.TypeSRV, dns.TypeHTTPS, dns.TypeSVCB, dns.TypeSOA, dns.TypeCAA,
	dns.TypeNAPTR, dns.TypeDNSKEY, dns.TypeNS, dns.TypePTR, dns.TypeCNAME, 65280}

func (d *mint) rr(owner, data string) dns.RR {
	return rr(d.t, fmt.Sprintf("%s %d IN %s", d.spell(owner), d.ttl(), data))
}

func (d *mint) sig(owner, covered string) dns.RR {
	return d.rr(owner, "RRSIG "+covered+" 13 2 60 20300101000000 20200101000000 1 "+d.pick("example.", ".", "other.test.")+" c2lnbmF0dXJl")
}

// response makes one to a question of its own.
func (d *mint) response() (key, *dns.Msg) {
	name, _ := canonical(d.name())
	k := key{name: name, qtype: mintTypes[d.IntN(len(mintTypes))], qclass: dns.ClassINET, do: d.chance(2), cd: d.chance(4)}
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, AuthenticatedData: d.chance(2)}, Compress: d.chance(2)}
	m.Question = []dns.Question{{Name: k.name, Qtype: k.qtype, Qclass: k.qclass}}
	at := d.chain(m, k)
	if d.chance(4) {
		d.negative(m)
	} else {
		d.kinds["data"]++
		for range 1 + d.IntN(1+d.IntN(30)) {
			m.Answer = append(m.Answer, d.rr(at, d.data(k.qtype)))
		}
		m.Answer = append(m.Answer, d.sig(at, dns.Type(k.qtype).String()))
	}
	if d.chance(20) {
		d.kinds["code"]++
		m.Rcode = d.IntN(11)
	}
	if d.chance(3) {
		d.Shuffle(len(m.Answer), func(i, j int) { m.Answer[i], m.Answer[j] = m.Answer[j], m.Answer[i] })
	}
	m.Extra = append(m.Extra, d.rr("ns.example.", "A 192.0.2.53"))
	return k, m
}

// chain adds aliases and returns where they end.
func (d *mint) chain(m *dns.Msg, k key) (at string) {
	at = k.name
	if k.qtype == dns.TypeCNAME {
		return at
	}
	for range d.IntN(1+d.IntN(5)) + d.IntN(2)*d.IntN(2) {
		d.kinds["CNAME"]++
		to := fmt.Sprintf("c%d.%s", d.IntN(1000), d.pick("example.", "www.example.", "net.", "cdn.other.test."))
		m.Answer = append(m.Answer, d.rr(at, "CNAME "+d.spell(to)), d.sig(at, "CNAME"))
		at = to
	}
	if d.chance(5) && dns.IsSubDomain("example.", at) && at != "example." {
		d.kinds["DNAME"]++
		m.Answer = append(m.Answer, d.rr("example.", "DNAME "+d.spell("other.test.")), d.sig("example.", "DNAME"))
		at = strings.TrimSuffix(at, "example.") + "other.test."
	}
	return at
}

func (d *mint) negative(m *dns.Msg) {
	d.kinds["negative"]++
	if d.chance(2) {
		m.Rcode = dns.RcodeNameError
	}
	m.Ns = append(m.Ns, d.rr(d.pick("example.", ".", "other.test."), d.data(dns.TypeSOA)), d.sig("example.", "SOA"), d.sig("example.", "NSEC"), d.sig(".", "NSEC3"),
		d.rr("a.example.", "NSEC www.example. A RRSIG NSEC TYPE65280"),
		d.rr("0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.example.", "NSEC3 1 1 12 aabbccdd 2vptu5timamqttgl4luu9kg21e0aor3s A RRSIG"))
}

func (d *mint) client(k key) client {
	c := client{name: k.name, qtype: k.qtype, rd: !d.chance(4), ad: d.chance(2), cd: k.cd, edns: d.chance(2) || k.do, do: k.do, size: uint16(d.IntN(5000))}
	if d.chance(2) {
		c.name = d.spell(c.name)
	}
	return c
}

// TestWireEqualsReply: of every response that an upstream may give, both paths
// make the same message for every client, at every age, and it holds the
// records that cleaning left.
func TestWireEqualsReply(t *testing.T) {
	d := &mint{rand.New(rand.NewPCG(11, 12)), t, make(map[string]int)}
	const id = 0x1234
	for range 4000 {
		k, m := d.response()
		m.Id = id
		m, err := parse(pack(t, m), id, k)
		if err != nil {
			t.Fatalf("%v\n%s", err, m)
		}
		left := clean(k, m.Copy())
		clk := newClock()
		a := newAnswer(k, m, clk.now)
		if a.Rcode() != left.rcode {
			t.Fatalf("rcode %d, want %d:\n%s", a.Rcode(), left.rcode, m)
		}
		for _, age := range []uint32{0, 1, uint32(d.IntN(100)), uint32(d.IntN(2 * maxTTL))} {
			clk.move(time.Duration(age) * time.Second)
			got := bothWays(t, a, d.client(k))
			if got == nil {
				d.kinds["not simple"]++
			} else {
				d.kinds["simple"]++
				if !slices.Equal(lines(got.Answer, 0), lines(left.answer, age)) || !slices.Equal(lines(got.Ns, 0), lines(left.ns, age)) {
					t.Fatalf("after %d s\n%s\nwant %q\nand %q", age, got, lines(left.answer, age), lines(left.ns, age))
				}
			}
			clk.move(-time.Duration(age) * time.Second)
		}
	}
	t.Log(d.kinds)
	for _, kind := range []string{"CNAME", "DNAME", "negative", "data", "code", "simple", "not simple"} {
		if d.kinds[kind] < 100 {
			t.Errorf("%s came up %d times only", kind, d.kinds[kind])
		}
	}
}

// TestReplySpelling: labels that a name shares with the question's come back
// as the client spelled them, all others as the upstream did.
func TestReplySpelling(t *testing.T) {
	k := key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}
	a := answerOf(t, newClock(), k, 0, "www.example. 60 IN CNAME Cdn.example.", "Cdn.example. 60 IN CNAME a.Other.test.", "a.Other.test. 60 IN A 192.0.2.1")
	want := []string{"wWw.eXample. 60 IN CNAME Cdn.eXample.", "Cdn.eXample. 60 IN CNAME a.Other.test.", "a.Other.test. 60 IN A 192.0.2.1"}
	wantTexts(t, "reply", a.Reply(question("wWw.eXample", dns.TypeA)).Answer, want...)
	wantTexts(t, "bytes", bothWays(t, a, client{name: "wWw.eXample.", qtype: dns.TypeA}).Answer, want...)
	// A question of another name has the records of the answer's.
	wantTexts(t, "reply to another", a.Reply(question("x.test", dns.TypeA)).Answer[:1], "www.example. 60 IN CNAME Cdn.example.")
}

// TestUnreadable: what cannot be written, or not be read again, is no answer
// on either path.
func TestUnreadable(t *testing.T) {
	mx := func(typ uint16) dns.RR_Header {
		return dns.RR_Header{Name: "www.example.", Rrtype: typ, Class: dns.ClassINET, Ttl: 60}
	}
	for _, rr := range []dns.RR{
		&dns.MX{Hdr: mx(dns.TypeMX), Mx: strings.Repeat("a", 64) + "."},
		&dns.RFC3597{Hdr: mx(dns.TypeMX), Rdata: "00"},
	} {
		m := new(dns.Msg)
		m.Answer = []dns.RR{rr}
		a := newAnswer(key{name: "www.example.", qtype: dns.TypeMX, qclass: dns.ClassINET}, m, newClock().now)
		if a.Rcode() != dns.RcodeServerFailure || a.Plain() || a.life != servfailTTL*time.Second || len(a.Links()) != 0 {
			t.Errorf("%s: rcode %d, plain %v, for %v", rr, a.Rcode(), a.Plain(), a.life)
		}
		if got := a.Reply(question("www.example", dns.TypeMX)); got.Rcode != dns.RcodeServerFailure || len(got.Answer) != 0 {
			t.Errorf("%s: reply\n%s", rr, got)
		}
	}
}

func TestPlain(t *testing.T) {
	k := key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}
	for code := range 24 {
		m := &dns.Msg{MsgHdr: dns.MsgHdr{Rcode: code}}
		a := newAnswer(k, m, newClock().now)
		if want := code == dns.RcodeSuccess || code == dns.RcodeNameError; a.Plain() != want {
			t.Errorf("rcode %d is plain: %v", code, a.Plain())
		}
		if a.Plain() && (int(a.Wire().Rcode) != code || a.Rcode() != code) {
			t.Errorf("rcode %d became %d and %d", code, a.Rcode(), a.Wire().Rcode)
		}
	}
}

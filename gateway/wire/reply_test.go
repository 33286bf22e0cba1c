package wire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// dice make questions and blocks of every shape.
type dice struct{ *rand.Rand }

func (d dice) bit() bool { return d.IntN(2) == 0 }

// label returns a label of that many octets that host names may have.
func (d dice) label(n int) string {
	const host = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
	b := make([]byte, n)
	for i := range b {
		b[i] = host[d.IntN(len(host))]
	}
	return string(b)
}

// name returns a name with the final dot, of up to that many octets in a
// message: of few labels or of as many as there may be, short or full.
func (d dice) name(octets int) string {
	if d.IntN(50) == 0 {
		return "."
	}
	var b strings.Builder
	most := 1 + d.IntN([]int{3, maxLabel}[d.IntN(2)])
	labels := 1 + d.IntN([]int{4, 127}[d.IntN(2)])
	for left := octets - 1; left >= 2 && labels > 0; labels-- {
		n := min(1+d.IntN(most), left-1)
		b.WriteString(d.label(n) + ".")
		left -= n + 1
	}
	return b.String()
}

// question returns a question of the common shape.
func (d dice) question() *dns.Msg {
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeTXT, 65280}
	m := new(dns.Msg)
	m.SetQuestion(d.name(maxName), types[d.IntN(len(types))])
	m.Id = uint16(d.Uint32())
	m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = d.bit(), d.bit(), d.bit()
	m.Zero, m.Truncated, m.Authoritative, m.RecursionAvailable = d.bit(), d.bit(), d.bit(), d.bit() // mean nothing
	m.Rcode = d.IntN(16)                                                                            // means nothing
	if d.bit() {
		m.SetEdns0([]uint16{0, 512, 600, 1232, 4096, 65535}[d.IntN(6)], d.bit())
		if d.bit() {
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
		}
	}
	return m
}

// block returns an answer to a blocked question of that name.
func (d dice) block(name string) (b Block, zone string) {
	b = Block{
		Rcode: []uint8{Success, NameError, Refused, ServerFailure}[d.IntN(4)],
		Addr:  []netip.Addr{{}, netip.IPv4Unspecified(), netip.MustParseAddr("198.51.100.9"), netip.IPv6Unspecified(), netip.MustParseAddr("2001:db8::9")}[d.IntN(5)],
		TTL:   d.Uint32(), Serial: d.Uint32(), EDE: d.ede(),
	}
	// The owner of the SOA is a part of the name that begins with a label.
	starts := dns.Split(name)
	zone = name
	if len(starts) > 0 && d.bit() {
		zone = name[starts[d.IntN(len(starts))]:]
		b.Zone = len(zone) - 1
	}
	return b, zone
}

func (d dice) ede() []byte {
	switch d.IntN(3) {
	case 0:
		return nil
	case 1:
		return []byte{0, byte(d.IntN(30))}
	}
	return append([]byte{0, byte(d.IntN(30))}, d.label(1+d.IntN([]int{100, 1400}[d.IntN(2)]))...)
}

// replyTo is what a DNS library makes of a question: RD and CD are copied, RA
// is set.
func replyTo(m *dns.Msg, rcode uint8) *dns.Msg {
	r := new(dns.Msg)
	r.SetReply(m)
	r.Rcode, r.RecursionAvailable = int(rcode), true
	return r
}

func addOPT(r, m *dns.Msg, ede []byte) *dns.Msg {
	r.Compress = true
	opt := m.IsEdns0()
	if opt == nil {
		return r
	}
	o := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT, Class: MaxUDP}}
	o.SetDo(opt.Do())
	if len(ede) > 0 {
		o.Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: uint16(ede[0])<<8 | uint16(ede[1]), ExtraText: string(ede[2:])}}
	}
	r.Extra = append(r.Extra, o)
	return r
}

// wantBlocked is AppendBlocked by a DNS library.
func wantBlocked(m *dns.Msg, b *Block, zone string) *dns.Msg {
	r := replyTo(m, b.Rcode)
	h := dns.RR_Header{Name: m.Question[0].Name, Rrtype: m.Question[0].Qtype, Class: dns.ClassINET, Ttl: b.TTL}
	switch {
	case b.Rcode == Refused:
	case h.Rrtype == dns.TypeA && b.Addr.Is4():
		r.Answer = []dns.RR{&dns.A{Hdr: h, A: b.Addr.AsSlice()}}
	case h.Rrtype == dns.TypeAAAA && b.Addr.Is6():
		r.Answer = []dns.RR{&dns.AAAA{Hdr: h, AAAA: b.Addr.AsSlice()}}
	default:
		h.Name, h.Rrtype = zone, dns.TypeSOA
		r.Ns = []dns.RR{&dns.SOA{
			Hdr: h, Ns: "weir.invalid.", Mbox: "nobody.invalid.", Serial: b.Serial,
			Refresh: 3600, Retry: 600, Expire: 86400, Minttl: b.TTL,
		}}
	}
	return addOPT(r, m, b.EDE)
}

// limitOf is what the client takes over UDP.
func limitOf(m *dns.Msg) int {
	if opt := m.IsEdns0(); opt != nil {
		return min(max(int(opt.UDPSize()), 512), 1232)
	}
	return 512
}

// packed is the message as bytes, which a DNS library can read back.
func packed(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	p, err := m.Pack()
	if err != nil {
		t.Fatalf("%v: %v", m, err)
	}
	return p
}

// sameMessage compares a reply with what it should be, name by name and octet
// by octet, whatever each of them compresses. It is no longer, either.
func sameMessage(t testing.TB, reply []byte, want *dns.Msg) {
	t.Helper()
	var got dns.Msg
	if err := got.Unpack(reply); err != nil {
		t.Fatalf("reply %x: %v; want %v", reply, err, want)
	}
	most := len(packed(t, apart(want)))
	if want.Question != nil && want.Question[0].Name == "." {
		most++ // a pointer to the root takes one octet more than the root
	}
	if len(reply) > most {
		t.Errorf("reply of %d octets, want at most %d: %v", len(reply), most, &got)
	}
	plain := want.Copy()
	got.Compress, plain.Compress = false, false
	if !bytes.Equal(packed(t, &got), packed(t, plain)) {
		t.Errorf("got %v, want %v", &got, want)
	}
	if len(got.Answer)+len(got.Ns)+len(got.Extra) != len(want.Answer)+len(want.Ns)+len(want.Extra) {
		t.Errorf("got %v, want %v", &got, want)
	}
}

// apart is the message about a name as long that the names in our SOA record
// share nothing with: those are never compressed against the question's.
func apart(m *dns.Msg) *dns.Msg {
	m = m.Copy()
	rename := func(name *string) {
		if rest, ok := strings.CutSuffix(*name, "invalid."); ok {
			*name = rest + "another."
		}
	}
	for i := range m.Question {
		rename(&m.Question[i].Name)
	}
	for _, rr := range append(m.Answer, m.Ns...) {
		rename(&rr.Header().Name)
	}
	return m
}

// before stands in front of every reply: Append appends.
const before = "before"

// appended cuts off what stood before.
func appended(t testing.TB, dst []byte) []byte {
	t.Helper()
	if !bytes.HasPrefix(dst, []byte(before)) {
		t.Fatalf("%.20q... does not begin with what was there", dst)
	}
	return dst[len(before):]
}

func parse(t testing.TB, q *Query, m *dns.Msg) {
	t.Helper()
	if f, _ := q.Parse(packed(t, m)); f != Simple {
		t.Fatalf("fate %d of %v, want Simple", f, m)
	}
	if q.Limit != limitOf(m) {
		t.Fatalf("limit %d, want %d", q.Limit, limitOf(m))
	}
}

func TestAppendBlocked(t *testing.T) {
	var q Query
	var fit, long int
	for seed := range uint64(20_000) {
		d := dice{rand.New(rand.NewPCG(seed, 1))}
		m := d.question()
		parse(t, &q, m)
		b, zone := d.block(m.Question[0].Name)
		dst, fits := q.AppendBlocked([]byte(before), &b)
		reply := appended(t, dst)
		want := wantBlocked(m, &b, zone)
		sameMessage(t, reply, want)
		if fits != (len(reply) <= limitOf(m)) {
			t.Errorf("fits is %v for %d octets, limit %d", fits, len(reply), limitOf(m))
		}
		if fits {
			fit++
		} else {
			long++
		}
		if t.Failed() {
			t.Fatalf("seed %d, %+v, question %v", seed, b, m)
		}
	}
	if fit < 500 || long < 500 {
		t.Errorf("%d fit and %d did not: not both were tried", fit, long)
	}
}

// The extended error is what fills a reply up to the limit, to the octet.
func TestBlockedFitsToTheOctet(t *testing.T) {
	for _, size := range []uint16{512, 700, 1232, 4096} {
		m := new(dns.Msg)
		m.SetQuestion("WeChat.com.", dns.TypeA)
		m.SetEdns0(size, false)
		var q Query
		parse(t, &q, m)
		b := Block{Rcode: NameError, EDE: []byte{0, 15, 'x'}}
		short, _ := q.AppendBlocked(nil, &b)
		room := limitOf(m) - len(short)
		for over := -1; over <= 1; over++ {
			b.EDE = append([]byte{0, 15, 'x'}, strings.Repeat("x", room+over)...)
			reply, fits := q.AppendBlocked(nil, &b)
			if len(reply) != limitOf(m)+over || fits != (over <= 0) {
				t.Errorf("size %d: %d octets, fits %v; limit %d", size, len(reply), fits, limitOf(m))
			}
		}
	}
}

func TestAppendFailure(t *testing.T) {
	var q Query
	var whole, cut int
	for seed := range uint64(5_000) {
		d := dice{rand.New(rand.NewPCG(seed, 2))}
		m := d.question()
		parse(t, &q, m)
		rcode, ede := uint8(d.IntN(16)), d.ede()
		reply := appended(t, q.AppendFailure([]byte(before), rcode, ede))
		want := addOPT(replyTo(m, rcode), m, ede)
		if len(packed(t, want)) > limitOf(m) {
			want = addOPT(replyTo(m, rcode), m, nil)
			cut++
		} else {
			whole++
		}
		sameMessage(t, reply, want)
		if len(reply) > limitOf(m) {
			t.Errorf("%d octets, limit %d", len(reply), limitOf(m))
		}
		if t.Failed() {
			t.Fatalf("seed %d, rcode %d, EDE %q, question %v", seed, rcode, ede, m)
		}
	}
	if whole < 100 || cut < 100 {
		t.Errorf("%d whole and %d without the extended error: not both were tried", whole, cut)
	}
}

func TestAppendHeader(t *testing.T) {
	p := []byte("\xab\xcd\x2f\xff\x00\x01\x00\x02\x00\x03\x00\x04rest")
	want := []byte("before\xab\xcd\xa9\x84\x00\x00\x00\x00\x00\x00\x00\x00") // UPDATE and RD kept; AA, TC and the rest gone
	if got := AppendHeader([]byte(before), p, NotImplemented); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	for opcode := range 16 {
		for _, rd := range []bool{false, true} {
			m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: 0xabcd, Opcode: opcode, RecursionDesired: rd}}
			want := replyTo(m, FormatError)
			want.RecursionDesired = rd
			sameMessage(t, AppendHeader(nil, packed(t, m), FormatError), want)
		}
	}
}

// A reply keeps the client's spelling of the name, which some clients check
// (draft-vixie-dnsext-dns0x20), in the owner of every record too.
func TestReplyKeepsSpelling(t *testing.T) {
	var q Query
	m := new(dns.Msg)
	m.SetQuestion("sHoRt.wEiXiN.qQ.cOm.", dns.TypeTXT)
	parse(t, &q, m)
	reply, _ := q.AppendBlocked(nil, &Block{Rcode: NameError, Zone: len("weixin.qq.com")})
	var got dns.Msg
	if err := got.Unpack(reply); err != nil {
		t.Fatal(err)
	}
	if names := fmt.Sprint(got.Question[0].Name, " ", got.Ns[0].Header().Name); names != "sHoRt.wEiXiN.qQ.cOm. wEiXiN.qQ.cOm." {
		t.Errorf("names %s, want them as the client spelled them", names)
	}
}

// TC and nothing else, in no more octets than were asked with.
func TestAppendTruncated(t *testing.T) {
	for _, size := range []uint16{0, 512, 4096} {
		m := new(dns.Msg)
		m.SetQuestion("sHoRt.example.", dns.TypeTXT)
		m.CheckingDisabled = true
		if size > 0 {
			m.SetEdns0(size, true)
		}
		var q Query
		parse(t, &q, m)
		reply := q.AppendTruncated([]byte("before"))[len("before"):]
		var got dns.Msg
		if err := got.Unpack(reply); err != nil {
			t.Fatal(err)
		}
		opt := got.IsEdns0()
		if !got.Response || !got.Truncated || !got.CheckingDisabled || got.Rcode != 0 || got.Id != m.Id || got.Question[0] != m.Question[0] ||
			len(got.Answer)+len(got.Ns) != 0 || (opt != nil) != (size > 0) || len(reply) > len(packed(t, m)) {
			t.Errorf("size %d: %v, %d octets", size, &got, len(reply))
		}
	}
}

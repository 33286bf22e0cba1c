package wire

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// looked says, field by field and with a DNS library for the name, what must
// become of a message at the latest: Ignore, Reject, or anything else, which it
// calls Complex.
func looked(p []byte) (f Fate, rcode uint8) {
	var h [6]uint16
	if len(p) < 12 {
		return Ignore, 0
	}
	for i := range h {
		h[i] = binary.BigEndian.Uint16(p[2*i:])
	}
	questions, answers, authorities, additional := h[2], h[3], h[4], h[5]
	switch opcode := h[1] >> 11 & 0xF; {
	case h[1]>>15 != 0:
		return Ignore, 0
	case opcode != dns.OpcodeQuery:
		return Reject, dns.RcodeNotImplemented
	case questions != 1 || answers != 0 || authorities > 1 || additional > 2:
		return Reject, dns.RcodeFormatError
	}
	end := nameEnd(p)
	if end < 0 || len(p)-end < 4 {
		return Reject, dns.RcodeFormatError
	}
	if authorities == 1 && binary.BigEndian.Uint16(p[end:]) != dns.TypeIXFR {
		return Reject, dns.RcodeFormatError
	}
	return Complex, 0
}

// nameEnd returns where the question's name ends, or -1 where a DNS library
// cannot read it, or it is compressed.
func nameEnd(p []byte) int {
	_, end, err := dns.UnpackDomainName(p, HeaderLen)
	if err != nil {
		return -1
	}
	for off := HeaderLen; ; off += 1 + int(p[off]) {
		if p[off] == 0 {
			return end
		}
		if p[off] >= 0xC0 {
			return -1
		}
	}
}

// checkParse holds Parse against the rules and against a DNS library.
func checkParse(t testing.TB, q *Query, p []byte) Fate {
	t.Helper()
	keep := bytes.Clone(p)
	f, rcode := q.Parse(p)
	if !bytes.Equal(p, keep) {
		t.Fatalf("the message became %x, was %x", p, keep)
	}
	class := f
	if f == Simple {
		class = Complex
	}
	if want, code := looked(p); class != want || rcode != code {
		t.Fatalf("%x: fate %d, rcode %d; want %d, %d", p, f, rcode, want, code)
	}
	if f == Simple {
		checkSimple(t, q, p)
	}
	return f
}

// checkSimple: a DNS library reads the message, and reads the same.
func checkSimple(t testing.TB, q *Query, p []byte) {
	t.Helper()
	var m dns.Msg
	if err := m.Unpack(p); err != nil {
		t.Fatalf("%x is Simple, but: %v", p, err)
	}
	if len(m.Question) != 1 || len(m.Extra) != int(p[11]) || len(m.Answer)+len(m.Ns) != 0 {
		t.Fatalf("%x is Simple, but %v", p, &m)
	}
	qu, opt := m.Question[0], m.IsEdns0()
	if name := strings.ToLower(strings.TrimSuffix(qu.Name, ".")); name != q.Name() || qu.Qtype != q.Type || qu.Qclass != dns.ClassINET {
		t.Errorf("%q, type %d; want %q, %v", q.Name(), q.Type, name, qu)
	}
	do := opt != nil && opt.Do()
	if q.RecursionDesired() != m.RecursionDesired || q.CheckingDisabled() != m.CheckingDisabled ||
		q.wantsAD() != (m.AuthenticatedData || do) || q.EDNS != (opt != nil) || q.DO != do || q.Limit != limitOf(&m) {
		t.Errorf("%+v of %v", q, &m)
	}
	if opt != nil && (opt.Version() != 0 || opt.Hdr.Name != ".") {
		t.Errorf("Simple: %v", &m)
	}
}

func seeds(t testing.TB) [][]byte {
	full := extra(1, opt(option(10, "12345678")+option(8, "\x00\x01\x18\x00\xc0\x00\x02")+option(12, "\x00\x00\x00")))
	out := [][]byte{
		plainQuery(), full, extra(1, opt("")), extra(2, opt("")+opt("")), typed(251, 1), typed(255, 1), typed(28, 3),
		named("\x00"), named(nameOf(255)), named("\xc0\x0c"), named("\x01*\x03com\x00"), plainQuery()[:12],
		edited(func(p []byte) { p[2] |= 0x80 }), edited(func(p []byte) { p[2] = 5 << 3 }),
	}
	for seed := range uint64(20) {
		out = append(out, packed(t, dice{rand.New(rand.NewPCG(seed, 3))}.question()))
	}
	return out
}

// damaged changes a few octets of a message, or cuts or lengthens it.
func (d dice) damaged(p []byte) []byte {
	p = bytes.Clone(p)
	for range d.IntN(5) {
		i := d.IntN(len(p))
		switch d.IntN(5) {
		case 0:
			p[i] = byte(d.Uint32())
		case 1:
			p[i] ^= 1 << d.IntN(8)
		case 2:
			p = p[:i+1]
		case 3:
			p = append(p, byte(d.Uint32()))
		case 4: // the counts, and what they count
			p[min(4+d.IntN(8), len(p)-1)] = byte(d.IntN(3))
		}
	}
	return p
}

// Damaged messages by the hundred thousand: the rules are kept, and whatever
// is Simple is what a DNS library reads.
func TestParseAgainstLibrary(t *testing.T) {
	all := seeds(t)
	var q Query
	var n [4]int
	d := dice{rand.New(rand.NewPCG(1, 2))}
	for range 200_000 {
		n[checkParse(t, &q, d.damaged(all[d.IntN(len(all))]))]++
		if t.Failed() {
			return
		}
	}
	for f, n := range n {
		if n < 1000 {
			t.Errorf("fate %d came %d times: not all were tried", f, n)
		}
	}
}

// What stub resolvers send is Simple: nothing of it is left to the slow path.
func TestParseTakesWhatClientsSend(t *testing.T) {
	var q Query
	for seed := range uint64(5_000) {
		m := dice{rand.New(rand.NewPCG(seed, 4))}.question()
		if f := checkParse(t, &q, packed(t, m)); f != Simple {
			t.Fatalf("seed %d: fate %d of %v", seed, f, m)
		}
	}
}

// FuzzParse: the rules are kept whatever comes, and whatever came before.
func FuzzParse(f *testing.F) {
	for _, p := range seeds(f) {
		f.Add(p, plainQuery())
	}
	f.Fuzz(func(t *testing.T, before, p []byte) {
		var q Query
		q.Parse(before)
		checkParse(t, &q, bytes.Clone(p))
	})
}

// FuzzReply: whatever a Simple question is, every reply to it is one that a DNS
// library would write.
func FuzzReply(f *testing.F) {
	for i, p := range seeds(f) {
		f.Add(p, uint64(i))
	}
	f.Fuzz(func(t *testing.T, p []byte, seed uint64) {
		var q Query
		if fate, _ := q.Parse(p); fate != Simple {
			return
		}
		var m dns.Msg
		if err := m.Unpack(p); err != nil {
			t.Fatal(err)
		}
		d := dice{rand.New(rand.NewPCG(seed, 5))}
		b, zone := d.block(m.Question[0].Name)
		reply, fits := q.AppendBlocked(nil, &b)
		sameMessage(t, reply, wantBlocked(&m, &b, zone))
		if fits != (len(reply) <= limitOf(&m)) {
			t.Errorf("fits is %v for %d octets of %v", fits, len(reply), &m)
		}
		if reply = q.AppendFailure(nil, ServerFailure, b.EDE); len(reply) > limitOf(&m) {
			t.Errorf("failure of %d octets to %v", len(reply), &m)
		}
	})
}

package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// response is a packed response to a question for www.example, with those
// records in its answer section, and after "--" in its authority section.
func response(t testing.TB, lines ...string) []byte {
	t.Helper()
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Id: 7, Response: true, AuthenticatedData: true}, Compress: true}
	m.Question = []dns.Question{{Name: "www.example.", Qtype: dns.TypeA, Qclass: dns.ClassINET}}
	to := &m.Answer
	for _, s := range lines {
		if s == "--" {
			to = &m.Ns
			continue
		}
		rr, err := dns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		*to = append(*to, rr)
	}
	return packed(t, m)
}

func responses(t testing.TB) [][]byte {
	return [][]byte{
		response(t),
		response(t, "www.example. 300 IN A 192.0.2.1", "www.example. 0 IN A 192.0.2.2"),
		response(t, "www.example. 300 IN CNAME a.cdn.example.", "a.cdn.example. 4294967295 IN A 192.0.2.2"),
		response(t, "example. 60 IN DNAME other.test.", "www.example. 60 IN CNAME www.other.test.", "www.other.test. 5 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1"),
		response(t, "--", "example. 300 IN SOA ns.example. admin.example. 1 2 3 4 5", "example. 300 IN NSEC a.example. A NS"),
		response(t, `www.example. 1 IN TXT "`+strings.Repeat("x", 255)+`" "\000"`, "--", ". 9 IN SOA . . 1 2 3 4 5"),
	}
}

func TestNewAnswer(t *testing.T) {
	good := responses(t)[2]
	with := func(f func(m []byte)) []byte {
		m := bytes.Clone(good)
		f(m)
		return m
	}
	const question = HeaderLen + len("\x03www\x07example\x00") + 4
	for _, tt := range []struct {
		about string
		m     []byte
		ok    bool
	}{
		{"good", good, true},
		{"nothing", nil, false},
		{"a header", good[:HeaderLen], false},
		{"half a question", good[:question-1], false},
		{"a question without records", with(func(m []byte) { m[7] = 0 })[:question], true},
		{"a query", with(func(m []byte) { m[2] = 0 }), false},
		{"no question", with(func(m []byte) { m[5] = 0 }), false},
		{"two questions", with(func(m []byte) { m[5] = 2 }), false},
		{"an additional record", with(func(m []byte) { m[11] = 1 }), false},
		{"a record less", with(func(m []byte) { m[7] = 1 }), false},
		{"a record more", with(func(m []byte) { m[7] = 3 }), false},
		{"65535 records", with(func(m []byte) { m[6], m[7] = 0xFF, 0xFF }), false},
		{"a record in the other section", with(func(m []byte) { m[7], m[9] = 1, 1 }), true},
		{"an octet less", good[:len(good)-1], false},
		{"an octet more", append(bytes.Clone(good), 0), false},
		{"a label that is too long", with(func(m []byte) { m[question] = 64 }), false},
		{"data beyond the end", with(func(m []byte) { m[len(m)-5] = 5 }), false},
		{"too long", make([]byte, 1<<16), false},
	} {
		a, err := NewAnswer(tt.m)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.about, err)
		}
		if err != nil && (a.Body != nil || a.TTLs != nil || a.Answers != 0) {
			t.Errorf("%s: an answer beside the error: %+v", tt.about, a)
		}
	}
	for code := range uint8(16) {
		a, err := NewAnswer(with(func(m []byte) { m[3] = m[3]&0xF0 | code }))
		if err != nil || a.Rcode != code || !a.AD {
			t.Errorf("rcode %d: %+v, %v", code, a, err)
		}
	}
}

// TestAnswerFitsToTheOctet: a reply of exactly the client's size goes out, one
// octet more does not.
func TestAnswerFitsToTheOctet(t *testing.T) {
	for _, p := range [][]byte{plainQuery(), extra(1, opt(""))} {
		for _, m := range responses(t) {
			a, err := NewAnswer(m)
			if err != nil {
				t.Fatal(err)
			}
			var q Query
			if f, _ := q.Parse(p); f != Simple {
				t.Fatal("not simple")
			}
			q.Limit = 1 << 16
			reply, fits := q.AppendAnswer(nil, &a, 0)
			if !fits {
				t.Fatal("it does not fit")
			}
			for _, less := range []int{0, 1, 11, 12, len(reply)} {
				q.Limit = len(reply) - less
				if _, fits := q.AppendAnswer(nil, &a, 0); fits != (less == 0) {
					t.Errorf("%d octets for a limit of %d: fits %v", len(reply), q.Limit, fits)
				}
			}
		}
	}
}

// checkAnswer takes the message for a response and has it answer its own
// question, and compares what comes out with what went in.
func checkAnswer(t testing.TB, m []byte, age uint32) bool {
	t.Helper()
	given := bytes.Clone(m)
	a, err := NewAnswer(given)
	if err != nil {
		return false
	}
	clear(given) // it may be the reader's buffer
	body := len(m) - len(a.Body)
	query := append([]byte{0xBE, 0xEF, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, m[HeaderLen:body]...)
	var q Query
	if f, _ := q.Parse(query); f != Simple {
		return false
	}
	q.Limit = 1 << 17
	const before = 3
	reply, fits := q.AppendAnswer(make([]byte, before), &a, age)
	if !fits {
		t.Fatalf("%d octets do not fit", len(reply))
	}
	reply = reply[before:]
	if len(reply) != len(m) || !bytes.Equal(reply[HeaderLen:body], m[HeaderLen:body]) {
		t.Fatalf("%x\nbecame %x", m, reply)
	}
	// The records are the same, but for TTLs.
	at := 0
	for _, ttl := range a.TTLs {
		end := body + int(ttl)
		old, now := binary.BigEndian.Uint32(m[end:]), binary.BigEndian.Uint32(reply[end:])
		if !bytes.Equal(m[body+at:end], reply[body+at:end]) || now != old-min(old, age) {
			t.Fatalf("TTL %d became %d after %d s, or octets before it changed:\n%x\n%x", old, now, age, m, reply)
		}
		at = int(ttl) + 4
	}
	if len(a.TTLs) != int(a.Answers)+int(a.Authorities) || !bytes.Equal(m[body+at:], reply[body+at:]) {
		t.Fatalf("%d TTLs, or octets at the end changed:\n%x\n%x", len(a.TTLs), m, reply)
	}
	return pointsBack(m, a.TTLs, body, age) || sameRecords(t, m, reply, age)
}

// sameRecords holds the reply against a DNS library, where that reads the
// message at all, and reports whether it does.
func sameRecords(t testing.TB, m, reply []byte, age uint32) bool {
	t.Helper()
	var want, got dns.Msg
	if want.Unpack(m) != nil || len(want.Answer) != int(m[6])<<8+int(m[7]) || len(want.Ns) != int(m[8])<<8+int(m[9]) {
		return false
	}
	for _, rrs := range [][]dns.RR{want.Answer, want.Ns} {
		for _, rr := range rrs {
			h := rr.Header()
			h.Ttl -= min(h.Ttl, age)
		}
	}
	if err := got.Unpack(reply); err != nil {
		t.Fatalf("%v: %x", err, reply)
	}
	want.MsgHdr = dns.MsgHdr{Id: 0xBEEF, Response: true, RecursionDesired: true, RecursionAvailable: true, Rcode: int(m[3] & 0xF)}
	if got.String() != want.String() {
		t.Fatalf("got\n%s\nwant\n%s", &got, &want)
	}
	return true
}

// pointsBack reports whether a name of the records may point to what is not the
// same in every reply: the header, and TTLs. No message that we pack has such a
// name, and what it would be is nobody's business.
func pointsBack(m []byte, ttls []uint16, body int, age uint32) bool {
	for i := HeaderLen; i+1 < len(m); i++ {
		if m[i] < 0xC0 {
			continue
		}
		to := int(m[i]&0x3F)<<8 | int(m[i+1])
		if to < HeaderLen {
			return true
		}
		end := skipName(m, to)
		for _, at := range ttls {
			if from := body + int(at); age > 0 && (end < 0 || to < from+4 && end > from) {
				return true
			}
		}
	}
	return false
}

func TestAppendAnswerAgainstLibrary(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(5, 6))}
	all := responses(t)
	read := 0
	for range 100_000 {
		m := bytes.Clone(all[d.IntN(len(all))])
		for range d.IntN(4) {
			i := 2 + d.IntN(len(m)-2)
			m[i] = byte(d.Uint32())
		}
		if checkAnswer(t, m, uint32(d.IntN(400))) {
			read++
		}
	}
	if read < 20_000 {
		t.Errorf("only %d were answers", read)
	}
}

func FuzzAnswer(f *testing.F) {
	for _, m := range responses(f) {
		f.Add(m, uint32(0))
		f.Add(m, uint32(100))
	}
	f.Fuzz(func(t *testing.T, m []byte, age uint32) {
		checkAnswer(t, m, age)
	})
}

// TestAnswersShareNothing: one answer serves many readers at a time.
func TestAnswersShareNothing(t *testing.T) {
	a, err := NewAnswer(responses(t)[2])
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("%x %v", a.Body, a.TTLs)
	for age := range uint32(400) {
		var q Query
		q.Parse(plainQuery())
		reply, _ := q.AppendAnswer(nil, &a, age)
		clear(reply)
	}
	if got := fmt.Sprintf("%x %v", a.Body, a.TTLs); got != want {
		t.Errorf("the answer became %s, was %s", got, want)
	}
}

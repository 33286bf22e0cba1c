package main

import (
	"net"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func question(t *testing.T, name string, qtype uint16, edns bool) []byte {
	t.Helper()
	q, err := appendQuestion(nil, name, qtype, edns)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func pack(t *testing.T, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestQuestionIsWhatAnotherLibraryReads compares with miekg/dns.
func TestQuestionIsWhatAnotherLibraryReads(t *testing.T) {
	for _, edns := range []bool{false, true} {
		var m dns.Msg
		if err := m.Unpack(question(t, "www.example.net", typeAAAA, edns)); err != nil {
			t.Fatal(err)
		}
		if q := m.Question[0]; q.Name != "www.example.net." || q.Qtype != dns.TypeAAAA || q.Qclass != dns.ClassINET || !m.RecursionDesired {
			t.Errorf("question %v, recursion desired %v", q, m.RecursionDesired)
		}
		if (m.IsEdns0() != nil) != edns {
			t.Errorf("EDNS %v, want %v", m.IsEdns0(), edns)
		}
	}
	for _, bad := range []string{"", ".", "a..b", strings.Repeat("a", 64) + ".net", strings.Repeat("a.", 127) + "net"} {
		if q, err := appendQuestion(nil, bad, typeA, false); err == nil || len(q) > 0 {
			t.Errorf("%q makes the question %x", bad, q)
		}
	}
}

func TestClassify(t *testing.T) {
	q := question(t, "www.example.net", typeA, false)
	reply := func(change func(*dns.Msg)) []byte {
		var m dns.Msg
		if err := m.Unpack(q); err != nil {
			t.Fatal(err)
		}
		m.Response = true
		change(&m)
		return pack(t, &m)
	}
	address := func(name, a string) dns.RR {
		return &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(a)}
	}
	alias := &dns.CNAME{Hdr: dns.RR_Header{Name: "www.example.net.", Rrtype: dns.TypeCNAME, Class: dns.ClassINET}, Target: "other.example.org."}
	truth := appendReply(append(make([]byte, 0, 512), q...), len(q))
	for _, c := range []struct {
		about   string
		message []byte
		derived bool
		want    class
	}{
		{"address", reply(func(m *dns.Msg) { m.Answer = []dns.RR{address("www.example.net.", "192.0.2.7")} }), false, answered},
		{"alias", reply(func(m *dns.Msg) { m.Answer = []dns.RR{alias, address("other.example.org.", "192.0.2.7")} }), false, answered},
		{"alias alone", reply(func(m *dns.Msg) { m.Answer = []dns.RR{alias} }), false, nodata},
		{"null", reply(func(m *dns.Msg) { m.Answer = []dns.RR{address("www.example.net.", "0.0.0.0")} }), true, null},
		{"nodata", reply(func(*dns.Msg) {}), false, nodata},
		{"nxdomain", reply(func(m *dns.Msg) { m.Rcode = dns.RcodeNameError }), false, nxdomain},
		{"servfail", reply(func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure }), false, servfail},
		{"refused", reply(func(m *dns.Msg) { m.Rcode = dns.RcodeRefused }), false, refused},
		{"notimp", reply(func(m *dns.Msg) { m.Rcode = dns.RcodeNotImplemented }), false, other},
		{"truncated", reply(func(m *dns.Msg) { m.Truncated = true }), false, truncated},
		{"another question", reply(func(m *dns.Msg) { m.Question[0].Name = "wwx.example.net." }), false, malformed},
		{"another type", reply(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }), false, malformed},
		{"no question", reply(func(m *dns.Msg) { m.Question = nil }), false, malformed},
		{"another case", reply(func(m *dns.Msg) { m.Question[0].Name = "WWW.example.net." }), false, malformed},
		{"a query", q, false, malformed},
		{"cut", truth[:len(truth)-1], false, malformed},
		{"header alone", truth[:headerSize], false, malformed},
		{"the upstream's address", truth, true, answered},
		{"another name's address", reply(func(m *dns.Msg) { m.Answer = []dns.RR{address("www.example.net.", "198.18.0.1")} }), true, foreign},
	} {
		if got := classify(q, c.message, c.derived); got != c.want {
			t.Errorf("%s: %s, want %s", c.about, got, c.want)
		}
	}
}

func TestExpectations(t *testing.T) {
	for spec, right := range map[string][]class{
		"allow": {answered},
		"block": {null, nodata, nxdomain, refused},
		"any":   {answered, null, nodata, nxdomain, servfail, refused, truncated, other},
		"null":  {null},
	} {
		for c := range classes {
			want := false
			for _, r := range right {
				want = want || r == c
			}
			if got := expectations[spec].accepts(c); got != want {
				t.Errorf("%s accepts %s: %v, want %v", spec, c, got, want)
			}
		}
	}
}

// TestReplyIsWhatAnotherLibraryReads: the built-in upstream's answers.
func TestReplyIsWhatAnotherLibraryReads(t *testing.T) {
	for _, c := range []struct {
		name    string
		qtype   uint16
		edns    bool
		answers int
	}{
		{"www.example.net", typeA, false, 1}, {"www.example.net", typeAAAA, true, 1}, {"example.net", qtypes["TXT"], true, 0},
	} {
		b := append(make([]byte, 0, 512), question(t, c.name, c.qtype, c.edns)...)
		var m dns.Msg
		if err := m.Unpack(appendReply(b, len(b))); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if !m.Response || m.Rcode != 0 || len(m.Answer) != c.answers || (m.IsEdns0() != nil) != c.edns || m.Question[0].Name != c.name+"." {
			t.Errorf("%+v: %v", c, &m)
		}
	}
	if a, b := question(t, "a.example.net", typeA, false), question(t, "b.example.net", typeA, false); string(appendAddress(nil, a[12:], typeA)) == string(appendAddress(nil, b[12:], typeA)) {
		t.Error("two names with one address")
	}
	for _, junk := range [][]byte{nil, make([]byte, 11), make([]byte, 40), []byte(strings.Repeat("\xff", 40))} {
		if got := appendReply(append(make([]byte, 0, 512), junk...), len(junk)); len(got) != 0 {
			t.Errorf("%x is answered with %x", junk, got)
		}
	}
}

// FuzzClassify: no answer makes the generator stumble.
func FuzzClassify(f *testing.F) {
	q, _ := appendQuestion(nil, "www.example.net", typeA, false)
	f.Add(q)
	f.Add(appendReply(append(make([]byte, 0, 512), q...), len(q)))
	f.Fuzz(func(t *testing.T, m []byte) {
		c := classify(q, m, true)
		if c >= classes {
			t.Errorf("class %d", c)
		}
		if c == answered && len(m) < len(q)+14 {
			t.Errorf("an answer of %d bytes", len(m))
		}
		reply := appendReply(append(make([]byte, 0, len(m)+64), m...), len(m))
		if len(reply) > 0 && classify(m, reply, true) == malformed {
			t.Errorf("%x has the malformed reply %x", m, reply)
		}
	})
}

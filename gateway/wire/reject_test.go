package wire

import (
	"bytes"
	"testing"

	"github.com/miekg/dns"
)

const (
	testQuestion = "\x01a\x00\x00\x01\x00\x01"
	testOPT      = "\x00\x00\x29\xff\xff\x00\x00\x80\x00\x00\x00"
)

func TestAppendReject(t *testing.T) {
	const withOPT = "\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00"
	for _, tc := range []struct {
		about, counts, rest, want string
	}{
		{"no OPT", "\x00\x01\x00\x00\x00\x00\x00\x00", testQuestion, ""},
		{"OPT", "\x00\x01\x00\x00\x00\x00\x00\x01", testQuestion + testOPT, withOPT},
		{"OPT without a question", "\x00\x00\x00\x00\x00\x00\x00\x01", testOPT, withOPT},
		{"DO=0", "\x00\x01\x00\x00\x00\x00\x00\x01", testQuestion + "\x00\x00\x29\x04\xd0\x00\x00\x7f\xff\x00\x00", "\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"},
		{"options that lie", "\x00\x01\x00\x00\x00\x00\x00\x01", testQuestion + "\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x09", withOPT},
		{"two questions", "\x00\x02\x00\x00\x00\x00\x00\x01", testQuestion + testQuestion + testOPT, withOPT},
		{"after another record", "\x00\x01\x00\x00\x00\x00\x00\x02", testQuestion + "\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x00\x00\x02\x01x" + testOPT, withOPT},
		{"in the answer section", "\x00\x01\x00\x01\x00\x00\x00\x00", testQuestion + testOPT, ""},
		{"not at the root", "\x00\x01\x00\x00\x00\x00\x00\x01", testQuestion + "\xc0\x0c" + testOPT[1:], ""},
		{"cut", "\x00\x01\x00\x00\x00\x00\x00\x01", testQuestion + testOPT[:10], ""},
		{"a question that lies", "\x00\x01\x00\x00\x00\x00\x00\x01", "\x3fa\x00\x00\x01\x00\x01", ""},
		{"a record that lies", "\x00\x01\x00\x00\xff\xff\xff\xff", testQuestion + "\x00\x00\x10\x00\x01\x00\x00\x00\x00\xff\xff" + testOPT, ""},
	} {
		p := []byte("\xab\xcd\x29\xff" + tc.counts + tc.rest)
		want := []byte("before\xab\xcd\xa9\x84\x00\x00\x00\x00\x00\x00\x00\x00" + tc.want)
		if tc.want != "" {
			want[len("before")+11] = 1
		}
		if got := AppendReject([]byte("before"), p, NotImplemented); !bytes.Equal(got, want) {
			t.Errorf("%s: got %x, want %x", tc.about, got, want)
		}
	}
}

// The library reads the rcode that is too long for a header.
func TestRejectVersion(t *testing.T) {
	q := new(dns.Msg)
	q.SetQuestion("a.", dns.TypeA)
	q.SetEdns0(4096, true)
	q.IsEdns0().SetVersion(200)
	p := packed(t, q)
	if v, ok := Version(p); v != 200 || !ok {
		t.Errorf("version %d, %v", v, ok)
	}
	var m dns.Msg
	if err := m.Unpack(AppendReject(nil, p, BadVersion)); err != nil {
		t.Fatal(err)
	}
	if opt := m.IsEdns0(); m.Rcode != dns.RcodeBadVers || opt == nil || opt.Version() != 0 || !opt.Do() || opt.UDPSize() != MaxUDP {
		t.Errorf("%v, want BADVERS with our OPT", &m)
	}
	q.Extra = nil
	if _, ok := Version(packed(t, q)); ok {
		t.Error("a version without EDNS")
	}
	if _, ok := Version(p[:11]); ok {
		t.Error("a version without a header")
	}
}

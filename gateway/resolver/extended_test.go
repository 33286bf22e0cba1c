package resolver

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/miekg/dns"
)

func TestExtended(t *testing.T) {
	k := key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}
	for _, tc := range []struct {
		about, text, want string
		edns, ok          bool
	}{
		{"none", "", "", false, false},
		{"no text", "", "", true, true},
		{"text", "signature expired", "signature expired", true, true},
		{"what cannot be shown", "a\x00b\nc\xff\u202ed", "abcd", true, true},
		{"long", strings.Repeat("é", 300), strings.Repeat("é", maxExtended/2), true, true},
	} {
		for _, rcode := range []int{dns.RcodeSuccess, dns.RcodeServerFailure} {
			m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true, Rcode: rcode}}
			if tc.edns {
				m.SetEdns0(1232, false)
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_NSID{}, &dns.EDNS0_EDE{InfoCode: 7, ExtraText: tc.text}, &dns.EDNS0_EDE{InfoCode: 9}}
			}
			a := newAnswer(k, m, newClock().now)
			e, ok := a.Extended()
			if ok != tc.ok || ok && e.Code != 7 || len(e.Text) > maxExtended || !utf8.ValidString(e.Text) || !strings.HasPrefix(tc.want, e.Text) || tc.want != "" && len(e.Text) < len(tc.want)-4 {
				t.Errorf("%s: %+v, %v; want %q", tc.about, e, ok, tc.want)
			}
			if a.Plain() != (rcode == dns.RcodeSuccess && !tc.ok) {
				t.Errorf("%s, %s: plain %v", tc.about, dns.RcodeToString[rcode], a.Plain())
			}
		}
	}
}

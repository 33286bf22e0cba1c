package rpz

import (
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzRequest: whatever comes, the answer is one that can be packed, and says
// nothing of the zone to who may not ask.
func FuzzRequest(f *testing.F) {
	for _, m := range []*dns.Msg{question(dns.TypeSOA, 0), question(dns.TypeIXFR, 7), question(dns.TypeAXFR, 0), new(dns.Msg).SetNotify("policy.test.")} {
		bare, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		m.SetTsig(testKey.fqdn(), dns.HmacSHA256, fudge, time.Now().Unix())
		signed, _, err := dns.TsigGenerate(m, testKey.secret(), "", false)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bare, false)
		f.Add(bare, true)
		f.Add(signed, true)
	}
	s := serve(f, nil)
	put(f, s, 0, testRule{banA, "a.example"})
	f.Fuzz(func(t *testing.T, wire []byte, tcp bool) {
		q := s.read(wire, netip.MustParseAddr("127.0.0.1"), tcp)
		if q == nil {
			return
		}
		m := q.answer()
		if q.rcode == dns.RcodeSuccess && q.sign == nil || len(m.Answer) > 0 && q.rcode != dns.RcodeSuccess {
			t.Errorf("%v is answered with %v", q.msg, m)
		}
		if _, err := q.sign.pack(m); err != nil {
			t.Errorf("the answer to %v: %v", q.msg, err)
		}
	})
}

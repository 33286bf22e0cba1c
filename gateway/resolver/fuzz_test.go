package resolver

import (
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
)

// FuzzAnswer gives arbitrary bytes to the road of a response. Whatever comes
// out can be written, ages and names only what may be judged.
func FuzzAnswer(f *testing.F) {
	const id, questionLen = 0x1234, 17
	k := key{name: "www.example.", qtype: dns.TypeHTTPS, qclass: dns.ClassINET, do: true}
	for _, lines := range [][]string{
		{"www.example. 60 IN HTTPS 1 svc.example. alpn=h3 ipv4hint=192.0.2.1 ipv6hint=2001:db8::1"},
		{"www.example. 60 IN CNAME a.test.", "a.test. 60 IN HTTPS 0 b.test."},
		{"example. 60 IN DNAME other.test.", "www.other.test. 60 IN HTTPS 1 ."},
		{`www.example. 60 IN CNAME \000\.x.test.`, soa},
		{"www.example. 60 IN RRSIG HTTPS 13 2 60 20300101000000 20200101000000 1 example. AAAA", "www.example. 60 IN HTTPS 1 ."},
		{"www.example. 60 IN A 192.0.2.1", "www.example. 60 IN AAAA 2001:db8::1", "www.example. 60 IN SRV 1 1 1 a.test."},
	} {
		m := k.query(id, true)
		m.Response = true
		for _, s := range lines {
			m.Answer = append(m.Answer, rr(f, s))
		}
		b := pack(f, m)[headerLen+questionLen:]
		n := byte(len(lines))
		f.Add(b, byte(0x81), byte(0x80), byte(dns.TypeHTTPS), n, byte(0), byte(1))
		f.Add(b, byte(0x81), byte(0x83), byte(dns.TypeA), n-1, byte(1), byte(1))
	}
	f.Fuzz(func(t *testing.T, body []byte, flags, code, qtype, an, ns, ar byte) {
		k := k
		k.qtype = uint16(qtype)
		raw := []byte{id >> 8, id & 0xff, flags, code, 0, 1, 0, an, 0, ns, 0, ar}
		raw = append(raw, "\x03wWw\x07example\x00\x00"+string([]byte{qtype})+"\x00\x01"...)
		raw = append(raw, body...)
		m, err := parse(raw, id, k)
		if err != nil {
			if m != nil {
				t.Fatal("message and error")
			}
			return
		}
		clk := newClock()
		a := newAnswer(k, m, clk.now)
		q := question("WWW.example", k.qtype)
		now := a.Reply(q)
		if _, err := now.Pack(); err != nil {
			t.Fatalf("reply does not pack: %v\n%s", err, now)
		}
		if !now.Response || now.Id != q.Id || len(now.Extra) != 0 || now.Rcode > 15 {
			t.Fatalf("reply:\n%s", now)
		}
		for _, l := range a.Links() {
			c, err := blocklists.CanonicalName(l.Name)
			if l.Addr.IsValid() == (l.Name != "") || l.Name != "" && (err != nil || c != l.Name) {
				t.Fatalf("link %q: %v", l, err)
			}
		}
		if a.life < 0 || a.life > maxTTL*time.Second {
			t.Fatalf("cached for %v", a.life)
		}
		c := client{name: "WWW.example.", qtype: k.qtype, ad: true, edns: true, do: true, size: 4096}
		bothWays(t, a, c)
		clk.move(a.life + time.Second)
		bothWays(t, a, c)
		for i, rr := range a.Reply(q).Answer {
			if before := now.Answer[i].Header().Ttl; rr.Header().Ttl > before || before > maxTTL {
				t.Fatalf("TTL %d, then: %s", before, rr)
			}
		}
	})
}

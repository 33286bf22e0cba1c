package gateway

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// vouching is an upstream that says of every answer that it is authentic, and has
// a signature for each record where signatures are asked for.
func vouching(t *testing.T) string {
	t.Helper()
	zone := map[string]string{
		"plain.example. A":      "plain.example. 60 IN A 192.0.2.1",
		"alias.example. A":      "alias.example. 60 IN CNAME cdn.wechat.com.",
		"addr.example. A":       "addr.example. 60 IN A 43.130.30.240",
		"www.wechat.com. A":     "www.wechat.com. 60 IN A 192.0.2.1",
		"hint.example. HTTPS":   "hint.example. 60 IN HTTPS 1 . alpn=h2 ipv4hint=43.130.30.240",
		"hidden.example. HTTPS": `hidden.example. 60 IN HTTPS 1 . alpn="h2" ech="AEX+DQBBCQAgACBl"`,
		"inside.example. A":     "inside.example. 60 IN A 10.0.0.1",
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	s := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(ready) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.AuthenticatedData = !q.CheckingDisabled
		if text := zone[dns.CanonicalName(q.Question[0].Name)+" "+dns.TypeToString[q.Question[0].Qtype]]; text != "" {
			rr, err := dns.NewRR(text)
			if err != nil {
				panic(err)
			}
			m.Answer = append(m.Answer, rr)
			if opt := q.IsEdns0(); opt != nil && opt.Do() {
				m.Answer = append(m.Answer, &dns.RRSIG{Hdr: dns.RR_Header{Name: rr.Header().Name, Rrtype: dns.TypeRRSIG, Class: dns.ClassINET, Ttl: 60},
					TypeCovered: rr.Header().Rrtype, Algorithm: 13, Labels: 2, OrigTtl: 60, SignerName: "example.", Signature: "AAAA"})
			}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ActivateAndServe() }()
	<-ready
	t.Cleanup(func() { _ = s.Shutdown() })
	return "udp://" + pc.LocalAddr().String()
}

// TestNeverSecure: what an upstream vouches for has its AD bit and its signatures,
// for those who ask for them; what Weir blocked, changed or said itself has
// neither, however it is asked for and whichever part of the answer was held back
// (RFC 4035, section 3.2.3; RFC 6840, section 5.8).
func TestNeverSecure(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": strings.ReplaceAll(`
dns: {listen: ["127.0.0.1:0"], upstreams: ["UP"], rebinding: {block: true}, records: ["printer.home.arpa 300 A 192.0.2.7"]}
proxy: {listen: []}
admin: {listen: ""}
`, "UP", vouching(t))})
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		whole bool // it is as the upstream said
	}{
		{"plain.example", dns.TypeA, dns.RcodeSuccess, true},
		{"www.wechat.com", dns.TypeA, dns.RcodeNameError, false},
		{"alias.example", dns.TypeA, dns.RcodeNameError, false},
		{"addr.example", dns.TypeA, dns.RcodeNameError, false},
		{"hint.example", dns.TypeHTTPS, dns.RcodeNameError, false},
		{"hidden.example", dns.TypeHTTPS, dns.RcodeSuccess, false},
		{"inside.example", dns.TypeA, dns.RcodeSuccess, false},
		{"printer.home.arpa", dns.TypeA, dns.RcodeSuccess, false},
		{"x.onion", dns.TypeA, dns.RcodeNameError, false},
		{"use-application-dns.net", dns.TypeA, dns.RcodeNameError, false},
	} {
		for i := range 16 {
			network, do, ad, cd := "udp", i&2 != 0, i&4 != 0, i&8 != 0
			if i&1 != 0 {
				network = "tcp"
			}
			q := new(dns.Msg).SetQuestion(dns.Fqdn(c.name), c.qtype)
			q.SetEdns0(1232, do)
			q.AuthenticatedData, q.CheckingDisabled = ad, cd
			m := f.exchange(&dns.Client{Net: network, Timeout: 20 * time.Second}, q)
			signed := slices.ContainsFunc(slices.Concat(m.Answer, m.Ns), func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeRRSIG })
			if m.Rcode != c.rcode || m.AuthenticatedData != (c.whole && (do || ad) && !cd) || signed != (c.whole && do) || m.CheckingDisabled != cd || m.IsEdns0() == nil || m.IsEdns0().Do() != do {
				t.Errorf("%s over %s, DO %t, AD %t, CD %t: %v", c.name, network, do, ad, cd, m)
			}
		}
	}
}

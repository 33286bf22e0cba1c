package dnsserver

import (
	"net"
	"net/url"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/resolver"
)

// What an upstream says of its answer comes to the client, answered and cached
// alike, and only to one that has EDNS.
func TestExtendedFromUpstream(t *testing.T) {
	up := upstreamThat(t, func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeSignatureExpired, ExtraText: "of example"}}
		if q.Question[0].Name == "bad.example." {
			m.Rcode = dns.RcodeServerFailure
			return m
		}
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: []byte{192, 0, 2, 1}}}
		return m
	})
	onEngines(t, func(t *testing.T, portable bool) {
		res, err := resolver.New(resolver.Options{Upstreams: up, CacheEntries: 10})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Close() })
		r := start(t, "", Options{portable: portable, Resolver: res})
		for _, name := range []string{"good.example", "bad.example"} {
			for range 3 {
				m := r.ask(t, "udp", edns(query(name, dns.TypeA), 1232))
				if e := edeOf(m); e == nil || e.InfoCode != dns.ExtendedErrorCodeSignatureExpired || e.ExtraText != "of example" {
					t.Errorf("%s: %v, want the upstream's words", name, m)
				}
			}
			if m := r.ask(t, "udp", query(name, dns.TypeA)); m.IsEdns0() != nil {
				t.Errorf("%s without EDNS: %v", name, m)
			}
		}
	})
}

// upstreamThat is an upstream over UDP that answers so.
func upstreamThat(t *testing.T, answer func(q *dns.Msg) *dns.Msg) []*url.URL {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(answer(q)) })}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = s.Shutdown() })
	return []*url.URL{{Scheme: "udp", Host: pc.LocalAddr().String()}}
}

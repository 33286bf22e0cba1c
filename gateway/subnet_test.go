package gateway

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// subnetUpstream answers as for the subnet that it is told of: its first three
// octets and 1, or 192.0.2.9 for none. It says that this is good for 16 bits of it.
func subnetUpstream(t *testing.T) (addr string) {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m, a := new(dns.Msg).SetReply(q), net.IPv4(192, 0, 2, 9)
		if s := subnetOption(q); s != nil {
			a = append(net.IP{}, s.Address.To4()...)
			a[3] = 1
			said := *s
			said.SourceScope = 16
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&said}
		}
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: a}}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ActivateAndServe() }() // ends with its socket
	t.Cleanup(func() { _ = pc.Close() })
	return pc.LocalAddr().String()
}

func subnetOption(m *dns.Msg) *dns.EDNS0_SUBNET {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if s, ok := o.(*dns.EDNS0_SUBNET); ok {
				return s
			}
		}
	}
	return nil
}

// Upstreams are told of a client what dns.client_subnet says, also where the answer
// for all others is known, and the reply says for whom it is.
func TestClientSubnet(t *testing.T) {
	up := subnetUpstream(t)
	for _, tt := range []struct{ mode, plain, named, scope string }{
		{"strip", "192.0.2.9", "192.0.2.9", ""},
		{"203.0.113.0/24", "203.0.113.1", "203.0.113.1", ""},
		{"pass", "192.0.2.9", "198.51.100.1", "198.51.100.77/32/16"},
	} {
		f := newFixture(t, map[string]string{"weir.yml": `
dns: {listen: ["127.0.0.1:0"], upstreams: ["udp://` + up + `"], client_subnet: ` + tt.mode + `}
proxy: {listen: []}
admin: {listen: ""}
bans: [wechat]
`})
		ask := func(name, subnet string) (answer, scope string) {
			t.Helper()
			q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)
			q.SetEdns0(1232, false)
			if subnet != "" {
				q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 32, Address: net.ParseIP(subnet)}}
			}
			m := f.exchange(&dns.Client{Timeout: 20 * time.Second}, q)
			if s := subnetOption(m); s != nil {
				scope = s.String()
			}
			for _, rr := range m.Answer {
				answer += strings.TrimPrefix(rr.String(), rr.Header().String())
			}
			return answer, scope
		}
		for range 3 { // from the upstream, and from the caches
			if got, scope := ask("www.example.org", ""); got != tt.plain || scope != "" {
				t.Errorf("%s: %s for %q, want %s", tt.mode, got, scope, tt.plain)
			}
			if got, scope := ask("www.example.org", "198.51.100.77"); got != tt.named || scope != tt.scope {
				t.Errorf("%s: a client that says where it is: %s for %q, want %s for %q", tt.mode, got, scope, tt.named, tt.scope)
			}
		}
		if got, scope := ask("wechat.com", "198.51.100.77"); got != "" || tt.mode == "pass" && scope != "198.51.100.77/32/0" {
			t.Errorf("%s: a banned name: %q for %q", tt.mode, got, scope)
		}
	}
}

package resolver

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

// subnetZone answers with the client subnet that it was asked for, as text, for 16
// bits of it. What it says that subnet was can be changed.
func subnetZone(t testing.TB, lie func(*dns.EDNS0_SUBNET)) *zone {
	return &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		text := "none"
		if s := ClientSubnet(q); s != nil {
			text = s.String()
			said := *s
			said.SourceScope = 16
			if lie != nil {
				lie(&said)
			}
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&said}
		}
		m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 300}, Txt: []string{text}}}
		return m
	}}
}

// from is a question of a client that says where it is.
func from(name string, family uint16, bits uint8, addr string) *dns.Msg {
	q := question(name, dns.TypeTXT)
	q.SetEdns0(1232, false)
	if addr != "" {
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: family, SourceNetmask: bits, Address: net.ParseIP(addr)}}
	}
	return q
}

func saysSubnet(t *testing.T, r *Resolver, q *dns.Msg) string {
	t.Helper()
	a, err := r.Resolve(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	m := a.Reply(q)
	if len(m.Answer) != 1 {
		t.Fatalf("%v, want one record", m)
	}
	return m.Answer[0].(*dns.TXT).Txt[0]
}

// Whoever asks, and whatever it says, upstreams hear of the one network; those of
// routes, which are inside, of none.
func TestSubnetFixed(t *testing.T) {
	z, inside := subnetZone(t, nil), subnetZone(t, nil)
	for _, tt := range []struct{ fixed, want string }{
		{"192.0.2.0/24", "192.0.2.0/24/0"},
		{"2001:db8:8::/48", "[2001:db8:8::]/48/0"},
		{"", "none"},
	} {
		o := Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10,
			Routes: []Route{{Names: []string{"corp.example"}, Upstreams: udp(t, listen(t, inside))}}}
		if tt.fixed != "" {
			o.Subnets.Fixed = netip.MustParsePrefix(tt.fixed)
		}
		r := open(t, o)
		before := z.queries.Load()
		for _, q := range []*dns.Msg{from("www.example", 1, 24, "198.51.100.0"), from("www.example", 0, 0, "")} {
			if got := saysSubnet(t, r, q); got != tt.want {
				t.Errorf("%s: upstream was told %s, want %s", tt.fixed, got, tt.want)
			}
		}
		if n := z.queries.Load() - before; n != 1 {
			t.Errorf("%d queries, want one for all", n)
		}
		if got := saysSubnet(t, r, from("a.corp.example", 0, 0, "")); got != "none" {
			t.Errorf("the upstream of a route was told %s", got)
		}
	}
}

// What a client says goes on, shortened, and its answer is nobody else's.
func TestSubnetPass(t *testing.T) {
	z := subnetZone(t, nil)
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10, Subnets: Subnets{Pass: true}})
	for _, tt := range []struct {
		family  uint16
		bits    uint8
		addr    string
		want    string
		queries int64
	}{
		{1, 32, "198.51.100.77", "198.51.100.0/24/0", 1},
		{1, 32, "198.51.100.77", "198.51.100.0/24/0", 1}, // not kept
		{1, 20, "203.0.113.0", "203.0.112.0/20/0", 1},
		{2, 64, "2001:db8:1:2ff::", "[2001:db8:1:200::]/56/0", 1},
		{0, 0, "", "none", 1},
		{1, 0, "0.0.0.0", "none", 0}, // kept: as if it had said nothing
		{1, 24, "10.8.0.0", "none", 0},
		{1, 24, "127.0.0.0", "none", 0},
		{2, 64, "fd00::", "none", 0},
		{0, 0, "0.0.0.0", "none", 0},
	} {
		before := z.queries.Load()
		q := from("www.example", tt.family, tt.bits, tt.addr)
		if got := saysSubnet(t, r, q); got != tt.want {
			t.Errorf("%s/%d: upstream was told %s, want %s", tt.addr, tt.bits, got, tt.want)
		}
		if n := z.queries.Load() - before; n != tt.queries {
			t.Errorf("%s/%d: %d queries, want %d", tt.addr, tt.bits, n, tt.queries)
		}
		if a := r.Cached(q); (a == nil) != (tt.want != "none") {
			t.Errorf("%s/%d: %v in the cache", tt.addr, tt.bits, a)
		}
	}
	a, err := r.Resolve(t.Context(), from("www.example", 1, 24, "198.51.100.0"))
	if err != nil || a.Scope() != 16 {
		t.Errorf("%v, %v, want an answer for 16 bits", a, err)
	}
}

// A response for another subnet is not ours (RFC 7871, section 7.3): it is asked
// for again without EDNS.
func TestSubnetOfAnother(t *testing.T) {
	for label, lie := range map[string]func(*dns.EDNS0_SUBNET){
		"address": func(s *dns.EDNS0_SUBNET) { s.Address = net.ParseIP("203.0.113.0") },
		"length":  func(s *dns.EDNS0_SUBNET) { s.SourceNetmask = 25 },
		"family":  func(s *dns.EDNS0_SUBNET) { s.Family, s.Address = 2, net.ParseIP("2001:db8::") },
	} {
		var lied atomic.Int64
		z := subnetZone(t, func(s *dns.EDNS0_SUBNET) { lied.Add(1); lie(s) })
		r := open(t, Options{Upstreams: udp(t, listen(t, z)), Subnets: Subnets{Fixed: netip.MustParsePrefix("192.0.2.0/24")}})
		if got := saysSubnet(t, r, from("www.example", 0, 0, "")); got != "none" || lied.Load() != 1 {
			t.Errorf("%s: the answer is for %s, after %d of another", label, got, lied.Load())
		}
	}
}

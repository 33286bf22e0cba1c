package resolver

import (
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

// TestRoutes: the longest name decides, and what is routed never goes elsewhere.
func TestRoutes(t *testing.T) {
	main, corp, lab, rev := records(t, anyA), records(t, anyA), records(t, anyA), records(t, anyA)
	lab.answer = func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure) }
	r := open(t, Options{
		Upstreams: udp(t, listen(t, main)),
		Routes: []Route{
			{Names: []string{"corp.example.org", "corp.example.net"}, Upstreams: udp(t, listen(t, corp))},
			{Names: []string{"lab.corp.example.org"}, Upstreams: udp(t, listen(t, lab)), Strategy: Random},
			{Names: []string{"10.in-addr.arpa"}, Upstreams: udp(t, listen(t, rev))},
		},
	})
	zones := []*zone{main, corp, lab, rev}
	for name, want := range map[string]int{
		"example.org": 0, "www.example.org": 0, "notcorp.example.org": 0, "xcorp.example.net": 0, "org": 0,
		"corp.example.org": 1, "a.b.corp.example.org": 1, "CORP.example.NET": 1, `x\.lab.corp.example.org`: 1,
		"lab.corp.example.org": 2, "x.lab.corp.example.org": 2,
		"1.2.3.10.in-addr.arpa": 3, "1.2.3.110.in-addr.arpa": 0,
	} {
		var before [4]int64
		for i, z := range zones {
			before[i] = z.queries.Load()
		}
		resolve(t, r, name, dns.TypeTXT)
		for i, z := range zones {
			if asked := z.queries.Load() > before[i]; asked != (i == want) {
				t.Errorf("%s: upstream %d asked: %v, want %d", name, i, asked, want)
			}
		}
	}
	if n := len(r.Stats().Upstreams); n != 4 {
		t.Errorf("%d upstreams in the statistics", n)
	}
}

// TestRoutesAndLocal: a special zone that is routed is asked for, but for names
// that have a record here.
func TestRoutesAndLocal(t *testing.T) {
	local, err := NewLocal([]dns.RR{rr(t, "printer.corp.example. 300 IN A 10.0.0.5")}, SpecialReverse)
	if err != nil {
		t.Fatal(err)
	}
	z := records(t, "*. 300 IN PTR a.corp.example.")
	r := open(t, Options{Upstreams: udp(t, corpus.Port(t)), Local: local,
		Routes: []Route{{Names: []string{"10.in-addr.arpa"}, Upstreams: udp(t, listen(t, z))}}})
	for name, want := range map[string]string{
		"1.0.0.10.in-addr.arpa": "a.corp.example.", "5.0.0.10.in-addr.arpa": "printer.corp.example.", "1.0.168.192.in-addr.arpa": "",
	} {
		m := resolve(t, r, name, dns.TypePTR).Reply(question(name, dns.TypePTR))
		got := ""
		if len(m.Answer) == 1 {
			got = m.Answer[0].(*dns.PTR).Ptr
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestRouteShares: an upstream in two routes is one upstream.
func TestRouteShares(t *testing.T) {
	z := records(t, anyA)
	u := udp(t, listen(t, z))
	r := open(t, Options{Upstreams: u, Routes: []Route{{Names: []string{""}, Upstreams: u}, {Names: []string{"example"}, Upstreams: u}}})
	resolve(t, r, "www.example", dns.TypeA)
	resolve(t, r, "www.test", dns.TypeA)
	if st := r.Stats().Upstreams; len(st) != 1 || st[0].Queries != 2 {
		t.Errorf("%+v", st)
	}
}

func TestRoutesRefused(t *testing.T) {
	u := upstreams(t, "udp://192.0.2.1:53")
	for _, routes := range [][]Route{
		{{Names: []string{"a"}}},
		{{Upstreams: u}},
		{{Names: []string{"a"}, Upstreams: u}, {Names: []string{"a"}, Upstreams: u}},
		{{Names: []string{"a..b"}, Upstreams: u}},
		{{Names: []string{"a"}, Upstreams: u, Strategy: "best"}},
		{{Names: []string{"a"}, Upstreams: upstreams(t, "ftp://192.0.2.1")}},
	} {
		if _, err := New(Options{Routes: routes}); err == nil {
			t.Errorf("%+v is taken", routes)
		}
	}
}

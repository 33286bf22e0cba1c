package resolver

import (
	"testing"
	"time"

	"github.com/miekg/dns"
)

// What does not exist has no record of any type (RFC 2308, section 5): it is asked
// for once.
func TestNonexistentForAllTypes(t *testing.T) {
	z := &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Ns = []dns.RR{rr(t, "example. 300 IN SOA ns.example. h.example. 1 2 3 4 60")}
		switch q.Question[0].Name {
		case "lame.example.": // as some say of all but A
			if q.Question[0].Qtype != dns.TypeA {
				m.Rcode = dns.RcodeNameError
			}
		case "nothing.example.":
			m.Rcode = dns.RcodeNameError
		case "alias.example.":
			m.Rcode, m.Answer = dns.RcodeNameError, []dns.RR{rr(t, "alias.example. 300 IN CNAME nothing.example.")}
		}
		return m
	}}
	clk := newClock()
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 100}, clk.now, portDNS)
	hot := NewHot(10)
	ask := func(name string, qtype uint16, do bool, rcode int, asked int64) {
		t.Helper()
		q := question(name, qtype)
		q.SetEdns0(1232, do)
		before := z.queries.Load()
		a, err := r.Resolve(t.Context(), q)
		if err != nil || a.Rcode() != rcode {
			t.Fatalf("%s %s: %v, %v", name, dns.Type(qtype), a, err)
		}
		if got := z.queries.Load() - before; got != asked {
			t.Errorf("%s %s was asked for %d times, want %d", name, dns.Type(qtype), got, asked)
		}
	}
	no, yes := dns.RcodeNameError, dns.RcodeSuccess
	ask("nothing.example", dns.TypeA, false, no, 1)
	clk.move(20 * time.Second)
	ask("nothing.example", dns.TypeAAAA, false, no, 0)
	ask("nothing.example", dns.TypeMX, false, no, 0)
	a := hot.Get(r, Question{Name: "nothing.example", Type: dns.TypeMX}, clk.now())
	if a == nil {
		t.Fatal("the hot path does not find it")
	}
	wantTexts(t, "authority", a.Reply(question("nothing.example", dns.TypeMX)).Ns, "example. 40 IN SOA ns.example. h.example. 1 2 3 4 60")

	ask("nothing.example", dns.TypeA, true, no, 1) // without signatures it proves nothing
	ask("x.nothing.example", dns.TypeA, false, yes, 1)
	ask("nodata.example", dns.TypeA, false, yes, 1)
	ask("nodata.example", dns.TypeAAAA, false, yes, 1)
	ask("alias.example", dns.TypeA, false, no, 1)
	ask("alias.example", dns.TypeAAAA, false, no, 1) // there is an alias, or there may be none for that type
	ask("lame.example", dns.TypeHTTPS, false, no, 1)
	ask("lame.example", dns.TypeAAAA, false, no, 1)
	ask("lame.example", dns.TypeA, false, yes, 1)
	clk.move(41 * time.Second)
	ask("nothing.example", dns.TypeTXT, false, no, 1)
	if n, err := r.Forget("nothing.example", false); err != nil || n < 2 {
		t.Errorf("%d forgotten, %v", n, err)
	}
	ask("nothing.example", dns.TypeMX, false, no, 1)
}

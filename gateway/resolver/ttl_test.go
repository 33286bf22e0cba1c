package resolver

import (
	"fmt"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Answers that came together end at different times, none later than its TTL says,
// or earlier than the floor; the records of one end together.
func TestTTLJitter(t *testing.T) {
	z := &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		name := q.Question[0].Name
		m.Answer = []dns.RR{rr(t, name+" 1000 IN CNAME to."+name), rr(t, "to."+name+" 1000 IN A 192.0.2.1")}
		if q.Question[0].Name == "short.example." {
			m.Answer = []dns.RR{rr(t, name+" 1 IN A 192.0.2.1")}
		}
		return m
	}}
	up := udp(t, listen(t, z))
	for _, tt := range []struct {
		ttls      TTLs
		low, high uint32
		differ    bool
	}{
		{TTLs{}, 1000, 1000, false},
		{TTLs{Jitter: 20}, 800, 1000, true},
		{TTLs{Jitter: 50, Min: 900 * time.Second}, 900, 1000, true},
		{TTLs{Jitter: 20, Max: 100 * time.Second}, 80, 100, true},
	} {
		r := openAt(t, Options{Upstreams: up, CacheEntries: 100, TTL: tt.ttls}, newClock().now, portDNS)
		seen := make(map[uint32]bool)
		for i := range 50 {
			name := fmt.Sprintf("n%d.example", i)
			a := resolve(t, r, name, dns.TypeA)
			rrs := a.Reply(question(name, dns.TypeA)).Answer
			if a.ttl < tt.low || a.ttl > tt.high || len(rrs) != 2 || rrs[0].Header().Ttl != rrs[1].Header().Ttl || a.ttl != rrs[0].Header().Ttl {
				t.Fatalf("%+v: kept for %d s: %v", tt.ttls, a.ttl, rrs)
			}
			seen[a.ttl] = true
		}
		if (len(seen) > 1) != tt.differ {
			t.Errorf("%+v: %d lives of 50 answers", tt.ttls, len(seen))
		}
		if a := resolve(t, r, "short.example", dns.TypeA); a.ttl == 0 {
			t.Errorf("%+v: an answer for a second is kept for none", tt.ttls)
		}
	}
}

package dnsserver

import (
	"net/url"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/resolver"
)

// staleRig serves with a resolver that keeps answers for an hour after their
// TTL.
func staleRig(t *testing.T, portable bool, zone string) *rig {
	up := startUpstream(t, zone)
	res, err := resolver.New(resolver.Options{
		Upstreams: []*url.URL{{Scheme: "udp", Host: up.addr.String()}}, CacheEntries: 1000, Timeout: secs(20),
		Stale: resolver.Stale{Max: time.Hour, Wait: 100 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Close() })
	r := start(t, "", Options{portable: portable, Resolver: &hooked{Resolver: res}})
	r.up = up
	return r
}

// fail makes the upstream one that has no answers.
func (u *upstream) fail() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.broken = true
}

// TestStaleReplies: clients hear that an answer is stale (RFC 8767; RFC 8914,
// sections 4.4 and 4.20), and it is judged under the policy in force: no ban is
// escaped by asking for what was allowed once.
func TestStaleReplies(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := staleRig(t, portable, "brief.example. 1 IN A 192.0.2.7\nalias.example. 1 IN CNAME x.flip.example.\nx.flip.example. 1 IN A 192.0.2.3\n")
		names := []string{"brief.example", "alias.example", "nx.brief.example"}
		for _, name := range names {
			r.ask(t, "udp", query(name, dns.TypeA))
		}
		r.up.fail()
		codes := []uint16{dns.ExtendedErrorCodeStaleAnswer, dns.ExtendedErrorCodeStaleAnswer}
		for i, code := range codes {
			for _, network := range transports {
				var m *dns.Msg
				eventually(t, "stale "+names[i], func() bool {
					m = r.ask(t, network, edns(query(names[i], dns.TypeA), 1232))
					return edeOf(m) != nil
				})
				if e := edeOf(m); e.InfoCode != code || m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0 || m.Answer[0].Header().Ttl != 30 {
					t.Errorf("%s over %s: %v", names[i], network, m)
				}
			}
		}
		list := bans()
		list[0].rules = append(list[0].rules, suffix("brief.example", "flip.example")...)
		r.store.Swap(snapshot(t, 2, list))
		for _, name := range names {
			for _, network := range transports {
				m := r.ask(t, network, edns(query(name, dns.TypeA), 1232))
				if e := edeOf(m); m.Rcode != dns.RcodeNameError || e == nil || e.InfoCode != 15 || m.Ns[0].(*dns.SOA).Serial != 2 {
					t.Errorf("%s over %s after the ban: %v", name, network, m)
				}
			}
		}
	})
}

// TestPrefetchedIsJudged: an answer that was fetched ahead is judged like any
// other, also when its name was banned meanwhile.
func TestPrefetchedIsJudged(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := staleRig(t, portable, "alias.example. 10 IN CNAME x.flip.example.\nx.flip.example. 10 IN A 192.0.2.3\n")
		ask := func() *dns.Msg { return r.ask(t, "udp", edns(query("alias.example", dns.TypeA), 1232)) }
		ask()
		eventually(t, "the answer is fetched ahead", func() bool {
			if m := ask(); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 2 {
				t.Fatalf("%v", m)
			}
			return r.up.count("alias.example") > 1
		})
		list := bans()
		list[0].rules = append(list[0].rules, suffix("flip.example")...)
		r.store.Swap(snapshot(t, 2, list))
		for range 3 {
			if m := ask(); m.Rcode != dns.RcodeNameError || m.Ns[0].(*dns.SOA).Serial != 2 {
				t.Errorf("after the ban: %v", m)
			}
		}
	})
}

func TestStaleError(t *testing.T) {
	if got := staleError(dns.RcodeNameError).InfoCode; got != dns.ExtendedErrorCodeStaleNXDOMAINAnswer {
		t.Errorf("code %d", got)
	}
}

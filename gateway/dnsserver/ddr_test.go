package dnsserver

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
)

// withDDR is a snapshot with the ban that keeps devices from other resolvers.
func withDDR(t *testing.T) *policy.Snapshot {
	return snapshot(t, 2, append(bans(), testBan{
		blocklists.Ban{ID: "bypass", EDE: 15, Answer: blocklists.Answer{Mode: blocklists.NODATA}}, suffix("resolver.arpa"),
	}))
}

// RFC 9462: a client that knows our address only, or our name, finds our own
// encrypted endpoints, and nobody else's.
func TestDDR(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r, _ := startAll(t, zones, Options{Name: resolverName, portable: portable})
		r.store.Swap(withDDR(t))
		for _, network := range []string{"udp", "tcp"} {
			for _, name := range []string{"_dns.resolver.arpa", "_DNS.Resolver.ARPA", "_dns." + resolverName} {
				m := r.ask(t, network, edns(query(name, dns.TypeSVCB), 1232))
				var got []string
				for _, rr := range m.Answer {
					s := rr.(*dns.SVCB)
					if s.Hdr.Name != name+"." || s.Target != resolverName+"." || s.Hdr.Ttl != ddrTTL {
						t.Errorf("%s: %s", name, s)
					}
					var keys []string
					for _, v := range s.Value {
						keys = append(keys, v.Key().String()+"="+v.String())
					}
					got = append(got, strings.Join(keys, " "))
				}
				want := []string{
					"alpn=dot port=" + portOf(t, r.DoTAddrs()[0].String()),
					"alpn=doq port=" + portOf(t, r.DoQAddrs()[0].String()),
					"alpn=h2,h3 port=" + portOf(t, r.DoHAddrs()[0].String()) + " dohpath=" + dohTemplate,
				}
				if !slices.Equal(got, want) || m.Rcode != 0 || edeOf(m) != nil {
					t.Errorf("%s over %s: %q, want %q", name, network, got, want)
				}
			}
			// Everything else there stays empty.
			for name, qtype := range map[string]uint16{"resolver.arpa": dns.TypeSVCB, "x._dns.resolver.arpa": dns.TypeSVCB, "_dns.resolver.arpa": dns.TypeA} {
				m := r.ask(t, network, edns(query(name, qtype), 1232))
				if m.Rcode != 0 || len(m.Answer) != 0 || len(m.Ns) != 1 {
					t.Errorf("%s %s over %s: %v, want NODATA", name, dns.Type(qtype), network, m)
				}
			}
		}
		if n := r.up.count("_dns.resolver.arpa") + r.up.count("_dns."+resolverName); n != 0 {
			t.Errorf("upstream was asked %d times", n)
		}
		for _, rec := range r.audit.take() {
			if want := map[bool]string{true: "allow", false: "block"}[rec.Type == "SVCB" && strings.HasPrefix(rec.Name, "_dns.")]; rec.Action != want {
				t.Errorf("record %+v, want %s", rec, want)
			}
		}
	})
}

// Without endpoints, or without a name, the answer is what it was.
func TestNoDDR(t *testing.T) {
	for _, opts := range []Options{{Name: resolverName}, {DoT: addrPorts("127.0.0.1:0"), Certs: newCerts(t, newCA(t).server(t, t.TempDir()))}} {
		r := start(t, zones, opts)
		r.store.Swap(withDDR(t))
		m := r.ask(t, "udp", edns(query("_dns.resolver.arpa", dns.TypeSVCB), 1232))
		if m.Rcode != 0 || len(m.Answer) != 0 || len(m.Ns) != 1 {
			t.Errorf("%v, want NODATA", m)
		}
	}
}

// Addresses that clients can reach are said beforehand.
func TestHints(t *testing.T) {
	rr := &dns.SVCB{}
	for _, a := range []string{"0.0.0.0", "127.0.0.1", "10.8.0.1", "::", "2001:db8::1", "10.8.0.2", "::1"} {
		hint(rr, netip.MustParseAddr(a))
	}
	var got []string
	for _, v := range rr.Value {
		got = append(got, v.String())
	}
	if want := []string{"10.8.0.1,10.8.0.2", "2001:db8::1"}; !slices.Equal(got, want) {
		t.Errorf("hints %q, want %q", got, want)
	}
}

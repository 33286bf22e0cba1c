package resolver

import (
	"cmp"
	"crypto"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

const toSign = `@ 600 IN SOA ns admin 1 2 3 4 300
@ 600 IN NS ns
ns 600 IN A 127.0.0.1
host 60 IN A 192.0.2.1
mixed 60 IN A 192.0.2.1
mixed 60 IN A 10.0.0.1
plain 60 IN HTTPS 1 . alpn=h2
hidden 60 IN HTTPS 1 . alpn=h2,h3 ech=AEX+DQBBCQAgACBl
hidden 60 IN HTTPS 2 host alpn=h2
alias 60 IN CNAME hidden
broken 60 IN A 192.0.2.9
`

// signed returns the zone with a signature for each set of records, a wrong one
// for those at broken, and its key.
func signed(t *testing.T) (text string, key *dns.DNSKEY) {
	t.Helper()
	key = &dns.DNSKEY{Hdr: dns.RR_Header{Name: "example.", Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 600}, Flags: 257, Protocol: 3, Algorithm: dns.ECDSAP256SHA256}
	secret, err := key.Generate(256)
	if err != nil {
		t.Fatal(err)
	}
	sets := map[rrset][]dns.RR{setOf(key): {key}}
	zp := dns.NewZoneParser(strings.NewReader(toSign), "example.", "")
	for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
		sets[setOf(rr)] = append(sets[setOf(rr)], rr)
	}
	if err := zp.Err(); err != nil {
		t.Fatal(err)
	}
	chain(sets)
	var b strings.Builder
	for _, set := range sets {
		sig := &dns.RRSIG{
			Hdr: dns.RR_Header{Ttl: set[0].Header().Ttl}, Algorithm: key.Algorithm, KeyTag: key.KeyTag(), SignerName: "example.",
			Inception: uint32(time.Now().Add(-time.Hour).Unix()), Expiration: uint32(time.Now().Add(time.Hour).Unix()),
		}
		if err := sig.Sign(secret.(crypto.Signer), set); err != nil {
			t.Fatal(err)
		}
		if setOf(set[0]) == (rrset{"broken.example.", dns.TypeA}) {
			sig.Inception++ // which is signed, too
		}
		for _, rr := range append(set, sig) {
			fmt.Fprintln(&b, rr)
		}
	}
	return b.String(), key
}

// chain adds the NSEC records, without which named takes a zone for an insecure
// one. All owners are of one level, so their order is the canonical one.
func chain(sets map[rrset][]dns.RR) {
	types := map[string][]uint16{}
	for set := range sets {
		types[set.owner] = append(types[set.owner], set.typ)
	}
	owners := slices.SortedFunc(maps.Keys(types), func(a, b string) int {
		return cmp.Or(cmp.Compare(dns.CountLabel(a), dns.CountLabel(b)), cmp.Compare(a, b))
	})
	for i, owner := range owners {
		n := &dns.NSEC{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeNSEC, Class: dns.ClassINET, Ttl: 300}}
		n.NextDomain = owners[(i+1)%len(owners)]
		n.TypeBitMap = append(types[owner], dns.TypeRRSIG, dns.TypeNSEC)
		slices.Sort(n.TypeBitMap)
		sets[setOf(n)] = []dns.RR{n}
	}
}

// validating runs named with the signed zone, and unbound, which validates it.
func validating(t *testing.T) (netip.AddrPort, *dns.DNSKEY) {
	t.Helper()
	named, unbound := corpus.Tool(t, "named"), corpus.Tool(t, "unbound")
	dir := t.TempDir()
	zone, key := signed(t)
	writeFile(t, filepath.Join(dir, "zone"), zone)
	origin := start(t, named, func(addr netip.AddrPort) []string {
		writeFile(t, filepath.Join(dir, "named.conf"), fmt.Sprintf(`
options { directory %q; pid-file none; session-keyfile none; recursion no; listen-on-v6 { none; };
	listen-on port %d { 127.0.0.1; }; dnssec-validation no; };
controls { };
zone "example" { type primary; file "zone"; };
`, dir, addr.Port()))
		return []string{"-g", "-n", "1", "-c", filepath.Join(dir, "named.conf")}
	})
	writeFile(t, filepath.Join(dir, "anchor"), key.String()+"\n")
	return start(t, unbound, func(addr netip.AddrPort) []string {
		writeFile(t, filepath.Join(dir, "unbound.conf"), fmt.Sprintf(`
server:
	interface: 127.0.0.1@%d
	directory: %q
	chroot: ""
	username: ""
	pidfile: ""
	use-syslog: no
	do-daemonize: no
	do-ip6: no
	do-not-query-localhost: no
	module-config: "validator iterator"
	trust-anchor-file: "anchor"
	num-threads: 1
	ede: yes
remote-control:
	control-enable: no
stub-zone:
	name: "example."
	stub-addr: 127.0.0.1@%d
`, addr.Port(), dir, origin.Port()))
		return []string{"-d", "-p", "-c", filepath.Join(dir, "unbound.conf")}
	}), key
}

// TestShapeSigned: behind a validating resolver and a signed zone, what was not
// changed still has its proof, and what was changed has none, for each way in
// which a client may ask.
func TestShapeSigned(t *testing.T) {
	up, key := validating(t)
	shape := Shape{ECH: true, H3: true, Rebinding: true}
	for _, c := range []struct {
		shape  Shape
		name   string
		qtype  uint16
		intact bool   // whether the answer is the zone's
		want   string // of the records without signatures
	}{
		{shape, "host.example", dns.TypeA, true, "A 192.0.2.1"},
		{shape, "plain.example", dns.TypeHTTPS, true, `HTTPS 1 . alpn="h2"`},
		{shape, "mixed.example", dns.TypeA, false, "A 192.0.2.1"},
		{shape, "hidden.example", dns.TypeHTTPS, false, `HTTPS 1 . alpn="h2"; HTTPS 2 host.example. alpn="h2"`},
		{shape, "alias.example", dns.TypeHTTPS, false, `CNAME hidden.example.; HTTPS 1 . alpn="h2"; HTTPS 2 host.example. alpn="h2"`},
		{Shape{}, "mixed.example", dns.TypeA, true, "A 10.0.0.1; A 192.0.2.1"},
		{Shape{}, "hidden.example", dns.TypeHTTPS, true, `HTTPS 1 . alpn="h2,h3" ech="AEX+DQBBCQAgACBl"; HTTPS 2 host.example. alpn="h2"`},
	} {
		for _, scheme := range []string{"udp", "tcp"} {
			t.Run(fmt.Sprintf("%s over %s, %+v", c.name, scheme, c.shape), func(t *testing.T) {
				r := open(t, Options{Upstreams: upstreams(t, scheme+"://"+up.String()), CacheEntries: 10, Shape: c.shape})
				for _, cd := range []bool{false, true, false, true} { // the second from the cache
					q := question(c.name, c.qtype)
					q.SetEdns0(1232, true)
					q.CheckingDisabled = cd
					m := reply(t, r, q)
					if got := plainTexts(m.Answer); got != c.want {
						t.Errorf("%q, want %q", got, c.want)
					}
					// With CD nothing is validated upstream, and AD says nothing.
					if m.AuthenticatedData != c.intact && (!cd || m.AuthenticatedData) {
						t.Errorf("AD %t, CD %t", m.AuthenticatedData, cd)
					}
					checkProof(t, m.Answer, key, c.qtype, c.intact)
				}
				// Without DO there are no signatures, and AD is the client's to ask for.
				q := question(c.name, c.qtype)
				q.AuthenticatedData = true
				if m := reply(t, r, q); m.AuthenticatedData != c.intact || plainTexts(m.Answer) != c.want || slices.ContainsFunc(m.Answer, isSig) {
					t.Errorf("without DO:\n%s", m)
				}
			})
		}
	}
}

// TestValidatingUpstream: what a validating resolver says of an answer reaches the
// client, denials with their proofs and failures with their reason, and a client
// that validates itself gets what failed, without anybody else getting it.
func TestValidatingUpstream(t *testing.T) {
	up, _ := validating(t)
	ask := func(r *Resolver, name string, qtype uint16, do, cd bool) (*dns.Msg, *Answer) {
		q := question(name, qtype)
		q.SetEdns0(1232, do)
		q.AuthenticatedData, q.CheckingDisabled = true, cd
		a, err := r.Resolve(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return a.Reply(q), a
	}
	for _, scheme := range []string{"udp", "tcp"} {
		t.Run(scheme, func(t *testing.T) {
			r := open(t, Options{Upstreams: upstreams(t, scheme+"://"+up.String()), CacheEntries: 100})
			for range 2 { // the second from the cache
				for _, do := range []bool{false, true} {
					for _, c := range []struct {
						name  string
						qtype uint16
						rcode int
					}{{"host.example", dns.TypeA, dns.RcodeSuccess}, {"host.example", dns.TypeTXT, dns.RcodeSuccess}, {"gone.example", dns.TypeA, dns.RcodeNameError}} {
						m, _ := ask(r, c.name, c.qtype, do, false)
						if !m.AuthenticatedData || m.Rcode != c.rcode || slices.ContainsFunc(slices.Concat(m.Answer, m.Ns), isSig) != do {
							t.Errorf("DO %t: %v", do, m)
						}
						if denied := slices.ContainsFunc(m.Ns, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeNSEC }); denied != (do && len(m.Answer) == 0) {
							t.Errorf("DO %t: %s has a proof: %t", do, c.name, denied)
						}
					}
					for _, cd := range []bool{true, false, true} {
						m, a := ask(r, "broken.example", dns.TypeA, do, cd)
						if m.AuthenticatedData || m.CheckingDisabled != cd || (m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0) != cd {
							t.Errorf("DO %t, CD %t: %v", do, cd, m)
						}
						if e, ok := a.Extended(); !cd && (!ok || e.Code != dns.ExtendedErrorCodeDNSBogus) {
							t.Errorf("DO %t: the reason is %v, %t", do, e, ok)
						}
					}
				}
			}
		})
	}
}

func reply(t *testing.T, r *Resolver, q *dns.Msg) *dns.Msg {
	t.Helper()
	a, err := r.Resolve(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return a.Reply(q)
}

func isSig(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeRRSIG }

// plainTexts returns the records but for signatures, without owners and TTLs.
func plainTexts(rrs []dns.RR) string {
	var texts []string
	for _, rr := range rrs {
		if !isSig(rr) {
			texts = append(texts, strings.Join(strings.Fields(rr.String())[3:], " "))
		}
	}
	slices.Sort(texts)
	return strings.Join(texts, "; ")
}

// checkProof verifies every signature that is there, and that the set of the
// type has one exactly if it is intact.
func checkProof(t *testing.T, rrs []dns.RR, key *dns.DNSKEY, qtype uint16, intact bool) {
	t.Helper()
	proved := false
	for _, rr := range rrs {
		sig, ok := rr.(*dns.RRSIG)
		if !ok {
			continue
		}
		proved = proved || sig.TypeCovered == qtype
		covers := rrset{dns.CanonicalName(sig.Hdr.Name), sig.TypeCovered}
		set := slices.DeleteFunc(slices.Clone(rrs), func(rr dns.RR) bool { return setOf(rr) != covers })
		if err := sig.Verify(key, set); err != nil {
			t.Errorf("the signature of %v: %v", covers, err)
		}
	}
	if proved != intact {
		t.Errorf("has a signature: %t, want %t", proved, intact)
	}
}

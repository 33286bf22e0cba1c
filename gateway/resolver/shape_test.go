package resolver

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// shaped returns the records of an answer after a shape, one a line, and the AD
// bit.
func shaped(t *testing.T, s Shape, name string, records ...string) (string, bool, bool) {
	t.Helper()
	m := new(dns.Msg)
	m.AuthenticatedData = true
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			t.Fatalf("%s: %v", r, err)
		}
		m.Answer = append(m.Answer, rr)
	}
	filtered := s.apply(key{name: name, qclass: dns.ClassINET, do: true}, m)
	var out []string
	for _, rr := range m.Answer {
		text := strings.Join(strings.Fields(rr.String())[3:], " ")
		if sig, ok := rr.(*dns.RRSIG); ok {
			text = "RRSIG " + dns.TypeToString[sig.TypeCovered]
		}
		out = append(out, text)
	}
	return strings.Join(out, "; "), m.AuthenticatedData, filtered
}

const (
	sigHTTPS = "a.example. 60 IN RRSIG HTTPS 13 2 60 20301231000000 20260101000000 1 example. AAAA"
	sigA     = "a.example. 60 IN RRSIG A 13 2 60 20301231000000 20260101000000 1 example. AAAA"
)

func TestShapeService(t *testing.T) {
	all := Shape{ECH: true, H3: true}
	for _, c := range []struct {
		what   string
		shape  Shape
		record string
		want   string
	}{
		{"nothing to take", all, `1 . alpn="h2" port="8443"`, `1 . alpn="h2" port="8443"`},
		{"alias", all, `0 b.example.`, `0 b.example.`},
		{"ech", all, `1 . alpn="h2" ech="AAAA"`, `1 . alpn="h2"`},
		{"ech kept", Shape{H3: true}, `1 . alpn="h2" ech="AAAA"`, `1 . alpn="h2" ech="AAAA"`},
		{"h3", all, `1 . alpn="h3,h2,h3-29"`, `1 . alpn="h2"`},
		{"h3 kept", Shape{ECH: true}, `1 . alpn="h3,h2"`, `1 . alpn="h3,h2"`},
		{"only h3", all, `1 . alpn="h3" port="8443"`, `1 . port="8443"`},
		{"only h3, and no default", all, `1 . alpn="h3" no-default-alpn=""`, ``},
		{"mandatory", all, `1 . mandatory="alpn,ech" alpn="h2" ech="AAAA"`, `1 . mandatory="alpn" alpn="h2"`},
		{"mandatory alone", all, `1 . mandatory="ech" ech="AAAA"`, `1 .`},
		{"mandatory alpn", all, `1 . mandatory="alpn" alpn="h3"`, `1 .`},
		{"unknown key", all, `1 . key65400="x" ech="AAAA"`, `1 . key65400="x"`},
	} {
		for _, typ := range []string{"HTTPS", "SVCB"} {
			sig := strings.Replace(sigHTTPS, "RRSIG HTTPS", "RRSIG "+typ, 1)
			got, ad, filtered := shaped(t, c.shape, "a.example.", "a.example. 60 IN "+typ+" "+c.record, sig)
			want := strings.TrimSpace(typ + " " + c.want)
			if c.want == "" {
				want = ""
			}
			unchanged := strings.ReplaceAll(c.want, `"`, "") == strings.ReplaceAll(c.record, `"`, "")
			if unchanged {
				want += "; RRSIG " + typ
			}
			if got != want || ad != unchanged || filtered {
				t.Errorf("%s: %q, AD %t, want %q", c.what, got, ad, want)
			}
		}
	}
	if got, ad, _ := shaped(t, all, "a.example.", "a.example. 60 IN HTTPS 1 . ech=AAAA", sigHTTPS, "a.example. 60 IN A 192.0.2.1", sigA); got != "HTTPS 1 .; A 192.0.2.1; RRSIG A" || ad {
		t.Errorf("another set lost its signature, or the answer kept AD: %q, %t", got, ad)
	}
}

func TestShapeRebinding(t *testing.T) {
	s := Shape{Rebinding: true, PrivateNames: []string{"intranet.example"}, PrivateNetworks: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16")}}
	for _, c := range []struct{ name, record, want string }{
		{"a.example.", "A 192.0.2.1", "A 192.0.2.1"},
		{"a.example.", "A 8.8.8.8", "A 8.8.8.8"},
		{"a.example.", "A 10.0.0.1", ""},
		{"a.example.", "A 10.20.0.1", "A 10.20.0.1"},
		{"a.example.", "A 127.0.0.1", ""},
		{"a.example.", "A 0.0.0.0", ""},
		{"a.example.", "A 169.254.169.254", ""},
		{"a.example.", "A 100.64.1.1", ""},
		{"a.example.", "A 0.1.2.3", ""},
		{"a.example.", "A 198.18.0.1", ""},
		{"a.example.", "AAAA ::1", ""},
		{"a.example.", "AAAA ::ffff:10.0.0.1", ""},
		{"a.example.", "AAAA ::ffff:10.20.0.1", "AAAA ::ffff:10.20.0.1"},
		{"a.example.", "AAAA fec0::1", ""},
		{"a.example.", "AAAA 64:ff9b::a14:1", "AAAA 64:ff9b::a14:1"},
		{"ipv4only.arpa.", "A 192.0.0.170", "A 192.0.0.170"},
		{"ipv4only.arpa.", "AAAA 64:ff9b::c000:aa", "AAAA 64:ff9b::c000:aa"},
		{"dns.msftncsi.com.", "AAAA fd3e:4f5a:5b81::1", "AAAA fd3e:4f5a:5b81::1"},
		{"a.example.", "AAAA fd00::1", ""},
		{"a.example.", "AAAA fe80::1", ""},
		{"a.example.", "AAAA 64:ff9b::a00:1", ""},
		{"a.example.", "AAAA 64:ff9b::808:808", "AAAA 64:ff9b::808:808"},
		{"a.example.", "AAAA 2001:db8::1", "AAAA 2001:db8::1"},
		{"a.example.", `HTTPS 1 . alpn="h2" ipv4hint="10.0.0.1"`, `HTTPS 1 . alpn="h2"`},
		{"a.example.", `HTTPS 1 . ipv6hint="fd00::1"`, `HTTPS 1 .`},
		{"intranet.example.", "A 10.0.0.1", "A 10.0.0.1"},
		{"x.intranet.example.", "A 10.0.0.1", "A 10.0.0.1"},
		{"xintranet.example.", "A 10.0.0.1", ""},
		{"nas.home.arpa.", "A 192.168.1.2", "A 192.168.1.2"},
		{"localhost.", "A 127.0.0.1", "A 127.0.0.1"},
	} {
		got, _, filtered := shaped(t, s, c.name, c.name+" 60 IN "+c.record)
		if got != c.want || filtered != (c.want != c.record) {
			t.Errorf("%s %s: %q, filtered %t, want %q", c.name, c.record, got, filtered, c.want)
		}
		if got, _, filtered := shaped(t, Shape{}, c.name, c.name+" 60 IN "+c.record); got != c.record || filtered {
			t.Errorf("without a shape, %s %s: %q", c.name, c.record, got)
		}
	}
	// One private address among others: the others stay, without a signature.
	if got, ad, _ := shaped(t, s, "a.example.", "a.example. 60 IN A 192.0.2.1", "a.example. 60 IN A 10.0.0.1", sigA); got != "A 192.0.2.1" || ad {
		t.Errorf("%q, AD %t", got, ad)
	}
}

// TestShapeNothingLeft: an answer of which nothing is left is one of its own, for
// the cache and for the client, and what is left is not.
func TestShapeNothingLeft(t *testing.T) {
	for _, c := range []struct {
		what    string
		qtype   uint16
		records []string
		rcode   int
		life    time.Duration
		want    []string // answer and authority
	}{
		{"all addresses", dns.TypeA, []string{"a.example. 900 IN A 10.0.0.1", "a.example. 900 IN A 10.0.0.2"}, dns.RcodeSuccess, 300 * time.Second,
			[]string{"a.example. 300 IN SOA weir.invalid. nobody.invalid. 1 3600 600 86400 300"}},
		{"behind an alias", dns.TypeA, []string{"a.example. 60 IN CNAME b.example.", "b.example. 30 IN A 10.0.0.1"}, dns.RcodeSuccess, 30 * time.Second,
			[]string{"a.example. 60 IN CNAME b.example.", "b.example. 30 IN SOA weir.invalid. nobody.invalid. 1 3600 600 86400 30"}},
		{"one address", dns.TypeA, []string{"a.example. 900 IN A 10.0.0.1", "a.example. 900 IN A 192.0.2.1"}, dns.RcodeSuccess, 900 * time.Second,
			[]string{"a.example. 900 IN A 192.0.2.1"}},
		{"a service", dns.TypeHTTPS, []string{`a.example. 900 IN HTTPS 1 . alpn="h3" no-default-alpn=""`}, dns.RcodeSuccess, 300 * time.Second,
			[]string{"a.example. 300 IN SOA weir.invalid. nobody.invalid. 1 3600 600 86400 300"}},
		{"somebody else's", dns.TypeA, []string{"a.example. 900 IN A 192.0.2.1", "other.example. 900 IN A 10.0.0.1"}, dns.RcodeSuccess, 900 * time.Second,
			[]string{"a.example. 900 IN A 192.0.2.1"}},
	} {
		shape := Shape{ECH: true, H3: true, Rebinding: true}
		srv := listen(t, records(t, c.records...))
		r := open(t, Options{Upstreams: upstreams(t, "udp://"+srv.String()), CacheEntries: 10, Shape: shape})
		q := question("a.example", c.qtype)
		a, err := r.Resolve(t.Context(), q)
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if a.Rcode() != c.rcode || a.end() != c.life || r.Cached(q) != a {
			t.Errorf("%s: rcode %d, life %v", c.what, a.Rcode(), a.end())
		}
		m := a.Reply(q)
		wantTexts(t, c.what, append(m.Answer, m.Ns...), c.want...)
	}
}

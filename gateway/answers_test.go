package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

// silent is an upstream that takes questions and never answers.
func silent(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	return "udp://" + pc.LocalAddr().String()
}

// canaries are names by which devices and browsers learn whether they may go
// around the network's resolver, and those of where they would go.
var canaries = []string{
	"use-application-dns.net",                                                                // Firefox
	"mask.icloud.com", "mask-h2.icloud.com", "mask-canary.icloud.com", "mask-api.icloud.com", // iCloud Private Relay
	"resolver.arpa", "_dns.resolver.arpa", "x._dns.resolver.arpa", // RFC 9462
	"dns.google", "dns64.dns.google", "cloudflare-dns.com", "mozilla.cloudflare-dns.com", "one.one.one.one", "dns.quad9.net",
}

// TestCanaries: a canary is answered at once with NXDOMAIN, and resolver.arpa with
// no data (RFC 9462, section 4), for every type and
// over UDP and TCP, with or without EDNS, in any spelling, whatever becomes of
// the upstream. Silence would be taken for a network without an opinion.
func TestCanaries(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": strings.ReplaceAll(listeners, "UPSTREAM", silent(t))})
	addr := f.DNSAddrs()[0].String()
	for _, name := range canaries {
		want := dns.RcodeNameError
		if strings.HasSuffix(name, "resolver.arpa") {
			want = dns.RcodeSuccess
		}
		for _, network := range []string{"udp", "tcp"} {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeSVCB, dns.TypeTXT, dns.TypeSOA, dns.TypeNS, dns.TypeDS, dns.TypeANY, 65280} {
				for _, edns := range []bool{false, true} {
					q := new(dns.Msg).SetQuestion(dns.Fqdn(strings.ToUpper(name)), qtype)
					if edns {
						q.SetEdns0(1232, true)
					}
					c := dns.Client{Net: network, Timeout: 20 * time.Second}
					m, _, err := c.Exchange(q, addr)
					if err != nil {
						t.Fatalf("%s %s over %s: %v", name, dns.Type(qtype), network, err)
					}
					if m.Rcode != want || len(m.Answer) != 0 || len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA {
						t.Errorf("%s %s over %s:\n%s", name, dns.Type(qtype), network, m)
					}
				}
			}
		}
	}
	dig := corpus.Tool(t, "dig")
	_, port, _ := net.SplitHostPort(addr)
	for _, args := range []string{"use-application-dns.net", "+tcp mask.icloud.com AAAA", "_dns.resolver.arpa SVCB", "+tcp +noedns _dns.resolver.arpa TYPE64", "mask-h2.icloud.com TYPE65"} {
		out, err := exec.Command(dig, append([]string{"@127.0.0.1", "-p", port, "+tries=1", "+time=20"}, strings.Fields(args)...)...).CombinedOutput()
		if err != nil || !regexp.MustCompile(`status: NXDOMAIN|status: NOERROR[^$]*ANSWER: 0`).Match(out) {
			t.Errorf("dig %s: %v\n%s", args, err, out)
		}
	}
}

// answering is an upstream with services and private addresses.
func answering(t *testing.T) string {
	t.Helper()
	zone := map[string][]string{
		"hidden.example. HTTPS":   {`hidden.example. 60 IN HTTPS 1 . alpn="h3,h2" ech="AEX+DQBBCQAgACBl" ipv4hint="192.0.2.1"`},
		"_dns.example. SVCB":      {`_dns.example. 60 IN SVCB 1 r.example. mandatory="alpn,ech" alpn="h3" ech="AEX+DQBBCQAgACBl"`},
		"inside.example. A":       {"inside.example. 60 IN A 10.0.0.1"},
		"nas.internal. A":         {"nas.internal. 60 IN A 10.0.0.1"},
		"known.corp.example. A":   {"known.corp.example. 60 IN A 10.0.0.1"},
		"translate.goog. A":       {"translate.goog. 60 IN A 192.0.2.1"},
		"ordinary.example. HTTPS": {`ordinary.example. 60 IN HTTPS 1 . alpn="h2"`},
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	s := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(ready) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.AuthenticatedData = true
		for _, text := range zone[dns.CanonicalName(q.Question[0].Name)+" "+dns.TypeToString[q.Question[0].Qtype]] {
			rr, err := dns.NewRR(text)
			if err != nil {
				panic(err)
			}
			sig := &dns.RRSIG{Hdr: dns.RR_Header{Name: rr.Header().Name, Rrtype: dns.TypeRRSIG, Class: dns.ClassINET, Ttl: 60}, TypeCovered: rr.Header().Rrtype, Algorithm: 13, Labels: 2, OrigTtl: 60, SignerName: "example.", Signature: "AAAA"}
			m.Answer = append(m.Answer, rr, sig)
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ActivateAndServe() }()
	<-ready
	t.Cleanup(func() { _ = s.Shutdown() })
	return "udp://" + pc.LocalAddr().String()
}

// TestAnswersByDig: what the programs of operators see of answers that were
// changed, the first time and from the cache.
func TestAnswersByDig(t *testing.T) {
	const (
		sig  = `IN\s+RRSIG`
		ad   = `flags: qr rd ra ad;`
		ede  = `EDE: 17 \(Filtered\)`
		keep = `{ech: keep, h3: keep, listen: ["127.0.0.1:0"], upstreams: ["UPSTREAM"]}`
		all  = `{special: [], rebinding: {block: true, allow: [corp.example]}, listen: ["127.0.0.1:0"], upstreams: ["UPSTREAM"]}`
	)
	for _, c := range []struct {
		dns, args string
		want, not []string
	}{
		{all, "+dnssec hidden.example TYPE65", []string{`HTTPS\s+1 \. alpn="h2" ipv4hint=192\.0\.2\.1\n`}, []string{sig, ad, ede}},
		{all, "+dnssec +tcp hidden.example HTTPS", []string{`HTTPS\s+1 \. alpn="h2" ipv4hint=192\.0\.2\.1\n`}, []string{sig, ad}},
		{all, "+dnssec +cdflag hidden.example HTTPS", []string{`alpn="h2" ipv4hint`}, []string{sig, `\bad[; ]`}},
		{all, "+adflag hidden.example HTTPS", []string{`alpn="h2" ipv4hint`}, []string{ad}},
		{all, "+dnssec _dns.example SVCB", []string{`SVCB\s+1 r\.example\.\n`}, []string{sig, ad}},
		{all, "+dnssec ordinary.example HTTPS", []string{`alpn="h2"\n`, sig, ad}, nil},
		{all, "+dnssec inside.example A", []string{"status: NOERROR", "ANSWER: 0", `IN\s+SOA\s+weir\.invalid`, ede}, []string{sig, ad, `10\.0\.0\.1`}},
		{all, "+dnssec nas.internal A", []string{`10\.0\.0\.1`, sig, ad}, []string{ede}},
		{all, "+dnssec known.corp.example A", []string{`10\.0\.0\.1`, sig, ad}, []string{ede}},
		{keep, "+dnssec hidden.example TYPE65", []string{`alpn="h3,h2" ipv4hint=192\.0\.2\.1 ech=`, sig, ad}, nil},
		{keep, "+dnssec inside.example A", []string{`10\.0\.0\.1`, sig, ad}, []string{ede}},
	} {
		f := newFixture(t, map[string]string{"weir.yml": strings.ReplaceAll(fmt.Sprintf("dns: %s\nproxy: {listen: [\"127.0.0.1:0\"]}\nadmin: {listen: \"127.0.0.1:0\"}\n", c.dns), "UPSTREAM", answering(t))})
		_, port, _ := net.SplitHostPort(f.DNSAddrs()[0].String())
		dig := corpus.Tool(t, "dig")
		for range 2 { // the second from the cache
			var out []byte
			for range 5 { // the machine may have no time for the upstream
				var err error
				if out, err = exec.Command(dig, append([]string{"@127.0.0.1", "-p", port, "+tries=1", "+time=20"}, strings.Fields(c.args)...)...).CombinedOutput(); err != nil {
					t.Errorf("dig %s: %v\n%s", c.args, err, out)
				}
				if !strings.Contains(string(out), "status: SERVFAIL") {
					break
				}
				time.Sleep(time.Second)
			}
			for _, re := range c.want {
				if !regexp.MustCompile(re).Match(out) {
					t.Errorf("dns %s, dig %s: no %q in\n%s", c.dns, c.args, re, out)
				}
			}
			for _, re := range c.not {
				if regexp.MustCompile(re).Match(out) {
					t.Errorf("dns %s, dig %s: %q in\n%s", c.dns, c.args, re, out)
				}
			}
		}
	}
}

// TestMirrorsOnBothPlanes: the built-in mirrors are judged by what they embed, in
// DNS, CONNECT and plain HTTP.
func TestMirrorsOnBothPlanes(t *testing.T) {
	const denied = "http_request_denied"
	f := newFixture(t, map[string]string{"weir.yml": listeners})
	proxy := &url.URL{Scheme: "http", Host: f.ProxyAddrs()[0].String()}
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
	for name, blocked := range map[string]bool{
		"www-tiktok-com.translate.goog": true, "WWW-TikTok-Com.Translate.Goog": true, "1-www-tiktok-com.translate.goog": true,
		"www-tiktok-com.cdn.ampproject.org": true, "short-weixin-qq-com.bing-amp.com": true, "www-tiktok-com.www.bing-amp.com": true,
		"touch-kaspersky-com.turbopages.org": true, "dns-google.translate.goog": true,
		"translate.goog": false, "www-canada-ca.translate.goog": false, "tiktok.translate.goog": false, "not--tiktok-com.translate.goog": false,
		"cdn.ampproject.org": false, "www-bbc-co-uk.cdn.ampproject.org": false, "bing-amp.com": false, "lenta-ru.turbopages.org": false,
		"www-tiktok-com.example": false,
	} {
		if got := f.rcode(name) == "NXDOMAIN"; got != blocked {
			t.Errorf("%s in DNS: blocked %t", name, got)
		}
		resp, err := client.Get("http://" + name + "/")
		if err != nil {
			t.Errorf("http://%s: %v", name, err)
			continue
		}
		_ = resp.Body.Close()
		// What no ban holds back leads to an address that the proxy does not reach.
		if got := resp.Header.Get("Proxy-Status"); strings.Contains(got, denied) != blocked {
			t.Errorf("http://%s: %s, %q", name, resp.Status, got)
		}
		if got := connectStatus(t, proxy.Host, name); strings.Contains(got, denied) != blocked {
			t.Errorf("CONNECT %s: %q", name, got)
		}
	}
}

// connectStatus asks the proxy for a tunnel that it refuses, and returns what it
// says.
func connectStatus(t *testing.T, proxy, name string) string {
	t.Helper()
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = fmt.Fprintf(c, "CONNECT %[1]s:443 HTTP/1.1\r\nHost: %[1]s:443\r\n\r\n", name)
	reply, _ := io.ReadAll(c)
	return string(reply)
}

// TestStructuredErrors: who asks for it is told in JSON why a name of a built-in ban
// is blocked, with what the configuration says of whom to turn to.
func TestStructuredErrors(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": `
dns:
  listen: ["127.0.0.1:0"]
  upstreams: ["UPSTREAM"]
  structured_errors: {enabled: true, option: 65001, contact: ["mailto:desk@example.org"], organization: "Example", language: fr}
proxy: {listen: []}
admin: {listen: ""}
`})
	for _, o := range []dns.EDNS0{&dns.EDNS0_EDE{}, &dns.EDNS0_LOCAL{Code: 65001}} {
		q := new(dns.Msg).SetQuestion("www.wechat.com.", dns.TypeA)
		q.SetEdns0(1232, false)
		q.IsEdns0().Option = []dns.EDNS0{o}
		m, _, err := (&dns.Client{Timeout: 20 * time.Second}).Exchange(q, f.DNSAddrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			C       []string
			J, O, L string
			S       int
		}
		e, ok := m.IsEdns0().Option[0].(*dns.EDNS0_EDE)
		if !ok || json.Unmarshal([]byte(e.ExtraText), &got) != nil {
			t.Fatalf("%v", m)
		}
		if e.InfoCode != 15 || len(got.C) != 1 || got.C[0] != "mailto:desk@example.org" || !strings.HasPrefix(got.J, "Interdiction de WeChat") || got.O != "Example" || got.L != "fr" || got.S != 5 {
			t.Errorf("%d: %+v", e.InfoCode, got)
		}
	}
}

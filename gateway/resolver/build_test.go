package resolver

import (
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"ftp://192.0.2.1", `scheme "ftp" is not known`},
		{"doq://192.0.2.1", "use udp, tcp, tls, quic, https or h3"},
		{"quic://127.0.0.1:5353", "our own listener"},
		{"udp://dns.example", "needs an address"},
		{"tcp://dns.example:53", "needs an address"},
		{"tls://:853", "no host"},
		{"tls://a..b", "neither an address nor a name"},
		{"udp://192.0.2.1:0", "not one from 1 to 65535"},
		{"udp://192.0.2.1:70000", "not one from 1 to 65535"},
		{"udp://127.0.0.1:5353", "our own listener"},
		{"tcp://[::ffff:127.0.0.1]:5353", "our own listener"},
	} {
		_, err := New(Options{Upstreams: upstreams(t, tt.url), Self: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:5353")}})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.url) {
			t.Errorf("%s: error %v, want %q", tt.url, err, tt.want)
		}
	}
	if _, err := New(Options{Bootstrap: []netip.AddrPort{{}}}); err == nil {
		t.Error("no error for an invalid bootstrap resolver")
	}
	if _, err := New(Options{Upstreams: upstreams(t, "udp://192.0.2.1")[:1:1]}); err != nil {
		t.Error(err)
	}
}

// TestBootstrapStale: an upstream whose name can no longer be resolved is
// reached where it was.
func TestBootstrapStale(t *testing.T) {
	ca := newAuthority(t)
	var down atomic.Bool
	names := records(t)
	names.answer = func(q *dns.Msg) *dns.Msg {
		if down.Load() {
			return nil
		}
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{rr(t, "dns.example. 60 IN A 127.0.0.1")}
		}
		return m
	}
	z := records(t, wwwA)
	https := listenHTTPS(t, doh(z), ca.server(t, "dns.example"))
	clk := newClock()
	r := openAt(t, Options{Upstreams: upstreams(t, "https://dns.example:"+port(https)),
		Bootstrap: []netip.AddrPort{listen(t, names)}, TLSConfig: ca.client()}, clk.now, portDNS)
	resolve(t, r, "www.example", dns.TypeA)
	down.Store(true)
	within(t, time.Second, func() time.Duration {
		clk.move(2 * time.Minute)
		r.main.close() // a new connection must be made
		start := time.Now()
		resolve(t, r, "www.example", dns.TypeA)
		return time.Since(start)
	})
	if n := names.queries.Load(); n < 2 {
		t.Errorf("the bootstrap resolver saw %d queries", n)
	}
}

func TestBootstrapFails(t *testing.T) {
	r := open(t, Options{Upstreams: upstreams(t, "tls://dns.example"), Bootstrap: []netip.AddrPort{listen(t, rcode(dns.RcodeNameError))}})
	_, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
	if err == nil || !strings.Contains(err.Error(), "resolving upstream host dns.example") || !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

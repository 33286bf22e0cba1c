package resolver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

// A zone answers questions, as an upstream. It counts them.
type zone struct {
	queries atomic.Int64
	answer  func(q *dns.Msg) *dns.Msg // nil message: no response
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.queries.Add(1)
	if m := lowered(q, z.answer); m != nil {
		_ = w.WriteMsg(m)
	}
}

// lowered has the question answered as if its name were in lower case; the
// response has it as it was asked, as those of nearly all servers do.
func lowered(q *dns.Msg, answer func(*dns.Msg) *dns.Msg) *dns.Msg {
	asked := q.Question[0].Name
	q.Question[0].Name = dns.CanonicalName(asked)
	m := answer(q)
	if m != nil && len(m.Question) == 1 && m.Question[0].Name == q.Question[0].Name {
		m.Question = []dns.Question{{Name: asked, Qtype: m.Question[0].Qtype, Qclass: m.Question[0].Qclass}}
	}
	return m
}

// records returns a zone that answers every question with those records; "*."
// stands for the name that was asked for.
func records(t testing.TB, rrs ...string) *zone {
	t.Helper()
	var parsed []dns.RR
	for _, s := range rrs {
		parsed = append(parsed, rr(t, s))
	}
	return &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.RecursionAvailable = true
		for _, rr := range parsed {
			if rr.Header().Rrtype == dns.TypeSOA {
				m.Ns = append(m.Ns, dns.Copy(rr))
			} else {
				m.Answer = append(m.Answer, dns.Copy(rr))
				if h := m.Answer[len(m.Answer)-1].Header(); h.Name == "*." {
					h.Name = q.Question[0].Name
				}
			}
		}
		return m
	}}
}

// rcode returns a zone that answers every question with that code.
func rcode(code int) *zone {
	return &zone{answer: func(q *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(q, code) }}
}

// silent returns a zone that never responds.
func silent() *zone { return &zone{answer: func(*dns.Msg) *dns.Msg { return nil }} }

func rr(t testing.TB, s string) dns.RR {
	t.Helper()
	rr, err := dns.NewRR(s)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return rr
}

// listen starts real servers for the handler on one port, over UDP and TCP.
func listen(t testing.TB, h dns.Handler) netip.AddrPort {
	t.Helper()
	pc, l := corpus.OnePort(t)
	serve(t, &dns.Server{PacketConn: pc, Handler: h})
	serve(t, &dns.Server{Listener: l, Handler: h})
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

func serve(t testing.TB, s *dns.Server) {
	t.Helper()
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.ActivateAndServe() // ends with the shutdown
	}()
	<-started
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = s.ShutdownContext(ctx)
		<-done
	})
}

// listenTLS starts a DoT server.
func listenTLS(t testing.TB, h dns.Handler, conf *tls.Config) netip.AddrPort {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", conf)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, &dns.Server{Listener: l, Net: "tcp-tls", Handler: h})
	return netip.MustParseAddrPort(l.Addr().String())
}

// listenHTTPS starts a DoH server with HTTP/2.
func listenHTTPS(t testing.TB, h http.Handler, conf *tls.Config) netip.AddrPort {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.TLS = conf
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

// doh makes a handler for DNS one for HTTP, with RFC 8484's checks.
func doh(z *zone) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		q := new(dns.Msg)
		switch {
		case err != nil || q.Unpack(body) != nil:
			http.Error(w, "not a DNS message", http.StatusBadRequest)
			return
		case req.Method != http.MethodPost, req.URL.Path != "/dns-query", req.Header.Get("Content-Type") != mediaType, q.Id != 0, req.ProtoMajor != 2:
			http.Error(w, fmt.Sprintf("%s %s %s ID %d", req.Method, req.URL, req.Proto, q.Id), http.StatusBadRequest)
			return
		}
		z.queries.Add(1)
		m := z.answer(q)
		if m == nil {
			<-req.Context().Done()
			return
		}
		out, err := m.Pack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", mediaType)
		_, _ = w.Write(out)
	}
}

// An authority is a test's own CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{c, k, x509.NewCertPool()}
	a.pool.AddCert(c)
	return a
}

// client returns the configuration that trusts the CA.
func (a *authority) client() *tls.Config { return &tls.Config{RootCAs: a.pool} }

// server returns a configuration with a certificate for the names or addresses.
func (a *authority) server(t testing.TB, hosts ...string) *tls.Config {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}}
}

// A testClock stands still until it is moved.
type testClock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *testClock { return &testClock{t: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *testClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *testClock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// Times of tests that are not about them. Where other programs have the processors,
// an upstream that answers at once is late by lateAfter now and then: it would be
// asked twice, or the question would fail.
const (
	unhurried = 5 * lateAfter // where some upstream is late
	leisurely = 20 * time.Second
)

// within fails the test unless it takes that time at the most. That other
// programs may have the processors for a moment is in every measurement, and not
// alike: it is taken again.
func within(t testing.TB, most time.Duration, measure func() time.Duration) {
	t.Helper()
	var took []time.Duration
	for range 10 {
		d := measure()
		if d <= most || t.Failed() {
			return
		}
		took = append(took, d)
	}
	t.Errorf("it took %v, want %v at the most", took, most)
}

// open makes a Resolver and closes it with the test. Whatever it started must
// be gone then.
func open(t testing.TB, opts Options) *Resolver {
	t.Helper()
	return openAt(t, opts, time.Now, portDNS)
}

func openAt(t testing.TB, opts Options, now clock, port uint16) *Resolver {
	t.Helper()
	if opts.ResolvConf == "" {
		opts.ResolvConf = filepath.Join(t.TempDir(), "none")
	}
	if opts.Timeout == 0 {
		opts.Timeout = leisurely
		if opts.late == 0 {
			opts.Timeout, opts.try = 6*leisurely, 2*leisurely
		}
	}
	if opts.late == 0 {
		opts.late = leisurely
	}
	r, err := newResolver(opts, now, port)
	if err != nil {
		t.Fatal(err)
	}
	opened.Add(1)
	t.Cleanup(func() {
		_ = r.Close()
		if opened.Add(-1) == 0 {
			noneLeft(t)
		}
	})
	return r
}

// opened is how many Resolvers of openAt are not closed yet.
var opened atomic.Int64

// noneLeft fails the test when goroutines of this package's code remain.
func noneLeft(t testing.TB) {
	t.Helper()
	var left []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		left = nil
		for _, g := range strings.Split(string(buf), "\n\n") {
			mine := strings.Contains(g, "gateway/resolver.(") || strings.Contains(g, "http2ClientConn") || strings.Contains(g, "http.(*persistConn)")
			if mine && !strings.Contains(g, "testing.tRunner") && !strings.Contains(g, "_test.go") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left after Close:\n%s", len(left), strings.Join(left, "\n\n"))
}

func upstreams(t testing.TB, urls ...string) []*url.URL {
	t.Helper()
	var out []*url.URL
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

func udp(t testing.TB, addrs ...netip.AddrPort) []*url.URL {
	t.Helper()
	var s []string
	for _, a := range addrs {
		s = append(s, "udp://"+a.String())
	}
	return upstreams(t, s...)
}

func question(name string, qtype uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
}

func resolve(t testing.TB, r *Resolver, name string, qtype uint16) *Answer {
	t.Helper()
	a, err := r.Resolve(t.Context(), question(name, qtype))
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.Type(qtype), err)
	}
	return a
}

// texts returns the records without tabs.
func texts(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs {
		out = append(out, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	return out
}

func wantTexts(t testing.TB, what string, got []dns.RR, want ...string) {
	t.Helper()
	if !slices.Equal(texts(got), want) {
		t.Errorf("%s:\ngot  %q\nwant %q", what, texts(got), want)
	}
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("error is %v, want %v", got, want)
	}
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

package source

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const list = "one.example\ntwo.example\n"

// quick are limits within which faults show themselves soon, and good servers
// on a loaded machine do not.
var quick = FetchLimits{Bytes: 4 << 20, Total: time.Minute, Header: 30 * time.Second, Idle: 30 * time.Second}

func packed(t *testing.T, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(text)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func fetch(t *testing.T, f *Fetcher, req Request) (string, Response, error) {
	t.Helper()
	var b bytes.Buffer
	resp, err := f.Fetch(t.Context(), req, &b)
	if err != nil {
		if _, ok := errors.AsType[*FetchError](err); !ok {
			t.Errorf("%T, want a *FetchError: %v", err, err)
		}
		return "", resp, err
	}
	if int64(b.Len()) != resp.Bytes {
		t.Errorf("%d bytes written, %d reported", b.Len(), resp.Bytes)
	}
	return b.String(), resp, nil
}

func TestFetch(t *testing.T) {
	var seen http.Header
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Last-Modified", "Wed, 25 Nov 2026 10:00:00 GMT")
		if r.Header.Get("If-None-Match") == `"v1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(packed(t, []byte(list)))
	})
	f := &Fetcher{UserAgent: "weir/test"}
	got, resp, err := fetch(t, f, Request{URL: s.URL, Limits: quick})
	if err != nil || got != list || resp.NotModified {
		t.Fatalf("%q, %+v, %v", got, resp, err)
	}
	if want := (Validators{`"v1"`, "Wed, 25 Nov 2026 10:00:00 GMT"}); resp.Validators != want {
		t.Errorf("validators %v, want %v", resp.Validators, want)
	}
	if seen.Get("User-Agent") != "weir/test" || seen.Get("If-None-Match") != "" {
		t.Errorf("the server saw %v", seen)
	}
	got, again, err := fetch(t, f, Request{URL: s.URL, Limits: quick, Validators: resp.Validators})
	if err != nil || got != "" || !again.NotModified || again.Validators != resp.Validators {
		t.Errorf("the second time: %q, %+v, %v", got, again, err)
	}
	if got := seen.Get("If-Modified-Since"); got != resp.LastModified {
		t.Errorf("If-Modified-Since: %q", got)
	}
}

// TestFetchIgnoresTheEnvironment: its proxy may be this very gateway.
func TestFetchIgnoresTheEnvironment(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, "http://192.0.2.1:1")
	}
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, list) })
	if got, _, err := fetch(t, new(Fetcher), Request{URL: s.URL, Limits: quick}); err != nil || got != list {
		t.Errorf("%q, %v", got, err)
	}
}

func TestFetchFaults(t *testing.T) {
	long := strings.Repeat("name.example\n", 1000)
	bomb := packed(t, bytes.Repeat([]byte("a"), 3<<20))
	headers := func(w http.ResponseWriter, pairs ...string) {
		for i := 0; i < len(pairs); i += 2 {
			w.Header().Set(pairs[i], pairs[i+1])
		}
	}
	for _, tt := range []struct {
		name   string
		lim    FetchLimits
		reason Reason
		serve  http.HandlerFunc
	}{
		{"404", quick, ReasonStatus, http.NotFound},
		{"500", quick, ReasonStatus, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }},
		{"204", quick, ReasonStatus, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }},
		{"206", quick, ReasonStatus, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(206); _, _ = io.WriteString(w, list) }},
		{"304 that nobody asked for", quick, ReasonStatus, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(304) }},
		{"html", quick, ReasonType, func(w http.ResponseWriter, _ *http.Request) {
			headers(w, "Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, list)
		}},
		{"image", quick, ReasonType, func(w http.ResponseWriter, _ *http.Request) { headers(w, "Content-Type", "image/png") }},
		{"short", quick, ReasonTruncated, func(w http.ResponseWriter, _ *http.Request) {
			headers(w, "Content-Length", "5000")
			_, _ = io.WriteString(w, list)
		}},
		{"chunked and cut off", quick, ReasonTruncated, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, list)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}},
		{"gzip cut", quick, ReasonTruncated, func(w http.ResponseWriter, _ *http.Request) {
			headers(w, "Content-Encoding", "gzip")
			z := packed(t, []byte(long))
			_, _ = w.Write(z[:len(z)-9])
		}},
		{"no gzip", quick, ReasonEncoding, func(w http.ResponseWriter, _ *http.Request) {
			headers(w, "Content-Encoding", "gzip")
			_, _ = io.WriteString(w, long)
		}},
		{"brotli", quick, ReasonEncoding, func(w http.ResponseWriter, _ *http.Request) { headers(w, "Content-Encoding", "br") }},
		{"bomb", quick, ReasonBomb, func(w http.ResponseWriter, _ *http.Request) {
			headers(w, "Content-Encoding", "gzip")
			_, _ = w.Write(bomb)
		}},
		{"large and says so", FetchLimits{Bytes: 100}, ReasonSize, func(w http.ResponseWriter, _ *http.Request) {
			headers(w, "Content-Length", fmt.Sprint(len(long)))
			_, _ = io.WriteString(w, long)
		}},
		{"large", FetchLimits{Bytes: 100}, ReasonSize, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, long)
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, long)
		}},
		{"large when unpacked", FetchLimits{Bytes: 100}, ReasonSize, func(w http.ResponseWriter, _ *http.Request) {
			headers(w, "Content-Encoding", "gzip")
			_, _ = w.Write(packed(t, []byte(long)))
		}},
		{"hang", FetchLimits{Header: 100 * time.Millisecond}, ReasonTimeout, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"hang in the body", FetchLimits{Idle: 100 * time.Millisecond}, ReasonTimeout, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, list)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}},
		{"slow drip", FetchLimits{Total: 300 * time.Millisecond}, ReasonTimeout, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, "a")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}},
		{"redirects without end", quick, ReasonRedirect, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusFound) }},
		{"redirect to a file", quick, ReasonRedirect, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}},
		{"redirect with a password", quick, ReasonRedirect, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://a:b@"+r.Host+"/", http.StatusFound)
		}},
		{"redirect to loopback", quick, ReasonAddress, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.2/", http.StatusFound)
		}},
		{"redirect to another port", quick, ReasonAddress, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}},
		{"redirect to metadata", quick, ReasonAddress, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest", http.StatusFound)
		}},
		{"redirect to a private address in another dress", quick, ReasonAddress, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://[::ffff:10.0.0.1]/", http.StatusFound)
		}},
		{"redirect to a translated address", quick, ReasonAddress, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://[64:ff9b::a00:1]/", http.StatusFound)
		}},
		{"redirect to localhost", quick, ReasonAddress, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://localhost:1/", http.StatusFound)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, tt.serve)
			got, _, err := fetch(t, new(Fetcher), Request{URL: s.URL, Limits: tt.lim})
			if fe, ok := errors.AsType[*FetchError](err); !ok || fe.Reason != tt.reason {
				t.Errorf("%q, %v; want the reason %s", got, err, tt.reason)
			}
		})
	}
}

func TestFetchNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	_, _, err = fetch(t, new(Fetcher), Request{URL: "http://" + l.Addr().String(), Limits: quick})
	if fe, ok := errors.AsType[*FetchError](err); !ok || fe.Reason != ReasonNetwork {
		t.Errorf("%v, want the reason network", err)
	}
}

func TestFetchCancelled(t *testing.T) {
	arrived := make(chan struct{})
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) { close(arrived); <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := new(Fetcher).Fetch(ctx, Request{URL: s.URL}, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
}

func TestFetchTLS(t *testing.T) {
	h := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, list) }
	s := httptest.NewTLSServer(http.HandlerFunc(h))
	t.Cleanup(s.Close)
	s.Config.ErrorLog = nil
	_, _, err := fetch(t, new(Fetcher), Request{URL: s.URL, Limits: quick})
	if fe, ok := errors.AsType[*FetchError](err); !ok || fe.Reason != ReasonTLS {
		t.Errorf("a stranger's certificate: %v, want the reason tls", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	if got, _, err := fetch(t, &Fetcher{Roots: roots}, Request{URL: s.URL, Limits: quick}); err != nil || got != list {
		t.Errorf("a trusted one: %q, %v", got, err)
	}
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	_, _, err = fetch(t, &Fetcher{Roots: roots}, Request{URL: "https://localhost:" + port, Limits: quick,
		Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}})
	if fe, ok := errors.AsType[*FetchError](err); !ok || fe.Reason != ReasonTLS {
		t.Errorf("a certificate for another name: %v, want the reason tls", err)
	}
	plain := serve(t, h)
	_, _, err = fetch(t, &Fetcher{Roots: roots}, Request{URL: "https://" + plain.Listener.Addr().String(), Limits: quick})
	if fe, ok := errors.AsType[*FetchError](err); !ok || fe.Reason != ReasonTLS {
		t.Errorf("no TLS at all: %v, want the reason tls", err)
	}
	down := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	t.Cleanup(down.Close)
	roots.AddCert(down.Certificate())
	_, _, err = fetch(t, &Fetcher{Roots: roots}, Request{URL: down.URL, Limits: quick})
	if fe, ok := errors.AsType[*FetchError](err); !ok || fe.Reason != ReasonRedirect {
		t.Errorf("a redirect out of TLS: %v, want the reason redirect", err)
	}
}

// TestFetchResolvesByItself: a name goes to the bootstrap resolver and nowhere
// else, and what it resolves to is looked at.
func TestFetchResolvesByItself(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	d := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A 127.0.0.1")
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = d.ActivateAndServe() }()
	t.Cleanup(func() { _ = d.Shutdown() })
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, list) })
	_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	f := &Fetcher{Bootstrap: []netip.AddrPort{pc.LocalAddr().(*net.UDPAddr).AddrPort()}}
	at := Request{URL: "http://lists.example.test:" + port, Limits: quick}
	_, _, err = fetch(t, f, at)
	if fe, ok := errors.AsType[*FetchError](err); !ok || fe.Reason != ReasonAddress {
		t.Errorf("a name that leads to loopback: %v, want the reason address", err)
	}
	at.Networks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	if got, _, err := fetch(t, f, at); err != nil || got != list {
		t.Errorf("with its network allowed: %q, %v", got, err)
	}
	if asked.Load() == 0 {
		t.Error("the bootstrap resolver was not asked")
	}
}

func TestFetchThroughProxy(t *testing.T) {
	var through atomic.Pointer[url.URL]
	p := serve(t, func(w http.ResponseWriter, r *http.Request) {
		through.Store(r.URL)
		if r.URL.Path == "/away" {
			http.Redirect(w, r, "http://10.0.0.1/", http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, list)
	})
	proxy, err := url.Parse(p.URL)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := fetch(t, new(Fetcher), Request{URL: "http://lists.example.test/a", Proxy: proxy, Limits: quick})
	if u := through.Load(); err != nil || got != list || u == nil || u.Host != "lists.example.test" {
		t.Errorf("%q, %v, through the proxy went %v", got, err, u)
	}
	_, _, err = fetch(t, new(Fetcher), Request{URL: "http://lists.example.test/away", Proxy: proxy, Limits: quick})
	if fe, ok := errors.AsType[*FetchError](err); !ok || fe.Reason != ReasonAddress {
		t.Errorf("a redirect to a private address behind the proxy: %v, want the reason address", err)
	}
}

func TestUnpack(t *testing.T) {
	long := []byte(strings.Repeat("a long list of nothing\n", 100))
	for _, tt := range []struct {
		name   string
		in     []byte
		reason Reason // empty: it is long
	}{
		{"plain", long, ""},
		{"gzip", packed(t, long), ""},
		{"two members", append(packed(t, long[:50]), packed(t, long[50:])...), ""},
		{"garbage behind", append(packed(t, long), "garbage behind it"...), ReasonEncoding},
		{"cut", packed(t, long)[:20], ReasonTruncated},
		{"cut in the header", packed(t, long)[:5], ReasonTruncated},
		{"large", make([]byte, 3<<20), ReasonSize},
		{"bomb", packed(t, make([]byte, 2<<20)), ReasonBomb},
	} {
		r, err := Unpack(bytes.NewReader(tt.in), 2<<20)
		var got []byte
		if err == nil {
			got, err = io.ReadAll(r)
		}
		fe, failed := errors.AsType[*FetchError](err)
		switch {
		case tt.reason == "" && (err != nil || !bytes.Equal(got, long)):
			t.Errorf("%s: %d bytes, %v", tt.name, len(got), err)
		case tt.reason != "" && (!failed || fe.Reason != tt.reason):
			t.Errorf("%s: %v, want the reason %s", tt.name, err, tt.reason)
		}
	}
}

func TestStore(t *testing.T) {
	s := Store{Dir: t.TempDir() + "/feeds"}
	if _, err := s.Load("a", Good); !os.IsNotExist(err) {
		t.Errorf("an empty store: %v", err)
	}
	if _, err := (Store{}).Load("a", Good); !os.IsNotExist(err) {
		t.Errorf("no store: %v", err)
	}
	if _, err := (Store{}).Create("a"); err == nil {
		t.Error("a store without a folder takes a list")
	}
	put := func(text string, c Copy) {
		t.Helper()
		f, err := s.Create("a")
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(f, text)
		if err := errors.Join(err, f.Close(), s.Install("a", Good, f.Name(), c)); err != nil {
			t.Fatal(err)
		}
	}
	const sum = "e4b12b0ae0a58cf4b4b06b03f4a1b1a0f3a9dd7e1e9d8bd2ac2a1b8b2b4fb04a" // of something else
	put("one\n", Copy{URL: "https://x", Validators: Validators{ETag: "1"}, SHA256: sum})
	if c, err := s.Load("a", Good); err != nil || c.URL != "" || c.ETag != "" || c.Bytes != 4 || c.SHA256 == sum {
		t.Errorf("bytes that nothing is known of: %+v, %v", c, err)
	}
	c, _ := s.Load("a", Good)
	c.URL, c.ETag, c.Checked = "https://x", "1", time.Unix(5, 0).UTC()
	put("one\n", c)
	if got, err := s.Load("a", Good); err != nil || got != c {
		t.Errorf("got %+v, %v, want %+v", got, err, c)
	}
	// An end without warning, between the bytes and what is known of them.
	if err := os.WriteFile(s.Path("a", Good), []byte("two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load("a", Good); err != nil || got.ETag != "" {
		t.Errorf("the validators of other bytes are used: %+v, %v", got, err)
	}
	if _, err := s.Create("a"); err != nil {
		t.Fatal(err)
	}
	s.Clean()
	if e, err := os.ReadDir(s.Dir + "/a"); err != nil || len(e) != 2 {
		t.Errorf("%v, %v; want the bytes and what is known of them", e, err)
	}
	if err := errors.Join(s.Remove("a", Good), s.Remove("a", Good)); err != nil {
		t.Error(err)
	}
	if _, err := s.Load("a", Good); !os.IsNotExist(err) {
		t.Errorf("after Remove: %v", err)
	}
}

// TestFetchLongValidators: what a server says of a version is asked of it again, unless
// it is so long that the server would refuse the question.
func TestFetchLongValidators(t *testing.T) {
	for _, size := range []int{1000, 60_000} {
		tag := `"` + strings.Repeat("e", size) + `"`
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", tag)
			_, _ = io.WriteString(w, "a.example\n")
		}))
		r, err := new(Fetcher).Fetch(t.Context(), Request{URL: s.URL}, io.Discard)
		if err != nil || (r.ETag == tag) != (size == 1000) || len(r.ETag) > maxValidator {
			t.Errorf("an ETag of %d bytes: %v, kept %d", size, err, len(r.ETag))
		}
		s.Close()
	}
}

package dnsserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go/http3"

	"github.com/weir-gateway/weir/bench/corpus"
)

// startAll runs a server with every transport.
func startAll(tb testing.TB, zone string, opts Options) (*rig, *testCA) {
	tb.Helper()
	ca := newCA(tb)
	if opts.Certs == nil {
		opts.Certs = newCerts(tb, ca.server(tb, tb.TempDir()))
	}
	opts.DoT, opts.DoH, opts.DoQ = addrPorts("127.0.0.1:0"), addrPorts("127.0.0.1:0"), addrPorts("127.0.0.1:0")
	opts.HTTP3 = true
	return start(tb, zone, opts), ca
}

// webClients are Go's clients of each version of HTTP.
func webClients(tb testing.TB, ca *testCA) map[string]*http.Client {
	one, two := new(http.Protocols), new(http.Protocols)
	one.SetHTTP1(true)
	two.SetHTTP2(true)
	h1 := &http.Transport{TLSClientConfig: ca.client(), Protocols: one}
	h2 := &http.Transport{TLSClientConfig: ca.client(), Protocols: two}
	h3 := &http3.Transport{TLSClientConfig: ca.client(), QUICConfig: patientQUIC()}
	tb.Cleanup(func() {
		h1.CloseIdleConnections()
		h2.CloseIdleConnections()
		_ = h3.Close()
	})
	return map[string]*http.Client{
		"HTTP/1.1": {Transport: h1, Timeout: secs(60)},
		"HTTP/2.0": {Transport: h2, Timeout: secs(60)},
		"HTTP/3.0": {Transport: h3, Timeout: secs(60)},
	}
}

func (r *rig) dohURL() string { return "https://" + r.DoHAddrs()[0].String() + dohPath }

// webAsk makes a request and returns the message of the response.
func webAsk(tb testing.TB, c *http.Client, req *http.Request) (*http.Response, *dns.Msg) {
	tb.Helper()
	resp, err := c.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	m := new(dns.Msg)
	if resp.Header.Get("Content-Type") != dohType || m.Unpack(body) != nil {
		return resp, nil
	}
	return resp, m
}

func request(tb testing.TB, method, url string, body []byte) *http.Request {
	tb.Helper()
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		tb.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", dohType)
	}
	return req
}

// Go's clients over each version of HTTP, GET and POST: what is blocked and what
// is not, and for how long the answer may be kept.
func TestDoH(t *testing.T) {
	r, ca := startAll(t, zones, Options{BlockTTL: secs(60)})
	for proto, c := range webClients(t, ca) {
		t.Run(proto, func(t *testing.T) {
			for _, tc := range []struct {
				name  string
				qtype uint16
				rcode int
				cache string
			}{
				{"wechat.com", dns.TypeA, dns.RcodeNameError, "private, max-age=60"},
				{"good.example", dns.TypeA, dns.RcodeSuccess, ""},
				{"cloak.example", dns.TypeA, dns.RcodeNameError, "private, max-age=60"},
				{"good.example", dns.TypeAXFR, dns.RcodeRefused, "private, max-age=0"},
				{"nx.example", dns.TypeA, dns.RcodeNameError, ""},
				{"good.example", dns.TypeANY, dns.RcodeSuccess, "private, max-age=3600"},
			} {
				q := edns(query(tc.name, tc.qtype), 1232)
				q.Id = 0
				p := pack(t, q)
				for method, req := range map[string]*http.Request{
					"POST": request(t, "POST", r.dohURL(), p),
					"GET":  request(t, "GET", r.dohURL()+"?dns="+base64.RawURLEncoding.EncodeToString(p), nil),
				} {
					resp, m := webAsk(t, c, req)
					if resp.StatusCode != 200 || m == nil || m.Rcode != tc.rcode || m.Id != 0 || resp.Proto != proto {
						t.Errorf("%s %s: %s %s, %v", method, tc.name, resp.Proto, resp.Status, m)
						continue
					}
					if got := resp.Header.Get("Cache-Control"); tc.cache != "" && got != tc.cache || !strings.HasPrefix(got, "private, max-age=") {
						t.Errorf("%s %s: Cache-Control %q, want %q", method, tc.name, got, tc.cache)
					}
					for _, rr := range m.Answer {
						if got := "private, max-age=" + strconv.Itoa(int(rr.Header().Ttl)); len(m.Answer) == 1 && resp.Header.Get("Cache-Control") != got {
							t.Errorf("%s %s: Cache-Control %q, want %q", method, tc.name, resp.Header.Get("Cache-Control"), got)
						}
					}
					if tc.name == "wechat.com" && edeOf(m) == nil {
						t.Errorf("%s: no EDE", method)
					}
					if alt := resp.Header.Get("Alt-Svc"); (proto == "HTTP/3.0") != (alt == "") {
						t.Errorf("%s: Alt-Svc %q", proto, alt)
					}
				}
			}
		})
	}
	for _, rec := range r.audit.take() {
		if rec.Transport != "doh" && rec.Transport != "doh3" {
			t.Errorf("transport %q", rec.Transport)
		}
	}
	if st := r.Stats(); st.DoH != 24 || st.DoH3 != 12 || st.TCP+st.UDP != 0 {
		t.Errorf("stats %+v", st)
	}
}

// Requests that are none: each has its status, and no DNS message.
func TestDoHStatus(t *testing.T) {
	r, ca := startAll(t, "", Options{})
	good := pack(t, query("wechat.com", dns.TypeA))
	reply := query("wechat.com", dns.TypeA)
	reply.Response = true
	b64 := base64.RawURLEncoding.EncodeToString
	typed := func(kind string) *http.Request {
		req := request(t, "POST", r.dohURL(), good)
		req.Header.Set("Content-Type", kind)
		return req
	}
	unsized := func(n int) *http.Request {
		req := request(t, "POST", r.dohURL(), make([]byte, n))
		req.Body, req.ContentLength = struct{ io.ReadCloser }{req.Body}, -1
		return req
	}
	for proto, c := range webClients(t, ca) {
		for label, tc := range map[string]struct {
			req  *http.Request
			want int
		}{
			"another path":       {request(t, "POST", r.dohURL()+"/x/y", good), 404},
			"another method":     {request(t, "PUT", r.dohURL(), good), 405},
			"no parameter":       {request(t, "GET", r.dohURL(), nil), 400},
			"two parameters":     {request(t, "GET", r.dohURL()+"?dns="+b64(good)+"&dns="+b64(good), nil), 400},
			"no base64url":       {request(t, "GET", r.dohURL()+"?dns=a+b/c=", nil), 400},
			"padded base64url":   {request(t, "GET", r.dohURL()+"?dns="+b64(good[:20])+"=", nil), 400},
			"short":              {request(t, "GET", r.dohURL()+"?dns="+b64(good[:11]), nil), 400},
			"a reply":            {request(t, "POST", r.dohURL(), pack(t, reply)), 400},
			"empty":              {request(t, "POST", r.dohURL(), []byte{}), 400},
			"too long":           {request(t, "POST", r.dohURL(), make([]byte, 65536)), 413},
			"too long, unsaid":   {unsized(300_000), 413},
			"as long as can be":  {request(t, "POST", r.dohURL(), make([]byte, 65535)), 200},
			"another type":       {typed("text/plain"), 415},
			"JSON":               {typed("application/dns-json"), 415},
			"no type":            {typed(""), 415},
			"a type with spaces": {typed("application/dns-message ; charset=x"), 200},
			"a type in capitals": {typed("Application/DNS-Message"), 200},
			"HEAD":               {request(t, "HEAD", r.dohURL()+"?dns="+b64(good), nil), 200},
		} {
			resp, m := webAsk(t, c, tc.req)
			if resp.StatusCode != tc.want || m != nil && tc.want != 200 {
				t.Errorf("%s, %s: %s, %v; want %d", proto, label, resp.Status, m, tc.want)
			}
			if allow := resp.Header.Get("Allow"); (tc.want == 405) != (allow == "GET, HEAD, POST") {
				t.Errorf("%s, %s: Allow %q", proto, label, allow)
			}
			if tc.want != 200 && resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s, %s: may be kept", proto, label)
			}
		}
		long := request(t, "GET", r.dohURL()+"?dns="+strings.Repeat("A", 2*maxHeaders), nil)
		if resp, err := c.Do(long); err == nil && resp.StatusCode != 431 {
			t.Errorf("%s: a URL of %d octets: %s", proto, 2*maxHeaders, resp.Status)
		}
		// What is dropped has no answer at all.
		if resp, err := c.Do(request(t, "POST", r.dohURL(), pack(t, query("m-drop.example", dns.TypeA)))); err == nil {
			t.Errorf("%s: a dropped question: %s", proto, resp.Status)
		}
		// The connection, or the next, answers still.
		if _, m := webAsk(t, c, request(t, "POST", r.dohURL(), good)); m == nil || m.Rcode != dns.RcodeNameError {
			t.Errorf("%s: afterwards %v", proto, m)
		}
	}
	if got := r.Stats().Dropped["http_request"]; got < 36 {
		t.Errorf("%d bad requests counted", got)
	}
}

// A body that never ends, over each version.
func TestDoHSlowBody(t *testing.T) {
	r, ca := startAll(t, "", Options{HandshakeTimeout: secs(5), ReadTimeout: 300 * time.Millisecond})
	for proto, c := range webClients(t, ca) {
		pr, pw := io.Pipe()
		req := request(t, "POST", r.dohURL(), nil)
		req.Body, req.ContentLength = pr, 100
		req.Header.Set("Content-Type", dohType)
		ctx, cancel := context.WithTimeout(t.Context(), secs(60))
		begin := time.Now()
		c.Timeout = 0
		resp, err := c.Do(req.WithContext(ctx))
		if err == nil && resp.StatusCode == 200 || ctx.Err() != nil {
			t.Errorf("%s: %v, %v after %v", proto, resp, err, time.Since(begin))
		}
		cancel()
		_ = pw.Close()
	}
}

func TestKdigDoH(t *testing.T) {
	r, ca := startAll(t, zones, Options{})
	port := portOf(t, r.DoHAddrs()[0].String())
	for _, how := range []string{"+https", "+https-get"} {
		args := "+edns +tls-ca=" + ca.file + " +tls-hostname=" + resolverName + " " + how + " "
		seesOurAnswers(t, how, kdig(t, port, args+"wechat.com"), kdig(t, port, args+"good.example"))
	}
}

// curl resolves a name by DoH and connects to where that says; a blocked name it
// does not find.
func TestCurlDoH(t *testing.T) {
	curl := corpus.Tool(t, "curl")
	site, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello "+r.Host) })}
	go func() { _ = s.Serve(site) }()
	t.Cleanup(func() { _ = s.Close() })
	r, ca := startAll(t, "site.example. 300 IN A 127.0.0.1\n", Options{})
	url := strings.Replace(r.dohURL(), "127.0.0.1", resolverName, 1)
	host, port, _ := strings.Cut(r.DoHAddrs()[0].String(), ":")
	run := func(name string) (string, error) {
		out, err := exec.Command(curl, "-sS", "--max-time", "60", "--noproxy", "*", "--cacert", ca.file, "--resolve", resolverName+":"+port+":"+host,
			"--doh-url", url, "http://"+name+":"+portOf(t, site.Addr().String())+"/").CombinedOutput()
		return string(out), err
	}
	if out, err := run("site.example"); err != nil || !strings.Contains(out, "hello site.example") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := run("wechat.com"); err == nil || !strings.Contains(out, "resolve host") {
		t.Errorf("a blocked name: %v, %s", err, out)
	}
	if st := r.Stats(); st.DoH < 2 {
		t.Errorf("stats %+v", st)
	}
}

// A server that ends lets the request in flight finish.
func TestDoHDrain(t *testing.T) {
	r, ca := startAll(t, zones, Options{Drain: time.Minute})
	for proto, c := range webClients(t, ca) {
		if proto == "HTTP/1.1" {
			continue
		}
		if _, m := webAsk(t, c, request(t, "POST", r.dohURL(), pack(t, query("good.example", dns.TypeA)))); m == nil {
			t.Fatal("no answer")
		}
		got := make(chan *dns.Msg, 1)
		before := r.Stats().Inflight
		go func() {
			_, m := webAsk(t, c, request(t, "POST", r.dohURL(), pack(t, query(proto[5:6]+".slow.example", dns.TypeA))))
			got <- m
		}()
		eventually(t, "the question waits", func() bool { return r.Stats().Inflight > before })
		t.Cleanup(func() {
			if m := <-got; m == nil || m.Rcode != dns.RcodeSuccess {
				t.Errorf("%s: %v while the server ended", proto, m)
			}
		})
	}
	r.end()
	eventually(t, "no new connection is taken", func() bool {
		c, err := tls.Dial("tcp", r.DoHAddrs()[0].String(), ca.client("h2"))
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(r.up.gate)
}

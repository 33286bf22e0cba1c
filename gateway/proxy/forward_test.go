package proxy

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/gateway/policy"
)

// get sends a GET for the host on the origin's port and reads the response.
func (c *raw) get(host string, o *origin, fields string) (*http.Response, string) {
	c.tb.Helper()
	c.send(fmt.Sprintf("GET http://%[1]s:%[2]d/ HTTP/1.1\r\nHost: %[1]s:%[2]d\r\n%[3]s\r\n", host, o.port, crlf(fields)))
	return c.response("GET")
}

func TestKeepAliveIsJudgedEachTime(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) })
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	for i, host := range []string{"ok.example", "tiktok.com", "ok.example", "www.wechat.com", "other.example"} {
		resp, body := c.get(host, o, "")
		if i%2 == 0 {
			if want := fmt.Sprintf("%s:%d", host, o.port); resp.StatusCode != 200 || body != want {
				t.Errorf("%s: %s %q", host, resp.Status, body)
			}
		} else if resp.StatusCode != 403 || resp.Close {
			t.Errorf("%s: %s, close %v", host, resp.Status, resp.Close)
		}
	}
	// And pipelined, in one segment.
	one := func(host string) string {
		return fmt.Sprintf("GET http://%[1]s:%[2]d/ HTTP/1.1\r\nHost: %[1]s:%[2]d\r\n\r\n", host, o.port)
	}
	c.send(one("ok.example") + one("tiktok.com") + one("ok.example"))
	for _, want := range []int{200, 403, 200} {
		if resp, _ := c.response("GET"); resp.StatusCode != want {
			t.Errorf("pipelined: %s, want %d", resp.Status, want)
		}
	}
	if n := len(h.audit.all()); n != 8 {
		t.Errorf("%d records for 8 decisions", n)
	}
}

func TestBlockPage(t *testing.T) {
	o := listenOrigin(t)
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	resp, body := c.get("www.tiktok.com", o, "")
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Content-Language": "en, fr",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	csp := resp.Header.Get("Content-Security-Policy")
	if !strings.HasPrefix(csp, "default-src 'none'; style-src 'sha256-") {
		t.Errorf("Content-Security-Policy: %s", csp)
	}
	if !strings.Contains(resp.Header.Get("Proxy-Status"), "http_request_denied") {
		t.Errorf("Proxy-Status: %s", resp.Header.Get("Proxy-Status"))
	}
	for _, want := range []string{
		`lang="en"`, `lang="fr"`, "Access blocked: TikTok", "Accès bloqué : TikTok (interdit)", "the &lt;Chief&gt; Information Officer",
		"la dirigeante principale", `href="https://www.example.org/decision?a=1&amp;b=2"`, "tiktok:1", "www.tiktok.com", "<dd>1</dd>",
		"An unacceptable level of risk.", "Un niveau de risque inacceptable.", "Call 5555.", "Composez le 5555.",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(body, "<script") || strings.Contains(body, "<Chief>") || strings.Contains(body, "ZgotmplZ") {
		t.Error("the page has what it must not have")
	}
	// HEAD: the same fields, no content; then the connection goes on.
	c.send(fmt.Sprintf("HEAD http://tiktok.com:%[1]d/ HTTP/1.1\r\nHost: tiktok.com:%[1]d\r\n\r\n", o.port))
	if resp, body := c.response("HEAD"); resp.StatusCode != 403 || body != "" || resp.ContentLength <= 0 {
		t.Errorf("HEAD: %s %d %q", resp.Status, resp.ContentLength, body)
	}
	// A request with content that is not read ends the connection.
	c.send(fmt.Sprintf("POST http://tiktok.com:%[1]d/ HTTP/1.1\r\nHost: tiktok.com:%[1]d\r\nContent-Length: 1000000\r\n\r\nbegin", o.port))
	begin := time.Now()
	if resp, _ := c.response("POST"); resp.StatusCode != 403 || !resp.Close {
		t.Errorf("POST: %s, close %v", resp.Status, resp.Close)
	}
	c.atEOF()
	if d := time.Since(begin); d > patience/2 {
		t.Errorf("took %v", d)
	}
	if o.accepted() != 0 {
		t.Error("origin was reached")
	}
}

func TestPathRule(t *testing.T) {
	o := httpOrigin(t, func(http.ResponseWriter, *http.Request) {})
	h := start(t, []uint16{o.port}, nil)
	for path, want := range map[string]int{
		"/public": 200, "/secret": 403, "/SECRET/x": 403, "/%73ecret": 403, "/a/../secret": 403, "//secret": 403, "/a/%2e%2e/secret": 403, "/?secret": 200,
	} {
		c := h.dial()
		c.send(fmt.Sprintf("GET http://paths.example:%[1]d%[2]s HTTP/1.1\r\nHost: paths.example:%[1]d\r\n\r\n", o.port, path))
		if resp, _ := c.response("GET"); resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, resp.Status, want)
		}
	}
	c := h.connect(fmt.Sprintf("paths.example:%d", o.port), "") // says nothing about tunnels
	_ = c.Close()
	for _, r := range h.audit.all() {
		if r.Action == "block" && r.Path == "" {
			t.Errorf("record without path: %+v", r)
		}
	}
}

// What the origin sees is what the client sent, but for what belongs to the
// connection.
func TestRequestHygiene(t *testing.T) {
	heads := make(chan string, 100)
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		var b strings.Builder
		for {
			line, err := br.ReadString('\n')
			if err != nil {
				return
			}
			if b.WriteString(line); line == "\r\n" {
				break
			}
		}
		heads <- b.String()
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.get("OK.example.", o, "Connection: close, X-Hop, TE\nX-Hop: 1\nX-End: 2\nTE: trailers, gzip\nKeep-Alive: 5\nProxy-Connection: keep-alive\n"+
		"Proxy-Authorization: Basic eA==\nUpgrade: h2c\nHTTP2-Settings: AAA\nVia: 1.0 other\nCookie: a=b\nx-lower: c\n")
	head := <-heads
	for _, want := range []string{
		"GET / HTTP/1.1\r\n", fmt.Sprintf("Host: ok.example:%d\r\n", o.port), "X-End: 2\r\n", "Cookie: a=b\r\n", "X-Lower: c\r\n",
		"Te: trailers\r\n", "Connection: TE\r\n", "Via: 1.0 other\r\nVia: 1.1 " + h.s.pseudonym + "\r\n",
	} {
		if !strings.Contains(head, want) {
			t.Errorf("the origin misses %q in\n%s", want, head)
		}
	}
	for _, not := range []string{"X-Hop", "gzip", "Keep-Alive", "Proxy-", "Upgrade", "Settings", "User-Agent", "Accept-Encoding", "close"} {
		if strings.Contains(head, not) {
			t.Errorf("the origin sees %q in\n%s", not, head)
		}
	}
	// Paths are not touched.
	for _, path := range []string{"/", "/?", "/a%2Fb", "/%7Euser", "/100%", "/a|b\"<>^`{}\\", "//double", "//dou|ble", "/../x", "/x;y=1?a=b&c=%zz?", "/é", "/?é|"} {
		c := h.dial()
		c.send(fmt.Sprintf("GET http://ok.example:%[1]d%[2]s HTTP/1.1\r\nHost: ok.example:%[1]d\r\n\r\n", o.port, path))
		if resp, body := c.response("GET"); resp.StatusCode != 204 {
			t.Errorf("%s: %s %s", path, resp.Status, body)
			continue
		}
		target := strings.Fields(<-heads)[1]
		if target != path && target != fmt.Sprintf("http://ok.example:%d%s", o.port, path) {
			t.Errorf("%s is sent as %s", path, target)
		}
	}
	// OPTIONS about the server as a whole (RFC 9112, section 3.2.4).
	c = h.dial()
	c.send(fmt.Sprintf("OPTIONS http://ok.example:%[1]d HTTP/1.1\r\nHost: ok.example:%[1]d\r\nMax-Forwards: 3\r\n\r\n", o.port))
	if resp, _ := c.response("OPTIONS"); resp.StatusCode != 204 {
		t.Errorf("OPTIONS: %s", resp.Status)
	}
	if head := <-heads; !strings.HasPrefix(head, "OPTIONS * HTTP/1.1\r\n") || !strings.Contains(head, "Max-Forwards: 2\r\n") {
		t.Errorf("OPTIONS is sent as\n%s", head)
	}
}

func TestResponseHygiene(t *testing.T) {
	reply := make(chan string, 1)
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			_, _ = io.WriteString(c, crlf(<-reply))
		}
	})
	h := start(t, []uint16{o.port}, nil)
	for _, tc := range []struct {
		name, reply, method string
		status              int
		body                string
	}{
		{"fields of the connection", "HTTP/1.1 200 OK\nConnection: close, X-Hop\nX-Hop: 1\nKeep-Alive: 3\nProxy-Authenticate: Basic\nUpgrade: h2\nX-End: 2\nContent-Length: 2\n\nhi", "GET", 200, "hi"},
		{"no length", "HTTP/1.1 200 OK\nX-End: 2\n\nuntil the end", "GET", 200, "until the end"},
		{"HTTP/1.0", "HTTP/1.0 200 OK\nX-End: 2\n\nold", "GET", 200, "old"},
		{"HEAD", "HTTP/1.1 200 OK\nX-End: 2\nContent-Length: 1234\n\n", "HEAD", 200, ""},
		{"204", "HTTP/1.1 204 No Content\nX-End: 2\n\n", "GET", 204, ""},
		{"304", "HTTP/1.1 304 Not Modified\nX-End: 2\nETag: \"x\"\n\n", "GET", 304, ""},
		{"unknown status", "HTTP/1.1 299 Fine\nX-End: 2\nContent-Length: 0\n\n", "GET", 299, ""},
		{"not HTTP", "SSH-2.0-x\n", "GET", 502, "weir: the origin's answer is not understood\n"},
		{"nothing", "", "GET", 502, "weir: the origin closed the connection without an answer\n"},
		{"switch nobody asked for", "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\n\n", "GET", 502, "weir: the origin's answer is not understood\n"},
		{"lengths that differ", "HTTP/1.1 200 OK\nContent-Length: 1\nContent-Length: 2\n\nab", "GET", 502, "weir: the origin's answer is not understood\n"},
	} {
		reply <- tc.reply
		c := h.dial()
		c.send(fmt.Sprintf("%[1]s http://ok.example:%[2]d/ HTTP/1.1\r\nHost: ok.example:%[2]d\r\n\r\n", tc.method, o.port))
		resp, body := c.response(tc.method)
		if resp.StatusCode != tc.status || body != tc.body {
			t.Errorf("%s: %s %q", tc.name, resp.Status, body)
		}
		if tc.status == 502 {
			if !strings.HasPrefix(resp.Header.Get("Proxy-Status"), "weir; error=") {
				t.Errorf("%s: Proxy-Status %q", tc.name, resp.Header.Get("Proxy-Status"))
			}
			continue
		}
		for _, not := range []string{"X-Hop", "Keep-Alive", "Proxy-Authenticate", "Upgrade", "Content-Type"} {
			if v, ok := resp.Header[not]; ok {
				t.Errorf("%s: the client sees %s: %s", tc.name, not, v)
			}
		}
		if resp.Close || resp.Header.Get("X-End") != "2" || !strings.HasSuffix(resp.Header.Get("Via"), " "+h.s.pseudonym) {
			t.Errorf("%s: close %v, %v", tc.name, resp.Close, resp.Header)
		}
		if tc.method == "HEAD" && resp.ContentLength != 1234 {
			t.Errorf("HEAD: length %d", resp.ContentLength)
		}
	}
}

// A response that breaks off must not look whole.
func TestTruncatedResponse(t *testing.T) {
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
		}
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.send(fmt.Sprintf("GET http://ok.example:%[1]d/ HTTP/1.1\r\nHost: ok.example:%[1]d\r\n\r\n", o.port))
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err == nil || string(b) != "hello" {
		t.Errorf("got %q, %v; want an error", b, err)
	}
}

func TestStreamingBothWays(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(200)
		_ = rc.Flush()
		b := make([]byte, 100)
		for {
			n, err := r.Body.Read(b)
			_, _ = w.Write(b[:n])
			_ = rc.Flush()
			if err != nil {
				break
			}
		}
		w.Header().Set("X-Sum", "sum "+r.Trailer.Get("X-Client"))
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.send(fmt.Sprintf("POST http://ok.example:%[1]d/ HTTP/1.1\r\nHost: ok.example:%[1]d\r\nTE: trailers\r\nConnection: TE\r\nTrailer: X-Client\r\nTransfer-Encoding: chunked\r\n\r\n", o.port))
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"one", "two", "three"} {
		c.send(fmt.Sprintf("%x\r\n%s\r\n", len(word), word))
		b := make([]byte, len(word))
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != word {
			t.Fatalf("echo %q, %v", b, err)
		}
	}
	c.send("0\r\nX-Client: t\r\n\r\n")
	if b, err := io.ReadAll(resp.Body); err != nil || len(b) > 0 {
		t.Errorf("end: %q, %v", b, err)
	}
	if got := resp.Trailer.Get("X-Sum"); got != "sum t" {
		t.Errorf("trailer %q", got)
	}
	if resp, _ := c.get("ok.example", o, ""); resp.StatusCode != 200 {
		t.Errorf("next request: %s", resp.Status)
	}
}

func TestExpectContinue(t *testing.T) {
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		r, err := http.ReadRequest(br)
		if err != nil || r.Header.Get("Expect") != "100-continue" {
			return
		}
		if r.URL.Path == "/no" {
			_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
			return
		}
		time.Sleep(200 * time.Millisecond)
		_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
	})
	h := start(t, []uint16{o.port}, nil)
	head := "PUT http://ok.example:%[1]d/%[2]s HTTP/1.1\r\nHost: ok.example:%[1]d\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
	c := h.dial()
	for rounds := 1; !c.interims(fmt.Sprintf(head, o.port, ""), h.s.forwarder.transport.ExpectContinueTimeout); rounds++ {
		if rounds == 10 {
			t.Fatal("the origin is never heard in time")
		}
		c = h.dial()
	}
	c.send("hello")
	if resp, body := c.response("PUT"); resp.StatusCode != 200 || body != "hello" || resp.Header.Get("Link") != "" {
		t.Errorf("%s %q %v", resp.Status, body, resp.Header)
	}
	c = h.dial()
	c.send(fmt.Sprintf(head, o.port, "no"))
	if resp, _ := c.response("PUT"); resp.StatusCode != 413 {
		t.Errorf("refused expectation: %s", resp.Status)
	}
}

// interims sends the head and reads what the origin says before the content. It is
// false where the origin took so long that it was not waited for.
func (c *raw) interims(head string, limit time.Duration) bool {
	c.tb.Helper()
	begin := time.Now()
	c.send(head)
	for _, want := range []int{103, 100} {
		resp, err := http.ReadResponse(c.br, nil)
		if err == nil && resp.StatusCode != want && time.Since(begin) >= limit {
			return false
		}
		if err != nil || resp.StatusCode != want {
			c.tb.Fatalf("interim: %v, %v; want %d", resp, err, want)
		}
		if want == 103 && resp.Header.Get("Link") != "</x>" {
			c.tb.Errorf("103 has %v", resp.Header)
		}
	}
	if d := time.Since(begin); d < 150*time.Millisecond {
		c.tb.Errorf("100 came after %v, before the origin said so", d)
	}
	return true
}

// The client ends its sending side and waits.
func TestHalfClosedClient(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(200 * time.Millisecond)
		_, _ = io.WriteString(w, "patience")
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.send(fmt.Sprintf("GET http://ok.example:%[1]d/ HTTP/1.1\r\nHost: ok.example:%[1]d\r\n\r\n", o.port))
	_ = c.CloseWrite()
	if resp, body := c.response("GET"); resp.StatusCode != 200 || body != "patience" {
		t.Errorf("%s %q", resp.Status, body)
	}
	c.atEOF()
}

// An origin that answers before it has read what is sent to it.
func TestEarlyAnswer(t *testing.T) {
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, br)
		}
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.send(fmt.Sprintf("POST http://ok.example:%[1]d/ HTTP/1.1\r\nHost: ok.example:%[1]d\r\nContent-Length: 1000000000\r\n\r\nbegin", o.port))
	begin := time.Now()
	if resp, body := c.response("POST"); resp.StatusCode != 413 || body != "big" {
		t.Errorf("%s %q", resp.Status, body)
	}
	c.atEOF()
	if d := time.Since(begin); d > patience/2 {
		t.Errorf("the connection stayed for %v", d)
	}
}

func TestBigUpload(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() {
		size = 16 << 20
	}
	sums := make(chan []byte, 1)
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		sums <- sum.Sum(nil)
		_, _ = fmt.Fprintf(w, "%d %v", n, err)
	})
	h := start(t, []uint16{o.port}, nil)
	for _, head := range []string{
		fmt.Sprintf("Content-Length: %d\r\n", size),
	} {
		c := h.dial()
		_ = c.SetDeadline(time.Now().Add(5 * patience))
		c.send(fmt.Sprintf("POST http://ok.example:%[1]d/ HTTP/1.1\r\nHost: ok.example:%[1]d\r\n%[2]s\r\n", o.port, head))
		block := make([]byte, 1<<20)
		_, _ = rand.Read(block)
		sum := sha256.New()
		for n := int64(0); n < size; n += int64(len(block)) {
			block[n>>20&0xfffff]++ // each block is another one
			_, _ = sum.Write(block)
			if _, err := c.Write(block); err != nil {
				t.Fatal(err)
			}
		}
		resp, body := c.response("POST")
		if want := fmt.Sprintf("%d <nil>", size); resp.StatusCode != 200 || body != want {
			t.Errorf("%s %q, want %q", resp.Status, body, want)
		}
		if !bytes.Equal(<-sums, sum.Sum(nil)) {
			t.Error("bytes differ")
		}
	}
}

func TestBigDownload(t *testing.T) {
	data := make([]byte, 8<<20)
	_, _ = rand.Read(data)
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(data) })
	h := start(t, []uint16{o.port}, nil)
	if resp, body := h.dial().get("ok.example", o, ""); resp.StatusCode != 200 || body != string(data) {
		t.Errorf("%s, %d bytes", resp.Status, len(body))
	}
}

// The environment names other proxies; nothing of this package looks there.
func TestEnvironmentIsIgnored(t *testing.T) {
	trap := listenOrigin(t)
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(name, "http://"+trap.Addr().String())
	}
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "origin") })
	h := start(t, []uint16{o.port}, nil)
	if resp, body := h.dial().get("ok.example", o, ""); resp.StatusCode != 200 || body != "origin" {
		t.Errorf("%s %q", resp.Status, body)
	}
	_ = h.connect(fmt.Sprintf("ok.example:%d", o.port), "").Close()
	_ = trap.Listener.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := trap.Accept(); err == nil {
		t.Error("the proxy of the environment was used")
	}
}

func TestViaLoop(t *testing.T) {
	var h *harness
	// An origin that sends everything to the proxy again.
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		rp := &httputil.ReverseProxy{
			Rewrite: func(p *httputil.ProxyRequest) {
				p.Out.URL.Scheme, p.Out.URL.Host, p.Out.Host = "http", p.In.Host, p.In.Host
			},
			Transport: &http.Transport{DisableKeepAlives: true, Proxy: func(*http.Request) (*url.URL, error) { return &url.URL{Scheme: "http", Host: h.addr}, nil }},
		}
		rp.ServeHTTP(w, r)
	})
	h = start(t, []uint16{o.port}, nil)
	resp, body := h.dial().get("ok.example", o, "")
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(resp.Header.Get("Proxy-Status"), "proxy_loop_detected") {
		t.Errorf("%s %v %q", resp.Status, resp.Header, body)
	}
	if n := h.s.Stats().Requests; n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestTrace(t *testing.T) {
	o := listenOrigin(t)
	h := start(t, []uint16{o.port}, nil)
	for host, want := range map[string]int{"ok.example": 200, "tiktok.com": 403} {
		c := h.dial()
		c.send(fmt.Sprintf("TRACE http://%[1]s:%[2]d/p HTTP/1.1\r\nHost: %[1]s:%[2]d\r\nMax-Forwards: 0\r\nCookie: secret\r\nX-A: b\r\n\r\n", host, o.port))
		resp, body := c.response("TRACE")
		if resp.StatusCode != want {
			t.Errorf("%s: %s", host, resp.Status)
		}
		if want == 200 && (!strings.HasPrefix(body, "TRACE http://ok.example") || !strings.Contains(body, "X-A: b\r\n") || strings.Contains(body, "secret")) {
			t.Errorf("echo %q", body)
		}
	}
	if o.accepted() != 0 {
		t.Error("origin was reached")
	}
}

// A pooled connection serves only exchanges for which its address was judged.
func TestPoolIsPinned(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	for range 3 {
		c.get("ok.example", o, "")
	}
	if n := o.accepted(); n != 1 {
		t.Errorf("%d connections for 3 requests", n)
	}
	// The name points elsewhere now, where nobody listens: the old connection
	// must not be used.
	h.names.set("ok.example", "127.0.0.2")
	if resp, _ := c.get("ok.example", o, ""); resp.StatusCode != 502 {
		t.Errorf("after a new answer: %s", resp.Status)
	}
	h.names.set("ok.example", "127.0.0.66", "127.0.0.1")
	if resp, body := h.dial().get("ok.example", o, ""); resp.StatusCode != 403 || !strings.Contains(body, "A 127.0.0.66") {
		t.Errorf("with a banned address among the answers: %s", resp.Status)
	}
}

func TestRecheckCutsExchange(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.send(fmt.Sprintf("GET http://gone.example:%[1]d/ HTTP/1.1\r\nHost: gone.example:%[1]d\r\n\r\n", o.port))
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.store.Swap(snapshot(t, 2, "gone.example"))
	h.s.Recheck()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the response ended as if it were whole")
	}
	eventually(t, "a record of the cut", func() bool { return len(h.audit.all()) == 2 })
	if r := h.audit.all()[1]; r.Action != "block" || r.Ban != "tiktok" || r.Generation != 2 || r.Result != "cut" || r.Event != "close" {
		t.Errorf("record %+v", r)
	}
	if n := h.s.Stats().CutByPolicy; n != 1 {
		t.Errorf("%d cuts", n)
	}
}

// The expectation means nothing in HTTP/1.0: neither an interim response for
// the client nor a question for the origin comes of it.
func TestExpectOfHTTP10(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%q %s", r.Header["Expect"], b)
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.send(fmt.Sprintf("PUT http://ok.example:%d/ HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", o.port))
	if resp, body := c.response("PUT"); resp.StatusCode != 200 || body != "[] hello" {
		t.Errorf("%s %q", resp.Status, body)
	}
}

// What is no status code is the origin's fault, and is said so.
func TestStatusBelow100(t *testing.T) {
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n")
		}
	})
	h := start(t, []uint16{o.port}, nil)
	resp, _ := h.dial().get("ok.example", o, "")
	if resp.StatusCode != http.StatusBadGateway || !strings.Contains(resp.Header.Get("Proxy-Status"), "http_protocol_error") {
		t.Errorf("%s %s", resp.Status, resp.Header.Get("Proxy-Status"))
	}
	if n := h.s.Stats().Panics; n != 0 {
		t.Errorf("%d panics", n)
	}
}

// A connection that a client has authenticated is that client's: its later
// requests use it, also those with content, and nobody else's do.
func TestConnectionAuthentication(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, r.RemoteAddr)
	})
	for _, auth := range []string{"NTLM TlRMTVNTUAAB", "negotiate YII="} {
		h := start(t, []uint16{o.port}, nil)
		a, b := h.dial(), h.dial()
		_, shared := b.get("ok.example", o, "Authorization: Basic eDp5\n")
		_, first := a.get("ok.example", o, "Authorization: "+auth+"\n")
		_, second := a.get("ok.example", o, "")
		a.send(fmt.Sprintf("POST http://ok.example:%[1]d/ HTTP/1.1\r\nHost: ok.example:%[1]d\r\nContent-Length: 2\r\n\r\nhi", o.port))
		_, third := a.response("POST")
		_, other := b.get("ok.example", o, "")
		if first != second || first != third {
			t.Errorf("%s: the client's requests came over %s, %s, %s", auth, first, second, third)
		}
		if first == shared || other != shared {
			t.Errorf("%s: authenticated %s; another client %s, then %s", auth, first, shared, other)
		}
	}
}

func TestStall(t *testing.T) {
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) { _, _ = io.Copy(io.Discard, br) })
	h := start(t, []uint16{o.port}, func(o *Options) { o.StallTimeout = time.Second })
	resp, _ := h.dial().get("ok.example", o, "")
	if resp.StatusCode != http.StatusGatewayTimeout || !strings.Contains(resp.Header.Get("Proxy-Status"), "http_response_timeout") {
		t.Errorf("%s %s", resp.Status, resp.Header.Get("Proxy-Status"))
	}
}

func TestConnLimits(t *testing.T) {
	h := start(t, nil, func(o *Options) { o.MaxConnsPerClient = 2 })
	a, b := h.dial(), h.dial()
	a.send("GET / HTTP/1.1\r\n")
	b.send("GET / HTTP/1.1\r\n")
	eventually(t, "two connections", func() bool { return h.s.Stats().Conns == 2 })
	if resp, _ := h.dial().response("GET"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("third connection: %s", resp.Status)
	}
	_ = a.Close()
	eventually(t, "room again", func() bool { return h.s.Stats().Conns == 1 })
	if st := h.s.Stats(); st.RefusedConns != 1 {
		t.Errorf("stats %+v", st)
	}
}

func TestSetRules(t *testing.T) {
	o := httpOrigin(t, func(http.ResponseWriter, *http.Request) {})
	h := start(t, nil, nil)
	status := func() string { resp, _ := h.dial().get("ok.example", o, ""); return resp.Status[:3] }
	if got := status(); got != "403" {
		t.Errorf("port not allowed: %s", got)
	}
	allow := h.s.opts.AllowNetworks
	h.s.SetRules(nil, []uint16{o.port}, allow)
	if got := status(); got != "200" {
		t.Errorf("port allowed: %s", got)
	}
	h.s.SetRules(nil, []uint16{o.port}, nil)
	if got := status(); got != "403" {
		t.Errorf("network no longer allowed: %s", got)
	}
	for _, r := range h.audit.all() {
		if r.Result == "403" && (r.Action != "block" || r.Reason != "port not allowed" && r.Reason != "special address") {
			t.Errorf("record %+v", r)
		}
	}
}

func TestPanicIsRecovered(t *testing.T) {
	o := httpOrigin(t, func(http.ResponseWriter, *http.Request) {})
	h := start(t, []uint16{o.port}, nil)
	h.names.setHook(func(name string) {
		if name == "panic.example" {
			panic("resolver is broken")
		}
	})
	c := h.dial()
	c.send(fmt.Sprintf("CONNECT panic.example:%d HTTP/1.1\r\n\r\n", o.port))
	c.atEOF()
	if resp, _ := h.dial().get("ok.example", o, ""); resp.StatusCode != 200 {
		t.Errorf("afterwards: %s", resp.Status)
	}
	if n := h.s.Stats().Panics; n != 1 {
		t.Errorf("%d panics", n)
	}
}

func TestOptions(t *testing.T) {
	if _, err := Listen(Options{Policy: new(policy.Store)}); err == nil {
		t.Error("a proxy without a resolver")
	}
	if _, err := Listen(Options{Resolver: new(names)}); err == nil {
		t.Error("a proxy without a policy")
	}
}

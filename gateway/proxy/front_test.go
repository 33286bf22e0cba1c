package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// bannedNames are ways to write a banned name, or to hide it.
var bannedNames = []string{
	"tiktok.com", "TIKTOK.COM", "TikTok.com.", "www.tiktok.com", "a.b.c.tiktok.com", "tiktok.com..", ".tiktok.com",
	"www..tiktok.com", "[tiktok.com]", "[www.tiktok.com]", "[tiktok.com", "tiktok.com]", "tiktok%2ecom", "tiktok%2Ecom",
	"%74iktok.com", "tiktok.com%00", "tiktok.com%2f", "tiktok。com", "tiktok．com", "tiktok｡com", "ｔｉｋｔｏｋ.com",
	"ＴＩＫＴＯＫ．ＣＯＭ", "tiKtok.com", "tiktok.com。", "user@tiktok.com", "user:pw@tiktok.com", "ok.example@tiktok.com",
	"tiktok.com@ok.example", "tiktok.com\\@ok.example", "tiktok.com\\.ok.example", "tiktok.com\x00", "tiktok.com\x00.ok.example",
	"tiktok.com\x7f", "tiktok.com\t", "tiktok.com#", "tiktok.com#.ok.example", "tiktok.com;", "tiktok.com,ok.example",
	"tik\u00adtok.com", "tik\u200btok.com", "tik_tok.com:", "tiktok.com%25", "xn--.tiktok.com", "tiktok.com\xff", "\xe3\x80tiktok.com",
	strings.Repeat("a", 64) + ".tiktok.com", strings.Repeat("a.", 130) + "tiktok.com",
}

// spellings are ways to write banned names, banned addresses and addresses that
// nobody may reach. Each must end in a refusal and reach nothing.
var spellings = append([]string{
	// A banned address: 93.184.216.34.
	"93.184.216.34", "93.184.216.34.", "1572395042", "0x5db8d822", "0X5DB8D822", "0135.0270.0330.042", "93.184.55330", "93.12113954",
	"0x5d.0xb8.0xd8.0x22", "0x5d.184.0330.34", "[::ffff:93.184.216.34]", "[::ffff:5db8:d822]", "[0:0:0:0:0:ffff:93.184.216.34]",
	"[64:ff9b::5db8:d822]", "[64:ff9b::93.184.216.34]", "[2002:5db8:d822::1]", "[2001:0:0:0:0:0:a247:27dd]", "[::93.184.216.34]",
	"[::ffff:0:93.184.216.34]", "[2001:4860::5efe:5db8:d822]", "９３.184.216.34",
	// Addresses that nobody may reach.
	"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f.1", "0x7f000001", "017700000001", "0177.0.0.1", "127.0.0.1.", "127.255.255.254",
	"0", "0.0.0.0", "0x0", "00", "10.0.0.1", "10.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "192.168.257", "169.254.169.254", "0xa9fea9fe",
	"2852039166", "100.64.0.1", "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1",
	"239.255.255.255", "240.0.0.1", "255.255.255.255", "4294967295", "4294967296", "256.0.0.1", "1.2.3.4.5", "1.2.3.256", "0x", "0x7g.1", "08.8.8.8",
	"[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::1]",
	"[2002:7f00:1::]", "[2001::1]", "[fe80::1]", "[fe80::1%25lo]", "[fe80::1%lo]", "[::1%25]", "[fc00::1]", "[fd12:3456::1]", "[fec0::1]", "[ff02::1]",
	"[100::1]", "[2001:db8::1]", "[3fff::1]", "[5f00::1]", "[4000::1]", "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]", "::1", "fe80::1", "[]", "[", "]",
	"[127.0.0.1]", "[::1", "localhost", "localhost.", "LOCALHOST",
	// Nothing at all.
	"", ".", "..", " ", "%", "*", "@", "/", "?", "a b", "-", "_",
}, bannedNames...)

// With the origin's network allowed, only the ban and the front stand between
// a banned name, or a banned address, and the origin.
func TestBannedSpellings(t *testing.T) {
	o := httpOrigin(t, func(http.ResponseWriter, *http.Request) {})
	h := start(t, []uint16{o.port}, nil)
	addrs := []string{"127.0.0.66", "127.66", "127.0.66", "0x7f000042", "2130706498", "0177.0.0.0102", "017700000102", "127.0.0.66.",
		"[::ffff:127.0.0.66]", "[::ffff:7f00:42]", "[64:ff9b::7f00:42]", "[2002:7f00:42::1]", "[::127.0.0.66]", "１２７.0.0.66"}
	for _, host := range append(addrs, bannedNames...) {
		for _, head := range []string{"CONNECT %[1]s:%[2]d HTTP/1.1\r\n\r\n", "GET http://%[1]s:%[2]d/ HTTP/1.0\r\n\r\n"} {
			c := dialRaw(t, h.addr)
			c.send(fmt.Sprintf(head, host, o.port))
			resp, _ := c.response(http.MethodGet)
			if resp.StatusCode != 400 && (resp.StatusCode != 403 || !strings.Contains(resp.Header.Get("Proxy-Status"), "TikTok")) {
				t.Errorf("%q: %s %s", fmt.Sprintf(head, host, o.port), resp.Status, resp.Header.Get("Proxy-Status"))
			}
			_ = c.Close()
		}
	}
	if o.accepted() != 0 {
		t.Errorf("the origin saw %d connections", o.accepted())
	}
}

// Without any network being allowed.
func TestSpellings(t *testing.T) {
	o := listenOrigin(t)
	h := start(t, []uint16{o.port}, func(o *Options) { o.AllowNetworks = nil })
	port := o.port
	heads := map[string]string{
		"connect":   "CONNECT %[1]s:%[2]d HTTP/1.1\r\nHost: %[1]s:%[2]d\r\n\r\n",
		"no host":   "CONNECT %[1]s:%[2]d HTTP/1.1\r\n\r\n",
		"get":       "GET http://%[1]s:%[2]d/ HTTP/1.1\r\nHost: %[1]s:%[2]d\r\n\r\n",
		"http/1.0":  "GET http://%[1]s:%[2]d/ HTTP/1.0\r\n\r\n",
		"mismatch":  "GET http://%[1]s:%[2]d/ HTTP/1.1\r\nHost: ok.example\r\n\r\n",
		"websocket": "GET http://%[1]s:%[2]d/ HTTP/1.1\r\nHost: %[1]s:%[2]d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
	}
	for _, host := range spellings {
		for form, head := range heads {
			c := dialRaw(t, h.addr)
			c.send(fmt.Sprintf(head, host, port))
			resp, _ := c.response(http.MethodGet)
			if resp.StatusCode < 400 || resp.StatusCode > 499 {
				t.Errorf("%q as %s: %s", host, form, resp.Status)
			}
			_ = c.Close()
		}
	}
	if o.accepted() != 0 {
		t.Errorf("the origin saw %d connections", o.accepted())
	}
	if n := len(spellings); n < 60 {
		t.Errorf("only %d spellings", n)
	}
}

// crlf turns the line ends of a readable head into real ones.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

func TestParseHeadRefuses(t *testing.T) {
	const hostLine = "Host: ok.example\n"
	for _, tc := range []struct {
		name, head string
		status     int
	}{
		{"origin-form", "GET / HTTP/1.1\n" + hostLine, 400},
		{"asterisk", "OPTIONS * HTTP/1.1\n" + hostLine, 400},
		{"authority without CONNECT", "GET ok.example:80 HTTP/1.1\n" + hostLine, 400},
		{"https in the clear", "GET https://ok.example/ HTTP/1.1\n" + hostLine, 400},
		{"ftp", "GET ftp://ok.example/ HTTP/1.1\n" + hostLine, 400},
		{"scheme only", "GET http:ok.example HTTP/1.1\n" + hostLine, 400},
		{"no host", "GET http:/// HTTP/1.1\nHost:\n", 400},
		{"fragment", "GET http://ok.example/#x HTTP/1.1\n" + hostLine, 400},
		{"userinfo", "GET http://u:p@ok.example/ HTTP/1.1\n" + hostLine, 400},
		{"empty userinfo", "GET http://@ok.example/ HTTP/1.1\n" + hostLine, 400},
		{"space in target", "GET http://ok.example/a b HTTP/1.1\n" + hostLine, 400},
		{"two spaces", "GET  http://ok.example/ HTTP/1.1\n" + hostLine, 400},
		{"tab", "GET\thttp://ok.example/ HTTP/1.1\n" + hostLine, 400},
		{"no version", "GET http://ok.example/\n" + hostLine, 400},
		{"HTTP/2", "PRI * HTTP/2.0\n", 505},
		{"HTTP/0.9", "GET http://ok.example/ HTTP/0.9\n" + hostLine, 505},
		{"HTTP/1.2", "GET http://ok.example/ HTTP/1.2\n" + hostLine, 505},
		{"lower case version", "GET http://ok.example/ http/1.1\n" + hostLine, 400},
		{"bad method", "G(T http://ok.example/ HTTP/1.1\n" + hostLine, 400},
		{"lower case connect", "connect ok.example:443 HTTP/1.1\n" + hostLine, 400},
		{"CONNECT without port", "CONNECT ok.example HTTP/1.1\n" + hostLine, 400},
		{"CONNECT with empty port", "CONNECT ok.example: HTTP/1.1\n" + hostLine, 400},
		{"CONNECT with URL", "CONNECT http://ok.example:443/ HTTP/1.1\n" + hostLine, 400},
		{"CONNECT with path", "CONNECT ok.example:443/ HTTP/1.1\n" + hostLine, 400},
		{"CONNECT with origin-form", "CONNECT / HTTP/1.1\n" + hostLine, 400},
		{"CONNECT with content", "CONNECT ok.example:443 HTTP/1.1\nContent-Length: 1\n", 400},
		{"CONNECT with chunks", "CONNECT ok.example:443 HTTP/1.1\nTransfer-Encoding: chunked\n", 400},
		{"TRACE with content", "TRACE http://ok.example/ HTTP/1.1\n" + hostLine + "Content-Length: 1\n", 400},
		{"port 0", "CONNECT ok.example:0 HTTP/1.1\n" + hostLine, 400},
		{"port 65536", "CONNECT ok.example:65536 HTTP/1.1\n" + hostLine, 400},
		{"port +80", "GET http://ok.example:+80/ HTTP/1.1\n" + hostLine, 400},
		{"port with letters", "GET http://ok.example:8o/ HTTP/1.1\n" + hostLine, 400},
		{"two ports", "GET http://ok.example:80:80/ HTTP/1.1\n" + hostLine, 400},
		{"bare IPv6", "CONNECT 2001:4860::1:443 HTTP/1.1\n", 400},
		{"no Host", "GET http://ok.example/ HTTP/1.1\n", 400},
		{"empty Host", "GET http://ok.example/ HTTP/1.1\nHost:\n", 400},
		{"other Host", "GET http://ok.example/ HTTP/1.1\nHost: tiktok.com\n", 400},
		{"other Host in CONNECT", "CONNECT ok.example:443 HTTP/1.1\nHost: tiktok.com:443\n", 400},
		{"other port in Host", "GET http://ok.example/ HTTP/1.1\nHost: ok.example:81\n", 400},
		{"Host with userinfo", "GET http://ok.example/ HTTP/1.1\nHost: a@ok.example\n", 400},
		{"two Hosts", "GET http://ok.example/ HTTP/1.1\n" + hostLine + hostLine, 400},
		{"TE and CL", "POST http://ok.example/ HTTP/1.1\n" + hostLine + "Content-Length: 3\nTransfer-Encoding: chunked\n", 400},
		{"two lengths", "POST http://ok.example/ HTTP/1.1\n" + hostLine + "Content-Length: 3\nContent-Length: 3\n", 400},
		{"list of lengths", "POST http://ok.example/ HTTP/1.1\n" + hostLine + "Content-Length: 3, 3\n", 400},
		{"signed length", "POST http://ok.example/ HTTP/1.1\n" + hostLine + "Content-Length: +3\n", 400},
		{"negative length", "POST http://ok.example/ HTTP/1.1\n" + hostLine + "Content-Length: -1\n", 400},
		{"hex length", "POST http://ok.example/ HTTP/1.1\n" + hostLine + "Content-Length: 0x3\n", 400},
		{"empty length", "POST http://ok.example/ HTTP/1.1\n" + hostLine + "Content-Length:\n", 400},
		{"huge length", "POST http://ok.example/ HTTP/1.1\n" + hostLine + "Content-Length: 99999999999999999999\n", 400},
		{"unknown coding", "POST http://ok.example/ HTTP/1.1\n" + hostLine + "Transfer-Encoding: xchunked\n", 501},
		{"two codings", "POST http://ok.example/ HTTP/1.1\n" + hostLine + "Transfer-Encoding: gzip, chunked\n", 501},
		{"coding twice", "POST http://ok.example/ HTTP/1.1\n" + hostLine + "Transfer-Encoding: chunked\nTransfer-Encoding: chunked\n", 501},
		{"coding with control", "POST http://ok.example/ HTTP/1.1\n" + hostLine + "Transfer-Encoding: \x0bchunked\n", 400},
		{"coding in HTTP/1.0", "POST http://ok.example/ HTTP/1.0\n" + hostLine + "Transfer-Encoding: chunked\n", 400},
		{"folding", "GET http://ok.example/ HTTP/1.1\n" + hostLine + "A: b\n c\n", 400},
		{"folding first", "GET http://ok.example/ HTTP/1.1\n " + hostLine, 400},
		{"space before colon", "GET http://ok.example/ HTTP/1.1\nHost : ok.example\n", 400},
		{"no colon", "GET http://ok.example/ HTTP/1.1\n" + hostLine + "nonsense\n", 400},
		{"empty name", "GET http://ok.example/ HTTP/1.1\n" + hostLine + ": x\n", 400},
		{"NUL in a field", "GET http://ok.example/ HTTP/1.1\n" + hostLine + "A: \x00\n", 400},
		{"many fields", "GET http://ok.example/ HTTP/1.1\n" + hostLine + strings.Repeat("A: b\n", maxFields), 431},
	} {
		q, bad := parseHead([]byte(crlf(tc.head + "\n")))
		if bad == nil {
			t.Errorf("%s: accepted as %+v", tc.name, q)
		} else if bad.status != tc.status {
			t.Errorf("%s: %d %s, want %d", tc.name, bad.status, bad.text, tc.status)
		}
	}
}

func TestParseHead(t *testing.T) {
	for _, tc := range []struct {
		head, hostPort, authority, path string
		length                          int64
		upgrade                         bool
	}{
		{"CONNECT OK.example.:443 HTTP/1.1\nHost: ok.EXAMPLE\n", "ok.example:443", "ok.example:443", "", 0, false},
		{"CONNECT ok.example:443 HTTP/1.0\n", "ok.example:443", "ok.example:443", "", 0, false},
		{"CONNECT [2001:4860::1]:443 HTTP/1.1\nHost: [2001:4860:0::1]:443\n", "[2001:4860::1]:443", "[2001:4860::1]:443", "", 0, false},
		{"GET http://ok.example HTTP/1.1\nHost: ok.example\n", "ok.example:80", "ok.example", "/", 0, false},
		{"GET HTTP://ok.example:080/ HTTP/1.1\nHost: ok.example:80\n", "ok.example:80", "ok.example", "/", 0, false},
		{"GET http://ok.example:/?q HTTP/1.1\nHost: ok.example\n", "ok.example:80", "ok.example", "/?q", 0, false},
		{"GET http://ok.example?q=1 HTTP/1.1\nHost: ok.example\n", "ok.example:80", "ok.example", "/?q=1", 0, false},
		{"GET http://ok.example:8080//a/../%7e?@: HTTP/1.1\nHost: ok.example:8080\n", "ok.example:8080", "ok.example:8080", "//a/../%7e?@:", 0, false},
		{"GET http://0x8.8.2056/ HTTP/1.1\nHost: 8.8.8.8\n", "8.8.8.8:80", "8.8.8.8", "/", 0, false},
		{"GET http://[2001:4860::1]/ HTTP/1.1\nHost: [2001:4860::1]\n", "[2001:4860::1]:80", "[2001:4860::1]", "/", 0, false},
		{"GET http://bücher.example/ HTTP/1.1\nHost: xn--bcher-kva.example\n", "xn--bcher-kva.example:80", "xn--bcher-kva.example", "/", 0, false},
		{"OPTIONS http://ok.example HTTP/1.1\nHost: ok.example\n", "ok.example:80", "ok.example", "*", 0, false},
		{"OPTIONS http://ok.example/ HTTP/1.1\nHost: ok.example\n", "ok.example:80", "ok.example", "/", 0, false},
		{"POST http://ok.example/ HTTP/1.1\nHost: ok.example\nContent-Length: 12\n", "ok.example:80", "ok.example", "/", 12, false},
		{"POST http://ok.example/ HTTP/1.1\nHost: ok.example\nTransfer-Encoding: Chunked\n", "ok.example:80", "ok.example", "/", -1, false},
		{"GET http://ok.example/ HTTP/1.1\nHost: ok.example\nConnection: x, UPGRADE\nUpgrade: WebSocket\n", "ok.example:80", "ok.example", "/", 0, true},
		{"GET http://ok.example/ HTTP/1.1\nHost: ok.example\nUpgrade: websocket\n", "ok.example:80", "ok.example", "/", 0, false},
		{"GET http://ok.example/ HTTP/1.1\nHost: ok.example\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\n", "ok.example:80", "ok.example", "/", 0, false},
	} {
		q, bad := parseHead([]byte(crlf(tc.head + "\n")))
		if bad != nil {
			t.Errorf("%q: %s", tc.head, bad.text)
			continue
		}
		if q.hostPort() != tc.hostPort || q.authority() != tc.authority || q.path != tc.path || q.length != tc.length || q.upgrade != tc.upgrade {
			t.Errorf("%q: %s %s %s %d %v", tc.head, q.hostPort(), q.authority(), q.path, q.length, q.upgrade)
		}
	}
}

// Over real sockets: what is refused is the end of the connection, in whatever
// pieces it comes.
func TestGateRefuses(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {})
	h := start(t, []uint16{o.port}, func(o *Options) { o.MaxHeaderBytes = 8 << 10 })
	hasty := start(t, []uint16{o.port}, func(o *Options) { o.HeaderTimeout = time.Second })
	good := fmt.Sprintf("GET http://ok.example:%d/ HTTP/1.1\r\nHost: ok.example:%d\r\n\r\n", o.port, o.port)
	for _, tc := range []struct {
		name, bytes string
		status      int
	}{
		{"bare LF", strings.ReplaceAll(good, "\r\n", "\n"), 400},
		{"one bare LF", strings.Replace(good, "\r\nHost", "\nHost", 1), 400},
		{"bare CR", strings.Replace(good, "\r\nHost", "\rHost", 1), 400},
		{"CR CR LF", strings.Replace(good, "\r\nHost", "\r\r\nHost", 1), 400},
		{"LF before", "\n" + good, 400},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400},
		{"SOCKS5", "\x05\x01\x00", 400},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		{"huge field", "GET http://ok.example/ HTTP/1.1\r\nHost: ok.example\r\nA: " + strings.Repeat("a", 16<<10) + "\r\n\r\n", 431},
		{"huge target", "GET http://ok.example/" + strings.Repeat("a", 16<<10), 431},
		{"slow head", "GET http://ok.example/ HTTP/1.1\r\nHost: ok", 408},
		{"HEAD", "HEAD / HTTP/1.1\r\nHost: ok.example\r\n\r\n", 400},
	} {
		to := h
		if tc.status == http.StatusRequestTimeout {
			to = hasty
		}
		for _, before := range []string{"", good} {
			method, _, _ := strings.Cut(tc.bytes, " ")
			c, resp, _ := to.ask(method, before+tc.bytes)
			if before != "" {
				if resp.StatusCode != 200 {
					t.Errorf("%s: the request before got %s", tc.name, resp.Status)
				}
				resp, _ = c.response(method)
			}
			if resp.StatusCode != tc.status || !resp.Close {
				t.Errorf("%s: %s, close %v; want %d", tc.name, resp.Status, resp.Close, tc.status)
			}
			_ = c.CloseWrite()
			c.atEOF()
		}
	}
}

func TestGateOneByteAtATime(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 100)
		n, _ := r.Body.Read(b)
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, b[:n])
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	for _, b := range []byte(fmt.Sprintf("\r\nPOST http://ok.example:%[1]d/x HTTP/1.1\r\nHost: ok.example:%[1]d\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nT: u\r\n\r\n", o.port)) {
		c.send(string(b))
	}
	if resp, body := c.response("POST"); resp.StatusCode != 200 || body != "POST /x abc" {
		t.Errorf("%s %q", resp.Status, body)
	}
}

// Requests hidden in content stay content; chunks that are not quite chunks
// end the connection.
func TestGateSmuggling(t *testing.T) {
	o := httpOrigin(t, func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	h := start(t, []uint16{o.port}, nil)
	head := fmt.Sprintf("POST http://ok.example:%[1]d/ HTTP/1.1\r\nHost: ok.example:%[1]d\r\nTransfer-Encoding: chunked\r\n\r\n", o.port)
	hidden := fmt.Sprintf("GET http://ok.example:%[1]d/hidden HTTP/1.1\r\nHost: ok.example:%[1]d\r\n\r\n", o.port)
	for name, content := range map[string]string{
		"LF after size": "0\n\r\n", "space before size": " 0\r\n\r\n", "space after size": "0 \r\n\r\n", "no size": "\r\n\r\n", "hex prefix": "0x0\r\n\r\n",
		"sign": "+0\r\n\r\n", "LF in extension": "0;a\nb\r\n\r\n", "CR in extension": "0;a\rb\r\n\r\n", "long data": "1\r\nab\r\n0\r\n\r\n",
		"LF after data": "1\r\na\n0\r\n\r\n", "overflow": "10000000000000000\r\n", "long extension": "0;" + strings.Repeat("a", 300) + "\r\n\r\n",
		"LF in trailer": "0\r\nA: b\n\r\n", "folded trailer": "0\r\n A: b\r\n\r\n", "bare end": "0\r\n\n",
	} {
		before := h.s.Stats().Requests
		c := h.dial()
		c.send(head + content + hidden)
		_ = c.CloseWrite()
		if resp, _ := c.response("POST"); resp.StatusCode != 400 {
			t.Errorf("%s: %s", name, resp.Status)
		}
		c.atEOF()
		if n := h.s.Stats().Requests - before; n != 1 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

func TestChunksSplit(t *testing.T) {
	const content = "5;x=\"y\"\r\nhello\r\nA\r\n0123456789\r\n000\r\nT: v\r\nU: w\r\n\r\n"
	for i := range len(content) {
		c := chunks{maxTrailer: 100}
		n, done, err := c.advance([]byte(content[:i]))
		if n != i || done || err != nil {
			t.Fatalf("first %d bytes: %d %v %v", i, n, done, err)
		}
		n, done, err = c.advance([]byte(content[i:] + "rest"))
		if n != len(content)-i || !done || err != nil {
			t.Fatalf("from %d on: %d %v %v", i, n, done, err)
		}
	}
}

func FuzzFront(f *testing.F) {
	for _, s := range spellings {
		f.Add("GET http://" + s + "/ HTTP/1.1\r\nHost: " + s + "\r\n\r\n")
		f.Add("CONNECT " + s + ":443 HTTP/1.1\r\n\r\n")
	}
	f.Add("POST http://ok.example/?%zz HTTP/1.0\r\nContent-Length: 3\r\nConnection: upgrade\r\n\r\n")
	f.Fuzz(func(t *testing.T, head string) {
		q, bad := parseHead([]byte(head))
		if (q == nil) == (bad == nil) {
			t.Fatalf("%q: %v and %v", head, q, bad)
		}
		if bad != nil {
			if bad.status < 400 || bad.status > 599 || bad.text == "" {
				t.Fatalf("%q: refused with %+v", head, bad)
			}
			return
		}
		if h, err := blocklists.ParseHost(q.host.String()); err != nil || h != q.host {
			t.Fatalf("%q: host %q is not canonical: %v, %v", head, q.host, h, err)
		}
		if q.host.Addr.IsValid() == (q.host.Name != "") || q.port == 0 || q.connect() != (q.path == "") {
			t.Fatalf("%q: understood as %+v", head, q)
		}
		if strings.Count(q.fields[0]+q.fields[1], "\n") == maxFields {
			return // the Host field that net/http is given may be one too many here
		}
		// What net/http is given means the same to the front.
		again, bad := parseHead(q.head())
		if bad != nil || again.host != q.host || again.port != q.port || again.length != q.length || again.method != q.method || again.upgrade != q.upgrade {
			t.Fatalf("%q: %+v passed on as %q, which is %+v %+v", head, q, q.head(), again, bad)
		}
		if u := targetURL(q); !q.connect() && !strings.HasSuffix(u.RequestURI(), q.path) {
			t.Fatalf("%q: path %q is sent as %q", head, q.path, u.RequestURI())
		}
	})
}

func FuzzChunks(f *testing.F) {
	f.Add("5\r\nhello\r\n0\r\n\r\nGET", 3)
	f.Add("0;a=b\r\nT: x\r\n\r\n", 1)
	f.Fuzz(func(t *testing.T, content string, cut int) {
		whole := chunks{maxTrailer: 64}
		n, done, err := whole.advance([]byte(content))
		if n < 0 || n > len(content) || err == nil && !done && n != len(content) {
			t.Fatalf("%q: %d %v %v", content, n, done, err)
		}
		if cut < 0 || cut > len(content) {
			return
		}
		parts := chunks{maxTrailer: 64}
		n1, done1, err1 := parts.advance([]byte(content[:cut]))
		if err1 == nil && !done1 {
			n2, done2, err2 := parts.advance([]byte(content[cut:]))
			n1, done1, err1 = n1+n2, done2, err2
		}
		if done1 != done || (err1 == nil) != (err == nil) || done && n1 != n {
			t.Fatalf("%q: whole %d %v %v, cut at %d: %d %v %v", content, n, done, err, cut, n1, done1, err1)
		}
	})
}

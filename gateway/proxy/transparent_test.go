package proxy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/blocklists"
)

func TestSpeaksHTTP(t *testing.T) {
	for _, c := range []struct {
		bytes     string
		yes, open bool
	}{
		{"GET / HTTP/1.1\r\n", true, false},
		{"get /", true, false},
		{"GET  \t /", true, false},
		{"\r\n\n \tGET /", true, false},
		{"M-SEARCH *", true, false},
		{"GET http://", true, false},
		{"GET HTTPS://", true, false},
		{"GET ?", true, false},
		{"CONNECT a.example:443", true, false},
		{"connect\tx", true, false},
		{"PRI * HTTP/2.0", true, false},
		{"", false, true},
		{"\r\n", false, true},
		{"G", false, true},
		{"GET", false, true},
		{"GET ", false, true},
		{"GET ht", false, true},
		{"GET hta", false, false},
		{"EHLO mail.example\r\n", false, false},
		{"USER somebody\r\n", false, false},
		{"SSH-2.0-OpenSSH_9.6\r\n", false, false},
		{"\x16\x03\x01", false, false},
		{"\x00", false, false},
		{"-GET /", false, false},
		{"GET\r\n", false, false},
		{strings.Repeat("A", maxMethod), false, true},
		{strings.Repeat("A", maxMethod+1), false, false},
		{strings.Repeat("\r\n", maxMethod), false, false},
	} {
		if yes, open := speaksHTTP([]byte(c.bytes)); yes != c.yes || open != c.open {
			t.Errorf("%q: %t, %t; want %t, %t", c.bytes, yes, open, c.yes, c.open)
		}
		for n := range len(c.bytes) { // no beginning of what is HTTP is taken for something else
			if yes, open := speaksHTTP([]byte(c.bytes[:n])); c.yes && !yes && !open {
				t.Errorf("%q is given up at %q", c.bytes, c.bytes[:n])
			}
		}
	}
}

func TestDivertedHead(t *testing.T) {
	d := &diverted{netip.MustParseAddrPort("[2001:db8::1]:8080"), "tproxy"}
	for _, c := range []struct {
		head, host, sent, path, refusal string
	}{
		{"GET /a?b HTTP/1.1\r\nHost: Site.Example.\r\n", "site.example", "site.example", "/a?b", ""},
		{"GET / HTTP/1.1\r\nHost: site.example:8080\r\n", "site.example", "site.example:8080", "/", ""},
		{"GET / HTTP/1.0\r\nHost: [2001:DB8::1]:8080\r\n", "2001:db8::1", "[2001:db8::1]:8080", "/", ""},
		{"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n", "a.example", "a.example", "*", ""},
		{"GET http://a.example:8080/x HTTP/1.1\r\nHost: a.example:8080\r\n", "a.example", "a.example:8080", "/x", ""},
		{"GET http://a.example HTTP/1.1\r\nHost: a.example\r\n", "a.example", "a.example", "/", ""},
		{"GET http://a.example:8080/x HTTP/1.1\r\nHost: a.example\r\n", "", "", "", "Host field and request target differ"},
		{"GET http://b.example/x HTTP/1.1\r\nHost: a.example\r\n", "", "", "", "Host field and request target differ"},
		{"GET ftp://a.example/x HTTP/1.1\r\nHost: a.example\r\n", "", "", "", "only http:// targets are forwarded"},
		{"GET * HTTP/1.1\r\nHost: a.example\r\n", "", "", "", "request target is neither a path nor an absolute http:// URL"},
		{"GET ?x HTTP/1.1\r\nHost: a.example\r\n", "", "", "", "request target is neither a path nor an absolute http:// URL"},
		{"GET / HTTP/1.1\r\n", "", "", "", "request has no Host field"},
		{"GET / HTTP/1.0\r\n", "", "", "", "request has no Host field"},
		{"GET / HTTP/1.1\r\nHost: a.example\r\nhost: a.example\r\n", "", "", "", "request has several Host fields"},
		{"GET / HTTP/1.1\r\nHost: a:b\r\n", "", "", "", "Host field is malformed"},
		{"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n", "", "", "", "CONNECT is for proxies, and this connection was not made to one"},
		{"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n", "", "", "", "request has both Transfer-Encoding and Content-Length"},
	} {
		q, bad := parseHeadFor([]byte(c.head+"\r\n"), d)
		switch {
		case bad != nil && bad.text != c.refusal, bad == nil && c.refusal != "":
			t.Errorf("%q: %+v, want %q", c.head, bad, c.refusal)
		case bad == nil && (q.host.String() != c.host || q.authority() != c.sent || q.path != c.path || q.port != 8080 || q.diverted != d):
			t.Errorf("%q: %+v", c.head, q)
		}
	}
}

// A signature that a list brings is never longer than what is looked at.
func TestFlowIsWithinPeek(t *testing.T) {
	if blocklists.MaxFlow > peekBuffer {
		t.Errorf("signatures look at %d bytes, the first read has %d", blocklists.MaxFlow, peekBuffer)
	}
}

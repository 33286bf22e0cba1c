package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
)

// serverConfig has a certificate for every name, which no client here checks.
var serverConfig = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
})

// page answers with what the origin saw.
func originPage(w http.ResponseWriter, r *http.Request) {
	at := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	_, _ = fmt.Fprintf(w, "%s %s host %s at %s", r.Proto, r.URL.RequestURI(), r.Host, at)
}

// internet serves HTTP on 80 and 8080 and TLS with HTTP on 443, everywhere.
func (w *world) serveWeb() {
	for _, network := range []string{"tcp4", "tcp6"} {
		for _, port := range []uint16{80, 8080} {
			srv := &http.Server{Handler: http.HandlerFunc(originPage)}
			l := w.listen(network, port)
			go func() { _ = srv.Serve(l) }()
			w.tb.Cleanup(func() { _ = srv.Close() })
		}
		srv := &http.Server{Handler: http.HandlerFunc(originPage), TLSConfig: serverConfig().Clone(), ErrorLog: log.New(io.Discard, "", 0)}
		l := w.listen(network, 443)
		go func() { _ = srv.ServeTLS(l, "", "") }()
		w.tb.Cleanup(func() { _ = srv.Close() })
	}
}

// find returns the first record that is so.
func (r *recorder) find(ok func(*audit.Record) bool) (audit.Record, bool) {
	for _, rec := range r.all() {
		if ok(&rec) {
			return rec, true
		}
	}
	return audit.Record{}, false
}

// isReset reports whether the error is that of a connection that was reset.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// wantReset fails unless the gateway resets the connection before a byte comes.
func (c *raw) wantReset() {
	c.tb.Helper()
	if b, err := io.ReadAll(c.br); len(b) > 0 || !isReset(err) {
		c.tb.Errorf("%q, %v; want a reset", b, err)
	}
}

var diversions = []string{"redirect", "tproxy"}

// The real client on the device, which knows of no proxy.
func TestTransparentCurl(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	w.serveWeb()
	h := w.start(nil)
	h.names.set("site.example", "198.51.100.80", "2001:db8:80::80")
	for _, how := range diversions {
		w.divert(how)
		for _, c := range []struct {
			addr string
			args []string
			want string // of what is printed; empty for a reset
			rule string
			name string
			prot string
		}{
			{"198.51.100.80", []string{"http://site.example/a?b"}, "HTTP/1.1 /a?b host site.example at 198.51.100.80:80", "", "site.example", "http"},
			{"2001:db8:80::80", []string{"http://site.example/"}, "HTTP/1.1 / host site.example at [2001:db8:80::80]:80", "", "site.example", "http"},
			{"198.51.100.80", []string{"http://site.example:8080/"}, "host site.example:8080 at 198.51.100.80:8080", "", "site.example", "http"},
			{"198.51.100.80", []string{"http://198.51.100.80/"}, "host 198.51.100.80 at 198.51.100.80:80", "", "198.51.100.80", "http"},
			{"2001:db8:80::80", []string{"http://[2001:db8:80::80]:8080/"}, "host [2001:db8:80::80]:8080 at", "", "2001:db8:80::80", "http"},
			{"198.51.100.80", []string{"--http1.1", "https://site.example/s"}, "HTTP/1.1 /s host site.example at 198.51.100.80:443", "", "site.example", "tls"},
			{"198.51.100.80", []string{"--http2", "https://site.example/s"}, "HTTP/2.0 /s host site.example at 198.51.100.80:443", "", "site.example", "tls"},
			{"2001:db8:80::80", []string{"--http2", "https://site.example/s"}, "HTTP/2.0 /s host site.example at [2001:db8:80::80]:443", "", "site.example", "tls"},
			{"198.51.100.80", []string{"http://www.TikTok.com./"}, "Ban: TikTok", "tiktok:1", "www.tiktok.com", "http"},
			{"198.51.100.80", []string{"https://www.tiktok.com/"}, "", "tiktok:1", "www.tiktok.com", "tls"},
			{"2001:db8:80::80", []string{"https://www.tiktok.com/"}, "", "tiktok:1", "www.tiktok.com", "tls"},
			{"93.184.216.34", []string{"http://site.example/"}, "TikTok", "tiktok:3", "site.example", "http"},
			{"93.184.216.34", []string{"https://site.example/"}, "", "tiktok:3", "site.example", "tls"},
			{"198.51.100.80", []string{"http://paths.example/secret/x"}, "TikTok", "tiktok:5", "paths.example", "http"},
		} {
			before := len(h.audit.all())
			args := append([]string{"--connect-to", "::[" + c.addr + "]"}, c.args...)
			if !strings.Contains(c.addr, ":") {
				args[1] = "::" + c.addr
			}
			out, err := w.curl(args...)
			if c.want == "" && (err == nil || !strings.Contains(strings.ToLower(out), "reset")) || c.want != "" && (err != nil || !strings.Contains(out, strings.TrimPrefix(c.want, "Ban: "))) {
				t.Errorf("%s: curl %q: %v\n%s", how, args, err, out)
			}
			r := h.audit.begun(t, before)
			device := device4
			if strings.Contains(c.addr, ":") {
				device = device6
			}
			if r.Transport != how || r.Protocol != c.prot || r.Name != c.name || r.RuleID != c.rule || r.Device.String() != device || r.Address.String() != c.addr {
				t.Errorf("%s: curl %q: record %+v", how, args, r)
			}
			if blocked := c.rule != ""; blocked != (r.Action == "block") || blocked && (r.Ban != "tiktok" || r.Authority == "" || r.Reason != "ban") {
				t.Errorf("%s: curl %q: verdict %+v", how, args, r)
			}
		}
	}
}

// A kept-alive connection: every request on it is judged.
func TestTransparentKeepAlive(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	w.serveWeb()
	h := w.start(nil)
	h.names.set("*", "198.51.100.80")
	for _, how := range diversions {
		w.divert(how)
		c := w.dial("198.51.100.80:80")
		for i := range 6 {
			host, want := "site.example", http.StatusOK
			if i%2 == 1 {
				host, want = "www.tiktok.com", http.StatusForbidden
			}
			req := fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: %s\r\n\r\n", i, host)
			for b := range len(req) {
				c.send(req[b : b+1]) // a byte at a time
			}
			if resp, body := c.response("GET"); resp.StatusCode != want {
				t.Errorf("%s: request %d for %s: %s %q", how, i, host, resp.Status, body)
			}
		}
	}
}

// What is not a request to an origin, or says two things, is refused.
func TestTransparentRefusals(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	w.serveWeb()
	h := w.start(nil)
	h.names.set("*", "198.51.100.80")
	w.divert("redirect")
	for _, c := range []struct {
		req  string
		want int
	}{
		{"GET / HTTP/1.1\r\n\r\n", 400},
		{"GET / HTTP/1.0\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nHost: a.example\r\nHost: www.tiktok.com\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nHost: \r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
		{"GET / HTTP/1.1\r\nHost: user@a.example\r\n\r\n", 400},
		{"GET / HTTP/1.1\nHost: www.tiktok.com\n\n", 400},
		{"GET  / HTTP/1.1\r\nHost: www.tiktok.com\r\n\r\n", 400},
		{" GET / HTTP/1.1\r\nHost: www.tiktok.com\r\n\r\n", 400},
		{"\nGET / HTTP/1.1\r\nHost: www.tiktok.com\r\n\r\n", 400},
		{"get / HTTP/1.1\r\nHost: www.tiktok.com\r\n\r\n", 403}, // a method of its own
		{"GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		{"GET http://a.example:81/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		{"GET http://a.example/x HTTP/1.1\r\nHost: A.example:80\r\n\r\n", 200},
		{"GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 400},
		{"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 400},
		{"OPTIONS * HTTP/1.1\r\nHost: a.example\r\nMax-Forwards: 0\r\n\r\n", 200},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
		{"GET / HTTP/1.0\r\nHost: www.tiktok.com\r\n\r\n", 403},
		{"GET / HTTP/1.1\r\nHost: 93.184.216.34\r\n\r\n", 403},
		{"GET / HTTP/1.1\r\nHost: 0x5db8d822\r\n\r\n", 403},
	} {
		conn := w.dial("198.51.100.80:80")
		conn.send(c.req)
		resp, err := http.ReadResponse(conn.br, nil)
		if err != nil {
			t.Errorf("%q: %v, want %d", c.req, err, c.want)
		} else if resp.StatusCode != c.want {
			t.Errorf("%q: %s, want %d", c.req, resp.Status, c.want)
		}
		_ = conn.Close()
	}
	if r, found := h.audit.find(func(r *audit.Record) bool { return r.Name == "www.tiktok.com" && r.Action != "block" }); found {
		t.Errorf("passed: %+v", r)
	}
}

// clientHello returns what a TLS client sends first.
func clientHello(tb testing.TB, name string) []byte {
	tb.Helper()
	a, b := net.Pipe()
	go func() {
		_ = tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	}()
	buf := make([]byte, 4096)
	_ = b.SetReadDeadline(time.Now().Add(patience))
	n, err := b.Read(buf)
	if err != nil {
		tb.Fatal(err)
	}
	_, _ = a.Close(), b.Close()
	return buf[:n]
}

// A ClientHello one byte at a time is judged as one in a piece, and what is
// allowed arrives as it was sent; the halves of the tunnel end on their own.
func TestTransparentSplitsAndHalfClose(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	l := w.listen("tcp4", 443)
	got := make(chan []byte, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b, _ := io.ReadAll(c) // until the device has ended its half
			got <- b
			_, _ = c.Write([]byte("answer after the end"))
			_ = c.Close()
		}
	}()
	h := w.start(nil)
	h.names.set("*", "198.51.100.80")
	for _, how := range diversions {
		w.divert(how)
		for _, piece := range []int{1, 7, 1 << 20} {
			hello := append(clientHello(t, "site.example"), "more"...)
			c := w.dial("198.51.100.80:443")
			for rest := hello; len(rest) > 0; {
				n := min(piece, len(rest))
				c.send(string(rest[:n]))
				rest = rest[n:]
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if b := <-got; string(b) != string(hello) {
				t.Errorf("%s: the origin got %d bytes, %d were sent", how, len(b), len(hello))
			}
			if b, err := io.ReadAll(c.br); string(b) != "answer after the end" || err != nil {
				t.Errorf("%s: %q, %v", how, b, err)
			}
			c = w.dial("198.51.100.80:443")
			rest := clientHello(t, "m.tiktok.com")
			for len(rest) > 0 {
				n := min(piece, len(rest))
				if _, err := c.Write(rest[:n]); err != nil {
					break // it is reset already
				}
				rest = rest[n:]
			}
			if len(rest) == 0 {
				c.wantReset()
			}
		}
	}
	if l.accepted() != 6 {
		t.Errorf("the origin accepted %d connections, want 6", l.accepted())
	}
}

// What is neither TLS nor HTTP, a client that waits for the server, and one
// that stalls in the midst.
func TestTransparentUnknown(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	l := w.listen("tcp4", 2222)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("banner\n"))
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	h := w.start(func(o *Options) { o.PeekTimeout = time.Second })
	w.divert("tproxy")
	talk := func(first string) (string, error) {
		c := w.dial("198.51.100.80:2222")
		defer func() { _ = c.Close() }()
		if _, err := io.WriteString(c, first); err != nil { // it was silent for too long, and is reset already
			return "", err
		}
		if first != "" {
			_ = c.CloseWrite()
		}
		line, err := c.br.ReadString('\n')
		return line, err
	}
	for _, c := range []struct {
		choice Choice
		action string
		reason string
	}{
		{ChooseBlock, "block", "unknown protocol"}, {ChooseAllow, "allow", "no rule"}, {ChooseReport, "report", "unknown protocol"},
	} {
		h.s.SetTransparent(Transparent{Unknown: c.choice})
		for _, first := range []string{"SSH-2.0-x\r\n", "", "\x00\x01\x02", "GET", "EHLO mail.example\r\n"} {
			before := len(h.audit.all())
			line, err := talk(first)
			if passed := line == "banner\n"; passed != (c.choice != ChooseBlock) || !passed && !isReset(err) {
				t.Errorf("unknown: %s, %q: %q, %v", c.choice, first, line, err)
			}
			r := h.audit.begun(t, before)
			if r.Protocol != "unknown" || r.Action != c.action || r.Reason != c.reason || r.Name != "198.51.100.80" || r.Port != 2222 || r.Ban != "" {
				t.Errorf("unknown: %s, %q: %+v", c.choice, first, r)
			}
		}
	}
	// An address that is banned is so in every protocol.
	c := w.dial("93.184.216.34:2222")
	if _, err := io.WriteString(c, "SSH-2.0-x\r\n"); err == nil {
		c.wantReset()
	}
	if r, ok := h.audit.find(func(r *audit.Record) bool { return r.RuleID == "tiktok:3" }); !ok || r.Action != "block" {
		t.Errorf("%+v, want a block by the address rule; all: %+v", r, h.audit.all())
	}
}

// A connection to the listener itself would be a loop.
func TestTransparentDirect(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	h := w.start(nil)
	for _, how := range append(diversions, "none") {
		if how == "none" {
			w.run("flush ruleset\n", "nft", "-f", "-")
		} else {
			w.divert(how)
		}
		for _, at := range []string{"10.8.0.1:3129", "[fd00:8::1]:3129"} {
			before := h.s.TransparentStats().Direct
			w.in(w.device, func() {
				c, err := net.Dial("tcp", at)
				if err == nil {
					_, err = c.Read(make([]byte, 1))
					_ = c.Close()
				}
				if !isReset(err) {
					t.Errorf("%s, %s: %v, want a reset", how, at, err)
				}
			})
			if n := h.s.TransparentStats().Direct; n != before+1 {
				t.Errorf("%s, %s: %d direct connections, want one", how, at, n-before)
			}
		}
	}
}

// A ban that comes while a connection is open cuts it, by name and by address,
// and no other.
func TestTransparentCut(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	for _, network := range []string{"tcp4", "tcp6"} {
		l := w.listen(network, 443)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
			}
		}()
	}
	h := w.start(func(o *Options) { o.TransparentRules.Unknown = ChooseAllow })
	h.names.set("one.example", "198.51.100.1")
	h.names.set("two.example", "2001:db8::2")
	h.names.set("three.example", "198.51.100.3")
	w.divert("tproxy")
	open := func(addr string, first []byte) *raw {
		c := w.dial(addr)
		c.send(string(first))
		if _, err := io.ReadFull(c.br, make([]byte, len(first))); err != nil {
			t.Fatalf("%s: %v", addr, err)
		}
		return c
	}
	byName := open("198.51.100.1:443", clientHello(t, "one.example"))
	byAddr := open("[2001:db8::2]:443", clientHello(t, "two.example"))
	byBytes := open("198.51.100.3:443", []byte("\xaa\xbb\xccunknown"))
	stays := open("198.51.100.3:443", clientHello(t, "three.example"))
	h.store.Swap(snapshot(t, 2, "one.example", "2001:db8::2/128", "bytes aa bb cc"))
	begin := time.Now()
	h.s.Recheck()
	for what, c := range map[string]*raw{"tiktok:1": byName, "tiktok:2": byAddr, "tiktok:3": byBytes} {
		if b, err := io.ReadAll(c.br); len(b) > 0 {
			t.Errorf("%s: %q, %v", what, b, err)
		}
		eventually(t, "record of the cut", func() bool {
			_, ok := h.audit.find(func(r *audit.Record) bool { return r.Event == "close" && r.Result == "cut" && r.RuleID == what })
			return ok
		})
	}
	if d := time.Since(begin); d > patience/2 {
		t.Errorf("cut after %v", d)
	}
	stays.send("still there")
	if b, err := stays.br.ReadByte(); b != 's' || err != nil {
		t.Errorf("the other tunnel: %q, %v", b, err)
	}
}

// A name at an address that the gateway never gave for it.
func TestTransparentUnseen(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	w.serveWeb()
	gave := &giving{names: &names{answers: map[string][]netip.Addr{"site.example": parseAddrs("198.51.100.80")}}}
	h := w.start(func(o *Options) { o.Resolver = gave })
	w.divert("tproxy")
	for _, c := range []struct {
		choice    Choice
		host, at  string
		want      string
		gaveAtOld bool
	}{
		{ChooseResolve, "site.example", "198.51.100.80", "at 198.51.100.80:", false},
		{ChooseResolve, "site.example", "203.0.113.9", "at 198.51.100.80:", false}, // to where it really is
		{ChooseResolve, "site.example", "203.0.113.9", "at 203.0.113.9:", true},    // an earlier answer
		{ChooseResolve, "nowhere.example", "203.0.113.9", "", false},
		{ChooseResolve, "nowhere.example", "203.0.113.9", "at 203.0.113.9:", true},
		{ChooseBlock, "site.example", "198.51.100.80", "at 198.51.100.80:", false},
		{ChooseBlock, "site.example", "203.0.113.9", "", false},
		{ChooseBlock, "site.example", "203.0.113.9", "at 203.0.113.9:", true},
		{ChooseAllow, "site.example", "203.0.113.9", "at 203.0.113.9:", false},
		{ChooseAllow, "nowhere.example", "203.0.113.9", "at 203.0.113.9:", false},
		{ChooseReport, "site.example", "203.0.113.9", "at 203.0.113.9:", false},
		{ChooseReport, "site.example", "198.51.100.80", "at 198.51.100.80:", false},
		{ChooseResolve, "site.example", "93.184.216.34", "", true}, // banned, whatever it is called
		{ChooseAllow, "site.example", "93.184.216.34", "", false},
	} {
		gave.set(c.gaveAtOld)
		h.s.SetTransparent(Transparent{Unseen: c.choice})
		for _, scheme := range []string{"http", "https"} {
			before := len(h.audit.all())
			out, err := w.curl("--connect-to", "::"+c.at, scheme+"://"+c.host+"/")
			if c.want != "" && !strings.Contains(out, c.want) || c.want == "" && strings.Contains(out, " host ") {
				t.Errorf("%s: %s://%s at %s: %v %s", c.choice, scheme, c.host, c.at, err, out)
			}
			r := h.audit.begun(t, before)
			wantReason := map[bool]string{true: "unseen address"}[c.at == "203.0.113.9" && !c.gaveAtOld && (c.choice == ChooseBlock || c.choice == ChooseReport)]
			if wantReason != "" && (r.Reason != wantReason || r.Action != string(c.choice)) || wantReason == "" && r.Reason == "unseen address" {
				t.Errorf("%s: %s://%s at %s: record %+v", c.choice, scheme, c.host, c.at, r)
			}
		}
	}
	if h.s.TransparentStats().Unseen == 0 {
		t.Error("unseen names are not counted")
	}
}

// giving is a resolver with a memory that says always the same.
type giving struct {
	*names
	mu   sync.Mutex
	gave bool
}

func (g *giving) set(gave bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gave = gave
}

func (g *giving) Gave(string, netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gave
}

// Connections that are opened and dropped half-way leave nothing behind, and
// too many at once are refused.
func TestTransparentDropped(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	w.serveWeb()
	h := w.start(func(o *Options) { o.MaxPeeks, o.MaxPeeksPerClient = 200, 150 })
	h.names.set("*", "198.51.100.80")
	w.divert("tproxy")
	if out, err := w.curl("--connect-to", "::198.51.100.80", "https://site.example/"); err != nil {
		t.Fatal(err, out)
	}
	eventually(t, "first connection is gone", func() bool { return h.s.Stats().Conns == 0 })
	before, files, goroutines := h.s.Stats().Accepted, openFiles(t), proxyGoroutines()
	hello := clientHello(t, "site.example")
	begins := []string{"", "G", "GET / HTTP/1.1\r\nHost: si", string(hello[:1]), string(hello[:len(hello)/2]), "\x16\xf1", string(hello), "SSH-"}
	for round := range 20 {
		var open []*raw
		for i := range 100 {
			c := w.dial([]string{"198.51.100.80:443", "198.51.100.80:80"}[i%2])
			_, _ = c.Write([]byte(begins[(round+i)%len(begins)]))
			open = append(open, c)
		}
		for i, c := range open {
			if i%3 == 0 {
				_ = c.SetLinger(0)
			}
			_ = c.Close()
		}
		// Or the next hundred may be too many at once.
		eventually(t, "all are seen, and most to be gone", func() bool {
			return h.s.Stats().Accepted >= before+uint64(100*(round+1)) && h.s.TransparentStats().Peeking < 40
		})
	}
	eventually(t, "all connections are gone", func() bool {
		st := h.s.Stats()
		return st.Conns == 0 && h.s.TransparentStats().Peeking == 0 && st.Tunnels == 0
	})
	eventually(t, "all goroutines are gone", func() bool { return proxyGoroutines() <= goroutines })
	h.s.forwarder.transport.CloseIdleConnections()
	eventually(t, "all descriptors are closed", func() bool { return openFiles(t) <= files })
	// Silence is bounded, too.
	refused := h.s.TransparentStats().RefusedPeeks
	var open []net.Conn
	w.in(w.device, func() {
		for range 200 {
			if c, err := net.Dial("tcp", "198.51.100.80:443"); err == nil { // else it is reset already
				open = append(open, c)
			}
		}
	})
	eventually(t, "peeks are refused", func() bool { st := h.s.TransparentStats(); return st.Peeking == 150 && st.RefusedPeeks-refused == 50 })
	for _, c := range open {
		_ = c.Close()
	}
	eventually(t, "all is gone", func() bool { return h.s.Stats().Conns == 0 })
	if st := h.s.Stats(); st.Panics != 0 {
		t.Errorf("%d panics", st.Panics)
	}
}

// openFiles counts the descriptors of the process.
func openFiles(tb testing.TB) int {
	tb.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(files)
}

// Without the privilege for TPROXY, REDIRECT works, and who needs TPROXY is told
// what to do.
func TestTransparentUnprivileged(t *testing.T) {
	corpus.Root(t)
	runtime.LockOSThread() // and never unlocked: the thread has lost its privileges
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capset(&head, &caps[0]); err != nil {
		t.Fatal(err)
	}
	opts := Options{Policy: storeOf(), Resolver: &names{}, Transparent: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("[::1]:0")}}
	s, err := Listen(opts)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	opts.RequireTProxy = true
	_, err = Listen(opts)
	if want := "transparent listener 127.0.0.1:0: TPROXY needs CAP_NET_ADMIN: give it to the service, or bring connections by REDIRECT"; err == nil || err.Error() != want || !errors.Is(err, ErrTransparent) {
		t.Errorf("%v, want %s", err, want)
	}
}

// The same without the engine.
func TestTransparentPortable(t *testing.T) {
	startPortable = true
	defer func() { startPortable = false }()
	w := newWorld(t)
	if w == nil {
		return
	}
	w.serveWeb()
	h := w.start(nil)
	h.names.set("*", "198.51.100.80")
	w.divert("redirect")
	for url, want := range map[string]string{
		"http://site.example/": "host site.example", "https://site.example/": "host site.example",
		"http://tiktok.com/": "Access blocked", "https://tiktok.com/": "reset",
	} {
		if out, _ := w.curl("--connect-to", "::198.51.100.80", url); !strings.Contains(out, want) {
			t.Errorf("%s: %s, want %s", url, out, want)
		}
	}
}

// A shutdown ends what has not begun at once and gives the rest its time.
func TestTransparentDrain(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	w.serveWeb()
	h := w.start(nil)
	h.names.set("*", "198.51.100.80")
	w.divert("tproxy")
	hello := clientHello(t, "site.example")
	silent, half, tunnel, idle := w.dial("198.51.100.80:443"), w.dial("198.51.100.80:443"), w.dial("198.51.100.80:443"), w.dial("198.51.100.80:80")
	half.send(string(hello[:len(hello)/2]))
	tunnel.send(string(hello))
	if _, err := tunnel.br.ReadByte(); err != nil {
		t.Fatal(err)
	}
	idle.send("GET / HTTP/1.1\r\nHost: site.example\r\n\r\n")
	idle.response("GET")
	eventually(t, "all are there", func() bool { return h.s.TransparentStats().Peeking == 2 && h.s.Stats().Conns == 4 })
	begin := time.Now()
	h.stop()
	if d := time.Since(begin); d < 400*time.Millisecond || d > patience/2 {
		t.Errorf("Serve ended after %v, want the time to drain", d)
	}
	for what, c := range map[string]*raw{"silent": silent, "half": half, "idle": idle, "tunnel": tunnel} {
		if _, err := io.Copy(io.Discard, c.br); err != nil && !isReset(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if st := h.s.Stats(); st.Conns != 0 || st.CutAtDrain != 1 || h.s.TransparentStats().Abandoned != 2 {
		t.Errorf("%+v", st)
	}
}

// TLS that does not plainly say where it goes, by the strictest policy and by
// one that only reports.
func TestTransparentHello(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	w.trap(443)
	h := w.start(func(o *Options) { o.PeekTimeout = time.Second })
	w.divert("redirect")
	hello := clientHello(t, "site.example")
	for _, rules := range []policy.HelloPolicy{{}, {Missing: policy.Report, Malformed: policy.Report, Timeout: policy.Report}} {
		snap, err := policy.NewSnapshot(policy.Spec{Generation: 2, Hello: rules})
		if err != nil {
			t.Fatal(err)
		}
		h.store.Swap(snap)
		action := map[bool]string{true: "report", false: "block"}[rules.Missing == policy.Report]
		for _, c := range []struct {
			first  []byte
			reason policy.Reason
		}{
			{clientHello(t, ""), policy.ReasonNoServerName},
			{hello[:len(hello)/2], policy.ReasonNoHello},
			{hello[:1], policy.ReasonNoHello},
			{append([]byte("\x16\x03\x01\x00\x05\x02\x00\x00\x01"), hello...), policy.ReasonMalformed},
		} {
			conn, r := w.speaks(h, "198.51.100.80:443", c.first)
			if r.Action != action || r.Reason != c.reason.String() || r.Protocol != "tls" || r.Name != "198.51.100.80" || r.Ban != "" {
				t.Errorf("%v: %+v", c.reason, r)
			}
			if action == "block" {
				conn.wantReset()
			}
			_ = conn.Close()
		}
	}
}

// speaks sends the bytes from the device and returns the record of what came of
// it. A client that was kept from speaking until the time for it was over comes
// again: it has been taken for a silent one.
func (w *world) speaks(h *harness, addr string, first []byte) (c *raw, r audit.Record) {
	w.tb.Helper()
	for range 20 {
		h.audit.clear()
		c = w.dial(addr)
		_, err := c.Write(first)
		if r = h.audit.begun(w.tb, 0); err == nil && r.Protocol != "unknown" {
			break
		}
		_ = c.Close()
	}
	return c, r
}

package world

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/websocket"
)

// echo is a WebSocket that sends back what it gets.
var echo = websocket.Server{Handler: func(c *websocket.Conn) {
	_ = c.SetDeadline(time.Now().Add(connTime))
	_, _ = io.Copy(c, c)
}}

// site answers for every name over HTTP/1.1, HTTP/2 and HTTP/3. "/big/N" is N
// bytes, "/echo" is a WebSocket, "/dns-query" is DNS over HTTPS (RFC 8484), and
// "/d", "/resolve" are what vendors of name services over HTTP have.
func site(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-World", "origin")
	h.Set("Alt-Svc", `h3=":443"; ma=60`)
	path := r.URL.Path
	switch {
	case strings.HasPrefix(path, "/big/"):
		sendBytes(w, strings.TrimPrefix(path, "/big/"))
	case path == "/echo":
		echo.ServeHTTP(w, r)
	case path == "/dns-query":
		overHTTPS(w, r)
	case path == "/d" || path == "/resolve":
		name := r.FormValue("dn") + r.FormValue("name")
		_, _ = fmt.Fprintf(w, "%s;600", addr4(name))
	case strings.HasSuffix(path, "/newgetdns"):
		_, _ = io.WriteString(w, "<dns><domain name=\"short.weixin.qq.com\"><ip>43.130.30.240</ip></domain></dns>")
	case path == "/second":
		h.Set("Connection", "close") // so that the next request needs a connection
		h.Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, second)
	case path == "/generate_204":
		w.WriteHeader(http.StatusNoContent)
	default:
		h.Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprintf(w, "<!doctype html><title>%[1]s</title><p id=host>origin of %[1]s</p><p id=proto>%[2]s</p>", strings.ToLower(r.Host), r.Proto)
	}
}

// second is a page that asks for another one after it was told of HTTP/3, and
// says how long that took.
const second = `<!doctype html><title>second</title><p id=took></p><script>
const begin = performance.now(), x = new XMLHttpRequest();
x.open("GET", "/", false); x.send();
document.getElementById("took").textContent = "status " + x.status + " after " + Math.round(performance.now() - begin) + " ms";
</script>`

// sendBytes writes n bytes in which every place has its own value, as the device
// knows them too.
func sendBytes(w http.ResponseWriter, count string) {
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > 1<<30 {
		http.Error(w, "how many bytes", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", count)
	_, _ = io.CopyN(w, Pattern(0), int64(n))
}

// A pattern is an endless stream of bytes, each a function of its place.
type pattern struct{ at uint64 }

// Pattern returns the stream of bytes from that place on.
func Pattern(at uint64) io.Reader { return &pattern{at} }

func (p *pattern) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(p.at * 0x9e3779b1 >> 24)
		p.at++
	}
	return len(b), nil
}

func overHTTPS(w http.ResponseWriter, r *http.Request) {
	var raw []byte
	var err error
	if r.Method == http.MethodPost {
		raw, err = io.ReadAll(io.LimitReader(r.Body, 65535))
	} else {
		raw, err = base64.RawURLEncoding.DecodeString(r.FormValue("dns"))
	}
	q := new(dns.Msg)
	if err != nil || q.Unpack(raw) != nil || len(q.Question) != 1 {
		http.Error(w, "not a question", http.StatusBadRequest)
		return
	}
	out, err := answer(q).Pack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/dns-message")
	_, _ = w.Write(out)
}

// Dial connects from the namespace to a literal address.
func (s *Space) Dial(network, addr string) (c net.Conn, err error) {
	err = s.Do(func() (err error) {
		c, err = net.DialTimeout(network, addr, 10*time.Second)
		return err
	})
	return c, err
}

// DialTLS is Dial and a handshake for the name.
func (w *World) DialTLS(s *Space, addr, name string) (*tls.Conn, error) {
	c, err := s.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return w.Secure(c, name)
}

// Secure makes a TLS connection of c, for a name whose certificate the world's
// authority has signed.
func (w *World) Secure(c net.Conn, name string) (*tls.Conn, error) {
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	t := tls.Client(c, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name, RootCAs: w.CA.Pool()})
	if err := t.Handshake(); err != nil {
		_ = c.Close()
		return nil, err
	}
	_ = c.SetDeadline(time.Time{})
	return t, nil
}

// Connect asks a proxy at addr for a tunnel to target.
func (s *Space) Connect(addr, target string) (net.Conn, error) {
	c, err := s.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target)
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), &http.Request{Method: http.MethodConnect})
	if err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("CONNECT %s: %s", target, resp.Status)
		}
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	_ = c.SetDeadline(time.Time{})
	return c, nil
}

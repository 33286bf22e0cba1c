package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const smallResponse = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// smallWeb answers each request without content.
func smallWeb(c *net.TCPConn, br *bufio.Reader) {
	_ = c.SetDeadline(time.Time{})
	for {
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		if _, err := io.WriteString(c, smallResponse); err != nil {
			return
		}
	}
}

func (h *harness) getOK(c *raw, host string, o *origin) {
	h.tb.Helper()
	c.send(fmt.Sprintf("GET http://%[1]s:%[2]d/ HTTP/1.1\r\nHost: %[1]s:%[2]d\r\n\r\n", host, o.port))
	if resp, body := c.response("GET"); resp.StatusCode != 200 || body != "ok" {
		h.tb.Errorf("%s: %s %q", host, resp.Status, body)
	}
}

// Clients share the connections to an origin, one after the other; names of
// the same address do not.
func TestPoolShares(t *testing.T) {
	o := rawOrigin(t, smallWeb)
	h := start(t, []uint16{o.port}, nil)
	for range 5 {
		c := h.dial()
		h.getOK(c, "one.example", o)
		h.getOK(c, "one.example", o)
		_ = c.Close()
	}
	if n := o.accepted(); n != 1 {
		t.Errorf("%d connections for one name", n)
	}
	h.getOK(h.dial(), "two.example", o)
	if n := o.accepted(); n != 2 {
		t.Errorf("%d connections for two names", n)
	}
}

// Responses without content give their connection back, too.
func TestPoolWithoutContent(t *testing.T) {
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			head := map[string]string{
				"/204": "HTTP/1.1 204 No Content\r\n\r\n", "/304": "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
				"/empty": "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x-hop\r\nX-Hop: secret\r\n\r\n",
			}[r.URL.Path]
			_, _ = io.WriteString(c, head)
		}
	})
	h := start(t, []uint16{o.port}, nil)
	for range 3 {
		for _, ask := range []string{"GET /204", "GET /304", "GET /empty", "HEAD /empty", "HEAD /304"} {
			method, path, _ := strings.Cut(ask, " ")
			c := h.dial()
			c.send(fmt.Sprintf("%s http://ok.example:%d%s HTTP/1.1\r\nHost: ok.example:%d\r\n\r\n", method, o.port, path, o.port))
			resp, body := c.response(method)
			if resp.StatusCode >= 400 || body != "" || resp.Header.Get("X-Hop") != "" {
				t.Errorf("%s: %s %q %v", ask, resp.Status, body, resp.Header)
			}
			_ = c.Close()
		}
	}
	if n := o.accepted(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// What an origin sends without having been asked is never the answer to
// somebody's next request.
func TestPoolUnsolicited(t *testing.T) {
	for name, extra := range map[string]struct {
		bytes string
		late  time.Duration
	}{
		"at once":   {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", 0},
		"late":      {"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", 30 * time.Millisecond},
		"its end":   {"", 30 * time.Millisecond},
		"some junk": {"x", 30 * time.Millisecond},
	} {
		said := make(chan struct{}, 2) // all that the origin has to say, of each connection
		o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			if extra.late == 0 {
				_, _ = io.WriteString(c, smallResponse+extra.bytes)
			} else {
				_, _ = io.WriteString(c, smallResponse)
				time.Sleep(extra.late)
				_, _ = io.WriteString(c, extra.bytes)
			}
			if extra.bytes == "" {
				_ = c.Close()
			}
			said <- struct{}{}
			_, _ = io.Copy(io.Discard, br)
		})
		h := start(t, []uint16{o.port}, nil)
		h.getOK(h.dial(), "ok.example", o)
		<-said
		h.getOK(h.dial(), "ok.example", o)
		if n := o.accepted(); n != 2 {
			t.Errorf("%s: %d connections, want a new one for the second request", name, n)
		}
	}
}

// A connection that ends when the request is on its way is no error of the
// client's: the request goes over another one, once for each connection that
// was kept.
func TestPoolReplays(t *testing.T) {
	var requests atomic.Int32
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		for n := 0; ; n++ {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			requests.Add(1)
			if n == 1 {
				return // read, and closed without a word
			}
			_, _ = io.WriteString(c, smallResponse)
		}
	})
	h := start(t, []uint16{o.port}, nil)
	h.getOK(h.dial(), "ok.example", o)
	h.getOK(h.dial(), "ok.example", o)
	if n, r := o.accepted(), requests.Load(); n != 2 || r != 3 {
		t.Errorf("%d connections and %d requests, want 2 and 3", n, r)
	}
}

// A response that was not read to its end, or that the client or the origin
// wants to be the last, ends its connection.
func TestPoolKeepsOnlyWhole(t *testing.T) {
	var close atomic.Bool
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		for {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			if close.Load() {
				_, _ = io.WriteString(c, strings.Replace(smallResponse, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
				continue
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
			if _, err := io.CopyN(c, zeros{}, 100000000); err != nil {
				return
			}
		}
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.send(fmt.Sprintf("GET http://ok.example:%d/ HTTP/1.1\r\nHost: ok.example:%d\r\n\r\n", o.port, o.port))
	if _, err := c.br.Discard(1 << 20); err != nil {
		t.Fatal(err)
	}
	_ = c.SetLinger(0)
	_ = c.Close()
	eventually(t, "the exchange is over", func() bool { return h.s.Stats().Conns == 0 })
	close.Store(true)
	h.getOK(h.dial(), "ok.example", o)
	h.getOK(h.dial(), "ok.example", o)
	if n := o.accepted(); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// The pool is bounded for each origin.
func TestPoolBounds(t *testing.T) {
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) { _, _ = io.Copy(io.Discard, br) })
	p := pool{idle: make(map[originKey][]*pooled)}
	defer p.close()
	for i := range maxIdleOrigin + 3 {
		nc, err := net.Dial("tcp", o.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		p.put(originKey{name: "a.example"}, &pooled{originConn: &originConn{TCPConn: nc.(*net.TCPConn)}})
		if want := min(i+1, maxIdleOrigin); p.count != want {
			t.Fatalf("%d idle after %d, want %d", p.count, i+1, want)
		}
	}
	for _, c := range p.idle[originKey{name: "a.example"}][:10] {
		c.since = time.Now().Add(-2 * idleTime)
	}
	p.closeOld()
	if p.count != maxIdleOrigin-10 || len(p.idle[originKey{name: "a.example"}]) != p.count {
		t.Errorf("%d idle after the old ones were closed", p.count)
	}
}

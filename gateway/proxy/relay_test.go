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
	"strings"
	"testing"
	"time"
)

// A CONNECT that comes after a plain request on the same connection is served
// all the same, early bytes included.
func TestConnectAfterPlainRequest(t *testing.T) {
	web := httpOrigin(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	o := rawOrigin(t, echo)
	h := start(t, []uint16{web.port, o.port}, nil)
	c := h.dial()
	for range 2 {
		c.send(fmt.Sprintf("GET http://ok.example:%d/ HTTP/1.1\r\nHost: ok.example:%d\r\n\r\n", web.port, web.port))
		if resp, body := c.response("GET"); resp.StatusCode != 200 || body != "hello" {
			t.Fatalf("GET: %s %q", resp.Status, body)
		}
	}
	c.send(fmt.Sprintf("CONNECT ok.example:%d HTTP/1.1\r\n\r\nearly ", o.port))
	if resp, _ := c.response("CONNECT"); resp.StatusCode != 200 {
		t.Fatalf("CONNECT: %s", resp.Status)
	}
	c.send("later")
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c.br); err != nil || string(got) != "early later" {
		t.Errorf("through the tunnel: %q, %v", got, err)
	}
	eventually(t, "everything is given back", func() bool { st := h.s.Stats(); return st.Tunnels == 0 && st.Conns == 0 })
	if st := h.s.Stats(); st.BytesToOrigin != 11 || st.BytesFromOrigin != 11 || st.TunnelsOpened != 1 {
		t.Errorf("stats %+v", st)
	}
}

// A side that does not read holds up the other one, without loss, whether the
// bytes are copied or spliced by then.
func TestTunnelBackPressure(t *testing.T) {
	data := make([]byte, 16<<20)
	_, _ = rand.Read(data)
	o := rawOrigin(t, func(c *net.TCPConn, _ *bufio.Reader) { _, _ = c.Write(data) })
	h := start(t, []uint16{o.port}, nil)
	c := h.connect(fmt.Sprintf("ok.example:%d", o.port), "")
	sum, n := sha256.New(), int64(0)
	for _, pause := range []time.Duration{200, 0, 0, 150, 100} {
		time.Sleep(pause * time.Millisecond)
		k, err := io.CopyN(sum, c.br, 3<<20)
		if n += k; err != nil {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
	k, err := io.Copy(sum, c.br)
	if n += k; err != nil || n != int64(len(data)) {
		t.Fatalf("%d bytes, %v; want %d", n, err, len(data))
	}
	if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("bytes differ")
	}
}

// One direction has ended, nothing has moved for a while, and then the policy
// ends the other: the origin and the client both see it.
func TestTunnelHalfOpenThenCut(t *testing.T) {
	gone := make(chan error, 1)
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		_, _ = io.ReadAll(br) // the client's half
		_, _ = io.WriteString(c, "still here")
		for {
			time.Sleep(20 * time.Millisecond)
			if _, err := c.Write([]byte("x")); err != nil {
				gone <- err
				return
			}
		}
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.connect(fmt.Sprintf("gone.example:%d", o.port), "hello")
	_ = c.CloseWrite()
	b := make([]byte, 10)
	if err := readFull(c, b); err != nil || string(b) != "still here" {
		t.Fatalf("%q, %v", b, err)
	}
	h.store.Swap(snapshot(t, 2, "gone.example"))
	h.s.Recheck()
	if _, err := io.Copy(io.Discard, c.br); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("client: %v", err)
	}
	select {
	case err := <-gone:
		if err == nil {
			t.Error("the origin's connection ends without an error")
		}
	case <-time.After(patience):
		t.Error("the origin does not see the end")
	}
	eventually(t, "counted", func() bool { return h.s.Stats().CutByPolicy == 1 })
}

// Nothing moves for longer than the loop waits for anything, and then it does:
// in both directions, many times over.
func TestTunnelResumes(t *testing.T) {
	o := rawOrigin(t, echo)
	h := start(t, []uint16{o.port}, nil)
	var all []*raw
	for range 50 {
		all = append(all, h.connect(fmt.Sprintf("ok.example:%d", o.port), ""))
	}
	for round := range 4 {
		time.Sleep(150 * time.Millisecond)
		for i, c := range all {
			want := fmt.Sprintf("%d/%d", round, i)
			c.send(want)
			if b := make([]byte, len(want)); readFull(c, b) != nil || string(b) != want {
				t.Fatalf("tunnel %d, round %d: %q", i, round, b)
			}
		}
	}
}

// Policy, clients and origins end tunnels all at once, while bytes move: each
// is ended once and everything is given back.
func TestTunnelsEndUnderLoad(t *testing.T) {
	o := rawOrigin(t, echo)
	h := start(t, []uint16{o.port}, nil)
	for round := range 3 {
		h.store.Swap(snapshot(t, uint64(2*round+2)))
		var all []*raw
		for i := range 60 {
			all = append(all, h.connect(fmt.Sprintf("t%d.example:%d", i%3, o.port), "x"))
		}
		done := make(chan struct{})
		for i, c := range all {
			go func() {
				defer func() { done <- struct{}{} }()
				for k := range 200 {
					if _, err := c.Write(make([]byte, 1+k*37%5000)); err != nil {
						return
					}
					if i%3 == 1 && k == 20+i {
						_ = c.SetLinger(i % 2)
						_ = c.Close()
						return
					}
					_ = c.SetReadDeadline(time.Now().Add(patience))
					if _, err := c.br.Read(make([]byte, 4096)); err != nil {
						return
					}
				}
			}()
		}
		time.Sleep(5 * time.Millisecond)
		h.store.Swap(snapshot(t, uint64(2*round+3), "t0.example"))
		h.s.Recheck()
		for range all {
			<-done
		}
		for _, c := range all {
			_ = c.Close()
		}
		eventually(t, "everything is given back", func() bool { st := h.s.Stats(); return st.Tunnels == 0 && st.Conns == 0 })
	}
	opened, closed := 0, 0
	for _, r := range h.audit.all() {
		switch r.Event {
		case "open":
			opened++
		case "close":
			closed++
		}
	}
	if st := h.s.Stats(); opened != 180 || closed != 180 || st.TunnelsOpened != 180 || st.Panics != 0 {
		t.Errorf("%d records of beginnings, %d of ends, %+v", opened, closed, st)
	}
}

// A head that comes byte by byte, and one that never ends.
func TestConnectSlowHead(t *testing.T) {
	o := rawOrigin(t, echo)
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	for _, b := range []byte(fmt.Sprintf("CONNECT ok.example:%d HTTP/1.1\r\n\r\nx", o.port)) {
		c.send(string(b))
		time.Sleep(time.Millisecond)
	}
	if resp, _ := c.response("CONNECT"); resp.StatusCode != 200 {
		t.Errorf("byte by byte: %s", resp.Status)
	}
	if b, err := c.br.ReadByte(); err != nil || b != 'x' {
		t.Errorf("through the tunnel: %q, %v", b, err)
	}
	h = start(t, []uint16{o.port}, func(o *Options) { o.HeaderTimeout = 300 * time.Millisecond })
	c, resp, _ := h.ask("CONNECT", "CONNECT ok.exam")
	if resp.StatusCode != http.StatusRequestTimeout || resp.Header.Get("Proxy-Status") == "" {
		t.Errorf("a head without an end: %s", resp.Status)
	}
	c.atEOF()
	begin := time.Now()
	c = h.dial()
	c.atEOF()
	if d := time.Since(begin); d < 300*time.Millisecond {
		t.Errorf("a silent client was let go after %v", d)
	}
	c = start(t, []uint16{o.port}, nil).dial()
	c.send("CONNECT ok.example:443 HTTP/1.1\r\nX: " + strings.Repeat("x", 70<<10))
	if resp, _ := c.response("GET"); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("a large head: %s", resp.Status)
	}
}

// A client that goes on sending, late or much, gets the answer all the same, and
// one that never ends is let go in bounded time.
func TestBlockedConnectLingers(t *testing.T) {
	h := start(t, []uint16{443}, nil)
	for _, late := range []int{100, 100 << 10} {
		c := h.dial()
		c.send("CONNECT www.tiktok.com:443 HTTP/1.1\r\n\r\n")
		time.Sleep(50 * time.Millisecond)
		_, _ = c.Write(make([]byte, late))
		time.Sleep(50 * time.Millisecond)
		if resp, _ := c.response("CONNECT"); resp.StatusCode != 403 {
			t.Errorf("%d bytes late: %s", late, resp.Status)
		}
	}
	eventually(t, "all are let go", func() bool { return h.s.Stats().Conns == 0 })
	if n := h.s.Stats().Requests; n != 2 {
		t.Errorf("%d requests were read", n)
	}
}

// One over the limit is told so, and a place that is given back is used again.
func TestConnectAdmission(t *testing.T) {
	h := start(t, []uint16{443}, func(o *Options) { o.MaxConnsPerClient = 2 })
	first, second := h.dial(), h.dial()
	eventually(t, "both are in", func() bool { return h.s.Stats().Conns == 2 })
	third := h.dial()
	if resp, _ := third.response("CONNECT"); resp.StatusCode != 503 {
		t.Errorf("third: %s", resp.Status)
	}
	_ = first.Close()
	eventually(t, "one is out", func() bool { return h.s.Stats().Conns == 1 })
	fourth := h.dial()
	fourth.send("CONNECT www.tiktok.com:443 HTTP/1.1\r\n\r\n")
	if resp, _ := fourth.response("CONNECT"); resp.StatusCode != 403 {
		t.Errorf("fourth: %s", resp.Status)
	}
	_, _ = second.Close(), fourth.Close()
}

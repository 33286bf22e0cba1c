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
	"net/netip"
	"strings"
	"testing"
	"time"
)

// echo sends back what comes, and ends when the client has ended.
func echo(c *net.TCPConn, br *bufio.Reader) {
	_, _ = io.Copy(c, br)
	_ = c.CloseWrite()
}

func (h *harness) connect(target string, early string) *raw {
	h.tb.Helper()
	c := h.dial()
	c.send("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n" + early)
	resp, body := c.response(http.MethodConnect)
	if resp.StatusCode != http.StatusOK {
		h.tb.Fatalf("CONNECT %s: %s %q", target, resp.Status, body)
	}
	return c
}

func TestConnectEarlyBytesAndHalfClose(t *testing.T) {
	o := rawOrigin(t, echo)
	h := start(t, []uint16{o.port}, nil)
	for _, early := range []string{"", "x", "early bytes", strings.Repeat("0123456789abcdef", 8<<10)} {
		c := h.connect(fmt.Sprintf("ok.example:%d", o.port), early)
		c.send("later")
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c.br)
		if want := early + "later"; err != nil || string(got) != want {
			t.Errorf("%d early bytes: got %d bytes back, %v; want %d", len(early), len(got), err, len(want))
		}
	}
}

// The client ends before anything was sent: an origin that speaks first is
// heard all the same.
func TestConnectHalfCloseAtOnce(t *testing.T) {
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		time.Sleep(100 * time.Millisecond)
		_, _ = io.WriteString(c, "220 ready")
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.send(fmt.Sprintf("CONNECT ok.example:%d HTTP/1.1\r\n\r\n", o.port))
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if resp, _ := c.response(http.MethodConnect); resp.StatusCode != http.StatusOK {
		t.Fatalf("status %s", resp.Status)
	}
	if got, err := io.ReadAll(c.br); err != nil || string(got) != "220 ready" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestConnectOriginHalfClose(t *testing.T) {
	got := make(chan string, 1)
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		_, _ = io.WriteString(c, "bye")
		_ = c.CloseWrite()
		b, _ := io.ReadAll(br)
		got <- string(b)
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.connect(fmt.Sprintf("ok.example:%d", o.port), "")
	if b, err := io.ReadAll(c.br); err != nil || string(b) != "bye" {
		t.Fatalf("from the origin: %q, %v", b, err)
	}
	time.Sleep(50 * time.Millisecond)
	c.send("still here")
	_ = c.CloseWrite()
	if b := <-got; b != "still here" {
		t.Errorf("to the origin after its end: %q", b)
	}
}

// Enough for the tunnel to go over to splice and back.
func TestConnectBulk(t *testing.T) {
	o := rawOrigin(t, echo)
	h := start(t, []uint16{o.port}, nil)
	c := h.connect(fmt.Sprintf("ok.example:%d", o.port), "")
	data := make([]byte, 24<<20)
	_, _ = rand.Read(data)
	go func() {
		for rest := data; len(rest) > 0; rest = rest[min(len(rest), 3<<20):] {
			_, _ = c.Write(rest[:min(len(rest), 3<<20)])
		}
		_ = c.CloseWrite()
	}()
	sum := sha256.New()
	if n, err := io.Copy(sum, c.br); err != nil || n != int64(len(data)) {
		t.Fatalf("%d bytes, %v; want %d", n, err, len(data))
	}
	if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("bytes differ")
	}
	eventually(t, "tunnel is gone", func() bool { return h.s.Stats().Tunnels == 0 })
	if st := h.s.Stats(); st.BytesToOrigin != uint64(len(data)) || st.BytesFromOrigin != uint64(len(data)) {
		t.Errorf("counted %d and %d bytes, want %d", st.BytesToOrigin, st.BytesFromOrigin, len(data))
	}
	recs := h.audit.all()
	if len(recs) != 2 || recs[0].Event != "open" || recs[1].Event != "close" || recs[1].BytesIn != int64(len(data)) ||
		recs[1].BytesOut != int64(len(data)) || recs[1].Duration <= 0 || recs[1].Result != "closed" {
		t.Errorf("records: %+v", recs)
	}
}

func TestConnectBlocked(t *testing.T) {
	o := listenOrigin(t)
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	// What follows the head must never be taken for a request.
	c.send(fmt.Sprintf("CONNECT www.TikTok.com.:%d HTTP/1.1\r\nHost: www.tiktok.com:%d\r\n\r\nGET http://ok.example:%d/ HTTP/1.1\r\nHost: ok.example:%d\r\n\r\n", o.port, o.port, o.port, o.port))
	resp, body := c.response(http.MethodConnect)
	if resp.StatusCode != http.StatusForbidden {
		t.Fatalf("status %s", resp.Status)
	}
	status := resp.Header.Get("Proxy-Status")
	if !strings.HasPrefix(status, "weir; error=http_request_denied; details=\"") || !strings.Contains(status, "tiktok:1") {
		t.Errorf("Proxy-Status: %s", status)
	}
	if !resp.Close {
		t.Error("no Connection: close")
	}
	if strings.Count(body, "\n") != 1 || !strings.Contains(body, "TikTok") {
		t.Errorf("body %q", body)
	}
	_ = c.CloseWrite()
	c.atEOF()
	if o.accepted() != 0 || h.s.Stats().Requests != 1 {
		t.Errorf("origin saw %d connections, proxy %d requests", o.accepted(), h.s.Stats().Requests)
	}
	recs := h.audit.all()
	if len(recs) != 1 {
		t.Fatalf("%d records", len(recs))
	}
	r := recs[0]
	if r.Plane != "proxy" || r.Transport != "connect" || r.Name != "www.tiktok.com" || r.Port != o.port || r.Action != "block" ||
		r.Ban != "tiktok" || r.RuleID != "tiktok:1" || r.Result != "403" || r.Device != netip.MustParseAddr("127.0.0.1") || r.Generation != 1 || r.Signal != "app" {
		t.Errorf("record %+v", r)
	}
}

func TestConnectLimit(t *testing.T) {
	o := rawOrigin(t, echo)
	h := start(t, []uint16{o.port}, func(o *Options) { o.MaxTunnels = 1 })
	target := fmt.Sprintf("ok.example:%d", o.port)
	first := h.connect(target, "")
	c := h.dial()
	c.send("CONNECT " + target + " HTTP/1.1\r\n\r\n")
	if resp, _ := c.response(http.MethodConnect); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("second tunnel: %s", resp.Status)
	}
	_ = first.Close()
	eventually(t, "room again", func() bool { return h.s.Stats().Tunnels == 0 })
	_ = h.connect(target, "").Close()
	eventually(t, "one was refused, two were not", func() bool {
		st := h.s.Stats()
		return st.RefusedTunnels == 1 && st.TunnelsOpened == 2
	})
}

func TestConnectDialErrors(t *testing.T) {
	o := listenOrigin(t) // so that nobody else gets the port, on which nobody listens at another address
	h := start(t, []uint16{o.port}, nil)
	h.names.set("ok.example", "127.0.0.2")
	h.names.set("nowhere.example")
	for target, want := range map[string]string{
		fmt.Sprintf("ok.example:%d", o.port):      "502 connection_refused",
		fmt.Sprintf("nowhere.example:%d", o.port): "502 dns_error",
	} {
		c := h.dial()
		c.send("CONNECT " + target + " HTTP/1.1\r\n\r\n")
		resp, body := c.response(http.MethodConnect)
		status, errType, _ := strings.Cut(want, " ")
		if !strings.HasPrefix(resp.Status, status) || !strings.Contains(resp.Header.Get("Proxy-Status"), "error="+errType) {
			t.Errorf("%s: %s %s", target, resp.Status, resp.Header.Get("Proxy-Status"))
		}
		if strings.Contains(body, "127.0.0.") || strings.Contains(body, "dial") {
			t.Errorf("%s: error text leaks: %q", target, body)
		}
		c.atEOF()
	}
	if n := h.s.Stats().Failed; n != 2 {
		t.Errorf("failed %d, want 2", n)
	}
}

func TestRecheckCutsOnlyBanned(t *testing.T) {
	o := rawOrigin(t, echo)
	h := start(t, []uint16{o.port}, nil)
	keep := h.connect(fmt.Sprintf("keep.example:%d", o.port), "")
	gone := h.connect(fmt.Sprintf("gone.example:%d", o.port), "")
	h.s.Recheck() // nothing changed: nothing happens
	for _, c := range []*raw{keep, gone} {
		c.send("ping")
		if b := make([]byte, 4); readFull(c, b) != nil || string(b) != "ping" {
			t.Fatalf("echo %q", b)
		}
	}
	h.store.Swap(snapshot(t, 2, "gone.example"))
	h.s.Recheck()
	if _, err := gone.br.ReadByte(); err == nil {
		t.Error("banned tunnel is still open")
	}
	keep.send("pong")
	if b := make([]byte, 4); readFull(keep, b) != nil || string(b) != "pong" {
		t.Errorf("allowed tunnel: %q", b)
	}
	eventually(t, "record of the end", func() bool { return len(h.audit.all()) == 3 })
	r := h.audit.all()[2]
	if r.Name != "gone.example" || r.Event != "close" || r.Action != "block" || r.Generation != 2 || r.Result != "cut" {
		t.Errorf("record %+v", r)
	}
	eventually(t, "one is cut, one is left", func() bool {
		st := h.s.Stats()
		return st.CutByPolicy == 1 && st.Tunnels == 1
	})
}

func readFull(c *raw, b []byte) error {
	_, err := io.ReadFull(c.br, b)
	return err
}

// A policy that changes while a name is being resolved decides.
func TestPolicyChangesBeforeDial(t *testing.T) {
	o := listenOrigin(t)
	h := start(t, []uint16{o.port}, nil)
	h.names.setHook(func(string) { h.store.Swap(snapshot(t, 2, "late.example")) })
	c := h.dial()
	c.send(fmt.Sprintf("CONNECT late.example:%d HTTP/1.1\r\n\r\n", o.port))
	if resp, _ := c.response(http.MethodConnect); resp.StatusCode != http.StatusForbidden {
		t.Errorf("status %s", resp.Status)
	}
	if o.accepted() != 0 {
		t.Error("origin was reached")
	}
}

func TestNoPolicy(t *testing.T) {
	o := listenOrigin(t)
	h := start(t, []uint16{o.port}, nil)
	h.store.Swap(nil)
	for _, head := range []string{
		fmt.Sprintf("CONNECT ok.example:%d HTTP/1.1\r\n\r\n", o.port),
		fmt.Sprintf("GET http://ok.example:%d/ HTTP/1.1\r\nHost: ok.example:%d\r\n\r\n", o.port, o.port),
	} {
		c := h.dial()
		c.send(head)
		if resp, _ := c.response("GET"); resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%q: %s", head, resp.Status)
		}
	}
	if st := h.s.Stats(); st.Undecided != 2 || o.accepted() != 0 {
		t.Errorf("stats %+v, accepted %d", st, o.accepted())
	}
}

func TestTunnelIdle(t *testing.T) {
	const idle = 2 * time.Second
	o := rawOrigin(t, echo)
	h := start(t, []uint16{o.port}, func(o *Options) { o.TunnelIdle = idle })
	tunnels := uint64(0)
	var c *raw
	for c == nil {
		if tunnels++; tunnels > 10 {
			t.Fatal("this machine cannot send a byte in time")
		}
		c = h.trickle(fmt.Sprintf("ok.example:%d", o.port), idle)
	}
	if _, err := c.br.ReadByte(); err == nil {
		t.Error("idle tunnel is open")
	}
	eventually(t, "counted", func() bool { return h.s.Stats().CutIdle == tunnels })
}

// trickle opens a tunnel and keeps it open, for longer than it may be idle, by a
// byte now and then. It is nil where so much time passed between two of them that
// the proxy was right to end it.
func (h *harness) trickle(target string, idle time.Duration) *raw {
	h.tb.Helper()
	last := time.Now()
	c := h.connect(target, "")
	for range 5 {
		time.Sleep(idle / 4)
		now := time.Now()
		_, err := io.WriteString(c, "x")
		if err == nil {
			_, err = c.br.ReadByte()
		}
		switch took := time.Since(last); {
		case err != nil && took < idle:
			h.tb.Fatalf("ended after %v: %v", took, err)
		case err != nil:
			return nil
		}
		last = now
	}
	return c
}

func TestDrain(t *testing.T) {
	for range 10 {
		if drains(t) {
			return
		}
	}
	t.Error("this machine cannot say a word in time")
}

// drains is false where the time to drain was over before anything was said.
func drains(t *testing.T) bool {
	const drain = 4 * time.Second
	o := rawOrigin(t, echo)
	h := start(t, []uint16{o.port}, func(o *Options) { o.Drain = drain })
	ends := h.connect(fmt.Sprintf("ends.example:%d", o.port), "")
	stays := h.connect(fmt.Sprintf("stays.example:%d", o.port), "")
	begin := time.Now()
	h.cancel()
	eventually(t, "no connection is accepted while draining", func() bool {
		c, err := net.Dial("tcp", h.addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	_, _ = io.WriteString(ends, "last words")
	_ = ends.CloseWrite()
	b, err := io.ReadAll(ends.br)
	if time.Since(begin) > drain {
		h.stop()
		return false
	}
	if err != nil || string(b) != "last words" {
		t.Errorf("tunnel while draining: %q, %v", b, err)
	}
	if _, err := stays.br.ReadByte(); err == nil {
		t.Error("tunnel is open after draining")
	}
	h.stop()
	if st := h.s.Stats(); st.CutAtDrain != 1 || st.Tunnels != 0 || st.Conns != 0 {
		t.Errorf("stats %+v", st)
	}
	return true
}

package proxy

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

const handshake = "GET http://%[1]s:%[2]d/chat?x=1 HTTP/1.1\r\nHost: %[1]s:%[2]d\r\nConnection: keep-alive, Upgrade, X-Hop\r\nX-Hop: 1\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// webSocket is an origin that agrees, greets in the same segment, and echoes.
func webSocket(c *net.TCPConn, br *bufio.Reader) {
	r, err := http.ReadRequest(br)
	if err != nil || r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" || r.Header.Get("X-Hop") != "" || r.RequestURI != "/chat?x=1" {
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		return
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n\x81\x05hello",
		base64.StdEncoding.EncodeToString(sum[:]))
	echo(c, br)
}

func TestWebSocket(t *testing.T) {
	o := rawOrigin(t, webSocket)
	h := start(t, []uint16{o.port}, nil)
	for _, early := range []string{"", "\x81\x85abcd\x09\x00\x0f\x08\x0e", strings.Repeat("\x82\x7e\x10\x00", 20000)} {
		c := h.dial()
		c.send(fmt.Sprintf(handshake, "ok.example", o.port) + early)
		resp, err := http.ReadResponse(c.br, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v, %v", resp, err)
		}
		if resp.Header.Get("Sec-Websocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || resp.Header.Get("Upgrade") != "websocket" || resp.Header.Get("Connection") != "Upgrade" {
			t.Errorf("101 with %v", resp.Header)
		}
		c.send("later")
		_ = c.CloseWrite()
		want := "\x81\x05hello" + early + "later"
		if got, err := io.ReadAll(c.br); err != nil || string(got) != want {
			t.Errorf("%d early bytes: %d bytes back, %v; want %d", len(early), len(got), err, len(want))
		}
		eventually(t, "tunnel is gone", func() bool { return h.s.Stats().Tunnels == 0 })
	}
	if n := len(h.audit.all()); n != 6 {
		t.Errorf("%d records", n)
	}
	for i, r := range h.audit.all() {
		if want := []string{"open", "close"}[i%2]; r.Event != want || r.Transport != "http" || r.Name != "ok.example" {
			t.Errorf("record %+v", r)
		}
	}
}

// Software that takes the spelling of RFC 6455 literally is in use, on both
// sides.
func TestWebSocketSpelling(t *testing.T) {
	got := make(chan string, 1)
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		head := ""
		for !strings.HasSuffix(head, "\r\n\r\n") {
			line, err := br.ReadString('\n')
			if err != nil {
				break
			}
			head += line
		}
		got <- head
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.send(fmt.Sprintf(handshake, "ok.example", o.port))
	_ = c.CloseWrite()
	answer, _ := io.ReadAll(c.br)
	if head := <-got; !strings.Contains(head, "\r\nSec-WebSocket-Key: ") || strings.Contains(head, "Sec-Websocket") {
		t.Errorf("the origin got %q", head)
	}
	if !strings.Contains(string(answer), "\r\nSec-WebSocket-Accept: x\r\n") {
		t.Errorf("the client got %q", answer)
	}
}

// The answer to a handshake that was declined is an exchange like others: a
// new policy ends it, and the connection to the origin is not left open.
func TestWebSocketDeclinedIsCut(t *testing.T) {
	gone := make(chan error, 1)
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")
		_, err := br.ReadByte()
		gone <- err
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.send(fmt.Sprintf(handshake, "gone.example", o.port))
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	h.store.Swap(snapshot(t, 2, "gone.example"))
	h.s.Recheck()
	if b, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the response ended as if it were whole: %q", b)
	}
	if err := <-gone; !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the origin's connection ended with %v", err)
	}
	eventually(t, "a record of the cut", func() bool { return len(h.audit.all()) == 2 })
}

func TestWebSocketDeclined(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "not here")
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	// What follows might be frames or a request: it is neither.
	c.send(fmt.Sprintf(handshake, "ok.example", o.port) + fmt.Sprintf("GET http://ok.example:%[1]d/ HTTP/1.1\r\nHost: ok.example:%[1]d\r\n\r\n", o.port))
	if resp, body := c.response("GET"); resp.StatusCode != 403 || body != "not here" || !resp.Close {
		t.Errorf("%s %q, close %v", resp.Status, body, resp.Close)
	}
	_ = c.CloseWrite()
	c.atEOF()
	if n := h.s.Stats().Requests; n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestWebSocketOtherProtocol(t *testing.T) {
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		if _, err := http.ReadRequest(br); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
		}
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.send(fmt.Sprintf(handshake, "ok.example", o.port))
	if resp, _ := c.response("GET"); resp.StatusCode != 502 {
		t.Errorf("%s", resp.Status)
	}
}

func TestWebSocketBlockedAndCut(t *testing.T) {
	o := rawOrigin(t, webSocket)
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	c.send(fmt.Sprintf(handshake, "tiktok.com", o.port))
	if resp, body := c.response("GET"); resp.StatusCode != 403 || !resp.Close || !strings.Contains(body, "TikTok") {
		t.Errorf("blocked: %s, close %v", resp.Status, resp.Close)
	}
	if o.accepted() != 0 {
		t.Error("origin was reached")
	}
	c = h.dial()
	c.send(fmt.Sprintf(handshake, "gone.example", o.port))
	if resp, err := http.ReadResponse(c.br, nil); err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v, %v", resp, err)
	}
	eventually(t, "tunnel is open", func() bool { return h.s.Stats().Tunnels == 1 })
	h.store.Swap(snapshot(t, 2, "gone.example"))
	h.s.Recheck()
	_, _ = io.CopyN(io.Discard, c.br, 7) // the greeting
	begin := time.Now()
	if _, err := c.br.ReadByte(); err == nil || time.Since(begin) > patience/2 {
		t.Errorf("banned WebSocket: %v after %v", err, time.Since(begin))
	}
}

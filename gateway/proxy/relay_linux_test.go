package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fillBacklog listens where a further connection gets no answer.
func fillBacklog(t *testing.T, addr string) {
	t.Helper()
	a := netip.MustParseAddrPort(addr)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	sa := &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	if err := unix.Bind(fd, sa); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(c) })
		_ = unix.Connect(c, sa)
	}
}

// Neither a blocked CONNECT nor a tunnel has a goroutine: what runs is the
// loops, net/http's accepting goroutine, and the helpers that resolve names.
func TestBlockedConnectGoroutines(t *testing.T) {
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) { _, _ = io.Copy(io.Discard, br) })
	h := start(t, []uint16{o.port}, nil)
	_ = h.connect(fmt.Sprintf("127.0.0.1:%d", o.port), "").Close()
	eventually(t, "tunnel is gone", func() bool { return h.s.Stats().Tunnels == 0 && h.s.Stats().Conns == 0 })
	before := proxyGoroutines()
	for range 100 {
		c := h.dial()
		c.send("CONNECT www.tiktok.com:443 HTTP/1.1\r\n\r\n")
		if resp, _ := c.response("CONNECT"); resp.StatusCode != 403 {
			t.Fatal(resp.Status)
		}
		_ = h.connect(fmt.Sprintf("127.0.0.1:%d", o.port), "x")
	}
	if after := proxyGoroutines(); after > before {
		t.Errorf("%d goroutines of the proxy with 100 tunnels and 100 denials, %d before", after, before)
	}
}

// Addresses that do not answer do not hold up one that does (RFC 8305).
func TestDialStaggered(t *testing.T) {
	o := rawOrigin(t, echo)
	h := start(t, []uint16{o.port}, nil)
	fillBacklog(t, fmt.Sprintf("127.0.0.9:%d", o.port))
	h.names.set("slow.example", "127.0.0.9", "127.0.0.1")
	begin := time.Now()
	c := h.connect(fmt.Sprintf("slow.example:%d", o.port), "x")
	if d := time.Since(begin); d < attemptDelay || d > patience/2 {
		t.Errorf("took %v", d)
	}
	if b, err := c.br.ReadByte(); err != nil || b != 'x' {
		t.Errorf("%q, %v", b, err)
	}
	_ = c.Close()
	h.names.set("dead.example", "127.0.0.9")
	c = h.dial()
	c.send(fmt.Sprintf("CONNECT dead.example:%d HTTP/1.1\r\n\r\n", o.port))
	h.store.Swap(snapshot(t, 2, "dead.example"))
	time.Sleep(50 * time.Millisecond)
	h.s.Recheck()
	if resp, _ := c.response("CONNECT"); resp.StatusCode != 403 {
		t.Errorf("cut while connecting: %s", resp.Status)
	}
}

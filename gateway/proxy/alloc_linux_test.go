package proxy

import (
	"fmt"
	"math"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/gateway/audit"
)

// A plainClient does with system calls alone what a client does, so that what
// is counted is the proxy's.
type plainClient struct {
	tb  testing.TB
	to  unix.SockaddrInet4
	buf [4096]byte
}

func newPlainClient(tb testing.TB, addr string) *plainClient {
	a := netip.MustParseAddrPort(addr)
	return &plainClient{tb: tb, to: unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}}
}

// ask connects, sends and returns the descriptor and the response's first
// bytes.
func (c *plainClient) ask(head []byte) (fd int, status string) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, &c.to)
	}
	if err == nil {
		_, err = unix.Write(fd, head)
	}
	n := 0
	if err == nil {
		n, err = unix.Read(fd, c.buf[:])
	}
	if err != nil || n < 12 {
		c.tb.Fatalf("%d bytes, %v", n, err)
	}
	switch string(c.buf[9:12]) {
	case "200":
		return fd, "200"
	case "403":
		return fd, "403"
	}
	return fd, "other"
}

func blockedHead(host string) []byte {
	return fmt.Appendf(nil, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\nUser-Agent: Mozilla/5.0\r\nProxy-Connection: keep-alive\r\n\r\n", host, host)
}

// The allocations of one blocked CONNECT, from accept to close, with nobody to
// make records for: the peer's address from accept4 in its two forms; the
// request line and the field lines as strings, the request, the fields, and their
// Host value; the exchange; the denial, its text and the rule's id in it.
const blockedAllocs = 11

func TestBlockedConnectAllocs(t *testing.T) {
	if underRace {
		t.Log("the race detector allocates; nothing is counted")
		return
	}
	h := start(t, []uint16{443}, func(o *Options) { o.Audit = audit.Discard{} })
	c := newPlainClient(t, h.addr)
	head := blockedHead("www.tiktok.com")
	got := math.Inf(1)
	for range 5 { // the least: what else the process does counts, too
		got = min(got, testing.AllocsPerRun(200, func() {
			fd, status := c.ask(head)
			if status != "403" {
				t.Fatalf("status %s", status)
			}
			_ = unix.Close(fd)
		}))
	}
	t.Logf("%.1f allocations", got)
	if got > blockedAllocs {
		t.Errorf("%.1f allocations for a blocked CONNECT, want at most %d", got, blockedAllocs)
	}
}

func BenchmarkConnectBlocked(b *testing.B) {
	h := start(b, []uint16{443}, func(o *Options) { o.Audit = audit.Discard{} })
	c := newPlainClient(b, h.addr)
	head := blockedHead("www.tiktok.com")
	b.ReportAllocs()
	for b.Loop() {
		fd, status := c.ask(head)
		if status != "403" {
			b.Fatalf("status %s", status)
		}
		_ = unix.Close(fd)
	}
}

// The set-up of a tunnel, with one byte there and back.
func BenchmarkConnectSetup(b *testing.B) {
	o := rawOrigin(b, echo)
	h := start(b, []uint16{o.port}, func(o *Options) { o.Audit = audit.Discard{} })
	c := newPlainClient(b, h.addr)
	head := fmt.Appendf(nil, "CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", o.port, o.port)
	b.ReportAllocs()
	for b.Loop() {
		fd, status := c.ask(head)
		if status != "200" {
			b.Fatalf("status %s", status)
		}
		_, _ = unix.Write(fd, []byte("x"))
		if n, err := unix.Read(fd, c.buf[:]); n != 1 || err != nil {
			b.Fatalf("%d bytes, %v", n, err)
		}
		_ = unix.Close(fd)
	}
}

func BenchmarkForwardKeepAlive(b *testing.B) {
	o := rawOrigin(b, smallWeb)
	h := start(b, []uint16{o.port}, func(o *Options) { o.Audit = audit.Discard{} })
	c := newPlainClient(b, h.addr)
	head := fmt.Appendf(nil, "GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", o.port, o.port)
	fd, status := c.ask(head)
	b.Cleanup(func() { _ = unix.Close(fd) })
	if status != "200" {
		b.Fatalf("status %s", status)
	}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = unix.Write(fd, head)
		if n, err := unix.Read(fd, c.buf[:]); n < 100 || err != nil {
			b.Fatalf("%d bytes, %v", n, err)
		}
	}
}

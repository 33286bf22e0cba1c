package dnsserver

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/bench/corpus"
)

// No reply may come in fragments, and no message from the path changes that
// (RFC 9715, section 3.1): each says so to the routers it meets.
func TestRepliesAreNeverFragmented(t *testing.T) {
	corpus.Root(t)
	ownNetwork(t) // or the packets of others push ours out of the raw socket
	r := start(t, "", Options{})
	to := r.Addrs()[0]
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(raw) }()
	wait := unix.NsecToTimeval(int64(secs(30)))
	if err := unix.SetsockoptTimeval(raw, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(pack(t, query("wechat.com", dns.TypeA))); err != nil {
		t.Fatal(err)
	}
	port := uint16(c.LocalAddr().(*net.UDPAddr).Port)
	for end := time.Now().Add(secs(30)); time.Now().Before(end); {
		p := make([]byte, 2048)
		n, _, err := unix.Recvfrom(raw, p, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n < 24 || p[0] != 0x45 || uint16(p[20])<<8|uint16(p[21]) != to.Port() || uint16(p[22])<<8|uint16(p[23]) != port {
			continue
		}
		if flags := p[6]; flags != 0x40 || p[7] != 0 {
			t.Errorf("flags and offset are %#x %#x, want only the bit that forbids fragments", flags, p[7])
		}
		// The kernel chooses an identification where it may have to make fragments
		// itself, when somebody has told it of a narrow path.
		if p[4] != 0 || p[5] != 0 {
			t.Errorf("identification %#x%x, want 0", p[4], p[5])
		}
		return
	}
	t.Error("no reply passed by")
}

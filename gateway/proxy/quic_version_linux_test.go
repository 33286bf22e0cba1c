package proxy

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/weir-gateway/weir/gateway/policy"
)

// TestQUICOtherVersion: a client that hears that its version is not known tries
// another from the same socket, which is judged as if it were the first, whether
// the other was refused or let through.
func TestQUICOtherVersion(t *testing.T) {
	w, h := newQUICWorld(t)
	if w == nil {
		return
	}
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(quicSite), 443))
	foreign := make([]byte, 1200)
	copy(foreign, "\xc0\x1a\x2a\x3a\x4a\x08destconn\x03src")
	for i, notTLS := range []policy.Action{policy.Block, policy.Allow} {
		h.store.Swap(snapshotHello(t, uint64(2+i), policy.HelloPolicy{NotTLS: notTLS}, banned...))
		tr := w.quicSocket()
		if _, err := tr.Conn.WriteTo(foreign, to); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2048)
		_ = tr.Conn.SetReadDeadline(time.Now().Add(patience))
		// Of the gateway where it refuses, else of the server.
		if n, _, err := tr.Conn.ReadFrom(buf); err != nil || string(buf[1:n][:4]) != "\x00\x00\x00\x00" {
			t.Fatalf("%v: %x, %v; want a list of versions", notTLS, buf[:n], err)
		}
		_ = tr.Conn.SetReadDeadline(time.Time{})
		if _, err := dialQUIC(tr, quicSite, "www.tiktok.com", quic.Version1); !wasRefused(err) {
			t.Errorf("%v: a banned name after another version: %v, want a refusal", notTLS, err)
		}
		c, err := dialQUIC(tr, quicSite, "site.example", quic.Version1)
		if err != nil {
			t.Fatalf("%v: a name after another version: %v", notTLS, err)
		}
		if _, same, err := ask(c, []byte("x")); err != nil || !same {
			t.Errorf("%v: same %v, %v", notTLS, same, err)
		}
	}
}

package vpn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	xicmp "golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// open opens a connection of the device that stays.
func (w *world) open(t *testing.T, network, from, to string) net.Conn {
	t.Helper()
	var c net.Conn
	var err error
	w.device.do(func() {
		d := net.Dialer{Timeout: longWait, LocalAddr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))}
		if network == "udp" {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))
		}
		c, err = d.Dial(network, to)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if got := exchange(c, longWait); got != "internet" {
		t.Fatalf("%s to %s: %q, want the internet", network, to, got)
	}
	return c
}

// echo sends on an open connection and returns what comes back within the time.
func echo(c net.Conn, text string, wait time.Duration) string {
	_ = c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write([]byte(text)); err != nil {
		return failure(err)
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	switch {
	case errors.Is(err, io.EOF):
		return "end"
	case err != nil:
		return failure(err)
	}
	return string(bytes.TrimSpace(buf[:n]))
}

// TestNewBanEndsFlows: what is open when a ban comes ends, and nothing else does;
// what a banned server goes on sending does not arrive.
func TestNewBanEndsFlows(t *testing.T) {
	unhurried(t)
	w := newWorld(t)
	w.settle(t, "open")
	k := Kernel{NetNS: w.gateway.fd}
	none := []Ban{{ID: "app"}}
	cfg := parse(t, worldOpen)
	if _, err := k.Apply(Rules("v1", cfg, none)); err != nil {
		t.Fatal(err)
	}
	for _, a := range []struct{ device, banned, site string }{
		{"10.8.0.2:0", "203.0.113.7:8000", "198.51.100.10:8000"},
		{"[fd00:8::2]:0", "[2001:db8:bad::7]:8000", "[2001:db8:1::10]:8000"},
	} {
		if _, err := k.Apply(Rules("v1", cfg, none)); err != nil {
			t.Fatal(err)
		}
		tcp, udp := w.open(t, "tcp", a.device, a.banned), w.open(t, "udp", a.device, a.banned)
		other, otherUDP := w.open(t, "tcp", a.device, a.site), w.open(t, "udp", a.device, a.site)
		push := w.pusher(t, udp)
		if got := push(longWait); got != "pushed" {
			t.Fatalf("before the ban: %q", got)
		}
		d, err := k.Apply(Rules("v1", cfg, worldBans()))
		if err != nil || !d.setsOnly() || len(d.Sets) == 0 {
			t.Fatalf("the ban comes: %v\n%s", err, d.String())
		}
		if got := push(silence()); got != "silence" {
			t.Errorf("%s: the banned server's %q arrives", a.banned, got)
		}
		if got := echo(udp, "more", longWait); got != "prohibited" {
			t.Errorf("UDP to %s: %q", a.banned, got)
		}
		if got := echo(tcp, "more", longWait); got != "reset" {
			t.Errorf("TCP to %s: %q", a.banned, got)
		}
		if got, gotUDP := echo(other, "more", longWait), echo(otherUDP, "more", longWait); got != "more" || gotUDP != "internet" {
			t.Errorf("other connections answer %q and %q", got, gotUDP)
		}
		if _, err := k.Apply(Rules("v1", cfg, worldBans()).Without("inbound/ban-app-v4").Without("inbound/ban-app-v6")); err != nil {
			t.Fatal(err)
		}
		if got := push(longWait); got != "pushed" {
			t.Errorf("without the rules inbound/ban-app: %q; does this test show what they do?", got)
		}
	}
}

// pusher returns what sends to the device from where its UDP connection goes,
// and returns what arrives within the time.
func (w *world) pusher(t *testing.T, c net.Conn) func(wait time.Duration) string {
	t.Helper()
	var out net.PacketConn
	var err error
	at := c.RemoteAddr().String()
	w.internet.do(func() {
		lc := reusing()
		out, err = lc.ListenPacket(t.Context(), "udp", at)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	return func(wait time.Duration) string {
		_, _ = out.WriteTo([]byte("pushed"), c.LocalAddr())
		_ = c.SetReadDeadline(time.Now().Add(wait))
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		if err != nil {
			return failure(err)
		}
		return string(buf[:n])
	}
}

// TestFlowsFromBefore: what was open before the table is in place is judged like
// what comes after it.
func TestFlowsFromBefore(t *testing.T) {
	unhurried(t)
	w := newWorld(t)
	w.settle(t, "open")
	k := Kernel{NetNS: w.gateway.fd}
	direct := w.open(t, "tcp", "10.8.0.2:0", "198.51.100.10:587")
	inspected := w.open(t, "tcp", "10.8.0.2:0", "198.51.100.10:443")
	dns := w.open(t, "udp", "10.8.0.2:0", "198.51.100.10:53")
	if _, err := k.Apply(Rules("v1", parse(t, worldOpen), worldBans())); err != nil {
		t.Fatal(err)
	}
	if got := echo(inspected, "more", longWait); got != "reset" {
		t.Errorf("a connection that should be looked into: %q", got)
	}
	if got := echo(direct, "more", longWait); got != "more" {
		t.Errorf("a connection that is not looked into: %q", got)
	}
	if got := echo(dns, "more", silence()); got == "internet" {
		t.Error("DNS goes on to a foreign resolver")
	}
}

// TestBigPongs: an answer to a small ping is small, or does not arrive.
func TestBigPongs(t *testing.T) {
	unhurried(t)
	w := newWorld(t)
	k := Kernel{NetNS: w.gateway.fd}
	if _, err := k.Apply(Rules("v1", parse(t, worldDefault), nil)); err != nil {
		t.Fatal(err)
	}
	for _, a := range []struct {
		network, device, site string
		kind, answer          xicmp.Type
		proto                 int
	}{
		{"ip4:icmp", deviceV4, siteV4, ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply, 1},
		{"ip6:ipv6-icmp", deviceV6, siteV6, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58},
	} {
		var c, site *xicmp.PacketConn
		var err, err2 error
		w.device.do(func() { c, err = xicmp.ListenPacket(a.network, a.device) })
		w.internet.do(func() { site, err2 = xicmp.ListenPacket(a.network, a.site) })
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		send := func(c *xicmp.PacketConn, to string, kind xicmp.Type, size int) {
			m := xicmp.Message{Type: kind, Body: &xicmp.Echo{ID: 77, Data: make([]byte, size)}}
			b, err := m.Marshal(nil)
			if err == nil {
				_, err = c.WriteTo(b, &net.IPAddr{IP: net.ParseIP(to)})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		send(c, a.site, a.kind, 56)
		for _, size := range []int{57, 500} { // beside the answer of the kernel
			send(site, a.device, a.answer, size)
		}
		got := make(map[int]bool)
		_ = c.SetReadDeadline(time.Now().Add(longWait))
		buf := make([]byte, 2048)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				break
			}
			if m, err := xicmp.ParseMessage(a.proto, buf[:n]); err == nil && m.Type == a.answer {
				got[len(m.Body.(*xicmp.Echo).Data)] = true
			}
			if got[56] && got[57] {
				_ = c.SetReadDeadline(time.Now().Add(silence())) // for what must not come
			}
		}
		if !got[56] || !got[57] || got[500] {
			t.Errorf("%s: answers of these sizes arrive: %v, want 56 and 57", a.network, got)
		}
		_ = errors.Join(c.Close(), site.Close())
	}
}

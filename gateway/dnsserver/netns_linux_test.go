package dnsserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/gateway/policy"
)

// ownNetwork moves the test's thread into a network of its own, which has
// nothing but loopback and a cable with both ends there: v0 with two addresses
// of each family and a link-local one, v1 for clients. The thread, and the
// network with it, ends with the test.
func ownNetwork(t *testing.T) {
	t.Helper()
	corpus.Root(t)
	ip := corpus.Tool(t, "ip")
	runtime.LockOSThread() // and never unlocked: nobody else may have this thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		corpus.Missing(t, "needs a network namespace: "+err.Error())
	}
	for _, args := range []string{
		"link set lo up",
		"link add v0 type veth peer name v1",
		"link set v0 up",
		"link set v1 up",
		"addr add 192.0.2.53/24 dev v0",
		"addr add 192.0.2.54/24 dev v0",
		"addr add 2001:db8::53/64 dev v0 nodad",
		"addr add 2001:db8::54/64 dev v0 nodad",
		"addr add fe80::53/64 dev v0 nodad",
		"addr add fe80::1/64 dev v1 nodad",
	} {
		if out, err := exec.Command(ip, strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
}

// asksAt asks a name that is answered on the hot path, and one that is first
// answered by a worker and then from the cache, and wants every reply from
// where it was asked.
func asksAt(t *testing.T, local, at netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP(network("udp", at), net.UDPAddrFromAddrPort(local))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for i, q := range []*dns.Msg{
		query("wechat.com", dns.TypeA), query(fmt.Sprintf("n%d.example", at.Port()), dns.TypeA), query(fmt.Sprintf("n%d.example", at.Port()), dns.TypeA), query("wechat.com", dns.TypeANY),
	} {
		buf := make([]byte, 4096)
		n, from, err := exchange(t, c, pack(t, q), at, buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// A link that is only just up may lose the first one. That the server lost
			// none is seen by what it counts.
			n, from, err = exchange(t, c, pack(t, q), at, buf)
		}
		if err != nil || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != at {
			t.Errorf("question %d at %v: reply from %v, %v", i, at, from, err)
			continue
		}
		var m dns.Msg
		if err := m.Unpack(buf[:n]); err != nil || m.Id != q.Id || m.Rcode != dns.RcodeNameError && m.Rcode != dns.RcodeSuccess {
			t.Errorf("question %d at %v: %v, %v", i, at, &m, err)
		}
	}
}

func exchange(t *testing.T, c *net.UDPConn, q []byte, at netip.AddrPort, buf []byte) (int, netip.AddrPort, error) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort(q, at); err != nil {
		t.Fatalf("to %v: %v", at, err)
	}
	_ = c.SetReadDeadline(time.Now().Add(secs(30)))
	return c.ReadFromUDPAddrPort(buf)
}

// Every address of a machine with several, asked at sockets that are bound to
// all of them, and over a link where an address alone says nothing.
func TestSourceOnEveryAddress(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		res := startUpstream(t, "").resolver(t) // out there
		ownNetwork(t)
		r := start(t, "", Options{portable: portable, Resolver: res, Listen: addrPorts("0.0.0.0:0", "[::]:0")})
		any4, any6 := netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("[::]:0")
		for _, a := range []string{"127.0.0.1", "127.0.0.2", "192.0.2.53", "192.0.2.54"} {
			asksAt(t, any4, netip.AddrPortFrom(netip.MustParseAddr(a), r.Addrs()[0].Port()))
		}
		for _, a := range []string{"::1", "2001:db8::53", "2001:db8::54"} {
			asksAt(t, any6, netip.AddrPortFrom(netip.MustParseAddr(a), r.Addrs()[1].Port()))
		}
		asksAt(t, netip.MustParseAddrPort("[fe80::1%v1]:0"), netip.AddrPortFrom(netip.MustParseAddr("fe80::53%v1"), r.Addrs()[1].Port()))
		for _, rec := range r.audit.take() {
			if !rec.Device.IsValid() || rec.Device.Is4In6() || rec.Device.Zone() != "" {
				t.Errorf("device %v on the record, want a plain address", rec.Device)
			}
		}
		if st := r.Stats(); st.UDP != 8*4 || st.Dropped["write_error"] != 0 || st.Dropped["read_error"] != 0 {
			t.Errorf("stats %+v, want 32 received and no errors", st)
		}
	})
}

// A packet to many gets its reply from an address of ours.
func TestSourceOfBroadcast(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		ownNetwork(t)
		r := start(t, "", Options{portable: portable, Listen: addrPorts("0.0.0.0:0")})
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 53)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		to := netip.AddrPortFrom(netip.MustParseAddr("127.255.255.255"), r.Addrs()[0].Port())
		for range 2 {
			if _, err := c.WriteToUDPAddrPort(pack(t, query("wechat.com", dns.TypeA)), to); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(secs(30)))
			_, from, err := c.ReadFromUDPAddrPort(make([]byte, 4096))
			if err != nil || from.Addr() == to.Addr() {
				t.Errorf("asked at %v: reply from %v, %v", to, from, err)
			}
		}
	})
}

// A listener on a link-local address, whose interface is named or numbered.
func TestListenOnLink(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		res := startUpstream(t, "").resolver(t)
		ownNetwork(t)
		v0, err := net.InterfaceByName("v0")
		if err != nil {
			t.Fatal(err)
		}
		for _, zone := range []string{"v0", fmt.Sprint(v0.Index)} {
			r := start(t, "", Options{portable: portable, Resolver: res, Listen: addrPorts("[fe80::53%" + zone + "]:0")})
			asksAt(t, netip.MustParseAddrPort("[fe80::1%v1]:0"), netip.AddrPortFrom(netip.MustParseAddr("fe80::53%v1"), r.Addrs()[0].Port()))
		}
		if s, err := Listen(Options{Policy: new(policy.Store), Resolver: res, Listen: addrPorts("[fe80::53%nowhere]:0"), portable: portable}); err == nil {
			_ = s.Close()
			t.Error("a zone that is none: no error")
		}
	})
}

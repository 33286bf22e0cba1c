package vpn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	xicmp "golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/bench/corpus"
)

// A world is what the packet filter stands in: devices behind an interface of
// the gateway, which is called wg0 here, and the internet behind another.
//
//	device ─┐
//	peer ───┴ hub ── wg0 gateway eth0 ── internet
//
// The hub sends all that comes from devices to the gateway, as WireGuard does. A
// bridge in its place would lose what tproxy assigns.
type world struct {
	device, peer, hub, gateway, internet space
}

// A space is a network namespace, by a descriptor.
type space struct {
	name string
	fd   int
}

// Addresses of the world. Those of the internet are all of one machine.
const (
	deviceV4, deviceV6   = "10.8.0.2", "fd00:8::2"
	sparedV4, sparedV6   = "10.8.0.9", "fd00:8::9"
	gatewayV4, gatewayV6 = "10.8.0.1", "fd00:8::1"
	peerV4, peerV6       = "10.8.1.2", "fd00:8:1::2"
	siteV4, siteV6       = "198.51.100.10", "2001:db8:1::10"
	bannedV4, bannedV6   = "203.0.113.7", "2001:db8:bad::7"
	nat64V6              = "64:ff9b::203.0.113.7"
	teredoV6             = "2001:0:cb00:7107::1"
	managerV4, managerV6 = "192.0.2.5", "2001:db8:aa::5"
)

var spaces sync.Mutex

func newWorld(t *testing.T) *world {
	t.Helper()
	corpus.Root(t)
	for _, tool := range []string{"ip", "nft"} {
		corpus.Tool(t, tool)
	}
	spaces.Lock()
	defer spaces.Unlock()
	w := &world{device: newSpace(t, "dev"), peer: newSpace(t, "peer"), hub: newSpace(t, "hub"), gateway: newSpace(t, "gw"), internet: newSpace(t, "net")}
	link(t, w.hub, "d0", w.device, "eth0")
	link(t, w.hub, "d1", w.peer, "eth0")
	link(t, w.gateway, "wg0", w.hub, "gw")
	link(t, w.gateway, "eth0", w.internet, "eth0")
	w.hub.run(t, `
		addr add 10.8.0.254/24 dev d0
		addr add 10.8.1.254/24 dev d1
		addr add 10.8.255.2/24 dev gw
		addr add fd00:8::fe/64 dev d0 nodad
		addr add fd00:8:1::fe/64 dev d1 nodad
		addr add fd00:8:ff::2/64 dev gw nodad
		route add default via 10.8.255.1 table 10
		rule add iif d0 lookup 10
		rule add iif d1 lookup 10
		-6 route add default via fd00:8:ff::1 table 10
		-6 rule add iif d0 lookup 10
		-6 rule add iif d1 lookup 10
		route add default via 10.8.255.1
		-6 route add default via fd00:8:ff::1`)
	w.gateway.run(t, `
		addr add 10.8.255.1/24 dev wg0
		addr add 10.8.0.1/32 dev wg0
		addr add fd00:8:ff::1/64 dev wg0 nodad
		addr add fd00:8::1/128 dev wg0 nodad
		route add 10.8.0.0/16 via 10.8.255.2
		-6 route add fd00:8::/32 via fd00:8:ff::2
		addr add 192.0.2.1/24 dev eth0
		addr add 2001:db8:aa::1/64 dev eth0 nodad
		route add default via 192.0.2.2
		-6 route add default via 2001:db8:aa::2`)
	w.device.run(t, `
		addr add 10.8.0.2/24 dev eth0
		addr add 10.8.0.9/24 dev eth0
		addr add 172.16.9.9/32 dev lo
		addr add fd00:8::2/64 dev eth0 nodad
		addr add fd00:8::9/64 dev eth0 nodad
		route add default via 10.8.0.254
		-6 route add default via fd00:8::fe
		route add 10.8.0.1 via 10.8.0.254
		-6 route add fd00:8::1 via fd00:8::fe`)
	w.peer.run(t, `
		addr add 10.8.1.2/24 dev eth0
		addr add fd00:8:1::2/64 dev eth0 nodad
		route add default via 10.8.1.254
		-6 route add default via fd00:8:1::fe`)
	w.internet.run(t, `
		addr add 192.0.2.2/24 dev eth0
		addr add 192.0.2.5/24 dev eth0
		addr add 2001:db8:aa::2/64 dev eth0 nodad
		addr add 2001:db8:aa::5/64 dev eth0 nodad
		addr add 198.51.100.10/32 dev lo
		addr add 172.16.9.9/32 dev lo
		addr add 203.0.113.7/32 dev lo
		addr add 2001:db8:1::10/128 dev lo
		addr add 2001:db8:bad::7/128 dev lo
		addr add 64:ff9b::203.0.113.7/128 dev lo
		addr add 2001:0:cb00:7107::1/128 dev lo
		route add default via 192.0.2.1
		-6 route add default via 2001:db8:aa::1`)
	for _, router := range []space{w.hub, w.gateway} {
		router.sysctl(t, map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"})
	}
	return w
}

// newSpace makes a namespace that a thread holds open until the test ends.
func newSpace(t *testing.T, name string) space {
	t.Helper()
	s := space{name: name}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			s.fd, err = unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		corpus.Missing(t, "needs a network namespace: "+err.Error())
	}
	t.Cleanup(func() { _ = unix.Close(s.fd) })
	// Addresses are there at once, and no limit of ICMP errors may look like a rule
	// that drops.
	s.sysctl(t, map[string]string{
		"net/ipv6/conf/all/accept_dad": "0", "net/ipv6/conf/default/accept_dad": "0",
		"net/ipv4/icmp_ratelimit": "0", "net/ipv6/icmp/ratelimit": "0",
	})
	s.run(t, "link set lo up")
	return s
}

func (s space) sysctl(t *testing.T, values map[string]string) {
	t.Helper()
	s.do(func() {
		for f, value := range values {
			if err := os.WriteFile("/proc/sys/"+f, []byte(value), 0o644); err != nil {
				t.Error(err)
			}
		}
	})
}

// do calls f on a thread of the namespace.
func (s space) do(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
		f()
	}()
	<-done
}

// run runs "ip" with each line's arguments.
func (s space) run(t *testing.T, lines string) {
	t.Helper()
	s.do(func() {
		for line := range strings.Lines(lines) {
			if args := strings.Fields(line); len(args) > 0 {
				if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
					t.Errorf("%s: ip %s: %v\n%s", s.name, strings.Join(args, " "), err, out)
				}
			}
		}
	})
}

// link makes a cable between two namespaces.
func link(t *testing.T, a space, here string, b space, there string) {
	t.Helper()
	a.run(t, fmt.Sprintf("link add %s type veth peer name %s netns /proc/%d/fd/%d\nlink set %s up", here, there, os.Getpid(), b.fd, here))
	b.run(t, "link set "+there+" up")
}

// serve answers on TCP and UDP with words and the address asked for, until the
// test ends.
func (s space) serve(t *testing.T, word string, transparent bool, tcp, udp []string) {
	t.Helper()
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) {
			level, opt, pkt := unix.SOL_IP, unix.IP_TRANSPARENT, unix.IP_RECVORIGDSTADDR
			if strings.HasSuffix(network, "6") {
				level, opt, pkt = unix.SOL_IPV6, unix.IPV6_TRANSPARENT, unix.IPV6_RECVORIGDSTADDR
			}
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			if transparent {
				err = errors.Join(err, unix.SetsockoptInt(int(fd), level, opt, 1), unix.SetsockoptInt(int(fd), level, pkt, 1))
			}
		}); cerr != nil {
			return cerr
		}
		return err
	}}
	s.do(func() {
		for _, a := range tcp {
			l, err := lc.Listen(context.Background(), "tcp"+v(a), a)
			if err != nil {
				t.Errorf("%s: %v", s.name, err)
				continue
			}
			t.Cleanup(func() { _ = l.Close() })
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = fmt.Fprint(c, word)
					go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
				}
			}()
		}
		for _, a := range udp {
			c, err := lc.ListenPacket(context.Background(), "udp"+v(a), a)
			if err != nil {
				t.Errorf("%s: %v", s.name, err)
				continue
			}
			t.Cleanup(func() { _ = c.Close() })
			go s.answerUDP(c.(*net.UDPConn), word, transparent)
		}
	})
}

// reusing shares addresses with servers of the world.
func reusing() net.ListenConfig {
	return net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) }), err)
	}}
}

func v(addr string) string {
	if strings.HasPrefix(addr, "[") {
		return "6"
	}
	return "4"
}

// answerUDP answers from the address that was asked, with the word alone.
func (s space) answerUDP(c *net.UDPConn, word string, transparent bool) {
	enable := map[bool][2]int{false: {unix.SOL_IP, unix.IP_PKTINFO}, true: {unix.SOL_IPV6, unix.IPV6_RECVPKTINFO}}[c.LocalAddr().(*net.UDPAddr).IP.To4() == nil]
	if raw, err := c.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), enable[0], enable[1], 1) })
	}
	buf, oob := make([]byte, 2048), make([]byte, 512)
	for {
		_, n, _, from, err := c.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			return
		}
		if transparent {
			s.do(func() { answerAs(originalAddr(oob[:n]), from, word) })
			continue
		}
		_, _, _ = c.WriteMsgUDPAddrPort([]byte(word), replyInfo(oob[:n]), from)
	}
}

// originalAddr is where a packet of tproxy was meant to go.
func originalAddr(oob []byte) unix.Sockaddr {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if a, err := unix.ParseOrigDstAddr(&msgs[i]); err == nil {
			return a
		}
	}
	return nil
}

// answerAs answers from an address that is not this machine's.
func answerAs(as unix.Sockaddr, to netip.AddrPort, word string) {
	family, level, opt := unix.AF_INET, unix.SOL_IP, unix.IP_TRANSPARENT
	var dst unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port())}
	if a, is := dst.(*unix.SockaddrInet4); is && to.Addr().Is4() {
		a.Addr = to.Addr().As4()
	} else {
		family, level, opt = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		dst = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil || as == nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	_ = unix.SetsockoptInt(fd, level, opt, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if unix.Bind(fd, as) == nil {
		_ = unix.Sendto(fd, []byte(word), 0, dst)
	}
}

// replyInfo is the control message that sends from where it was asked.
func replyInfo(oob []byte) []byte {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_PKTINFO:
			return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[8:12])})
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_PKTINFO:
			return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: [16]byte(m.Data[:16])})
		}
	}
	return nil
}

// lateness is how late an answer may be beside the usual.
var lateness atomic.Int64

// silence is how long nothing must come to count as that.
func silence() time.Duration { return 200*time.Millisecond + time.Duration(lateness.Load()) }

// unhurried makes silence longer for a test that waits for it only a few times.
func unhurried(t *testing.T) {
	t.Helper()
	before := lateness.Swap(int64(time.Second))
	t.Cleanup(func() { lateness.Store(before) })
}

// ask sends something and returns the word that came back, or what came in its
// place: refused at once, or silence.
func (s space) ask(network, from, to string) (word string) {
	s.do(func() {
		d := net.Dialer{Timeout: silence()}
		if from != "" {
			a := netip.AddrPortFrom(netip.MustParseAddr(from), 0)
			if d.LocalAddr = net.TCPAddrFromAddrPort(a); network == "udp" {
				d.LocalAddr = net.UDPAddrFromAddrPort(a)
			}
		}
		c, err := d.Dial(network, to)
		if err != nil {
			word = failure(err)
			return
		}
		defer func() { _ = c.Close() }()
		word = exchange(c, silence())
	})
	return word
}

// longWait is how long is waited for what must come.
const longWait = time.Minute

// exchange returns what the other end answers within the time.
func exchange(c net.Conn, wait time.Duration) string {
	_ = c.SetDeadline(time.Now().Add(wait))
	buf := make([]byte, 64)
	if _, is := c.(*net.UDPConn); is {
		if _, err := c.Write([]byte("?")); err != nil {
			return failure(err)
		}
	}
	n, err := c.Read(buf)
	if err != nil {
		return failure(err)
	}
	return string(bytes.TrimSpace(buf[:n]))
}

func failure(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET):
		return "reset"
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.ENETUNREACH):
		return "prohibited"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "silence"
	}
	return err.Error()
}

// ping sends an echo request of that size, with all headers.
func (s space) ping(from, to string, size int) (word string) {
	addr := netip.MustParseAddr(to)
	network, head, proto := "ip4:icmp", 28, 1
	var kind, want xicmp.Type = ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply
	if addr.Is6() {
		network, head, proto = "ip6:ipv6-icmp", 48, 58
		kind, want = ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	s.do(func() {
		c, err := xicmp.ListenPacket(network, from)
		if err != nil {
			word = err.Error()
			return
		}
		defer func() { _ = c.Close() }()
		id := int(pings.Add(1)) & 0xffff
		m := xicmp.Message{Type: kind, Body: &xicmp.Echo{ID: id, Data: make([]byte, size-head)}}
		b, err := m.Marshal(nil)
		if err == nil {
			_, err = c.WriteTo(b, &net.IPAddr{IP: addr.AsSlice()})
		}
		if err != nil {
			word = failure(err)
			return
		}
		_ = c.SetDeadline(time.Now().Add(silence()))
		buf := make([]byte, 2048)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				word = failure(err)
				return
			}
			m, err := xicmp.ParseMessage(proto, buf[:n])
			if echo, is := m.Body.(*xicmp.Echo); err == nil && is && m.Type == want && echo.ID == id {
				word = "pong"
				return
			}
		}
	})
	return word
}

var pings atomic.Uint32

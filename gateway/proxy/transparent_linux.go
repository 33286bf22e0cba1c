package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// originalDst options, from linux/netfilter_ipv4.h and netfilter_ipv6/ip6_tables.h.
const (
	soOriginalDst   = 80
	ip6OriginalDst  = 80
	ip6Transparent  = unix.IPV6_TRANSPARENT
	ip4Transparent  = unix.IP_TRANSPARENT
	inet4PortOffset = 2 // in struct sockaddr_in, after the family
	inet4AddrOffset = 4
)

// bindTransparent listens at the address, for connections to any address where
// that is permitted. Where it is not, the listener comes with errNoTProxy.
func bindTransparent(a netip.AddrPort) (*net.TCPListener, error) {
	var refused error
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		return rc.Control(func(fd uintptr) {
			if a.Addr().Unmap().Is4() {
				refused = unix.SetsockoptInt(int(fd), unix.SOL_IP, ip4Transparent, 1)
			} else {
				refused = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, ip6Transparent, 1)
			}
		})
	}}
	l, err := lc.Listen(context.Background(), network(a), a.String())
	if err != nil {
		return nil, err
	}
	tcp := l.(*net.TCPListener)
	switch {
	case refused == nil:
		return tcp, nil
	case errors.Is(refused, unix.EPERM):
		return tcp, errNoTProxy
	}
	return tcp, fmt.Errorf("%w: %w", errNoTProxy, refused)
}

// originalDst asks the kernel where a connection was going before it was
// redirected. The two structures that the system package has a name for are
// only room: the answers are a sockaddr_in, and a sockaddr_in6.
func originalDst(c *net.TCPConn, ip4 bool) (netip.AddrPort, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var dst netip.AddrPort
	var optErr error
	err = rc.Control(func(fd uintptr) {
		if ip4 {
			dst, optErr = originalDst4(int(fd))
		} else {
			dst, optErr = originalDst6(int(fd))
		}
	})
	return dst, errors.Join(err, optErr)
}

func originalDst4(fd int) (netip.AddrPort, error) {
	r, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	b := r.Multiaddr[:]
	addr := netip.AddrFrom4([4]byte(b[inet4AddrOffset : inet4AddrOffset+4]))
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[inet4PortOffset:])), nil
}

func originalDst6(fd int) (netip.AddrPort, error) {
	r, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, ip6OriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, r.Addr.Port)) // it is in network order
	return netip.AddrPortFrom(netip.AddrFrom16(r.Addr.Addr), port), nil
}

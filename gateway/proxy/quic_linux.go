package proxy

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxUDP is more than a datagram can have, and than the kernel puts together.
const maxUDP = 64 << 10

// errNoDestination is returned for a datagram without its original destination.
var errNoDestination = errors.New("datagram without a destination")

// bindQUIC listens at the address for datagrams to any address.
func bindQUIC(a netip.AddrPort) (*net.UDPConn, error) {
	six := !a.Addr().Unmap().Is4()
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		return setOptions(rc, func(fd int) error {
			if six {
				return errors.Join(transparentOption(fd, true), unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1))
			}
			return errors.Join(transparentOption(fd, false), unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1))
		})
	}}
	c, err := lc.ListenPacket(context.Background(), udpNetwork(a), a.String())
	if errors.Is(err, unix.EPERM) {
		return nil, fmt.Errorf("QUIC can only be inspected with CAP_NET_ADMIN: give it to the service, or set quic.mode: refuse (%w)", err)
	}
	if err != nil {
		return nil, err
	}
	return c.(*net.UDPConn), nil
}

func udpNetwork(a netip.AddrPort) string {
	if a.Addr().Unmap().Is4() {
		return "udp4"
	}
	return "udp6"
}

func setOptions(rc syscall.RawConn, set func(fd int) error) error {
	var err error
	return errors.Join(rc.Control(func(fd uintptr) { err = set(int(fd)) }), err)
}

// transparentOption lets a socket have an address that is not this machine's.
func transparentOption(fd int, six bool) error {
	if six {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
}

// receive waits for a datagram and says who sent it to whom.
func (l *quicListener) receive(b, oob []byte) (n int, device, dst netip.AddrPort, err error) {
	n, used, flags, device, err := l.ReadMsgUDPAddrPort(b, oob)
	if err != nil {
		return 0, device, dst, err
	}
	device = netip.AddrPortFrom(device.Addr().Unmap().WithZone(""), device.Port())
	if flags&unix.MSG_TRUNC == 0 {
		dst = originalUDP(oob[:used])
	}
	if !dst.IsValid() {
		return 0, device, dst, errNoDestination
	}
	return n, device, dst, nil
}

// originalUDP finds where a datagram was going: a sockaddr_in or sockaddr_in6.
func originalUDP(oob []byte) netip.AddrPort {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.AddrPort{}
	}
	for _, m := range msgs {
		d := m.Data
		switch {
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_ORIGDSTADDR && len(d) >= unix.SizeofSockaddrInet4:
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(d[4:8])), binary.BigEndian.Uint16(d[2:4]))
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_ORIGDSTADDR && len(d) >= unix.SizeofSockaddrInet6:
			return netip.AddrPortFrom(netip.AddrFrom16([16]byte(d[8:24])), binary.BigEndian.Uint16(d[2:4]))
		}
	}
	return netip.AddrPort{}
}

// A udpConn is a connected UDP socket that gives and takes many datagrams of
// one size at a time, where the kernel can do that (UDP GRO and GSO).
type udpConn struct {
	*net.UDPConn
	remote  netip.AddrPort
	raw     syscall.RawConn
	control []byte // of sendMany
}

func dialUDP(to netip.AddrPort) (*udpConn, error) { return dialUDPFrom(netip.AddrPort{}, to) }

// dialUDPFrom connects a socket that has the address from, whosever that is.
func dialUDPFrom(from, to netip.AddrPort) (*udpConn, error) {
	six := to.Addr().Unmap().Is6()
	d := net.Dialer{Control: func(_, _ string, rc syscall.RawConn) error {
		return setOptions(rc, func(fd int) error {
			if from.IsValid() {
				if err := errors.Join(transparentOption(fd, six), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)); err != nil {
					return err
				}
			}
			_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) // an older kernel gives one at a time
			return probeOption(fd, six)
		})
	}}
	if from.IsValid() {
		d.LocalAddr = net.UDPAddrFromAddrPort(from)
	}
	c, err := d.DialContext(context.Background(), udpNetwork(to), to.String())
	if err != nil {
		return nil, err
	}
	u := &udpConn{UDPConn: c.(*net.UDPConn), remote: to}
	if u.raw, err = u.SyscallConn(); err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

// probeOption keeps the kernel from fragmenting: both sides look for the
// largest packet that passes (RFC 9000, section 14.3), and this must not.
func probeOption(fd int, six bool) error {
	if six {
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
}

func (c *udpConn) close() { _ = c.Close() }

var udpBuffers = sync.Pool{New: func() any { return new([maxUDP]byte) }}

// receive gives datagrams to take until the socket fails or is closed: some of
// one size, of which the last may be smaller. It has no buffer while it waits.
func (c *udpConn) receive(take func(b []byte, size int)) error {
	for {
		var failed error
		err := c.raw.Read(func(fd uintptr) (done bool) {
			done, failed = drain(int(fd), take)
			return done
		})
		if err = cmp.Or(failed, err); err != nil {
			return err
		}
	}
}

// drain receives until nothing is left, done is false then, or the socket has
// an error.
func drain(fd int, take func(b []byte, size int)) (done bool, err error) {
	buf := udpBuffers.Get().(*[maxUDP]byte)
	defer udpBuffers.Put(buf)
	var oob [64]byte
	for {
		n, used, _, _, err := unix.Recvmsg(fd, buf[:], oob[:], unix.MSG_DONTWAIT)
		switch {
		case err == nil:
			take(buf[:n], groSize(oob[:used], n))
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		default:
			return true, err
		}
	}
}

// groSize is the size of the datagrams that were put together, n for one.
func groSize(oob []byte, n int) int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return n
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_UDP && m.Header.Type == unix.UDP_GRO && len(m.Data) >= 4 {
			if size := int(binary.NativeEndian.Uint32(m.Data)); size > 0 {
				return size
			}
		}
	}
	return n
}

// maxSegments is how many datagrams the kernel takes at once.
const maxSegments = 64

// send sends datagrams of one size, of which the last may be smaller.
func (c *udpConn) send(b []byte, size int) error {
	for len(b) > size {
		n := min(len(b), size*maxSegments)
		if err := c.sendMany(b[:n], size); err != nil {
			return err
		}
		b = b[n:]
	}
	if len(b) == 0 {
		return nil
	}
	_, err := c.Write(b)
	return err
}

// sendMany is send for as many as the kernel takes at once, or else one by one.
// No two may call it at the same time.
func (c *udpConn) sendMany(b []byte, size int) error {
	if c.control == nil {
		c.control = make([]byte, unix.CmsgSpace(2))
		h := (*unix.Cmsghdr)(unsafe.Pointer(&c.control[0]))
		h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		h.SetLen(unix.CmsgLen(2))
	}
	binary.NativeEndian.PutUint16(c.control[unix.CmsgLen(0):], uint16(size))
	if _, _, err := c.WriteMsgUDP(b, c.control, nil); err == nil {
		return nil
	}
	var failed error
	for len(b) > 0 {
		n := min(size, len(b))
		_, err := c.Write(b[:n])
		failed = errors.Join(failed, err)
		b = b[n:]
	}
	return failed
}

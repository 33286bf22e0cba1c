//go:build !linux

package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

const maxUDP = 64 << 10

var errNoDestination = errors.New("datagram without a destination")

// There are no QUIC listeners here, for the same reason as transparent ones.
var errNoQUIC = fmt.Errorf("QUIC is inspected on Linux only, set quic.mode: refuse here: %w", errors.ErrUnsupported)

func bindQUIC(netip.AddrPort) (*net.UDPConn, error) { return nil, errNoQUIC }

func (l *quicListener) receive(_, _ []byte) (n int, device, dst netip.AddrPort, err error) {
	return 0, device, dst, net.ErrClosed
}

// A udpConn is a connected UDP socket; there is none without a listener.
type udpConn struct{ remote netip.AddrPort }

func dialUDP(netip.AddrPort) (*udpConn, error)          { return nil, errNoQUIC }
func dialUDPFrom(_, _ netip.AddrPort) (*udpConn, error) { return nil, errNoQUIC }

func (*udpConn) close()                                 {}
func (*udpConn) send([]byte, int) error                 { return errNoQUIC }
func (*udpConn) receive(func(b []byte, size int)) error { return errNoQUIC }

//go:build !linux

package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// There are no transparent listeners here: where a connection was going is
// known to Linux's packet filter only.
var errNoTransparent = fmt.Errorf("transparent listeners exist on Linux only, leave transparent.listen empty here: %w", errors.ErrUnsupported)

func bindTransparent(netip.AddrPort) (*net.TCPListener, error) { return nil, errNoTransparent }

func originalDst(*net.TCPConn, bool) (netip.AddrPort, error) {
	return netip.AddrPort{}, errNoTransparent
}

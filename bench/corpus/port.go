package corpus

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
)

// ports that Port has given.
var ports sync.Map

// Port returns an address of loopback at which nobody listens, over TCP and UDP.
// It is below the ports that systems give to whoever asks for any: one of those
// would be another test's before it is used.
func Port(tb testing.TB) netip.AddrPort {
	tb.Helper()
	for range 1000 {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(10_000+rand.IntN(22_000)))
		if _, given := ports.LoadOrStore(at, true); !given && unused(at) == nil {
			return at
		}
	}
	tb.Fatal("no port is free for both TCP and UDP")
	return netip.AddrPort{}
}

func unused(at netip.AddrPort) error {
	l, err := net.Listen("tcp", at.String())
	if err != nil {
		return fmt.Errorf("over TCP: %w", err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.ListenPacket("udp", at.String())
	if err != nil {
		return fmt.Errorf("over UDP: %w", err)
	}
	return c.Close()
}

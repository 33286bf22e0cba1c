package proxy

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	childEnv   = "WEIR_TEST_PROXY_CHILD"
	childFiles = 20000
)

// TestMain makes the test binary the proxy of TestMemoryIdleTunnels, or runs
// the tests.
func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	if err := child(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// child runs a proxy in a process of its own, with a limit of its own, until
// its standard input ends.
func child() error {
	limit := unix.Rlimit{Cur: childFiles, Max: childFiles}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	port := netip.MustParseAddrPort(os.Getenv(childEnv)).Port()
	s, err := Listen(Options{
		Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
		Policy: storeOf(), Resolver: &names{}, ConnectPorts: []uint16{port},
		AllowNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		MaxConns:      8464, MaxTunnels: 8464, MaxConnsPerClient: 8464,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	fmt.Println(s.Addrs()[0])
	_, _ = bufio.NewReader(os.Stdin).ReadByte() // until the parent lets go
	cancel()
	return <-done
}

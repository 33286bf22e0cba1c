package dnsserver

import (
	"net"
	"syscall"
	"testing"
)

// The buffer is as large as asked for, or, without the privilege, as large as
// the system grants: a limited buffer is no reason not to listen.
func TestReadBuffer(t *testing.T) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	before := readBuffer(t, conn)
	forced := forceReadBuffer(conn, socketBuffer)
	switch got := readBuffer(t, conn); {
	case forced && got < socketBuffer:
		t.Errorf("forced buffer has %d bytes, want %d", got, socketBuffer)
	case !forced && got != before:
		t.Errorf("buffer has %d bytes after a refusal, had %d", got, before)
	}
	_ = conn.Close()
	if forceReadBuffer(conn, socketBuffer) {
		t.Error("forced the buffer of a closed socket")
	}
}

func readBuffer(t *testing.T, conn *net.UDPConn) (size int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		size, failed = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF)
	}); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return size
}

package dnsserver

import (
	"net"
	"syscall"
)

// forceReadBuffer sets the size of the socket's receive buffer beyond the
// system's limit (net.core.rmem_max), which takes CAP_NET_ADMIN.
func forceReadBuffer(conn *net.UDPConn, size int) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUFFORCE, size)
	})
	return err == nil && failed == nil
}

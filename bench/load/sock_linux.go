package main

import (
	"errors"
	"net/netip"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var sources atomic.Uint32

// dialTCP begins a connection that does not block. With spread, connections to
// loopback come from 200 addresses in turn: one address has 28,000 ports, which
// a load that opens thousands of connections a second uses up.
func dialTCP(to netip.AddrPort, spread bool) (int, error) {
	sa, family := dialable(to)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if spread && family == unix.AF_INET && to.Addr().IsLoopback() {
		from := &unix.SockaddrInet4{Addr: [4]byte{127, 1, 0, byte(1 + sources.Add(1)%200)}}
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1), unix.Bind(fd, from))
	}
	if e := unix.Connect(fd, sa); e != nil && !errors.Is(e, unix.EINPROGRESS) {
		err = errors.Join(err, e)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// connectError is how a connection that was begun has ended.
func connectError(fd int) error {
	e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if e != 0 {
		return unix.Errno(e)
	}
	return nil
}

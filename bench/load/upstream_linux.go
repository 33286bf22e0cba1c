package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// upstreamCommand answers every question for A and AAAA with an address that is
// a hash of the name, and every other with an empty answer, as fast as one
// thread can. It caches nothing and never says that a name does not exist.
func upstreamCommand(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("upstream", flag.ContinueOnError)
	listen := fs.String("listen", "127.0.0.1:0", "address and port")
	if err := parse(fs, args); err != nil {
		return err
	}
	fd, bound, err := listenUDP(*listen)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", bound)
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	defer func() { _ = l.Close() }()
	go serveStreams(l)
	_, _ = fmt.Fprintf(out, "listening on %s\n", bound)
	return serveUpstream(ctx, fd)
}

// serveStreams answers over TCP, too, for servers that ask as they are asked. It
// is not built for speed: what a cache keeps is asked for once.
func serveStreams(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go serveStream(c)
	}
}

func serveStream(c net.Conn) {
	defer func() { _ = c.Close() }()
	r, b := bufio.NewReader(c), make([]byte, 2+1<<16)
	for {
		if _, err := io.ReadFull(r, b[:2]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(b))
		if _, err := io.ReadFull(r, b[2:2+n]); err != nil {
			return
		}
		reply := appendReply(b[2:], n)
		binary.BigEndian.PutUint16(b, uint16(len(reply)))
		if _, err := c.Write(b[:2+len(reply)]); err != nil || len(reply) == 0 {
			return
		}
	}
}

func listenUDP(address string) (fd int, bound string, err error) {
	a, err := parseServer(address)
	if err != nil {
		return -1, "", err
	}
	sa, family := dialable(a)
	if fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, "", err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketSize)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketSize)
	// It looks at the context this often.
	err = errors.Join(unix.Bind(fd, sa), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}))
	if err != nil {
		return -1, "", errors.Join(fmt.Errorf("%s: %w", address, err), unix.Close(fd))
	}
	bound, err = boundAddress(fd)
	return fd, bound, err
}

func boundAddress(fd int) (string, error) {
	sa, err := unix.Getsockname(fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)).String(), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)).String(), nil
	}
	return "", os.NewSyscallError("getsockname", err)
}

// serveUpstream answers until the context is done, and closes the socket.
func serveUpstream(ctx context.Context, fd int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer func() { _ = unix.Close(fd) }()
	b := newBatch(true)
	for ctx.Err() == nil {
		n, err := b.receive(fd, unix.MSG_WAITFORONE)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvmmsg", err)
		}
		from := 0
		for i := range n {
			reply := appendReply(b.bufs[i][:], int(b.hdrs[i].n))
			b.iovs[i].SetLen(len(reply))
			if len(reply) == 0 { // no question: no answer
				b.sendAll(fd, from, i)
				from = i + 1
			}
		}
		b.sendAll(fd, from, n)
	}
	return nil
}

// sendAll sends the datagrams in [from,to) but for those whose client is out of
// reach: it will ask again.
func (b *batch) sendAll(fd, from, to int) {
	for from < to {
		n, err := b.send(fd, from, to)
		from += n
		if err != nil {
			from++
		}
	}
}

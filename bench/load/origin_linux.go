package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const (
	bodySize = 1024    // of the origin's answer to a GET
	period   = 1 << 16 // after which the bulk stream repeats
	maxFiles = 1 << 20 // descriptors that the origin keeps state for
	maxHead  = 8192
)

var (
	body  = bytes.Repeat([]byte("0123456789abcde\n"), bodySize/16)
	flood = bulkStream()
)

// bulkStream is four periods of the bulk stream, so that a write can begin
// anywhere in the first.
func bulkStream() []byte {
	b := make([]byte, 4*period)
	for i := range b {
		b[i] = bulkByte(uint64(i))
	}
	return b
}

// bulkByte is the byte at that place of the bulk stream.
func bulkByte(at uint64) byte { return byte(at) ^ byte(at>>8) }

// An origin is the server behind the proxy. One thread answers a head that begins
// with GET with 1 KiB and keeps the connection unless the head says otherwise,
// streams to whoever says BULK, and echoes everything else. A head may come in
// pieces, as some proxies write it, but for its first four bytes.
type origin struct {
	epoll, listener int
	bulk            []uint64       // by descriptor: 1 + the place in the stream
	heads           map[int][]byte // what came of heads that are not complete, at most maxHead each
	buf             []byte
	reply           []byte
}

func originCommand(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("origin", flag.ContinueOnError)
	listen := fs.String("listen", "127.0.0.1:0", "address and port")
	if err := parse(fs, args); err != nil {
		return err
	}
	o, bound, err := listenOrigin(*listen)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(out, "listening on %s\n", bound)
	return o.serve(ctx)
}

func listenOrigin(address string) (*origin, string, error) {
	a, err := parseServer(address)
	if err != nil {
		return nil, "", err
	}
	sa, family := dialable(a)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, "", err
	}
	o := &origin{listener: fd, bulk: make([]uint64, maxFiles), buf: make([]byte, 1<<17), heads: make(map[int][]byte)}
	o.reply = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\nContent-Length: %d\r\n\r\n%s", bodySize, body)
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, sa), unix.Listen(fd, 8192))
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("%s: %w", address, err), unix.Close(fd))
	}
	bound, err := boundAddress(fd)
	return o, bound, err
}

// serve runs until the context is done. The connections end with the process.
func (o *origin) serve(ctx context.Context) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer func() { _ = unix.Close(o.listener) }()
	if o.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	defer func() { _ = unix.Close(o.epoll) }()
	if err := o.watch(unix.EPOLL_CTL_ADD, o.listener, unix.EPOLLIN); err != nil {
		return err
	}
	var events [256]unix.EpollEvent
	for ctx.Err() == nil {
		n, err := unix.EpollWait(o.epoll, events[:], 200)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("epoll_wait", err)
		}
		for _, ev := range events[:max(n, 0)] {
			if int(ev.Fd) == o.listener {
				o.accept()
			} else {
				o.on(int(ev.Fd), ev.Events)
			}
		}
	}
	return nil
}

func (o *origin) watch(op, fd int, events uint32) error {
	return unix.EpollCtl(o.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (o *origin) accept() {
	for range 64 {
		fd, _, err := unix.Accept4(o.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // none left, or no descriptor left: the client will notice
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if fd >= maxFiles || o.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN) != nil {
			_ = unix.Close(fd)
			continue
		}
		o.bulk[fd] = 0
	}
}

func (o *origin) on(fd int, events uint32) {
	if events&unix.EPOLLIN != 0 {
		n, err := unix.Read(fd, o.buf)
		if n == 0 || err != nil && !errors.Is(err, unix.EAGAIN) {
			o.hangUp(fd)
			return
		}
		if n > 0 {
			o.answer(fd, o.buf[:n])
			return
		}
	} else if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		o.hangUp(fd)
		return
	}
	if events&unix.EPOLLOUT != 0 && o.bulk[fd] > 0 {
		o.pour(fd)
	}
}

// answer writes what was asked for. A reply that does not fit the socket's
// buffer is cut, and the client counts it as wrong.
func (o *origin) answer(fd int, request []byte) {
	partial := o.heads[fd]
	switch {
	case len(partial) > 0 || bytes.HasPrefix(request, []byte("GET ")):
		o.page(fd, append(partial, request...))
	case bytes.HasPrefix(request, []byte("BULK\n")):
		o.bulk[fd] = 1
		_ = o.watch(unix.EPOLL_CTL_MOD, fd, unix.EPOLLIN|unix.EPOLLOUT)
	default:
		_, _ = unix.Write(fd, request)
	}
}

// page answers the complete heads and keeps the rest.
func (o *origin) page(fd int, request []byte) {
	delete(o.heads, fd)
	for len(request) > 0 {
		end := headEnd(request)
		if end == 0 && len(request) < maxHead {
			o.heads[fd] = bytes.Clone(request)
			return
		}
		if end == 0 {
			o.hangUp(fd)
			return
		}
		_, _ = unix.Write(fd, o.reply)
		if closes(request[:end]) {
			o.hangUp(fd)
			return
		}
		request = request[end:]
	}
}

func (o *origin) hangUp(fd int) {
	delete(o.heads, fd)
	_ = unix.Close(fd)
}

func (o *origin) pour(fd int) {
	at := int(o.bulk[fd]-1) % period
	n, err := unix.Write(fd, flood[at:at+3*period])
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		o.hangUp(fd)
		return
	}
	o.bulk[fd] += uint64(max(n, 0))
}

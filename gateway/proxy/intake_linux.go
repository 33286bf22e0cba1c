package proxy

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/gateway/policy"
)

const (
	acceptBatch = 32                     // connections of one listener in one turn
	acceptRetry = 100 * time.Millisecond // after an error that time may mend
)

// A source is a listening socket in a loop.
type source struct {
	timer
	loop     *loop
	fd       int
	listener *listener
}

// listen takes the listener's socket into the loop. The listener's own
// descriptor is closed, or the runtime's poller would wake for each connection,
// too.
func (l *loop) listen(ln *listener) error {
	rc, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	fd := -1
	var dupErr error
	if err := rc.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return err
	}
	if dupErr != nil {
		return fmt.Errorf("proxy listener %s: %w", ln.Addr(), dupErr)
	}
	// What is accepted inherits these.
	setStreamOptions(fd)
	src := &source{loop: l, fd: fd, listener: ln}
	src.timer.owner, src.timer.fire = src, func(*timer) { src.run() }
	if err := l.watch(fd, sourceGen, unix.EPOLLIN); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("proxy listener %s: %w", ln.Addr(), err)
	}
	l.listeners = append(l.listeners, src)
	return nil
}

// Keep-alive probes as net/http's listener and dialer have them: a peer that
// went away without a word is found out.
const (
	keepAliveSeconds = 15
	keepAliveProbes  = 9
)

// setStreamOptions has small pieces sent at once and dead peers found out. It
// is a matter of speed and of tidiness, so that a failure is none of the
// connection's.
func setStreamOptions(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepAliveSeconds)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepAliveSeconds)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveProbes)
}

func (src *source) event(*side, uint32) {}
func (src *source) abort()              {}

// run accepts what waits, a batch at a time.
func (src *source) run() {
	l := src.loop
	for range acceptBatch {
		if l.draining {
			return
		}
		fd, sa, err := unix.Accept4(src.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			src.admit(fd, clientOf(sa))
		case unix.EAGAIN:
			return
		case unix.EINTR, unix.ECONNABORTED:
		case unix.EBADF, unix.EINVAL, unix.ENOTSOCK, unix.EOPNOTSUPP, unix.EFAULT:
			l.engine.failed(fmt.Errorf("proxy listener %s: %w", src.listener.Addr(), err))
			return
		default: // out of descriptors or memory, most often
			src.listener.warn(err)
			l.start(&src.timer, &l.retries)
			return
		}
	}
	l.again(src)
}

func clientOf(sa unix.Sockaddr) netip.Addr {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr).Unmap()
	}
	return netip.Addr{}
}

func (src *source) admit(fd int, client netip.Addr) {
	if !src.listener.admit.enter(client) {
		// A fresh socket has room for one line; should the client have sent
		// something already, it may see a reset instead.
		_, _ = unix.Write(fd, []byte(refusedConn))
		_ = unix.Close(fd)
		return
	}
	l := src.loop.engine.pick()
	if l == src.loop {
		l.receive(fd, client)
		return
	}
	if !l.send(task{fd: fd, client: client}) {
		_ = unix.Close(fd)
		src.listener.admit.leave(client)
	}
}

// An intake is a client's connection until it is known what it wants, and
// again after it was denied: then it lingers until the client has ended, so
// that the answer is not destroyed on its way (RFC 9112, section 9.6). It has
// a buffer only while a part of a head is there. It belongs to the loop and
// goes back to its store, unlike everything that others may know.
type intake struct {
	side
	timer
	loop      *loop
	device    netip.Addr
	buf       []byte // received, nil for nothing yet
	scan      int    // up to which buf was searched for the head's end
	lingering bool
	rest      int // bytes that are still thrown away while lingering
}

const (
	headBuffer  = 4 << 10
	freeHeads   = 64  // head buffers kept for the next, 256 KiB
	freeIntakes = 256 // intakes kept for the next
)

func (l *loop) newIntake(device netip.Addr) *intake {
	var in *intake
	if n := len(l.intakes); n > 0 {
		in, l.intakes = l.intakes[n-1], l.intakes[:n-1]
	} else {
		in = &intake{loop: l}
		in.timer.owner = in
	}
	in.device = device
	return in
}

// free gives the intake and its buffer back. Its side is another's, or closed.
func (in *intake) free() {
	l := in.loop
	in.timer.remove()
	in.dropHead()
	if len(l.intakes) < freeIntakes {
		*in = intake{loop: l, timer: timer{owner: in}, side: side{fd: -1}}
		l.intakes = append(l.intakes, in)
	}
}

func (in *intake) dropHead() {
	l := in.loop
	if cap(in.buf) == headBuffer && len(l.heads) < freeHeads {
		l.heads = append(l.heads, in.buf[:0])
	}
	in.buf, in.scan = nil, 0
}

// receive begins with a connection that was accepted.
func (l *loop) receive(fd int, device netip.Addr) {
	in := l.newIntake(device)
	in.side = side{owner: in, fd: fd, readable: true, writable: true}
	l.add(&in.side)
	in.timer.fire = silentTooLong
	l.start(&in.timer, &l.silent)
	defer l.recovered(in, fd)
	if l.stopping || l.draining {
		in.abort()
		return
	}
	in.read()
}

// event implements owner.
func (in *intake) event(*side, uint32) {
	if in.lingering {
		in.discard()
		return
	}
	in.read()
}

// abort implements owner.
func (in *intake) abort() {
	if in.side.fd < 0 {
		return
	}
	in.loop.close(&in.side)
	in.loop.server.admit.leave(in.device)
	in.free()
}

func silentTooLong(t *timer) { t.owner.abort() }

func partialTooLong(t *timer) {
	in := t.owner.(*intake)
	in.loop.server.stats.malformed.Add(1)
	in.answer(&denial{http.StatusRequestTimeout, "http_request_error", "request head took too long", ""})
}

func lingeredTooLong(t *timer) { t.owner.abort() }

// read reads until the head is whole, or there is nothing for now.
func (in *intake) read() {
	l := in.loop
	for in.side.readable {
		if in.buf == nil {
			if n := len(l.heads); n > 0 {
				in.buf, l.heads = l.heads[n-1], l.heads[:n-1]
			} else {
				in.buf = make([]byte, 0, headBuffer)
			}
		}
		if len(in.buf) == cap(in.buf) {
			in.buf = append(make([]byte, 0, 2*cap(in.buf)), in.buf...)
		}
		room := in.buf[len(in.buf):cap(in.buf)]
		n, err := unix.Read(in.side.fd, room)
		switch {
		case n > 0:
			in.buf = in.buf[:len(in.buf)+n]
			in.side.readable = n == len(room) || in.side.hup
			if in.look() {
				return
			}
		case err == unix.EAGAIN:
			in.side.readable = false
		case err == unix.EINTR:
		default: // the end before the head's
			in.abort()
			return
		}
	}
	if len(in.buf) == 0 {
		in.dropHead()
	}
	if err := l.await(&in.side); err != nil {
		in.abort()
	}
}

var connectMethod = []byte("CONNECT ")

// look decides what the bytes are, and whether the intake is done with them.
// Whatever is not a whole and well-formed CONNECT goes to net/http behind a
// gate, which reads it from its first byte.
func (in *intake) look() (done bool) {
	l := in.loop
	n := min(len(in.buf), len(connectMethod))
	if !bytes.Equal(in.buf[:n], connectMethod[:n]) {
		in.handOver()
		return true
	}
	end, scan, bad := findHead(in.buf, in.scan, l.server.opts.MaxHeaderBytes)
	in.scan = scan
	if bad == nil && end == 0 {
		if in.timer.queue != &l.partial {
			in.timer.fire = partialTooLong
			l.start(&in.timer, &l.partial)
		}
		return false
	}
	if bad == nil {
		if q, bad := parseHead(in.buf[:end]); bad == nil {
			in.timer.remove()
			in.connect(q, in.buf[end:])
			return true
		}
	}
	in.handOver()
	return true
}

// connect answers a CONNECT or begins its tunnel.
func (in *intake) connect(q *request, early []byte) {
	l := in.loop
	s := l.server
	s.stats.requests.Add(1)
	x := &exchange{server: s, sub: policy.Subject{Addr: in.device}, request: q, start: time.Now()}
	d := s.loopDenial(q.via)
	if d == nil {
		d = x.screen()
	}
	if d != nil {
		in.deny(x, d)
		return
	}
	r := newRelay(l, x, in.device)
	r.early = append([]byte(nil), early...)
	l.move(&in.side, &r.client, r)
	in.free()
	r.locate()
}

// deny records a denial and sends it.
func (in *intake) deny(x *exchange, d *denial) {
	x.denied(d)
	in.answer(d)
}

// answer sends the client its only response, in one write, and lingers. A
// client that has not even room for that gets none.
func (in *intake) answer(d *denial) {
	l := in.loop
	in.dropHead()
	l.out = appendDenial(l.out[:0], d, time.Now())
	// There is more to come, the end: both leave as one segment, in linger.
	if n, err := unix.SendmsgN(in.side.fd, l.out, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL); err != nil || n < len(l.out) {
		in.abort()
		return
	}
	in.linger()
}

// linger closes the sending side and throws away what the client still sends,
// up to a bound in bytes and in time. Nothing of it is taken for HTTP (RFC
// 9931).
func (in *intake) linger() {
	l := in.loop
	in.lingering, in.rest = true, lingerBytes
	if unix.Shutdown(in.side.fd, unix.SHUT_WR) != nil {
		in.abort()
		return
	}
	in.timer.fire = lingeredTooLong
	l.start(&in.timer, &l.lingers)
	if !in.side.registered {
		if l.await(&in.side) != nil {
			in.abort()
		}
		return // what is there already comes as an event
	}
	in.discard()
}

// discard reads up to the client's end.
func (in *intake) discard() {
	for in.side.readable {
		n, err := unix.Read(in.side.fd, in.loop.buf[:])
		switch {
		case n > 0 && n < in.rest:
			in.rest -= n
			in.side.readable = n == len(in.loop.buf) || in.side.hup
		case err == unix.EAGAIN:
			in.side.readable = false
		case err == unix.EINTR:
		default:
			in.abort()
			return
		}
	}
}

// handOver gives the connection, with what was read, to net/http.
func (in *intake) handOver() {
	l := in.loop
	if l.draining {
		in.answer(&denial{http.StatusServiceUnavailable, undecided, "the proxy is being stopped", ""})
		return
	}
	fd, device := in.side.fd, in.device
	if in.side.registered {
		// The set would go on watching the socket through its other descriptor.
		_ = unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, fd, nil)
	}
	l.sides[fd] = nil
	in.side.fd = -1
	f := os.NewFile(uintptr(fd), "client")
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		l.server.admit.leave(device)
		in.free()
		return
	}
	g := newGate(c.(*net.TCPConn), l.server, device, l.server.admit)
	g.buf = append(make([]byte, 0, max(headBuffer, len(in.buf))), in.buf...)
	g.w = len(g.buf)
	g.buf = g.buf[:cap(g.buf)]
	in.free()
	if !l.server.handed.put(g) {
		_ = g.Close()
	}
}

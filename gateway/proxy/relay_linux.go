package proxy

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/gateway/hello"
)

// A relay is a CONNECT from the decision on: the search for an address, the
// attempts to connect, what the client says first, the tunnel, its end. It belongs to its loop; only the
// helper that resolves its name has its exchange for that time, and others may
// read what is in the register. It owns both sockets, and it owns memory for
// bytes and a pipe only while a side does not take what the other has sent.
type relay struct {
	loop   *loop
	x      *exchange
	flow   *flow // nil before it is on the register
	device netip.Addr
	state  relayState
	queued bool // in loop.ready

	client, origin side
	deadline       timer         // of the dial, then for idleness
	stagger        timer         // until the next attempt
	early          []byte        // from the client, and not passed on yet
	hello          *hello.Reader // of what the client says first; nil but while peeking

	addrs    []netip.Addr
	tried    int
	attempts []*side // that are under way
	failure  error   // of the first attempt that failed

	up, down direction
	opened   time.Time
}

type relayState uint8

const (
	relayResolving relayState = iota
	relayDialing
	relayPeeking
	relayOpen
	relayOver
)

func newRelay(l *loop, x *exchange, device netip.Addr) *relay {
	r := &relay{loop: l, x: x, device: device}
	r.client = side{owner: r, fd: -1}
	r.origin = side{owner: r, fd: -1}
	r.deadline.owner, r.stagger.owner = r, r
	r.up = direction{src: &r.client, dst: &r.origin}
	r.down = direction{src: &r.origin, dst: &r.client}
	return r
}

// locate finds the addresses.
func (r *relay) locate() {
	if r.x.known() {
		r.settle()
		return
	}
	r.loop.engine.resolving.Add(1)
	r.loop.engine.ask(r)
}

// resolved is called when the helper is done.
func (r *relay) resolved(d *denial) {
	defer r.loop.engine.resolving.Add(-1)
	defer r.loop.recovered(r, r.client.fd)
	switch {
	case r.state != relayResolving:
	case d != nil:
		r.deny(d)
	default:
		r.settle()
	}
}

// settle decides with everything that is known now, and begins to connect.
func (r *relay) settle() {
	s := r.loop.server
	d := r.x.settle()
	if d != nil {
		r.deny(d)
		return
	}
	r.x.request.settled()
	f := &flow{x: r.x, tunnel: true}
	f.carrier.Store(r)
	if !s.register(f) {
		r.deny(tooManyTunnels())
		return
	}
	r.flow = f
	if d := r.x.confirm(); d != nil {
		r.deny(d)
		return
	}
	r.state = relayDialing
	r.addrs = interleave(r.x.target.addrs)
	r.deadline.fire, r.stagger.fire = dialTooLong, nextAttempt
	r.loop.start(&r.deadline, &r.loop.dials)
	r.dialNext()
}

func dialTooLong(t *timer) { t.owner.(*relay).dialTimedOut() }
func nextAttempt(t *timer) { t.owner.(*relay).dialNext() }
func idleTooLong(t *timer) { t.owner.(*relay).finish(endIdle) }

func (r *relay) dialTimedOut() {
	r.deny(originDenial(fmt.Errorf("%w: %w", errDial, os.ErrDeadlineExceeded)))
}

// dialNext begins the next attempt, and has the one after it begin a moment
// later, should none have succeeded (RFC 8305, section 5).
func (r *relay) dialNext() {
	l := r.loop
	for r.tried < len(r.addrs) {
		dst := netip.AddrPortFrom(r.addrs[r.tried], r.x.request.port)
		r.tried++
		fd, err := l.server.beginConnect(dst)
		if err != nil {
			r.attemptFailed(err)
			continue
		}
		s := &r.origin
		if s.fd >= 0 {
			s = new(side)
		}
		*s = side{owner: r, fd: fd}
		l.add(s)
		r.attempts = append(r.attempts, s)
		if err := l.await(s); err != nil {
			r.drop(s)
			r.attemptFailed(err)
			continue
		}
		if r.tried < len(r.addrs) {
			l.start(&r.stagger, &l.attempts)
		}
		return
	}
	if len(r.attempts) == 0 {
		r.deny(originDenial(fmt.Errorf("%w: %w", errDial, r.failure)))
	}
}

// attemptFailed keeps the first reason.
func (r *relay) attemptFailed(err error) {
	if r.failure == nil {
		r.failure = err
	}
}

// drop closes an attempt.
func (r *relay) drop(s *side) {
	for i, a := range r.attempts {
		if a == s {
			r.attempts = append(r.attempts[:i], r.attempts[i+1:]...)
			break
		}
	}
	r.loop.close(s)
}

// attempted is called when an attempt has come to its end.
func (r *relay) attempted(s *side, events uint32) {
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && errno != 0 {
			err = unix.Errno(errno)
		}
		if err != nil {
			r.drop(s)
			r.attemptFailed(err)
			r.dialNext()
			return
		}
	}
	switch {
	case events&unix.EPOLLOUT == 0:
	case r.loop.now >= r.deadline.at:
		r.dialTimedOut()
	default:
		r.connected(s)
	}
}

// connected opens the tunnel on the attempt and ends the others.
func (r *relay) connected(s *side) {
	r.stagger.remove()
	for _, a := range r.attempts {
		if a != s {
			r.loop.close(a)
		}
	}
	if s != &r.origin {
		r.loop.move(s, &r.origin, r)
	}
	r.attempts, r.addrs = nil, nil
	r.answer(established)
}

// answer tells the client that there is a connection, and waits for what it
// says first.
func (r *relay) answer(head []byte) {
	n, err := unix.Write(r.client.fd, head)
	if err != nil || n < len(head) {
		r.hardClose()
		r.abort()
		return
	}
	r.peek()
}

// adopted begins with two connections that net/http brought.
func (r *relay) adopted(begin opening) {
	defer r.loop.recovered(r, r.client.fd)
	l := r.loop
	r.client.writable, r.origin.writable = true, true
	l.add(&r.client)
	l.add(&r.origin)
	f := r.flow
	f.carrier.Store(r)
	if begin.peek {
		r.early = begin.fromClient
		r.state = relayDialing // until the client has its answer
	} else {
		r.open(begin.status)
		r.up.begin(begin.fromClient)
		r.down.begin(append(begin.head[:len(begin.head):len(begin.head)], begin.fromOrigin...))
		r.down.n = int64(len(begin.fromOrigin)) // the head is ours
	}
	switch cause := causeOf(f); {
	case cause != nil && begin.peek:
		r.hardClose()
		r.abort()
	case cause != nil:
		r.stop(cause)
	case begin.peek:
		r.answer(begin.head)
	default:
		r.start()
	}
}

// open makes it a tunnel.
func (r *relay) open(status int) {
	s := r.loop.server
	r.state, r.opened = relayOpen, time.Now()
	s.stats.tunnelsOpened.Add(1)
	if s.audited {
		s.opts.Audit.Put(r.x.openRecord(status))
	}
}

// start begins to wait for bytes.
func (r *relay) start() {
	l := r.loop
	r.deadline.fire = idleTooLong
	l.start(&r.deadline, &l.idle)
	if l.await(&r.client) != nil || l.await(&r.origin) != nil {
		r.reset()
		return
	}
	r.pump()
}

// event implements owner.
func (r *relay) event(s *side, events uint32) {
	switch {
	case r.state == relayOpen:
		r.pump()
	case r.state == relayPeeking:
		r.readHello()
	case r.state != relayDialing:
	case s != &r.client:
		r.attempted(s, events)
	case events&(unix.EPOLLERR|unix.EPOLLHUP) != 0: // the client is gone for good
		r.loop.server.stats.failed.Add(1)
		r.abort()
	}
}

// run implements runner.
func (r *relay) run() {
	defer r.loop.recovered(r, r.client.fd)
	r.queued = false
	if r.state == relayOpen {
		r.pump()
	}
}

// pump moves what can be moved, within bounds, and sees what has ended.
func (r *relay) pump() {
	l := r.loop
	moved := r.up.n + r.down.n
	moreUp, err := r.up.move(l)
	moreDown := false
	if err == nil {
		moreDown, err = r.down.move(l)
	}
	if r.up.n+r.down.n != moved {
		l.start(&r.deadline, &l.idle)
	}
	switch {
	case err != nil:
		r.reset()
	case r.up.shut && r.down.shut:
		r.finish(endClosed)
	case (moreUp || moreDown) && !r.queued:
		r.queued = true
		l.again(r)
	}
}

// endFrom ends the relay from any goroutine, a moment later.
func (r *relay) endFrom(cause error) {
	r.loop.post(func() { r.stop(cause) })
}

// stop ends the relay for the cause.
func (r *relay) stop(cause error) {
	defer r.loop.recovered(r, r.client.fd)
	why, _ := endingOf(cause)
	switch r.state {
	case relayOpen:
		r.x.takeCut(cause)
		r.finish(why)
	case relayPeeking:
		r.x.takeCut(cause)
		r.x.unopened(why)
		r.abort()
	case relayDialing:
		if r.x.takeCut(cause) {
			r.deny(r.x.verdictDenial())
			return
		}
		r.abort()
	}
}

// deny ends a relay that has no tunnel yet, with an answer. The client's
// connection becomes an intake's again, which lingers.
func (r *relay) deny(d *denial) {
	l := r.loop
	in := l.newIntake(r.device)
	l.move(&r.client, &in.side, in)
	r.client.fd = -1
	in.timer.fire = lingeredTooLong // whatever happens from here on
	l.start(&in.timer, &l.lingers)
	r.release()
	in.deny(r.x, d)
}

// reset makes both sides see that the tunnel broke, not that it ended.
func (r *relay) reset() {
	r.hardClose()
	r.finish(endBroken)
}

// hardClose has both connections end with a reset.
func (r *relay) hardClose() {
	hard := unix.Linger{Onoff: 1}
	_ = unix.SetsockoptLinger(r.client.fd, unix.SOL_SOCKET, unix.SO_LINGER, &hard)
	_ = unix.SetsockoptLinger(r.origin.fd, unix.SOL_SOCKET, unix.SO_LINGER, &hard)
}

// finish ends an open tunnel.
func (r *relay) finish(why ending) {
	s := r.loop.server
	s.countEnd(why, r.down.n, r.up.n)
	if s.audited {
		s.opts.Audit.Put(r.x.closeRecord(why, r.opened, r.down.n, r.up.n))
	}
	r.abort()
}

// abort implements owner.
func (r *relay) abort() {
	if r.state == relayOver {
		return
	}
	r.loop.close(&r.client)
	r.release()
	r.loop.server.admit.leave(r.device)
}

// release gives back everything but the client's connection.
func (r *relay) release() {
	l := r.loop
	r.state = relayOver
	r.deadline.remove()
	r.stagger.remove()
	for _, a := range r.attempts {
		l.close(a)
	}
	r.attempts, r.early, r.hello = nil, nil, nil
	l.close(&r.origin)
	r.up.release(l)
	r.down.release(l)
	if r.flow != nil {
		l.server.end(r.flow)
		r.flow = nil
	}
}

// beginConnect begins to connect to the address, which was judged before. The
// second lock stands in the last moment before the system call: what the
// socket is told is what was judged, and it may be reached.
func (s *Server) beginConnect(dst netip.AddrPort) (int, error) {
	family, sa := unix.AF_INET, unix.Sockaddr(nil)
	real := netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if a := real.Addr(); a.Is4() {
		sa = &unix.SockaddrInet4{Port: int(real.Port()), Addr: a.As4()}
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(real.Port()), Addr: a.As16()}
	}
	if err := s.lockAddr(dst, real); err != nil {
		return -1, err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	setStreamOptions(fd)
	if err := unix.Connect(fd, sa); err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// settled lets go of what only the decision needed: the name alone is a part
// of the request line, and a tunnel may live for days.
func (q *request) settled() {
	q.fields, q.via, q.path = [2]string{}, nil, ""
	q.host.Name = strings.Clone(q.host.Name)
}

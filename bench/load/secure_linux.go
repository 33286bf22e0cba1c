package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// handshakeTime is how long a server may take for a connection over TLS.
const handshakeTime = 10 * time.Second

// A dialect puts questions into the bytes of a connection over TLS, and takes the
// answers out again.
type dialect interface {
	// hello is what the client says first.
	hello() []byte
	// room reports whether the server takes another question now.
	room() bool
	ask(out, q []byte, id uint16) []byte
	// take hands over the answers that are whole, and returns how many bytes it
	// used and what must be said in return.
	take(in []byte, answer func(m []byte)) (used int, out []byte, err error)
}

// A secure transport asks over connections with TLS that are made once. The
// engine's one goroutine does all of it: crypto/tls runs over sockets that do not
// block, so that thousands of questions a second cost no switches between
// goroutines.
type secureTransport struct {
	*engine
	newDialect func() dialect
	protocol   string
	sessions   []session
}

type session struct {
	dialect
	raw     *rawConn
	conn    *tls.Conn
	in, out []byte // in[:read] is what was read and not yet used
	read    int
}

func dotCommand(ctx context.Context, args []string, out io.Writer) error {
	return dnsCommand(ctx, "dot", args, out, openSecure("dot", func(*engine) dialect { return framed{} }))
}

func dohCommand(ctx context.Context, args []string, out io.Writer) error {
	return dnsCommand(ctx, "doh", args, out, openSecure("h2", func(e *engine) dialect { return newH2(e.server.String()) }))
}

func openSecure(protocol string, d func(*engine) dialect) func(*engine) error {
	return func(e *engine) error {
		t := &secureTransport{engine: e, newDialect: func() dialect { return d(e) }, protocol: protocol, sessions: make([]session, e.flows)}
		e.transport = t
		size := 1024
		for size < 4*e.window {
			size *= 2
		}
		for range t.sessions {
			e.rings = append(e.rings, newRing(size))
		}
		for i := range t.sessions {
			if err := t.connect(i); err != nil {
				t.close()
				return fmt.Errorf("%s: %w", e.server, err)
			}
		}
		return nil
	}
}

// connect waits for the handshake: the load is about what comes after it.
func (t *secureTransport) connect(flow int) error {
	fd, err := dialTCP(t.server, false)
	if err != nil {
		return err
	}
	s := &t.sessions[flow]
	*s = session{dialect: t.newDialect(), raw: &rawConn{fd: fd}, in: make([]byte, 1<<17)}
	t.rings[flow].forget()
	if err := s.raw.block(handshakeTime); err != nil {
		return err
	}
	s.conn = tls.Client(s.raw, &tls.Config{RootCAs: t.roots, ServerName: t.server.Addr().String(), NextProtos: []string{t.protocol}})
	if err := s.conn.Handshake(); err != nil {
		return err
	}
	state := s.conn.ConnectionState()
	t.how = fmt.Sprintf("%s %s", tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite))
	if t.protocol == "h2" && state.NegotiatedProtocol != "h2" {
		return errors.New("the server speaks no HTTP/2")
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	if err := t.watch(unix.EPOLL_CTL_ADD, fd, flow, unix.EPOLLIN); err != nil {
		return err
	}
	return t.say(s, s.hello())
}

func (t *secureTransport) close() {
	for i := range t.sessions {
		if raw := t.sessions[i].raw; raw != nil && raw.fd >= 0 {
			_ = raw.Close()
		}
	}
}

// say writes all at once, in one record where it fits.
func (t *secureTransport) say(s *session, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	_, err := s.conn.Write(b)
	return err
}

func (t *secureTransport) send(flow, n int, first, step time.Duration) {
	s := &t.sessions[flow]
	s.out = s.out[:0]
	for i := range n {
		if t.done || t.fatal != nil {
			break
		}
		if !s.room() {
			if t.rate > 0 {
				t.unsent += uint64(n - i)
			}
			break
		}
		li, qi, ok := t.choose()
		if !ok {
			break
		}
		id, ok := t.rings[flow].issue(first+time.Duration(i)*step, li, qi)
		if !ok {
			t.unsent += uint64(n - i)
			break
		}
		q := t.lists[li].query(qi)
		s.out = s.ask(s.out, q, id)
		t.sent++
		t.bytesOut += uint64(len(q))
	}
	if err := t.say(s, s.out); err != nil {
		t.reconnect(flow, err)
		return
	}
	t.rewatch(flow)
}

// rewatch waits for room in the socket only while something waits for it.
func (t *secureTransport) rewatch(flow int) {
	raw := t.sessions[flow].raw
	if waits := len(raw.out) > 0; waits != raw.watched {
		raw.watched = waits
		events := uint32(unix.EPOLLIN)
		if waits {
			events |= unix.EPOLLOUT
		}
		if err := t.watch(unix.EPOLL_CTL_MOD, raw.fd, flow, events); err != nil {
			t.fatal = err
		}
	}
}

// reconnect replaces a connection that has ended. What waited on it is lost.
func (t *secureTransport) reconnect(flow int, why error) {
	if t.fatal != nil {
		return
	}
	t.lost += uint64(t.rings[flow].waiting)
	t.reconnects++
	t.example("a connection ended: %v", why)
	_ = t.sessions[flow].raw.Close()
	if t.reconnects > maxRefusals {
		t.fatal = fmt.Errorf("%s: %d connections ended: %w", t.server, t.reconnects, why)
		return
	}
	if err := t.connect(flow); err != nil {
		t.fatal = err
	}
}

func (t *secureTransport) ready(flow int, events uint32) {
	s := &t.sessions[flow]
	if s.raw.fd < 0 {
		return
	}
	if events&unix.EPOLLOUT != 0 {
		if err := s.raw.flush(); err != nil {
			t.reconnect(flow, err)
			return
		}
		t.rewatch(flow)
	}
	s.raw.dry = false
	for {
		n, err := s.conn.Read(s.in[s.read:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err == nil {
			s.read += n
			err = t.consume(flow)
		}
		if err != nil {
			t.reconnect(flow, err)
			return
		}
	}
}

func (t *secureTransport) consume(flow int) error {
	s, now := &t.sessions[flow], t.now()
	used, out, err := s.take(s.in[:s.read], func(m []byte) {
		if len(m) < headerSize {
			t.unasked++
			t.example("a message of %d bytes", len(m))
			return
		}
		t.answer(t.rings[flow], binary.BigEndian.Uint16(m), m, now)
	})
	if err != nil {
		return err
	}
	s.read = copy(s.in, s.in[used:s.read])
	if s.read == len(s.in) {
		return errors.New("more than fits at once")
	}
	return t.say(s, out)
}

// framed is DNS over TLS: two octets of length before each message, RFC 7858
// section 3.3.
type framed struct{}

func (framed) hello() []byte { return nil }
func (framed) room() bool    { return true }

func (framed) ask(out, q []byte, id uint16) []byte {
	out = binary.BigEndian.AppendUint16(out, uint16(len(q)))
	at := len(out)
	out = append(out, q...)
	binary.BigEndian.PutUint16(out[at:], id)
	return out
}

func (framed) take(in []byte, answer func(m []byte)) (used int, out []byte, err error) {
	for len(in)-used >= 2 {
		size := int(binary.BigEndian.Uint16(in[used:]))
		if len(in)-used-2 < size {
			break
		}
		answer(in[used+2 : used+2+size])
		used += 2 + size
	}
	return used, nil, nil
}

// A rawConn is a socket for crypto/tls that does not block: a read that would
// wait has run out of time, which TLS survives, and a write keeps what the kernel
// does not take.
type rawConn struct {
	net.Conn // nil: what TLS does not call
	fd       int
	out      []byte
	dry      bool // the last read took all there was
	watched  bool
}

// block has the socket wait, for the handshake.
func (c *rawConn) block(most time.Duration) error {
	tv := unix.NsecToTimeval(most.Nanoseconds())
	return errors.Join(
		unix.SetNonblock(c.fd, false),
		unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
		unix.SetsockoptTimeval(c.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
}

func (c *rawConn) Read(b []byte) (int, error) {
	if c.dry {
		c.dry = false
		return 0, os.ErrDeadlineExceeded
	}
	n, err := unix.Read(c.fd, b)
	for errors.Is(err, unix.EINTR) { // a signal ends a read that has its time, whatever the handler
		n, err = unix.Read(c.fd, b)
	}
	switch {
	case errors.Is(err, unix.EAGAIN):
		return 0, os.ErrDeadlineExceeded
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func (c *rawConn) Write(b []byte) (int, error) {
	c.out = append(c.out, b...)
	return len(b), c.flush()
}

func (c *rawConn) flush() error {
	for len(c.out) > 0 {
		n, err := unix.Write(c.fd, c.out)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil:
			return err
		}
		c.out = c.out[:copy(c.out, c.out[n:])]
	}
	return nil
}

func (c *rawConn) Close() error {
	err := unix.Close(c.fd)
	c.fd = -1
	return err
}

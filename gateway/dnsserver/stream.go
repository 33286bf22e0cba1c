package dnsserver

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// streams are the open connections over TCP and DoT.
type streams struct {
	mu   sync.Mutex
	open map[*stream]struct{}
}

func (t *streams) add(c *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = map[*stream]struct{}{}
	}
	t.open[c] = struct{}{}
}

func (t *streams) remove(c *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
}

func (t *streams) each(f func(*stream)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.open {
		f(c)
	}
}

func (t *streams) stopReading() { t.each(func(c *stream) { c.stopReading() }) }
func (t *streams) closeAll()    { t.each(func(c *stream) { _ = c.raw.Close() }) }

// A stream is one connection over TCP (RFC 7766), or over TLS on top of it (RFC
// 7858). Its reader answers what it can on the spot, see burst; the rest goes its
// way, and a writer sends those replies as they come, so questions overtake each
// other (section 6.2.1.1). Every question that waits holds a token until its
// reply is written; a client that takes no replies gets no further questions in.
type stream struct {
	server *Server
	from   *streamListener
	raw    *net.TCPConn
	conn   net.Conn // raw, or TLS on top of it
	proto  protocol
	peer   netip.Addr // whose place it has
	client netip.Addr // the peer, or for whom it asks
	claim  claim
	tokens chan struct{}
	out    outbox
	open   sync.WaitGroup // questions that hold a token
	active atomic.Int64   // when something was last read or written, UnixNano
	ended  atomic.Bool    // its place was given up
	failed atomic.Bool    // writing failed: replies are thrown away
	// writing is held from the verdicts on questions until their replies are
	// written, so that none waits behind another's.
	writing sync.Mutex
	// mu guards stopped, so that no deadline is set after stopReading.
	mu      sync.Mutex
	stopped bool
}

// outgoing is what the writer gets: a question to answer, or a reply.
type outgoing struct {
	q     *question
	reply []byte
	to    ticket
}

// An outbox is what waits for a connection's writer, bounded by the tokens. The
// writer is there only while something waits: most connections are idle, and a
// goroutine and its buffers are most of what one costs.
type outbox struct {
	mu      sync.Mutex
	all     []outgoing
	writing bool
}

// put reports whether a writer must be started.
func (b *outbox) put(o outgoing) (start bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, o)
	start = !b.writing
	b.writing = true
	return start
}

// take returns all that waits; nothing ends the writer.
func (b *outbox) take() []outgoing {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.all
	b.all, b.writing = nil, len(all) > 0
	return all
}

func (c *stream) put(o outgoing) {
	if c.out.put(o) {
		go c.write()
	}
}

const maxPause = time.Second

// A streamListener is one listener of a transport over TCP.
type streamListener struct {
	*net.TCPListener
	transport transport
	places    *places
	tls       *tls.Config // nil: none
	idle      time.Duration
}

// accept is the goroutine of one listener.
func (s *Server) accept(l *streamListener) {
	for {
		conn, err := s.acceptTCP(l.TCPListener)
		if err != nil {
			return
		}
		s.welcome(l, conn)
	}
}

// acceptTCP returns the next connection; an error is the end.
func (s *Server) acceptTCP(l *net.TCPListener) (*net.TCPConn, error) {
	var pause time.Duration
	for {
		conn, err := l.AcceptTCP()
		if err == nil {
			return conn, nil
		}
		if s.isEnding() || errors.Is(err, net.ErrClosed) {
			return nil, net.ErrClosed
		}
		// Mostly no descriptor is free; others need the processor to free one.
		s.core.stats.drop(dropAcceptError)
		pause = min(max(2*pause, 5*time.Millisecond), maxPause)
		wait(s.ending, pause)
	}
}

// admit takes a place for a connection over TCP, or closes it.
func (s *Server) admit(p *places, conn *net.TCPConn) (from netip.Addr, ok bool) {
	from = conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
	switch p.take(from, s.core.proxies.trust(from)) {
	case full:
		s.core.stats.drop(dropConns)
	case clientFull:
		s.core.stats.drop(dropClientConns)
	default:
		return from, true
	}
	_ = conn.Close()
	return from, false
}

func (s *Server) welcome(l *streamListener, conn *net.TCPConn) {
	from, ok := s.admit(l.places, conn)
	if !ok {
		return
	}
	c := &stream{
		server: s, from: l, raw: conn, conn: conn, peer: from, client: from,
		tokens: make(chan struct{}, s.opts.MaxPipeline),
	}
	c.proto = framed{c}
	switch {
	case l.transport == doh:
		c.conn = tls.Server(&webConn{conn, c}, l.tls)
	case l.tls != nil:
		c.conn = tls.Server(conn, l.tls)
	}
	s.streams.add(c)
	if s.isEnding() { // after stopReading has looked at the open ones
		c.stopReading()
	}
	s.core.stats.opened(l.transport)
	c.touch()
	s.wg.Go(c.serve)
}

func (c *stream) touch() { c.active.Store(time.Now().UnixNano()) }

// stopReading wakes the reader, which then ends.
func (c *stream) stopReading() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopped = true
	_ = c.conn.SetReadDeadline(time.Unix(1, 0))
}

// readBy sets the time by which the next bytes must be there; it is false when
// nothing more is to be read.
func (c *stream) readBy(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.stopped && c.conn.SetReadDeadline(t) == nil
}

// serve owns the connection until the handshake is done, which is the work of a
// goroutine of its own: it takes much more stack than reading does.
func (c *stream) serve() {
	switch {
	case !c.proxyHeader():
		_ = c.raw.Close() // no farewell of TLS before its hello
		c.end()
	case !c.handshake():
		c.end()
	case c.from.tls == nil:
		c.run()
	default:
		c.server.wg.Go(c.run)
	}
}

// run owns the connection: it reads, and when there is nothing more to read
// it waits for the questions that are open, so that a client that has closed
// its side gets every answer.
func (c *stream) run() {
	if c.from.transport == doh {
		c.runWeb()
		return
	}
	defer c.end()
	c.read()
	c.open.Wait()
}

func (c *stream) end() {
	_ = c.conn.Close()
	c.leavePlace()
}

// leavePlace gives up what the connection holds, once.
func (c *stream) leavePlace() {
	if c.ended.Swap(true) {
		return
	}
	c.server.streams.remove(c)
	c.from.places.leave(c.peer)
	c.server.core.stats.closed(c.from.transport)
}

// handshake speaks TLS where the listener does.
func (c *stream) handshake() bool {
	t, ok := c.conn.(*tls.Conn)
	if !ok {
		return true
	}
	by := time.Now().Add(c.server.opts.HandshakeTimeout)
	_ = c.conn.SetWriteDeadline(by)
	if !c.readBy(by) {
		return false
	}
	if err := t.Handshake(); err != nil {
		if !c.server.isEnding() {
			c.server.core.stats.drop(dropHandshake)
		}
		// No farewell to who has not said hello: it would wait for the client.
		_ = c.raw.Close()
		return false
	}
	st := t.ConnectionState()
	c.claim = claimOf(&st, c.server.opts.Name)
	c.touch()
	return true
}

// read takes messages until the connection is done. Between two bursts it holds
// no memory but for the first octet.
func (c *stream) read() {
	var r io.Reader = c.conn // TLS has a buffer of its own
	if c.from.tls == nil {
		r = bufio.NewReaderSize(c.conn, 2048)
	}
	var first [1]byte
	for c.awaitFirst(r, first[:]) && c.burst(r, first[0]) {
	}
}

// awaitFirst waits for the first octet of a message. A connection is idle when
// nothing was read or written for the time and no question is open (RFC 7766,
// section 6.2.3).
func (c *stream) awaitFirst(r io.Reader, first []byte) bool {
	for {
		idleAt := time.Unix(0, c.active.Load()).Add(c.from.idle)
		if now := time.Now(); !now.Before(idleAt) {
			if len(c.tokens) == 0 {
				c.server.core.stats.drop(dropIdle)
				return false
			}
			idleAt = now.Add(c.from.idle)
		}
		if at := c.proto.due(); !at.IsZero() && at.Before(idleAt) {
			idleAt = at
		}
		if !c.readBy(idleAt) {
			return false
		}
		_, err := io.ReadFull(r, first)
		if err == nil {
			return true
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || !c.proto.tick(time.Now()) {
			return false
		}
	}
}

// done gives the token of one question back.
func (c *stream) done() {
	<-c.tokens
	c.open.Done()
}

// write is the goroutine that answers. The verdict on a question is taken
// here, right before its reply is written, however long the client let its
// earlier replies wait.
func (c *stream) write() {
	buf, frame := outBuffers.Get().(*[]byte), outBuffers.Get().(*[]byte)
	defer outBuffers.Put(buf)
	defer outBuffers.Put(frame)
	for all := c.out.take(); len(all) > 0; all = c.out.take() {
		for _, o := range all {
			if c.settle(*buf, *frame, o) {
				c.done()
			}
		}
	}
}

// settle writes a reply; it is false for a question that comes back when the
// resolver was asked.
func (c *stream) settle(buf, frame []byte, o outgoing) bool {
	c.writing.Lock()
	defer c.writing.Unlock()
	reply := o.reply
	if o.q != nil {
		var waits bool
		if reply, waits = c.answer(buf, o.q); waits {
			return false
		}
	}
	c.send(c.proto.wrap(frame, o.to, reply, time.Now()))
	return true
}

// answer returns the reply to write now, or reports that the question waits for
// the resolver.
func (c *stream) answer(buf []byte, q *question) (reply []byte, waits bool) {
	reply, miss := c.server.core.reply(buf, q)
	if !miss {
		return reply, false
	}
	if c.server.core.exit.take(q) {
		return nil, true
	}
	q.resolved(nil, errOverload)
	reply, _ = c.server.core.reply(buf, q)
	return reply, false
}

// send writes replies with their lengths at once: in one segment where they fit
// (RFC 7766, section 8), and in one record of TLS.
func (c *stream) send(frames []byte) {
	if len(frames) == 0 {
		return
	}
	if c.failed.Load() {
		c.server.core.stats.drop(dropWriteError)
		return
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.server.opts.WriteTimeout))
	if _, err := c.conn.Write(frames); err != nil {
		c.server.core.stats.drop(dropWriteError)
		c.failed.Store(true)
		c.stopReading()
		return
	}
	c.touch()
}

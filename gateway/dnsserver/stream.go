package dnsserver

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// streams are the open TCP connections, bounded in all and per client.
type streams struct {
	mu        sync.Mutex
	open      map[*stream]struct{}
	clients   map[netip.Addr]int
	max       int
	perClient int
}

func (t *streams) init(limit, perClient int) {
	t.open, t.clients = map[*stream]struct{}{}, map[netip.Addr]int{}
	t.max, t.perClient = limit, perClient
}

// add takes the connection in, or says which bound it is beyond.
func (t *streams) add(c *stream) (ok bool, why drop) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case len(t.open) >= t.max:
		return false, dropConns
	case t.clients[c.client] >= t.perClient:
		return false, dropClientConns
	}
	t.open[c] = struct{}{}
	t.clients[c.client]++
	return true, 0
}

func (t *streams) remove(c *stream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
	if t.clients[c.client]--; t.clients[c.client] == 0 {
		delete(t.clients, c.client)
	}
}

func (t *streams) each(f func(*stream)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.open {
		f(c)
	}
}

func (t *streams) stopReading() { t.each(func(c *stream) { c.stopReading() }) }
func (t *streams) closeAll()    { t.each(func(c *stream) { _ = c.conn.Close() }) }

// A stream is one TCP connection (RFC 7766). Its reader takes messages one
// after the other, its writer sends replies as they come, so questions
// overtake each other (section 6.2.1.1). Every question holds a token until
// its reply is written; a client that takes no replies gets no further
// questions in.
type stream struct {
	server *Server
	conn   *net.TCPConn
	client netip.Addr
	tokens chan struct{}
	// out never fills: it has room for every token.
	out    chan outgoing
	open   sync.WaitGroup // questions that hold a token
	active atomic.Int64   // when something was last read or written, UnixNano
	failed atomic.Bool    // writing failed: replies are thrown away
	// mu guards stopped, so that no deadline is set after stopReading.
	mu      sync.Mutex
	stopped bool
}

// outgoing is what the writer gets: a question to answer, or a reply.
type outgoing struct {
	q     *question
	reply []byte
}

const maxPause = time.Second

// accept is the goroutine of one listener.
func (s *Server) accept(l *net.TCPListener) {
	var pause time.Duration
	for {
		conn, err := l.AcceptTCP()
		if err == nil {
			pause = 0
			s.welcome(conn)
			continue
		}
		if s.isEnding() || errors.Is(err, net.ErrClosed) {
			return
		}
		// Mostly no descriptor is free; others need the processor to free one.
		s.core.stats.drop(dropAcceptError)
		pause = min(max(2*pause, 5*time.Millisecond), maxPause)
		wait(s.ending, pause)
	}
}

func (s *Server) welcome(conn *net.TCPConn) {
	from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	c := &stream{
		server: s, conn: conn, client: from,
		tokens: make(chan struct{}, s.opts.MaxPipeline),
		out:    make(chan outgoing, s.opts.MaxPipeline),
	}
	if ok, why := s.streams.add(c); !ok {
		s.core.stats.drop(why)
		_ = conn.Close()
		return
	}
	if s.isEnding() { // after stopReading has looked at the open ones
		c.stopReading()
	}
	s.core.stats.accepted.Add(1)
	s.core.stats.conns.Add(1)
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

// serve owns the connection: it reads, and when there is nothing more to read
// it waits for the questions that are open, so that a client that has closed
// its side gets every answer.
func (c *stream) serve() {
	defer c.server.core.stats.conns.Add(-1)
	defer c.server.streams.remove(c)
	defer func() { _ = c.conn.Close() }()
	written := make(chan struct{})
	go c.write(written)
	c.read()
	c.open.Wait()
	close(c.out)
	<-written
}

// read takes messages until the connection is done.
func (c *stream) read() {
	r := bufio.NewReaderSize(c.conn, 2048)
	var buf []byte
	for {
		msg, ok := c.next(r, buf)
		if !ok {
			return
		}
		c.touch()
		if !c.pace() {
			return
		}
		c.tokens <- struct{}{}
		c.open.Add(1)
		q, reply := c.server.core.accept(nil, msg, c.client, tcp)
		if q == nil && reply == nil {
			// Not a question at all. Whoever speaks so is not worth a connection.
			c.done()
			return
		}
		if q != nil {
			q.stream = c
		}
		c.out <- outgoing{q, reply}
		if buf = msg[:0]; cap(buf) > keepBuffer {
			buf = nil
		}
	}
}

const (
	firstRead  = 512  // memory for the start of a message, whatever length it claims
	keepBuffer = 4096 // the largest buffer that a connection keeps
)

// next reads one message: two octets of length, then as many (RFC 1035,
// section 4.2.2). Memory grows with what has come, not with what is claimed.
func (c *stream) next(r *bufio.Reader, buf []byte) (msg []byte, ok bool) {
	if !c.awaitFirst(r) || !c.readBy(time.Now().Add(c.server.opts.ReadTimeout)) {
		return nil, false
	}
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, c.broken(err)
	}
	size := int(binary.BigEndian.Uint16(head[:]))
	if size == 0 {
		c.server.core.stats.drop(dropFraming)
		return nil, false
	}
	for got := 0; got < size; {
		n := min(size, max(2*got, firstRead, cap(buf)))
		if cap(buf) < n {
			buf = append(make([]byte, 0, n), buf[:got]...)
		}
		buf = buf[:n]
		if _, err := io.ReadFull(r, buf[got:]); err != nil {
			return nil, c.broken(err)
		}
		got = n
	}
	return buf, true
}

// broken counts a message that did not come whole in time.
func (c *stream) broken(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) && !c.server.isEnding() {
		c.server.core.stats.drop(dropSlow)
	}
	return false
}

// awaitFirst waits for the first octet of a message. A connection is idle when
// nothing was read or written for the time and no question is open (RFC 7766,
// section 6.2.3).
func (c *stream) awaitFirst(r *bufio.Reader) bool {
	for {
		idleAt := time.Unix(0, c.active.Load()).Add(c.server.opts.Idle)
		if now := time.Now(); !now.Before(idleAt) {
			if len(c.tokens) == 0 {
				c.server.core.stats.drop(dropIdle)
				return false
			}
			idleAt = now.Add(c.server.opts.Idle)
		}
		if !c.readBy(idleAt) {
			return false
		}
		_, err := r.Peek(1)
		if err == nil {
			return true
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
	}
}

// respond takes a question back from the exit.
func (c *stream) respond(q *question) { c.out <- outgoing{q: q} }

// done gives the token of one question back.
func (c *stream) done() {
	<-c.tokens
	c.open.Done()
}

// write is the goroutine that answers. The verdict on a question is taken
// here, right before its reply is written, however long the client let its
// earlier replies wait.
func (c *stream) write(written chan<- struct{}) {
	defer close(written)
	buf := make([]byte, 0, replySize)
	for o := range c.out {
		reply := o.reply
		if o.q != nil {
			var miss bool
			if reply, miss = c.server.core.reply(buf[:0], o.q); miss {
				if c.server.core.exit.take(o.q) {
					continue // it comes back
				}
				o.q.resolved(nil, errOverload)
				reply, _ = c.server.core.reply(buf[:0], o.q)
			}
		}
		c.send(reply)
		c.done()
	}
}

// send writes a reply with its length in one segment where it fits (RFC 7766,
// section 8).
func (c *stream) send(reply []byte) {
	if len(reply) == 0 {
		return
	}
	if c.failed.Load() {
		c.server.core.stats.drop(dropWriteError)
		return
	}
	var head [2]byte
	binary.BigEndian.PutUint16(head[:], uint16(len(reply)))
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.server.opts.WriteTimeout))
	frame := net.Buffers{head[:], reply}
	if _, err := frame.WriteTo(c.conn); err != nil {
		c.server.core.stats.drop(dropWriteError)
		c.failed.Store(true)
		c.stopReading()
		return
	}
	c.touch()
}

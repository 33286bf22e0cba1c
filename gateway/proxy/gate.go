package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A gate is a client connection as net/http sees it. It reads each request
// head whole, lets the front understand it, and hands net/http a canonical one;
// a head that is refused becomes a harmless last request whose refusal the
// handler sends. It follows the framing of the content itself, so it knows
// where the next head begins, and it ends head reading after CONNECT and after
// a WebSocket handshake: what follows those is never read as HTTP.
//
// The reading side belongs to whichever goroutine of net/http reads, one at a
// time. The queue, the deadlines and the flags are shared with the handler.
type gate struct {
	*net.TCPConn
	server *Server
	device netip.Addr
	admit  *admission
	// diverted is where a transparent connection was going; nil for one to the
	// proxy.
	diverted *diverted

	buf    []byte // buf[r:w] was received and not yet passed on
	r, w   int
	out    []byte // approved, to be passed on before anything else
	scan   int    // offset from r up to which a head was searched for its end
	phase  phase
	remain int64 // of the content with a length
	chunks chunks

	private uint64 // stands for the client in the pool, 0 for any; the handler's alone

	mu          sync.Mutex
	queue       []arrival // heads handed to net/http and not yet taken by the handler
	theirs, own time.Time // read deadlines of net/http and of the gate; zero for none

	busy      atomic.Bool   // a request was handed over and its handler has not ended
	dead      atomic.Bool   // nothing further is read
	linger    atomic.Bool   // the client may still be sending when we close
	interrupt chan struct{} // a token while net/http interrupts a Read
	gone      chan struct{} // closed by Close
	closed    sync.Once
}

func newGate(c *net.TCPConn, s *Server, device netip.Addr, admit *admission) *gate {
	return &gate{TCPConn: c, server: s, device: device, admit: admit,
		interrupt: make(chan struct{}, 1), gone: make(chan struct{})}
}

// An arrival is what the front said about one head: either a request or why not.
type arrival struct {
	request *request
	refusal *refusal
}

type phase uint8

const (
	phaseHead phase = iota
	phaseLength
	phaseChunked
	phaseRaw // no longer HTTP
)

type gateKey struct{}

// take returns what arrived first of what the handler has not yet seen.
func (g *gate) take() arrival {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.queue) == 0 {
		return arrival{refusal: refuse("request was not understood")}
	}
	a := g.queue[0]
	g.queue = g.queue[1:]
	return a
}

func (g *gate) push(a arrival) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.queue = append(g.queue, a)
}

// Read implements net.Conn for net/http.
func (g *gate) Read(p []byte) (int, error) {
	for len(g.out) == 0 {
		if g.dead.Load() {
			return 0, io.EOF
		}
		var err error
		switch g.phase {
		case phaseHead:
			err = g.readHead()
		case phaseLength:
			if g.r == g.w {
				return g.readContent(p)
			}
			err = g.approve(g.advanceLength)
		case phaseChunked:
			err = g.approve(g.chunks.advance)
		case phaseRaw:
			if g.r == g.w {
				return g.TCPConn.Read(p)
			}
			g.out, g.r = g.buf[g.r:g.w], g.w
		}
		if err != nil {
			return 0, err
		}
	}
	n := copy(p, g.out)
	g.out = g.out[n:]
	return n, nil
}

// readContent reads past the buffer, which is empty.
func (g *gate) readContent(p []byte) (int, error) {
	g.limit(g.server.opts.StallTimeout)
	n, err := g.TCPConn.Read(p[:min(int64(len(p)), g.remain)])
	if g.remain -= int64(n); g.remain == 0 {
		g.startHead()
	}
	return n, err
}

func (g *gate) advanceLength(b []byte) (n int, done bool, err error) {
	n = int(min(int64(len(b)), g.remain))
	g.remain -= int64(n)
	return n, g.remain == 0, nil
}

// approve passes on what of the buffer is content.
func (g *gate) approve(advance func([]byte) (n int, done bool, err error)) error {
	if g.r == g.w {
		g.limit(g.server.opts.StallTimeout)
		if err := g.fill(); err != nil {
			return err
		}
	}
	n, done, err := advance(g.buf[g.r:g.w])
	if err != nil {
		g.abandon()
		return err
	}
	g.out = g.buf[g.r : g.r+n]
	g.r += n
	if done {
		g.startHead()
	}
	return nil
}

func (g *gate) startHead() {
	g.phase, g.scan = phaseHead, 0
	g.limit(0)
}

// readHead reads until a head is whole and queues what the front says about it.
func (g *gate) readHead() error {
	for {
		end, bad := g.findHead()
		if bad != nil {
			g.refuse(bad)
			return nil
		}
		if end > 0 {
			g.acceptHead(g.buf[g.r : g.r+end])
			return nil
		}
		if g.w > g.r {
			g.startHeadTimer()
		}
		switch err := g.fill(); {
		case err == nil:
		case g.headTimedOut(err):
			g.refuse(&refusal{status: http.StatusRequestTimeout, text: "request head took too long"})
			return nil
		case errors.Is(err, io.EOF) && g.busy.Load():
			return g.waitHalfClosed()
		default:
			return err
		}
	}
}

// waitHalfClosed keeps the end of what the client sends from net/http, which
// would give up the request that is on its way: a client may close its sending
// side and still wait for the response (RFC 9112, section 9.6). One that is
// gone for good is found out by the next write or by the stall timeout.
func (g *gate) waitHalfClosed() error {
	select {
	case <-g.interrupt:
		return os.ErrDeadlineExceeded
	case <-g.gone:
		return net.ErrClosed
	}
}

// findHead returns the length of the head in the buffer, 0 while it has no end.
func (g *gate) findHead() (int, *refusal) {
	for g.scan == 0 && g.w-g.r >= 2 && g.buf[g.r] == '\r' && g.buf[g.r+1] == '\n' {
		g.r += 2 // empty lines before a request line are skipped (RFC 9112, section 2.2)
	}
	end, scan, bad := findHead(g.buf[g.r:g.w], g.scan, g.server.opts.MaxHeaderBytes)
	g.scan = scan
	return end, bad
}

func (g *gate) acceptHead(raw []byte) {
	q, bad := parseHeadFor(raw, g.diverted)
	if bad != nil {
		g.refuse(bad)
		return
	}
	g.r += len(raw)
	g.out = q.head()
	g.push(arrival{request: q})
	g.busy.Store(true)
	g.limit(0)
	switch {
	case q.connect() || q.upgrade:
		g.phase = phaseRaw
	case q.length > 0:
		g.phase, g.remain = phaseLength, q.length
	case q.length < 0:
		g.phase, g.chunks = phaseChunked, chunks{maxTrailer: g.server.opts.MaxHeaderBytes}
	default:
		g.startHead()
	}
}

// refuse makes the refusal the last request of the connection.
func (g *gate) refuse(bad *refusal) {
	if bad.method == "" {
		bad.method = http.MethodGet
	}
	g.push(arrival{refusal: bad})
	g.abandon()
	g.limit(0)
	g.out = []byte(bad.method + " / HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n")
}

// abandon ends reading, also a Read that waits: whatever the client still sends
// is not looked at.
func (g *gate) abandon() {
	g.linger.Store(true)
	g.dead.Store(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = g.applyDeadline()
}

// fill receives more, making room first.
func (g *gate) fill() error {
	if g.r == g.w {
		g.r, g.w = 0, 0
	}
	if g.w == len(g.buf) && g.r > 0 {
		g.w = copy(g.buf, g.buf[g.r:g.w])
		g.r = 0
	}
	if g.w == len(g.buf) {
		g.buf = append(g.buf, make([]byte, max(4<<10, len(g.buf)))...)
	}
	n, err := g.TCPConn.Read(g.buf[g.w:])
	g.w += n
	if n > 0 {
		return nil
	}
	return err
}

// detach gives up the socket, of which somebody else has a descriptor now and
// with it the place in the admission.
func (g *gate) detach() {
	g.closed.Do(func() {
		close(g.gone)
		_ = g.TCPConn.Close()
	})
}

// release gives up the gate for a tunnel, with what was received after the head
// and not passed on.
func (g *gate) release() []byte {
	early := append([]byte(nil), g.out...)
	return append(early, g.buf[g.r:g.w]...)
}

// limit sets how long the gate itself waits for the next byte; 0 for ever.
func (g *gate) limit(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d == 0 {
		if g.own.IsZero() {
			return
		}
		g.own = time.Time{}
	} else {
		g.own = time.Now().Add(d)
	}
	_ = g.applyDeadline()
}

// startHeadTimer bounds the time from the first byte of a head to its end.
func (g *gate) startHeadTimer() {
	g.mu.Lock()
	running := !g.own.IsZero()
	g.mu.Unlock()
	if !running {
		g.limit(g.server.opts.HeaderTimeout)
	}
}

// headTimedOut tells the gate's own deadline from those of net/http, which
// also uses them to interrupt a Read.
func (g *gate) headTimedOut(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	return !g.own.IsZero() && !now.Before(g.own) && (g.theirs.IsZero() || g.theirs.After(now))
}

func (g *gate) applyDeadline() error {
	t := g.theirs
	if !g.own.IsZero() && (t.IsZero() || g.own.Before(t)) {
		t = g.own
	}
	if g.dead.Load() {
		t = time.Unix(1, 0)
	}
	return g.TCPConn.SetReadDeadline(t)
}

// SetReadDeadline implements net.Conn for net/http.
func (g *gate) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.theirs = t
	select {
	case <-g.interrupt:
	default:
	}
	if !t.IsZero() && !t.After(time.Now()) {
		g.interrupt <- struct{}{} // has room: only this method sends, under the lock
	}
	return g.applyDeadline()
}

// SetDeadline implements net.Conn for net/http.
func (g *gate) SetDeadline(t time.Time) error {
	if err := g.SetReadDeadline(t); err != nil {
		return err
	}
	return g.SetWriteDeadline(t)
}

// Write implements net.Conn for net/http, bounding how long a client may take
// to accept what it is sent.
func (g *gate) Write(p []byte) (int, error) {
	if err := g.SetWriteDeadline(time.Now().Add(g.server.opts.StallTimeout)); err != nil {
		return 0, err
	}
	return g.TCPConn.Write(p)
}

const (
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// Close implements net.Conn for net/http. Closing while the client still sends
// would reset the connection and may destroy the response on its way; so the
// sending side is closed first and a bounded rest is thrown away unread (RFC
// 9112, section 9.6). Nothing of it is taken for HTTP (RFC 9931).
func (g *gate) Close() error {
	err := net.ErrClosed
	g.closed.Do(func() {
		if g.linger.Load() && g.CloseWrite() == nil {
			_ = g.TCPConn.SetReadDeadline(time.Now().Add(lingerTime))
			_, _ = io.CopyN(io.Discard, g.TCPConn, lingerBytes)
		}
		close(g.gone)
		g.admit.leave(g.device)
		err = g.TCPConn.Close()
	})
	return err
}

package resolver

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	streamConns = 8                // connections to one upstream
	streamIdle  = 15 * time.Second // RFC 7766, section 6.2.3
)

// errConn means that a connection broke under a query, not that the upstream
// said anything about it.
var errConn = errors.New("connection broke")

// A streamPool keeps connections to one upstream over TCP or TLS (RFC 7766, RFC
// 7858). A query takes an idle one; at the cap it shares the least loaded one,
// where queries are told apart by ID and answered in any order.
type streamPool struct {
	ctx   context.Context // of the Resolver
	tasks *tasks
	dial  func(ctx context.Context) (net.Conn, error)
	try   time.Duration
	count *counters

	mu      sync.Mutex
	closed  bool
	conns   []*streamConn // that take queries
	retired map[*streamConn]struct{}
}

// A streamConn is one connection. It belongs to its goroutine (run) until dead
// is closed.
type streamConn struct {
	pool  *streamPool
	load  int                // queries that hold it; under the pool's lock
	end   context.CancelFunc // ends dialling and closes conn
	ready chan struct{}
	conn  net.Conn // set before ready is closed

	once sync.Once
	dead chan struct{}
	err  error // why it died; set before dead is closed

	heard   atomic.Int64 // when the last response came, Unix nanoseconds
	writing sync.Mutex
	mu      sync.Mutex
	waiting map[uint16]chan []byte
}

func newStreamPool(b *builder, dial func(ctx context.Context) (net.Conn, error)) *streamPool {
	return &streamPool{ctx: b.ctx, tasks: b.tasks, dial: dial, try: b.try, count: b.count,
		retired: make(map[*streamConn]struct{})}
}

// exchange asks over a connection. Where one that was there before breaks, as
// idle ones do, the query is sent once more over a new one.
func (p *streamPool) exchange(ctx context.Context, k key, edns bool) (*dns.Msg, error) {
	c, fresh, err := p.get(false)
	if err != nil {
		return nil, err
	}
	m, err := c.exchange(ctx, k, edns)
	if fresh || !errors.Is(err, errConn) || ctx.Err() != nil {
		return m, err
	}
	if c, _, err = p.get(true); err != nil {
		return nil, err
	}
	return c.exchange(ctx, k, edns)
}

// get returns a connection for one query, which must release it. anew asks for
// one that was not there before, if there is room.
func (p *streamPool) get(anew bool) (c *streamConn, fresh bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false, ErrClosed
	}
	for _, o := range p.conns {
		if c == nil || o.load < c.load {
			c = o
		}
	}
	room := len(p.conns) < streamConns
	if c == nil || room && (anew || c.load > 0) {
		if c, fresh = p.start(), true; c == nil {
			return nil, false, ErrClosed
		}
	}
	c.load++
	return c, fresh, nil
}

// start begins a new connection, nil after Close; the pool's lock is held.
func (p *streamPool) start() *streamConn {
	ctx, cancel := context.WithCancel(p.ctx)
	c := &streamConn{pool: p, ready: make(chan struct{}), dead: make(chan struct{}),
		waiting: make(map[uint16]chan []byte), end: cancel}
	if !p.tasks.run(func() { c.run(ctx) }) {
		cancel()
		return nil
	}
	p.conns = append(p.conns, c)
	return c
}

func (p *streamPool) release(c *streamConn) {
	p.mu.Lock()
	c.load--
	_, retired := p.retired[c]
	last := retired && c.load == 0
	p.mu.Unlock()
	if last {
		c.die(errConn)
	}
}

// retire gives the connection no further queries: one of its queries had no
// response, and another connection may do better. Those on it may still be
// answered.
func (p *streamPool) retire(c *streamConn) {
	p.mu.Lock()
	p.drop(c)
	crowded := len(p.retired) >= streamConns
	if !crowded && !c.isDead() {
		p.retired[c] = struct{}{}
	}
	p.mu.Unlock()
	if crowded {
		c.die(errConn)
	}
}

// remove forgets a dead connection.
func (p *streamPool) remove(c *streamConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(c)
	delete(p.retired, c)
}

// drop takes the connection out of those that take queries.
func (p *streamPool) drop(c *streamConn) {
	for i, o := range p.conns {
		if o == c {
			p.conns = append(p.conns[:i:i], p.conns[i+1:]...)
			return
		}
	}
}

func (p *streamPool) close() {
	p.mu.Lock()
	p.closed = true
	all := p.conns
	for c := range p.retired {
		all = append(all[:len(all):len(all)], c)
	}
	p.mu.Unlock()
	for _, c := range all {
		c.die(ErrClosed)
	}
}

// run dials and then reads responses until the connection dies.
func (c *streamConn) run(ctx context.Context) {
	dialling, cancel := context.WithTimeout(ctx, c.pool.try)
	conn, err := c.pool.dial(dialling)
	cancel()
	if err != nil {
		c.die(err)
		return
	}
	c.conn = conn
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	close(c.ready)
	c.die(c.read())
}

func (c *streamConn) read() error {
	r := bufio.NewReader(c.conn)
	var head [2]byte
	for {
		_ = c.conn.SetReadDeadline(time.Now().Add(streamIdle))
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		raw := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(r, raw); err != nil {
			return err
		}
		if len(raw) < headerLen {
			return errMismatch
		}
		c.heard.Store(time.Now().UnixNano())
		c.mu.Lock()
		ch := c.waiting[binary.BigEndian.Uint16(raw)]
		delete(c.waiting, binary.BigEndian.Uint16(raw))
		c.mu.Unlock()
		if ch == nil {
			c.pool.count.mismatched.Add(1) // or late
			continue
		}
		ch <- raw // has room for the one response
	}
}

func (c *streamConn) die(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.dead)
		c.end()
		c.pool.remove(c)
	})
}

func (c *streamConn) isDead() bool {
	select {
	case <-c.dead:
		return true
	default:
		return false
	}
}

// exchange sends one query and waits for its response.
func (c *streamConn) exchange(ctx context.Context, k key, edns bool) (*dns.Msg, error) {
	defer c.pool.release(c)
	select {
	case <-c.ready:
	case <-c.dead:
		return nil, fmt.Errorf("%w: %w", errConn, c.err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	sent := time.Now().UnixNano()
	id, ch := c.enter()
	defer c.leave(id, ch)
	if err := c.send(k.query(id, edns)); err != nil {
		c.die(err)
		return nil, fmt.Errorf("%w: %w", errConn, err)
	}
	var raw []byte
	select {
	case raw = <-ch:
	case <-c.dead:
		select {
		case raw = <-ch: // came before the end
		default:
			return nil, fmt.Errorf("%w: %w", errConn, c.err)
		}
	case <-ctx.Done():
		if c.heard.Load() < sent { // or it is this name that takes long
			c.pool.retire(c)
		}
		return nil, ctx.Err()
	}
	m, err := parse(raw, id, k)
	if err == nil && m.Truncated {
		return nil, fmt.Errorf("%w: truncated over a stream", errMalformed)
	}
	if errors.Is(err, errMismatch) {
		c.pool.count.mismatched.Add(1)
		c.die(err) // nothing on it can be relied on
	}
	return m, err
}

// enter returns an ID that no other query on the connection has.
func (c *streamConn) enter() (uint16, chan []byte) {
	ch := make(chan []byte, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		id := dns.Id()
		if _, taken := c.waiting[id]; !taken {
			c.waiting[id] = ch
			return id, ch
		}
	}
}

// leave gives the ID back, unless a response did and another query has it.
func (c *streamConn) leave(id uint16, ch chan []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting[id] == ch {
		delete(c.waiting, id)
	}
}

// send writes length and message at once (RFC 7766, section 8).
func (c *streamConn) send(m *dns.Msg) error {
	out, err := m.Pack()
	if err != nil {
		return err
	}
	frame := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(out)), uint16(len(out))), out...)
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(c.pool.try))
	_ = c.conn.SetReadDeadline(time.Now().Add(streamIdle))
	_, err = c.conn.Write(frame)
	return err
}

package resolver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// Error codes of RFC 9250, section 8.4.
const (
	doqNoError          = 0x0
	doqRequestCancelled = 0x3
)

// A quicTransport asks over QUIC (RFC 9250): each query on a stream of its own,
// all of them over one connection. A connection that broke is replaced by the
// next query.
type quicTransport struct {
	b    *builder
	e    *endpoint
	conf *tls.Config

	mu  sync.Mutex
	cur *quicConn // nil: none
}

// A quicConn is a connection that is being made, or was. conn and err are
// written before ready is closed and never after.
type quicConn struct {
	ready chan struct{}
	conn  *quic.Conn
	err   error
}

func (b *builder) newQUIC(e *endpoint) *quicTransport {
	conf := b.tlsConfig()
	conf.ServerName = e.serverName()
	conf.NextProtos = []string{"doq"} // section 4.1.1
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(streamConns)
	return &quicTransport{b: b, e: e, conf: conf}
}

// exchange asks over the connection there is. Where that was there before and
// breaks, as idle ones do, the query is sent once more over a new one.
func (t *quicTransport) exchange(ctx context.Context, k key, edns bool) (*dns.Msg, error) {
	c, fresh, err := t.get()
	if err != nil {
		return nil, err
	}
	m, err := t.ask(ctx, c, k, edns)
	if fresh || !errors.Is(err, errConn) || ctx.Err() != nil {
		return m, err
	}
	if c, _, err = t.get(); err != nil {
		return nil, err
	}
	return t.ask(ctx, c, k, edns)
}

// get returns the connection, which it begins to make where there is none.
func (t *quicTransport) get() (c *quicConn, fresh bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cur != nil {
		return t.cur, false, nil
	}
	c = &quicConn{ready: make(chan struct{})}
	if !t.b.tasks.run(func() { t.dial(c) }) {
		return nil, false, ErrClosed
	}
	t.cur = c
	return c, true, nil
}

func (t *quicTransport) dial(c *quicConn) {
	ctx, cancel := context.WithTimeout(t.b.ctx, t.b.try)
	defer cancel()
	c.conn, c.err = t.e.dialQUIC(ctx, t.conf)
	if c.err == nil {
		context.AfterFunc(t.b.ctx, func() { _ = c.conn.CloseWithError(doqNoError, "") })
	}
	close(c.ready)
	if c.err != nil {
		t.drop(c)
	}
}

// drop makes the next query begin a new connection.
func (t *quicTransport) drop(c *quicConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cur == c {
		t.cur = nil
	}
}

func (t *quicTransport) ask(ctx context.Context, c *quicConn, k key, edns bool) (*dns.Msg, error) {
	select {
	case <-c.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c.err != nil {
		return nil, fmt.Errorf("%w: %w", errConn, c.err)
	}
	raw, err := roundTrip(ctx, c.conn, k.query(0, edns)) // the ID is 0: section 4.2.1
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		t.drop(c)
		_ = c.conn.CloseWithError(doqNoError, "")
		return nil, fmt.Errorf("%w: %w", errConn, err)
	}
	m, err := parse(raw, 0, k)
	switch {
	case errors.Is(err, errMismatch):
		t.b.count.mismatched.Add(1)
	case err == nil && m.Truncated:
		return nil, fmt.Errorf("%w: truncated over QUIC", errMalformed)
	}
	return m, err
}

// roundTrip sends the query on a stream of its own and reads the response
// (section 4.2): each with its length before it, and nothing after it.
func roundTrip(ctx context.Context, conn *quic.Conn, q *dns.Msg) ([]byte, error) {
	out, err := q.Pack()
	if err != nil {
		return nil, err
	}
	s, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() {
		s.CancelWrite(doqRequestCancelled)
		s.CancelRead(doqRequestCancelled)
	})()
	if _, err := s.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil { // ends what we send
		return nil, err
	}
	var head [2]byte
	if _, err := io.ReadFull(s, head[:]); err != nil {
		return nil, err
	}
	raw := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(s, raw); err != nil {
		return nil, err
	}
	s.CancelRead(doqNoError) // what follows is not ours to wait for
	return raw, nil
}

func (t *quicTransport) close() {
	t.mu.Lock()
	c := t.cur
	t.cur = nil
	t.mu.Unlock()
	if c == nil {
		return
	}
	select {
	case <-c.ready:
		if c.err == nil {
			_ = c.conn.CloseWithError(doqNoError, "")
		}
	default: // its dialling ends with its own time
	}
}

// dialQUIC connects to the first address that takes the connection.
func (e *endpoint) dialQUIC(ctx context.Context, conf *tls.Config) (*quic.Conn, error) {
	addrs, err := e.addrs(ctx)
	if err != nil {
		return nil, err
	}
	var last error
	for i, a := range addrs {
		c, err := e.dialQUICAddr(ctx, netip.AddrPortFrom(a, e.port), conf, len(addrs)-i)
		if err == nil {
			return c, nil
		}
		last = err
	}
	return nil, fmt.Errorf("QUIC with %s: %w", e.host, last)
}

func (e *endpoint) dialQUICAddr(ctx context.Context, a netip.AddrPort, conf *tls.Config, share int) (*quic.Conn, error) {
	if e.self(a) {
		return nil, fmt.Errorf("%s is our own listener, which would be a loop", a)
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(share))
		defer cancel()
	}
	return quic.DialAddr(ctx, a.String(), conf, &quic.Config{MaxIdleTimeout: 2 * streamIdle})
}

// newHTTP3 makes the transport for an upstream over HTTP/3.
func (b *builder) newHTTP3(e *endpoint) *http3.Transport {
	conf := b.tlsConfig()
	conf.ServerName = e.serverName()
	return &http3.Transport{
		TLSClientConfig:        conf,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
		Dial: func(ctx context.Context, _ string, conf *tls.Config, _ *quic.Config) (*quic.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, b.try)
			defer cancel()
			c, err := e.dialQUIC(ctx, conf)
			if err == nil {
				context.AfterFunc(b.ctx, func() { _ = c.CloseWithError(0x100, "") }) // H3_NO_ERROR: RFC 9114, section 8.1
			}
			return c, err
		},
	}
}

// serverName is the name or the address that the upstream proves to be.
func (e *endpoint) serverName() string {
	if e.addr.IsValid() {
		return e.addr.WithZone("").String()
	}
	return e.host
}

// addrs returns the addresses to try.
func (e *endpoint) addrs(ctx context.Context) ([]netip.Addr, error) {
	if e.addr.IsValid() {
		return []netip.Addr{e.addr}, nil
	}
	return e.hosts.lookup(ctx, e.host)
}

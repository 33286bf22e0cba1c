package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"
	"sync"
	"time"
)

// A pool carries exchanges without content over connections to origins that it
// keeps, one exchange at a time, in the goroutine of the exchange: the request
// is written and the response read where it is wanted, with nobody in between.
// What has content, may not be sent twice, or needs connections of the client's
// own, goes through http.Transport.
//
// A connection is owned by the exchange that took it until its response has
// been read to the end; then it is the pool's again, if it is as new: nothing
// left to read, and nobody wants it closed. The idle ones are bounded in all,
// for each origin and in time; one too many is closed.
type pool struct {
	fw     *forwarder
	mu     sync.Mutex
	idle   map[originKey][]*pooled // the last is the youngest
	count  int
	sweep  *time.Timer // runs while there is an idle connection
	closed bool
}

const (
	maxIdle       = 1024 // connections kept in all
	maxIdleOrigin = 64   // of them to one origin
	idleTime      = 60 * time.Second
	originBuffer  = 4 << 10
)

// An originKey is the name and the very addresses that were judged, so that an
// exchange never gets a connection to an address that was not judged for it.
type originKey struct {
	name  string
	port  uint16
	addr  netip.Addr // the only one
	addrs string     // all of them, where there are several
}

func (x *exchange) originKey() originKey {
	k := originKey{name: x.request.host.Name, port: x.request.port}
	if len(x.target.addrs) == 1 {
		k.addr = x.target.addrs[0]
		return k
	}
	k.addrs = x.sortedAddrs()
	return k
}

// A pooled is a connection to an origin with what was read ahead of it.
type pooled struct {
	*originConn
	limit  io.LimitedReader
	br     *bufio.Reader
	since  time.Time // when it became idle
	reused bool
}

// take returns an idle connection, the youngest first, or nil.
func (p *pool) take(k originKey) *pooled {
	for {
		p.mu.Lock()
		list := p.idle[k]
		if len(list) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := list[len(list)-1]
		list[len(list)-1] = nil
		p.setIdle(k, list[:len(list)-1])
		p.count--
		p.mu.Unlock()
		if c.quiet() {
			c.reused = true
			return c
		}
		_ = c.Close() // it has ended, or says something that nobody asked for
	}
}

func (p *pool) setIdle(k originKey, list []*pooled) {
	if len(list) == 0 {
		delete(p.idle, k)
		return
	}
	p.idle[k] = list
}

// put keeps the connection for the next exchange.
func (p *pool) put(k originKey, c *pooled) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.count >= maxIdle || len(p.idle[k]) >= maxIdleOrigin {
		_ = c.Close()
		return
	}
	c.since = time.Now()
	p.idle[k] = append(p.idle[k], c)
	p.count++
	if p.sweep == nil {
		p.sweep = time.AfterFunc(idleTime, p.closeOld)
	}
}

// closeOld closes what has been idle too long.
func (p *pool) closeOld() {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := time.Now().Add(-idleTime)
	for k, list := range p.idle {
		n := 0
		for n < len(list) && !list[n].since.After(old) {
			_ = list[n].Close()
			n++
		}
		p.count -= n
		p.setIdle(k, append([]*pooled(nil), list[n:]...))
	}
	p.sweep = nil
	if p.count > 0 {
		p.sweep = time.AfterFunc(idleTime/4, p.closeOld)
	}
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, list := range p.idle {
		for _, c := range list {
			_ = c.Close()
		}
	}
	clear(p.idle)
	p.count = 0
	if p.sweep != nil {
		p.sweep.Stop()
	}
}

// roundTrip sends the request and reads the head of the response. A connection
// that was kept may have been closed by the origin at the same moment: while
// nothing of a response has come, the request is sent again over another one
// (RFC 9110, section 9.2.2; only replayable requests come here).
func (p *pool) roundTrip(fo *forward, r *http.Request, k originKey) (*http.Response, error) {
	for {
		c := p.take(k)
		if c == nil {
			conn, err := p.fw.dial(r.Context(), "", "")
			if err != nil {
				return nil, err
			}
			c = &pooled{originConn: conn.(*originConn)}
			c.limit.R = c.originConn
			c.br = bufio.NewReaderSize(&c.limit, originBuffer)
		}
		stop := context.AfterFunc(r.Context(), func() { _ = c.SetDeadline(time.Unix(1, 0)) })
		resp, err := c.exchange(fo, r)
		if err == nil {
			p.attach(k, c, resp, stop)
			return resp, nil
		}
		stop()
		untouched := c.reused && !c.spoke()
		_ = c.Close()
		if ended := context.Cause(r.Context()); ended != nil {
			return nil, ended
		}
		if !untouched {
			return nil, err
		}
	}
}

// exchange writes the request and reads up to the end of the final response's
// head.
func (c *pooled) exchange(fo *forward, r *http.Request) (*http.Response, error) {
	c.arm()
	c.limit.N = fo.fw.transport.MaxResponseHeaderBytes
	w := requestWriters.Get().(*bufio.Writer)
	w.Reset(c.TCPConn)
	err := r.Write(w)
	if err == nil {
		err = w.Flush()
	}
	w.Reset(nil)
	requestWriters.Put(w)
	if err != nil {
		return nil, err
	}
	for {
		resp, err := http.ReadResponse(c.br, r)
		if err != nil {
			if c.limit.N == 0 {
				err = errors.New("response head is too large")
			}
			return nil, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols || resp.StatusCode < 100 {
			c.limit.N = math.MaxInt64
			fo.conn = c.originConn
			return resp, nil
		}
		if err := fo.interim(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
			return nil, err
		}
	}
}

var requestWriters = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, originBuffer) }}

// attach makes the end of the response the end of the loan, also where there is
// no content: until that was read, its head is the exchange's.
func (p *pool) attach(k originKey, c *pooled, resp *http.Response, stop func() bool) {
	resp.Body = &pooledBody{ReadCloser: resp.Body, pool: p, key: k, conn: c, stop: stop,
		keep: !resp.Close && resp.StatusCode >= 200}
}

// A pooledBody is the content of a response, which holds the connection.
type pooledBody struct {
	io.ReadCloser
	pool *pool
	key  originKey
	conn *pooled // nil once it is given back
	stop func() bool
	keep bool
}

// Read implements io.Reader.
func (b *pooledBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.finish(errors.Is(err, io.EOF))
	}
	return n, err
}

// Close implements io.Closer. What was not read to its end ends the connection.
func (b *pooledBody) Close() error {
	b.finish(false)
	return nil
}

// finish gives the connection back, or closes it.
func (b *pooledBody) finish(whole bool) {
	c := b.conn
	if c == nil {
		return
	}
	b.conn = nil
	// Where the exchange was ended from elsewhere, the connection is being
	// spoiled at this moment.
	if !b.stop() || !whole || !b.keep || c.br.Buffered() > 0 {
		_ = c.Close()
		return
	}
	b.pool.put(b.key, c)
}

// sortedAddrs are the addresses in one order, as bytes.
func (x *exchange) sortedAddrs() string {
	var b strings.Builder
	for _, a := range sortAddrs(x.target.addrs) {
		s := a.As16()
		b.Write(s[:])
		b.WriteByte(byte(a.BitLen() / 8))
	}
	return b.String()
}

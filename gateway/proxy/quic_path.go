package proxy

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/hello"
	"github.com/weir-gateway/weir/gateway/policy"
)

const (
	// quicIdle is how long a path stays without a datagram: what RFC 4787 wants of
	// a NAT for UDP. Both sides of a connection give up sooner, most often.
	quicIdle = 2 * time.Minute
	// quicRefused is how long it is remembered that a path was refused, so that
	// what else comes on it is not judged and recorded one by one.
	quicRefused = 5 * time.Second
	// maxConns bounds the connections of one path. A client seldom has two.
	maxQUICConns = 16
	// What is held of a beginning until it is judged.
	maxHeld      = 64
	maxHeldBytes = 96 << 10
)

// A quicPath is what goes between a device's address and one that it wants to
// reach. Connections on it are judged by how they begin; each of them is a flow.
// Their later packets say nothing about which connection they are of, so they
// end together.
type quicPath struct {
	server  *Server
	ends    quicEnds
	last    atomic.Int64 // when a datagram came, Unix nanoseconds
	in, out atomic.Int64 // bytes from the origin, to the origin

	mu      sync.Mutex
	opening *quicOpening // of a connection that is not judged yet; nil for none
	refused time.Time    // when one was refused
	refusal quicRefusal  // the last one
	conns   []*quicConn  // that were let through
	origin  *udpConn     // nil before
	device  *udpConn
	ended   bool
}

// A quicConn is a connection that was let through.
type quicConn struct {
	f      *flow
	opened time.Time
	conn   hello.Conn
	opaque bool // no QUIC that can be read; the policy lets it pass
	// refusal is what the client is told where the origin has no QUIC.
	refusal []byte
	stop    func() bool
}

// A quicOpening is a connection of which it is not known yet where it goes.
type quicOpening struct {
	flight   hello.Flight
	began    time.Time
	held     [][]byte
	size     int
	deciding bool
}

// A quicRefusal is a connection that was refused, and how it was told. What is
// sent twice of it is not judged and recorded again.
type quicRefusal struct {
	conn hello.Conn
	said []byte
}

func (p *quicPath) touch() { p.last.Store(time.Now().UnixNano()) }

// fromDevice takes a datagram of the device. It keeps none of b.
func (p *quicPath) fromDevice(b []byte) {
	defer p.recovered()
	p.touch()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ended:
	case p.passes(b):
		p.toOrigin(b, len(b))
	default:
		p.open(b)
	}
}

// passes reports whether the datagram belongs to what was let through: it
// begins no connection, or is a part of the beginning of one that was judged.
func (p *quicPath) passes(b []byte) bool {
	if len(p.conns) == 0 {
		return false
	}
	initial, foreign := hello.Begins(b)
	if !initial && !foreign {
		return true
	}
	return slices.ContainsFunc(p.conns, func(c *quicConn) bool {
		return c.opaque && !initial || c.conn.Owns(b)
	})
}

// open takes a datagram of a beginning.
func (p *quicPath) open(b []byte) {
	stats := &p.server.quic.stats
	o := p.opening
	if o == nil {
		if time.Since(p.refused) < quicRefused && p.repeats(b) {
			stats.stray.Add(1)
			return
		}
		o = &quicOpening{began: time.Now()}
		p.opening = o
	}
	if o.deciding {
		if o.owns(b) { // 0-RTT, or what is sent twice
			p.hold(o, b)
		} else {
			stats.unread.Add(1)
		}
		return
	}
	ok := o.flight.Feed(b)
	kind := o.flight.Hello().Kind
	if ok || kind == hello.NotTLS {
		p.hold(o, b)
	} else {
		stats.unread.Add(1)
	}
	if kind != hello.Incomplete {
		p.decide(o)
	}
}

// repeats reports whether the datagram is of what was refused just now. A client
// that begins once more has not heard so, and is told again.
func (p *quicPath) repeats(b []byte) bool {
	if initial, _ := hello.Begins(b); !initial {
		return true
	}
	if !p.refusal.conn.Owns(b) {
		return false
	}
	said := p.refusal.said
	p.server.diverting.running.Go(func() { p.tell(said) })
	return true
}

// owns reports whether the datagram is of the beginning that is being judged.
func (o *quicOpening) owns(b []byte) bool {
	initial, foreign := hello.Begins(b)
	if o.flight.Hello().Kind == hello.NotTLS {
		return !initial
	}
	c := o.flight.Conn()
	return !foreign && c.Owns(b)
}

// hold keeps a datagram until it is clear whether it may be sent on.
func (p *quicPath) hold(o *quicOpening, b []byte) {
	if len(o.held) >= maxHeld || o.size+len(b) > maxHeldBytes {
		p.server.quic.stats.overflow.Add(1)
		return
	}
	o.held = append(o.held, bytes.Clone(b))
	o.size += len(b)
}

// decide judges a beginning, which may have to ask for addresses.
func (p *quicPath) decide(o *quicOpening) {
	o.deciding = true
	p.server.diverting.running.Go(func() {
		s := p.server
		defer p.recovered()
		s.stats.requests.Add(1)
		s.quic.stats.connections.Add(1)
		x := &exchange{server: s, sub: policy.Subject{Addr: p.ends.device.Addr()}, request: p.request(o), start: o.began}
		d := x.admitDiverted(s.diverting.ctx)
		var f *flow
		if d == nil {
			if f = s.begin(context.Background(), x, true); f == nil {
				d = tooManyTunnels()
			} else if d = x.confirm(); d == nil {
				d = p.carry(o, f)
			}
		}
		if d != nil {
			p.refuse(o, f, x, d)
		}
	})
}

// request is the connection as a request.
func (p *quicPath) request(o *quicOpening) *request {
	h := o.flight.Hello()
	q := &request{method: http.MethodConnect, port: p.ends.dst.Port(), diverted: &diverted{p.ends.dst, "tproxy"}, protocol: protocolQUIC, hello: &h}
	q.host.Addr = p.ends.dst.Addr()
	if h.Kind == hello.Found {
		if host, err := blocklists.ParseHost(h.Name); err == nil && host.Name != "" {
			q.host = host
		}
	}
	return q
}

// refuse tells the client at once, so that it goes on to TCP.
func (p *quicPath) refuse(o *quicOpening, f *flow, x *exchange, d *denial) {
	if f != nil {
		p.server.end(f)
	}
	x.count(d)
	p.server.quic.stats.refused.Add(1)
	if p.server.audited {
		p.server.opts.Audit.Put(x.record(d, string(endRefused)))
	}
	said := o.flight.Refuse()
	p.mu.Lock()
	p.opening, p.refused, p.refusal = nil, time.Now(), quicRefusal{o.flight.Conn(), said}
	p.mu.Unlock()
	p.tell(said) // now: whoever has heard it finds the path ready for what is next
}

// tell sends the device a datagram as if it came from where it wanted to go.
func (p *quicPath) tell(b []byte) {
	if b == nil {
		return
	}
	p.mu.Lock()
	c := p.device
	p.mu.Unlock()
	if c == nil {
		var err error
		if c, err = dialUDPFrom(p.ends.dst, p.ends.device); err != nil {
			p.server.quic.stats.unsent.Add(1)
			return
		}
		defer c.close()
	}
	if err := c.send(b, len(b)); err != nil {
		p.server.quic.stats.unsent.Add(1)
	}
}

// carry lets a connection through: what was held of it, and all that follows.
func (p *quicPath) carry(o *quicOpening, f *flow) *denial {
	x := f.x
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return originDenial(net.ErrClosed)
	}
	if d := p.connect(x); d != nil {
		return d
	}
	c := &quicConn{f: f, opened: time.Now(), conn: o.flight.Conn(), opaque: o.flight.Hello().Kind == hello.NotTLS, refusal: o.flight.Refuse()}
	p.conns = append(p.conns, c)
	p.opening = nil
	if p.server.audited {
		p.server.opts.Audit.Put(x.openRecord(0))
	}
	p.server.stats.tunnelsOpened.Add(1)
	c.stop = context.AfterFunc(f.ctx, func() { p.end(context.Cause(f.ctx)) })
	for _, b := range o.held {
		p.toOrigin(b, len(b))
	}
	return nil
}

// connect makes the path's two sockets. A further connection must lead where
// the first does.
func (p *quicPath) connect(x *exchange) *denial {
	addrs := x.target.addrs
	if p.origin != nil {
		if len(p.conns) < maxQUICConns && slices.Contains(addrs, p.origin.remote.Addr()) {
			return nil
		}
		return &denial{http.StatusServiceUnavailable, "connection_limit_reached", "another connection leads elsewhere", "another connection"}
	}
	to := netip.AddrPortFrom(addrs[0], p.ends.dst.Port())
	if slices.Contains(addrs, p.ends.dst.Addr()) {
		to = p.ends.dst
	}
	if err := x.server.lockAddr(to, to); err != nil {
		return originDenial(err)
	}
	device, err := dialUDPFrom(p.ends.dst, p.ends.device)
	if err != nil {
		return originDenial(err)
	}
	origin, err := dialUDP(to)
	if err != nil {
		device.close()
		return originDenial(err)
	}
	p.device, p.origin = device, origin
	running := &p.server.diverting.running
	running.Go(func() { p.lost(origin.receive(p.fromOrigin)) })
	running.Go(func() {
		err := device.receive(p.fromDevices)
		if errors.Is(err, syscall.ECONNREFUSED) {
			err = endClosed // the client has closed its socket
		}
		p.end(err)
	})
	return nil
}

// lost ends a path whose origin is gone. A client that has heard nothing yet is
// told what the gateway was told: that nobody is there.
func (p *quicPath) lost(err error) {
	p.mu.Lock()
	if p.in.Load() == 0 && errors.Is(err, syscall.ECONNREFUSED) && !p.ended {
		for _, c := range p.conns {
			_ = p.device.send(c.refusal, len(c.refusal)) // else its time runs out
		}
	}
	p.mu.Unlock()
	p.end(err)
}

// fromDevices takes datagrams of one size, but for the last, that the kernel
// has put together. Those that begin no connection stay together.
func (p *quicPath) fromDevices(b []byte, size int) {
	defer p.recovered()
	p.touch()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	for len(b) > 0 {
		n := 0
		for n < len(b) && p.passes(b[n:min(n+size, len(b))]) {
			n = min(n+size, len(b))
		}
		if n > 0 {
			p.toOrigin(b[:n], size)
			b = b[n:]
			continue
		}
		n = min(size, len(b))
		p.open(b[:n])
		b = b[n:]
	}
}

func (p *quicPath) toOrigin(b []byte, size int) {
	if err := p.origin.send(b, size); err != nil {
		p.server.quic.stats.unsent.Add(1)
		if errors.Is(err, syscall.ECONNREFUSED) { // then receiving does not say it
			p.server.diverting.running.Go(func() { p.lost(err) })
		}
		return
	}
	p.out.Add(int64(len(b)))
}

func (p *quicPath) fromOrigin(b []byte, size int) {
	p.touch()
	if err := p.device.send(b, size); err != nil {
		p.server.quic.stats.unsent.Add(1)
		return
	}
	p.in.Add(int64(len(b)))
}

// expire ends what has become too old.
func (p *quicPath) expire(now time.Time) {
	idle := now.Sub(time.Unix(0, p.last.Load()))
	p.mu.Lock()
	o, carried := p.opening, len(p.conns) > 0
	switch {
	case o != nil && o.deciding:
		p.mu.Unlock()
		return
	case o != nil && now.Sub(o.began) > p.server.opts.PeekTimeout:
		// Time is over for something that may have begun; what could not be read at all
		// is no beginning.
		if len(o.held) > 0 {
			p.decide(o)
		} else {
			p.opening = nil
		}
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	switch {
	case carried && idle > quicIdle:
		p.end(endIdle)
	case !carried && o == nil && idle > quicRefused:
		p.abandon()
	}
}

// recovered turns a panic into the end of this one path. It takes the lock, and so
// is deferred before that is taken.
func (p *quicPath) recovered() {
	v := recover()
	if v == nil {
		return
	}
	p.server.panicked("quic", p.ends.dst.String(), v)
	p.abandon()
	// To close the sockets waits for whoever is reading, who may be this one.
	p.server.diverting.running.Go(func() { p.end(endBroken) })
}

// abandon ends a path that is not carried.
func (p *quicPath) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.conns) == 0 && !p.ended {
		p.ended = true
		p.server.quic.remove(p)
	}
}

// end ends the path and all its connections; the first cause counts.
func (p *quicPath) end(cause error) {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	p.ended = true
	p.server.quic.remove(p)
	conns := p.conns
	p.mu.Unlock()
	// Not under the lock: to close waits for whoever is reading, who may wait for it.
	p.origin.close()
	p.device.close()
	why, ok := endingOf(cause)
	if !ok {
		why = endBroken
	}
	in, out := p.in.Load(), p.out.Load()
	for _, c := range conns {
		c.stop()
		own := why
		if why == endCut && !c.f.x.wasCut(c.f) {
			own = endBroken // it goes with the other
		}
		p.server.countEnd(own, in, out)
		if p.server.audited {
			p.server.opts.Audit.Put(c.f.x.closeRecord(own, c.opened, in, out))
		}
		p.server.end(c.f)
		in, out = 0, 0 // they are the path's, and are counted once
	}
}

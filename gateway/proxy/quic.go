package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// quicSide are the UDP listeners that a packet filter brings QUIC to (TPROXY). What
// comes there is sorted into paths by the device's address and the one that it
// wants to reach. Once a path is carried it has two sockets of its own, and the
// kernel gives what comes from the device to the path itself.
type quicSide struct {
	listeners []*quicListener
	admit     *admission
	admitted  counters // of paths
	stats     quicCounters

	mu    sync.Mutex
	paths map[quicEnds]*quicPath
}

// quicEnds are the two ends of a path.
type quicEnds struct{ device, dst netip.AddrPort }

// QUICStats are the counters of the QUIC listeners. What becomes of a
// connection is in Stats, like everything else.
type QUICStats struct {
	Connections uint64 // that were judged
	Refused     uint64 // of them
	Paths       int64  // pairs of a device and an address, of which something is known
	// Datagrams that were dropped: of nothing that is known or of what was refused
	// just now, unreadable or not of one connection, beyond what is held until it is
	// clear what they are, made to the listener itself, on a path too many, and that
	// could not be sent.
	Stray, Unread, Overflow, Direct, Beyond, Unsent uint64
}

type quicCounters struct {
	connections, refused, stray, unread, overflow, direct, unsent atomic.Uint64
}

// QUICStats returns the counters since Listen.
func (s *Server) QUICStats() QUICStats {
	c := &s.quic.stats
	return QUICStats{
		Connections: c.connections.Load(), Refused: c.refused.Load(), Paths: s.quic.admitted.conns.Load(),
		Stray: c.stray.Load(), Unread: c.unread.Load(), Overflow: c.overflow.Load(), Direct: c.direct.Load(),
		Beyond: s.quic.admitted.refusedConns.Load(), Unsent: c.unsent.Load(),
	}
}

// ErrQUIC is in the errors of Listen about QUIC listeners.
var ErrQUIC = errors.New("QUIC listener")

// A quicListener is one of them.
type quicListener struct {
	*net.UDPConn
	server *Server
	bound  netip.AddrPort
}

// listenQUIC binds the QUIC listeners.
func (s *Server) listenQUIC() error {
	q := &s.quic
	q.admit = newAdmission(s.opts.MaxConns, s.opts.MaxConnsPerClient, &q.admitted)
	q.paths = make(map[quicEnds]*quicPath)
	for _, a := range s.opts.QUIC {
		c, err := bindQUIC(a)
		if err != nil {
			return fmt.Errorf("%w %s: %w", ErrQUIC, a, err)
		}
		bound := c.LocalAddr().(*net.UDPAddr).AddrPort()
		q.listeners = append(q.listeners, &quicListener{c, s, netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port())})
	}
	return nil
}

// QUICAddrs returns the addresses of the QUIC listeners, in the order of the
// options.
func (s *Server) QUICAddrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, l := range s.quic.listeners {
		addrs = append(addrs, l.bound)
	}
	return addrs
}

// startQUIC begins to receive.
func (s *Server) startQUIC(running *sync.WaitGroup) {
	if len(s.quic.listeners) == 0 {
		return
	}
	for _, l := range s.quic.listeners {
		running.Go(l.serve)
	}
	running.Go(func() { s.quic.sweep(s.diverting.ctx) })
}

// serve receives until the listener is closed.
func (l *quicListener) serve() {
	room := make([]byte, maxUDP)
	oob := make([]byte, 128)
	for {
		n, device, dst, err := l.receive(room, oob)
		switch {
		case err == nil:
			l.take(quicEnds{device, dst}, room[:n])
		case errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, errNoDestination):
			l.server.quic.stats.direct.Add(1)
		default:
			time.Sleep(retryAccept) // errors of the kernel, such as want of memory
		}
	}
}

// take puts a datagram on its path. What was sent to the listener itself goes
// nowhere else: to carry it would be a loop.
func (l *quicListener) take(ends quicEnds, b []byte) {
	q := &l.server.quic
	if ends.dst.Port() == l.bound.Port() && isLocal(ends.dst.Addr()) {
		q.stats.direct.Add(1)
		return
	}
	if p := q.path(l.server, ends); p != nil {
		p.fromDevice(b)
	}
}

// path returns the path between the ends; nil for one too many.
func (q *quicSide) path(s *Server, ends quicEnds) *quicPath {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.paths[ends]
	if p == nil && q.admit.enter(ends.device.Addr()) {
		p = &quicPath{server: s, ends: ends}
		p.touch()
		q.paths[ends] = p
	}
	return p
}

// remove takes a path off.
func (q *quicSide) remove(p *quicPath) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.paths[p.ends] == p {
		delete(q.paths, p.ends)
		q.admit.leave(p.ends.device.Addr())
	}
}

// sweepEvery is how often paths are looked at for which nothing comes any more.
const sweepEvery = time.Second

// sweep ends what has become too old, until the context ends.
func (q *quicSide) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, p := range q.all() {
				p.expire(now)
			}
		}
	}
}

func (q *quicSide) all() []*quicPath {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make([]*quicPath, 0, len(q.paths))
	for _, p := range q.paths {
		all = append(all, p)
	}
	return all
}

// quicQuiet is how long a path has been without a datagram if a shutdown need
// not wait for it: the end of a connection cannot be seen.
const quicQuiet = time.Second

// stopQUIC ends receiving, and what is carried as soon as nothing goes on there:
// a shutdown waits for it as for all other flows, and ends what is left.
func (s *Server) stopQUIC() {
	q := &s.quic
	for _, l := range q.listeners {
		_ = l.Close()
	}
	s.diverting.running.Go(func() {
		for paths := q.all(); len(paths) > 0; paths = q.all() {
			for _, p := range paths {
				p.abandon()
				if time.Since(time.Unix(0, p.last.Load())) > quicQuiet {
					p.end(endDrained)
				}
			}
			time.Sleep(quicQuiet / 10)
		}
	})
}

package dnsserver

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// calmHandshakes is how many handshakes in a second are no reason to ask each
// client to prove its address first (RFC 9000, section 8.1.2), which costs it a
// round trip.
const calmHandshakes = 100

// Flow control of a QUIC connection: a stream carries one question at a time, and
// no client needs room for many of the longest.
const (
	streamWindow  = 80 << 10 // above the longest message
	connWindow    = 128 << 10
	mostOfAWindow = 512 << 10
)

// A quicListener is one UDP socket that speaks QUIC: DoQ, or DoH over HTTP/3.
type quicListener struct {
	*quic.Listener
	server     *Server
	transport  transport
	conn       *net.UDPConn
	quic       *quic.Transport
	handshakes rate
}

func (s *Server) listenQUIC(a netip.AddrPort, tr transport, protocol string) (*quicListener, error) {
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	conn, err := net.ListenUDP(network("udp", a), net.UDPAddrFromAddrPort(a))
	if err != nil {
		return nil, err
	}
	l := &quicListener{server: s, transport: tr, conn: conn}
	l.quic = &quic.Transport{Conn: conn, VerifySourceAddress: l.doubtful, ConnContext: l.admit}
	uni := int64(-1) // RFC 9250, section 4.2: none
	if tr == doh3 {
		uni = 3 // RFC 9114, section 6.2
	}
	o := &s.opts
	l.Listener, err = l.quic.Listen(o.Certs.config(tls.VersionTLS13, protocol), &quic.Config{
		HandshakeIdleTimeout:           o.HandshakeTimeout,
		MaxIdleTimeout:                 o.IdleEncrypted,
		MaxIncomingStreams:             int64(o.MaxPipeline),
		MaxIncomingUniStreams:          uni,
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindow,
		InitialConnectionReceiveWindow: connWindow,
		MaxConnectionReceiveWindow:     mostOfAWindow,
		// A question in 0-RTT can be replayed by whoever saw it, and tells whom it was
		// for (RFC 9250, section 9.1); a round trip saved is not worth it.
		Allow0RTT: false,
	})
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return l, nil
}

// doubtful reports whether a client must prove its address before anything is
// done for it.
func (l *quicListener) doubtful(from net.Addr) bool {
	p := &l.server.places[l.transport]
	return l.handshakes.more(time.Now()) > calmHandshakes || p.crowded() || p.many(udpAddr(from))
}

func udpAddr(a net.Addr) netip.Addr {
	if u, ok := a.(*net.UDPAddr); ok {
		return u.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

var errFull = errors.New("too many connections")

// admit takes a place for a connection whose handshake begins. The context ends
// with the connection, however that comes about.
func (l *quicListener) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	from, s := udpAddr(info.RemoteAddr), l.server
	switch s.places[l.transport].take(from, false) {
	case full:
		s.core.stats.drop(dropQUICConns)
		return nil, errFull
	case clientFull:
		s.core.stats.drop(dropQUICClientConns)
		return nil, errFull
	}
	s.core.stats.opened(l.transport)
	context.AfterFunc(ctx, func() {
		s.places[l.transport].leave(from)
		s.core.stats.closed(l.transport)
	})
	return ctx, nil
}

// stopReading refuses new connections; those that are open go on.
func (l *quicListener) stopReading() { _ = l.Listener.Close() }

func (l *quicListener) close() {
	_ = l.Listener.Close()
	_ = l.quic.Close()
	_ = l.conn.Close()
}

func (l *quicListener) addrPort() netip.AddrPort { return l.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// A rate counts what happens in the second that is now.
type rate struct{ second, n atomic.Int64 }

// more counts one and returns how many there were in its second, more or less:
// whoever begins a new second may lose a few of the others.
func (r *rate) more(now time.Time) int64 {
	if s := now.Unix(); r.second.Swap(s) != s {
		r.n.Store(0)
	}
	return r.n.Add(1)
}

// quicConns are the open connections of DoQ.
type quicConns struct {
	mu   sync.Mutex
	open map[*quic.Conn]struct{}
}

func (t *quicConns) add(c *quic.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = map[*quic.Conn]struct{}{}
	}
	t.open[c] = struct{}{}
}

func (t *quicConns) remove(c *quic.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
}

func (t *quicConns) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.open {
		_ = c.CloseWithError(doqNoError, "")
	}
}

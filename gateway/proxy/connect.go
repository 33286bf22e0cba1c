package proxy

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"time"
)

// serveConnect opens a tunnel (RFC 9110, section 9.3.6). Success is answered
// only when the origin has accepted the connection; every other answer closes
// the client's connection, and nothing that follows the head is read as HTTP
// (RFC 9931).
func (s *Server) serveConnect(w http.ResponseWriter, g *gate, x *exchange) {
	// Not the context of net/http, which ends when the client closes its
	// sending side.
	ctx := context.Background()
	if d := x.admit(ctx); d != nil {
		s.denyText(w, g, x, d)
		return
	}
	f := s.begin(ctx, x, true)
	if f == nil {
		s.denyText(w, g, x, tooManyTunnels())
		return
	}
	defer s.end(f)
	if d := x.confirm(); d != nil {
		s.denyText(w, g, x, d)
		return
	}
	origin, err := s.dial(f.ctx, x.target.addrs, x.request.port)
	if err != nil {
		s.denyText(w, g, x, x.dialDenial(f, err))
		return
	}
	early, err := hijack(w, g)
	if err != nil {
		_ = origin.Close()
		_ = g.Close()
		s.stats.failed.Add(1)
		return
	}
	s.runTunnel(f, g, origin, opening{status: http.StatusOK, fromClient: early,
		head: []byte("HTTP/1.1 200 Connection established\r\n\r\n")})
}

func tooManyTunnels() *denial {
	return &denial{http.StatusServiceUnavailable, "connection_limit_reached", "too many tunnels are open", "too many tunnels"}
}

// dialDenial says why there is no connection to the origin.
func (x *exchange) dialDenial(f *flow, err error) *denial {
	if x.wasCut(f) {
		return x.verdictDenial()
	}
	return originDenial(err)
}

// hijack takes the client's connection from net/http, with everything that was
// received after the head.
func hijack(w http.ResponseWriter, g *gate) (early []byte, err error) {
	_, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	early, err = rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, err
	}
	early = append([]byte(nil), early...)
	return append(early, g.release()...), g.TCPConn.SetDeadline(time.Time{})
}

// An opening is what a tunnel begins with: the response to the client, and the
// bytes that came after a head on either connection.
type opening struct {
	status                       int
	head, fromClient, fromOrigin []byte
}

// runTunnel answers the client and runs a tunnel to its end, with a record of
// its beginning and one of its end.
func (s *Server) runTunnel(f *flow, g *gate, origin *net.TCPConn, begin opening) {
	t := &tunnel{client: g.TCPConn, origin: origin, idle: s.opts.TunnelIdle, opened: time.Now(),
		close: func() { _ = origin.Close(); _ = g.Close() }}
	x := f.x
	opened := x.record(nil, strconv.Itoa(begin.status))
	opened.Event = "open"
	s.opts.Audit.Put(opened)
	s.stats.tunnelsOpened.Add(1)
	why := endBroken
	if _, err := t.client.Write(begin.head); err == nil {
		why = t.run(f, begin.fromClient, begin.fromOrigin)
	}
	t.close()
	s.countEnd(why, t)
	x.wasCut(f)
	closed := x.record(nil, string(why))
	closed.Time, closed.Event, closed.Duration = time.Now(), "close", time.Since(t.opened)
	closed.BytesIn, closed.BytesOut = t.in.Load(), t.out.Load()
	s.opts.Audit.Put(closed)
}

func (s *Server) countEnd(why ending, t *tunnel) {
	s.stats.bytesIn.Add(uint64(t.in.Load()))
	s.stats.bytesOut.Add(uint64(t.out.Load()))
	switch why {
	case endCut:
		s.stats.cutByPolicy.Add(1)
	case endIdle:
		s.stats.cutIdle.Add(1)
	case endDrained:
		s.stats.cutAtDrain.Add(1)
	}
}

// denyText answers with status, Proxy-Status and one line, and closes.
func (s *Server) denyText(w http.ResponseWriter, g *gate, x *exchange, d *denial) {
	x.count(d)
	s.opts.Audit.Put(x.record(d, strconv.Itoa(d.status)))
	g.abandon()
	writeDenial(w, d)
}

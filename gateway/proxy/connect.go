package proxy

import (
	"context"
	"errors"
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
		s.denyConnect(w, g, x, d)
		return
	}
	f := s.begin(ctx, x, true)
	if f == nil {
		s.denyConnect(w, g, x, tooManyTunnels())
		return
	}
	defer s.end(f)
	if d := x.confirm(); d != nil {
		s.denyConnect(w, g, x, d)
		return
	}
	origin, err := s.dial(f.ctx, x.target.addrs, x.request.port)
	if err != nil {
		s.denyConnect(w, g, x, x.dialDenial(f, err))
		return
	}
	client, early, err := hijack(w, g)
	if err == nil {
		_, err = client.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n"))
	}
	if err != nil {
		_ = origin.Close()
		_ = g.Close()
		s.stats.failed.Add(1)
		return
	}
	s.runTunnel(f, g, origin, early, nil, http.StatusOK)
}

func tooManyTunnels() *denial {
	return &denial{http.StatusServiceUnavailable, "connection_limit_reached", "too many tunnels are open", "too many tunnels"}
}

// dialDenial says why there is no connection to the origin.
func (x *exchange) dialDenial(f *flow, err error) *denial {
	var c *cut
	if errors.As(context.Cause(f.ctx), &c) {
		x.verdict, x.via = c.verdict, c.via
		return x.verdictDenial()
	}
	return originDenial(err)
}

// hijack takes the client's connection from net/http, with everything that was
// received after the head.
func hijack(w http.ResponseWriter, g *gate) (*net.TCPConn, []byte, error) {
	_, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, nil, err
	}
	early = append([]byte(nil), early...)
	client, rest := g.release()
	if err := client.SetDeadline(time.Time{}); err != nil {
		return nil, nil, err
	}
	return client, append(early, rest...), nil
}

// runTunnel runs a tunnel to its end, with a record of its beginning and one
// of its end.
func (s *Server) runTunnel(f *flow, g *gate, origin *net.TCPConn, fromClient, fromOrigin []byte, status int) {
	t := &tunnel{client: g.TCPConn, origin: origin, idle: s.opts.TunnelIdle, opened: time.Now(),
		close: func() { _ = origin.Close(); _ = g.Close() }}
	x := f.x
	opened := x.record(nil, strconv.Itoa(status))
	opened.Event = "open"
	s.opts.Audit.Put(opened)
	s.stats.tunnelsOpened.Add(1)
	s.stats.tunnels.Add(1)
	why := t.run(f, fromClient, fromOrigin)
	s.stats.tunnels.Add(-1)
	s.countEnd(why, t)
	if c := (*cut)(nil); errors.As(context.Cause(f.ctx), &c) {
		x.verdict, x.via = c.verdict, c.via
	}
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

// denyConnect answers with status, Proxy-Status and one line, and closes.
func (s *Server) denyConnect(w http.ResponseWriter, g *gate, x *exchange, d *denial) {
	x.count(d)
	s.opts.Audit.Put(x.record(d, strconv.Itoa(d.status)))
	g.abandon()
	writeDenial(w, d)
}

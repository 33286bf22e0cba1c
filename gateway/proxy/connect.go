package proxy

import (
	"context"
	"net"
	"net/http"
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
	origin, d := x.connectOrigin(f)
	if d != nil {
		s.end(f)
		s.denyText(w, g, x, d)
		return
	}
	early, err := hijack(w, g)
	if err != nil {
		s.end(f)
		_ = origin.Close()
		_ = g.Close()
		s.stats.failed.Add(1)
		return
	}
	s.runTunnel(f, g, origin, opening{status: http.StatusOK, fromClient: early, head: established, peek: true})
}

var established = []byte("HTTP/1.1 200 Connection established\r\n\r\n")

// connectOrigin makes the connection of a flow that was just begun.
func (x *exchange) connectOrigin(f *flow) (*net.TCPConn, *denial) {
	if d := x.confirm(); d != nil {
		return nil, d
	}
	origin, err := x.server.dial(f.ctx, x.target.addrs, x.request.port)
	if err != nil {
		return nil, x.dialDenial(f, err)
	}
	return origin, nil
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

// An opening is what a tunnel begins with: the response to the client, of which
// a transparent tunnel has none, and the bytes that came after a head on either connection.
type opening struct {
	status                       int
	head, fromClient, fromOrigin []byte
	peek                         bool // the client's first bytes are to be judged
}

// runTunnel answers the client and runs a tunnel to its end, with a record of
// its beginning and one of its end. It ends the flow: an engine takes the
// tunnel over, and then this returns at once.
func (s *Server) runTunnel(f *flow, g *gate, origin *net.TCPConn, begin opening) {
	if s.engine != nil && s.engine.adopt(f, g, origin, begin) {
		return
	}
	defer s.end(f)
	t := &tunnel{client: g.TCPConn, origin: origin, idle: s.opts.TunnelIdle, opened: time.Now(),
		close: func() { _ = origin.Close(); _ = g.Close() }}
	defer t.close()
	x := f.x
	if !t.begin(f, &begin) {
		return
	}
	if s.audited {
		s.opts.Audit.Put(x.openRecord(begin.status))
	}
	s.stats.tunnelsOpened.Add(1)
	why := t.run(f, begin.fromClient, begin.fromOrigin)
	x.wasCut(f)
	s.countEnd(why, t.in.Load(), t.out.Load())
	if s.audited {
		s.opts.Audit.Put(x.closeRecord(why, t.opened, t.in.Load(), t.out.Load()))
	}
}

// begin answers the client and judges what it says then, if that is to be. It
// reports whether there is a tunnel.
func (t *tunnel) begin(f *flow, begin *opening) bool {
	if _, err := t.client.Write(begin.head); err != nil {
		f.x.unopened(endBroken)
		return false
	}
	if !begin.peek {
		return true
	}
	stop := context.AfterFunc(f.ctx, t.close)
	defer stop()
	p := f.x.peek(t.client, t.origin, begin.fromClient)
	if why, ended := endingOf(context.Cause(f.ctx)); ended {
		f.x.wasCut(f)
		f.x.unopened(why)
		return false
	}
	if !f.x.judgeHello(f, p.hello, p.fromClient) {
		f.x.unopened(endRefused)
		t.reset()
		return false
	}
	begin.fromClient, begin.fromOrigin = p.fromClient, append(begin.fromOrigin, p.fromOrigin...)
	return true
}

func (s *Server) countEnd(why ending, in, out int64) {
	s.stats.bytesIn.Add(uint64(in))
	s.stats.bytesOut.Add(uint64(out))
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
	x.denied(d)
	g.abandon()
	writeDenial(w, d)
}

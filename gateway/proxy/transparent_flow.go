package proxy

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/hello"
	"github.com/weir-gateway/weir/gateway/policy"
)

// decide hands an HTTP connection to net/http and carries or ends any other.
func (p *peek) decide(what protocol) {
	s, g := p.server, p.gate
	_ = g.TCPConn.SetReadDeadline(time.Time{})
	switch what {
	case protocolHTTP:
		s.diverting.stats.http.Add(1)
		g.buf, g.w = p.buf[:cap(p.buf)], len(p.buf)
		if !s.handed.put(g) {
			g.reset()
		}
	case protocolTLS:
		s.diverting.stats.tls.Add(1)
		p.carry(what)
	case protocolUnknown:
		s.diverting.stats.unknown.Add(1)
		p.carry(what)
	default:
		s.diverting.stats.abandoned.Add(1)
		g.reset()
	}
}

// carry makes a tunnel of the connection, or resets it: there is nobody on it
// who would understand an answer.
func (p *peek) carry(what protocol) {
	s, g := p.server, p.gate
	s.stats.requests.Add(1)
	x := &exchange{server: s, sub: p.sub, request: p.request(what), start: p.begun}
	d := x.admitDiverted(s.diverting.ctx)
	if d != nil {
		x.resetFor(g, d)
		return
	}
	f := s.begin(context.Background(), x, true)
	if f == nil {
		x.resetFor(g, tooManyTunnels())
		return
	}
	origin, d := x.connectOrigin(f)
	if d != nil {
		s.end(f)
		x.resetFor(g, d)
		return
	}
	s.runTunnel(f, g, origin, opening{fromClient: p.buf})
}

// request is the connection as a request: for its server name, or for the
// address where there is none.
func (p *peek) request(what protocol) *request {
	q := &request{method: http.MethodConnect, port: p.dst().Port(), diverted: p.gate.diverted, protocol: what}
	q.host.Addr = p.dst().Addr()
	if what == protocolUnknown {
		q.first = append([]byte(nil), p.first()...)
		return q
	}
	h := p.tls.Hello()
	q.hello = &h
	if h.Kind == hello.Found {
		if host, err := blocklists.ParseHost(h.Name); err == nil && host.Name != "" {
			q.host = host
		}
	}
	return q
}

// resetFor ends a connection that is not carried.
func (x *exchange) resetFor(g *gate, d *denial) {
	x.count(d)
	if x.server.audited {
		x.server.opts.Audit.Put(x.record(d, "reset"))
	}
	g.reset()
}

// admitDiverted is admit for a connection that is no request.
func (x *exchange) admitDiverted(ctx context.Context) *denial {
	if d := x.judge(); d != nil {
		return d
	}
	if d := x.unknownDenial(); d != nil {
		return d
	}
	if d := x.resolve(ctx); d != nil {
		return d
	}
	return x.settle()
}

// unknownDenial is for a protocol that neither this program nor a list knows.
func (x *exchange) unknownDenial() *denial {
	if x.request.protocol != protocolUnknown || x.verdict.Reason != policy.ReasonNoRule {
		return nil
	}
	const reason = "unknown protocol"
	switch x.server.diverting.choices.Load().Unknown {
	case ChooseAllow:
		return nil
	case ChooseReport:
		x.noted = reason
		return nil
	}
	return &denial{http.StatusForbidden, "http_request_denied", "the protocol is not known", reason}
}

// locate finds where the diverted exchange may go to: to the address that the
// device chose, if the gateway gave it for the name, at any time or just now.
func (x *exchange) locate(ctx context.Context) *denial {
	dst := x.request.diverted.dst.Addr()
	var failed *denial
	if !x.known() {
		failed = x.lookup(ctx)
		if failed != nil && !x.verdict.Allowed() {
			return failed
		}
	}
	seen := slices.Contains(x.target.addrs, dst) || x.server.diverting.gave(x.request.host.Name, dst)
	choice := ChooseAllow
	if !seen {
		x.server.diverting.stats.unseen.Add(1)
		choice = x.server.diverting.choices.Load().Unseen
	}
	if choice == ChooseResolve {
		return failed
	}
	x.target.addrs = append(x.target.addrs[:0:0], dst)
	const reason = "unseen address"
	switch choice {
	case ChooseAllow:
		return nil
	case ChooseReport:
		x.noted = reason
		return nil
	}
	return &denial{http.StatusForbidden, "http_request_denied", "the name was never said to be at that address", reason}
}

// judgeDiverted judges what a connection that is no request says of itself.
func judgeDiverted(snap *policy.Snapshot, sub policy.Subject, q *request, now time.Time) policy.Verdict {
	if q.hello != nil {
		return snap.Hello(sub, "", *q.hello, now)
	}
	return snap.FlowEnd(sub, q.first, now)
}

package proxy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// An exchange is one request on its way, from the decision to its end. It
// belongs to the handler's goroutine; target does not change once it is set.
type exchange struct {
	server  *Server
	sub     policy.Subject
	request *request
	start   time.Time
	target  target

	verdict policy.Verdict
	via     string // the link that decided, empty for the request's own host
	noted   string // why it is only reported, where no verdict says so
}

// A target is where an exchange may go: addresses that were all judged.
type target struct {
	addrs []netip.Addr
	links []resolver.Link
}

// A denial is why a request is not carried out, as the client is told.
type denial struct {
	status int
	err    string // a proxy error type of RFC 9209, section 2.3
	text   string // one line, nothing of it from an origin or an error
	reason string // of the audit record, where it is not the verdict's
}

// undecided is the proxy error type of a request without a verdict.
const undecided = "proxy_internal_error"

func newPseudonym() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return "weir-" + hex.EncodeToString(b[:])
}

// judgeHost judges what the request itself says: a host name or an address,
// with the path and the fields for plain HTTP.
func judgeHost(snap *policy.Snapshot, sub policy.Subject, q *request, now time.Time) policy.Verdict {
	switch {
	case q.protocol == protocolTLS, q.protocol == protocolUnknown, q.protocol == protocolQUIC:
		return judgeDiverted(snap, sub, q, now)
	case !q.connect():
		return snap.Fields(sub, q.host, blocklists.CanonicalPath(q.path), q.eachField, now)
	case q.host.Addr.IsValid():
		return snap.Addr(sub, q.host.Addr, now)
	}
	return snap.Name(sub, q.host.Name, now)
}

// judge puts the request and everything it leads to to one snapshot. As on the
// DNS plane, an operator's allow rule for the host does not cover what the host
// points to.
func judge(snap *policy.Snapshot, sub policy.Subject, q *request, t target, now time.Time) (policy.Verdict, string) {
	if snap == nil {
		return policy.Verdict{}, ""
	}
	v, via := judgeHost(snap, sub, q, now), ""
	links := slices.Clone(t.links)
	for _, a := range t.addrs {
		links = append(links, addrLink(a))
	}
	if d := q.diverted; d != nil && !slices.Contains(t.addrs, d.dst.Addr()) {
		links = append(links, addrLink(d.dst.Addr())) // it counts wherever the exchange is sent
	}
	if !v.Allowed() || len(links) == 0 {
		return v, via
	}
	name := q.host.Name
	if q.diverted != nil {
		name = "" // it is the client's word for where it goes, and permits nothing else
	}
	lv, link, _ := resolver.Judge(snap, sub, name, links, now)
	if !lv.Allowed() || v.Reason == policy.ReasonNoRule && lv.Reason != policy.ReasonNoRule ||
		v.Action == policy.Allow && lv.Action == policy.Report {
		return lv, link.String()
	}
	return v, via
}

func addrLink(a netip.Addr) resolver.Link {
	if a.Unmap().Is4() {
		return resolver.Link{Type: "A", Addr: a}
	}
	return resolver.Link{Type: "AAAA", Addr: a}
}

// admit decides whether the exchange may go on, and where to. It is screen,
// resolve and settle.
func (x *exchange) admit(ctx context.Context) *denial {
	if d := x.screen(); d != nil {
		return d
	}
	if d := x.resolve(ctx); d != nil {
		return d
	}
	return x.settle()
}

// screen judges what the request itself says. It does not block.
func (x *exchange) screen() *denial {
	s, q := x.server, x.request
	if d := x.judge(); d != nil {
		return d
	}
	if q.diverted != nil {
		return nil // the packet filter says which ports come here
	}
	rules := s.rules.Load()
	ports := rules.httpPorts
	if q.connect() {
		ports = rules.connectPorts
	}
	if !slices.Contains(ports, q.port) {
		return &denial{http.StatusForbidden, "http_request_denied", "port " + strconv.Itoa(int(q.port)) + " may not be reached with " + kind(q), "port not allowed"}
	}
	return nil
}

// settle judges what the name led to, and leaves what may be reached. It does
// not block.
func (x *exchange) settle() *denial {
	if x.request.host.Name != "" {
		if d := x.judge(); d != nil {
			return d
		}
	} else if d := x.confirm(); d != nil { // an address: screen judged the same
		return d
	}
	return x.keepReachable(&x.server.rules.Load().guard)
}

func kind(q *request) string {
	if q.connect() {
		return "CONNECT"
	}
	return "plain HTTP"
}

// known finds the addresses where that takes no question.
func (x *exchange) known() bool {
	switch name := x.request.host.Name; {
	case name == "":
		x.target.addrs = []netip.Addr{x.request.host.Addr}
		return true
	case name == "localhost" || strings.HasSuffix(name, ".localhost"):
		// Never a question for others (RFC 6761, section 6.3).
		x.target.addrs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
		return true
	}
	return false
}

// resolve finds the addresses. Links are judged also where there is none.
func (x *exchange) resolve(ctx context.Context) *denial {
	switch {
	case x.request.diverted != nil:
		return x.locate(ctx)
	case x.known():
		return nil
	}
	return x.lookup(ctx)
}

// lookup asks for the addresses of the name.
func (x *exchange) lookup(ctx context.Context) *denial {
	q := x.request
	ctx, cancel := context.WithTimeout(ctx, x.server.opts.ResolveTimeout)
	defer cancel()
	addrs, links, err := x.server.opts.Resolver.LookupAddrs(ctx, q.host.Name)
	x.target = target{addrs: addrs, links: links}
	if err == nil && len(addrs) > 0 {
		return nil
	}
	if d := x.judge(); d != nil {
		return d
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &denial{http.StatusGatewayTimeout, "dns_timeout", "the name could not be resolved in time", ""}
	case err == nil || errors.Is(err, resolver.ErrNotFound):
		return &denial{http.StatusBadGateway, "dns_error", "the name has no address", ""}
	}
	return &denial{http.StatusBadGateway, "dns_error", "the name could not be resolved", ""}
}

// judge puts what is known by now to the snapshot in force.
func (x *exchange) judge() *denial {
	x.verdict, x.via = judge(x.server.opts.Policy.Load(), x.sub, x.request, x.target, time.Now())
	return x.verdictDenial()
}

// confirm judges again if the policy has changed since: it stands between
// everything that takes time and the first packet to an origin.
func (x *exchange) confirm() *denial {
	if snap := x.server.opts.Policy.Load(); snap != nil && snap.Generation() == x.verdict.Generation {
		return nil
	}
	return x.judge()
}

func (x *exchange) verdictDenial() *denial {
	v := &x.verdict
	switch {
	case v.Blocked():
		var text string
		if v.Ban == nil {
			text = "blocked by rule " + v.RuleID()
		} else {
			text = "blocked: " + v.Ban.Title.EN + "; authority: " + v.Ban.Authority.EN + "; rule: " + v.RuleID()
		}
		return &denial{http.StatusForbidden, "http_request_denied", text, ""}
	case !v.Allowed():
		return &denial{http.StatusServiceUnavailable, undecided, "no policy is in force", "no policy"}
	}
	return nil
}

// keepReachable leaves only addresses that may be reached at all.
func (x *exchange) keepReachable(g *guard) *denial {
	var kept []netip.Addr
	why := ""
	for _, a := range x.target.addrs {
		if w := g.prohibits(netip.AddrPortFrom(a, x.request.port)); w != "" {
			why = w
			continue
		}
		kept = append(kept, a)
	}
	if len(kept) == 0 {
		return &denial{http.StatusForbidden, "destination_ip_prohibited", "the destination address may not be reached: " + why, "special address"}
	}
	x.target.addrs = kept
	return nil
}

// loopDenial is for a request that came through this instance before (RFC
// 9110, section 7.6.3); nil for others.
func (s *Server) loopDenial(via []string) *denial {
	if !s.looped(via) {
		return nil
	}
	return &denial{http.StatusBadGateway, "proxy_loop_detected", "the request came through this proxy before", "loop"}
}

func (s *Server) looped(via []string) bool {
	for _, v := range via {
		for hop := range strings.SplitSeq(v, ",") {
			f := strings.Fields(hop)
			if len(f) >= 2 && strings.EqualFold(f[1], s.pseudonym) {
				return true
			}
		}
	}
	return false
}

// record returns the audit record of the exchange; d is nil for one that was
// carried out.
func (x *exchange) record(d *denial, result string) audit.Record {
	q := x.request
	r := audit.Record{
		Time: x.start, Plane: "proxy", Transport: "http", Device: x.sub.Addr,
		Name: q.host.String(), Port: q.port, Via: x.via, Result: result,
	}
	switch {
	case q.diverted != nil:
		r.Transport, r.Protocol, r.Address = q.diverted.how, protocolNames[q.protocol], q.diverted.dst.Addr()
	case q.connect():
		r.Transport = "connect"
	}
	r.SetVerdict(&x.verdict)
	if x.noted != "" && d == nil && x.verdict.Action == policy.Allow {
		r.Action, r.Reason = policy.Report.String(), x.noted
	}
	if x.verdict.Blocked() && x.verdict.Rule.Path != "" && !q.connect() {
		r.Path = q.path
	}
	if d != nil && d.reason != "" {
		r.Reason = d.reason
		if d.err != undecided {
			r.Action = policy.Block.String()
		}
	}
	return r
}

// wasCut reports whether the policy ended the flow, and makes its verdict that
// of the exchange.
func (x *exchange) wasCut(f *flow) bool { return x.takeCut(context.Cause(f.ctx)) }

// takeCut reports whether the cause is a cut, and makes its verdict that of the
// exchange.
func (x *exchange) takeCut(cause error) bool {
	var c *cut
	if !errors.As(cause, &c) {
		return false
	}
	x.verdict, x.via = c.verdict, c.via
	return true
}

// recordCut records that the policy ended a response that had begun, and so
// has a record already.
func (x *exchange) recordCut(f *flow) {
	if !x.wasCut(f) {
		return
	}
	x.server.stats.cutByPolicy.Add(1)
	r := x.record(nil, string(endCut))
	r.Time, r.Event, r.Duration = time.Now(), "close", time.Since(x.start)
	x.server.opts.Audit.Put(r)
}

// denied counts a denial and records it.
func (x *exchange) denied(d *denial) {
	x.count(d)
	if x.server.audited {
		x.server.opts.Audit.Put(x.record(d, strconv.Itoa(d.status)))
	}
}

// openRecord returns the record of a tunnel's beginning. A status of 0 is that
// of a tunnel whose client was told nothing.
func (x *exchange) openRecord(status int) audit.Record {
	r := x.record(nil, strconv.Itoa(status))
	if r.Event = "open"; status == 0 {
		r.Result = ""
	}
	return r
}

// closeRecord returns the record of a tunnel's end.
func (x *exchange) closeRecord(why ending, opened time.Time, in, out int64) audit.Record {
	r := x.record(nil, string(why))
	r.Time, r.Event, r.Duration = time.Now(), "close", time.Since(opened)
	r.BytesIn, r.BytesOut = in, out
	return r
}

// count counts a denial where it belongs.
func (x *exchange) count(d *denial) {
	c := &x.server.stats
	switch {
	case x.verdict.Blocked():
		c.blocked.Add(1)
	case d.err == undecided:
		c.undecided.Add(1)
	case d.reason != "":
		c.denied.Add(1)
	default:
		c.failed.Add(1)
	}
}

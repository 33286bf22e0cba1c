package proxy

import (
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/weir-gateway/weir/gateway/policy"
)

// serveHTTP is where every request begins that net/http reads through a gate.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	g := r.Context().Value(gateKey{}).(*gate)
	defer g.busy.Store(false)
	defer s.recovered(r)
	a := g.take()
	if a.refusal != nil {
		s.stats.malformed.Add(1)
		g.abandon()
		writeDenial(w, &denial{a.refusal.status, "http_request_error", a.refusal.text, ""})
		return
	}
	s.stats.requests.Add(1)
	q := a.request
	x := &exchange{server: s, sub: policy.Subject{Addr: g.device}, request: q, start: time.Now()}
	if d := s.loopDenial(q.via); d != nil {
		s.denyText(w, g, x, d)
		return
	}
	switch {
	case q.connect():
		s.serveConnect(w, g, x)
	case q.method == http.MethodTrace || q.method == http.MethodOptions:
		s.serveHops(w, r, g, x)
	default:
		s.serveForward(w, r, g, x)
	}
}

// recovered turns a panic into the end of this one connection.
func (s *Server) recovered(r *http.Request) {
	switch v := recover(); v {
	case nil:
	case http.ErrAbortHandler:
		panic(v)
	default:
		s.panicked(r.Method, r.Host, v)
		panic(http.ErrAbortHandler)
	}
}

func (s *Server) panicked(method, host string, v any) {
	s.stats.panics.Add(1)
	s.opts.Log.Error("proxy handler panicked", "method", method, "host", host, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
}

// serveHops counts down the hops of TRACE and OPTIONS, and answers where they
// end here (RFC 9110, section 7.6.2).
func (s *Server) serveHops(w http.ResponseWriter, r *http.Request, g *gate, x *exchange) {
	v := r.Header.Get("Max-Forwards")
	if v == "" {
		s.serveForward(w, r, g, x)
		return
	}
	hops, err := strconv.ParseUint(v, 10, 32)
	switch {
	case err != nil:
		s.stats.malformed.Add(1)
		g.abandon()
		writeDenial(w, &denial{http.StatusBadRequest, "http_request_error", "Max-Forwards is not a number", ""})
	case hops > 0:
		r.Header.Set("Max-Forwards", strconv.FormatUint(hops-1, 10))
		s.serveForward(w, r, g, x)
	default:
		s.answerHop(w, r, g, x)
	}
}

// answerHop answers as the last recipient, for destinations that may be asked
// for at all.
func (s *Server) answerHop(w http.ResponseWriter, r *http.Request, g *gate, x *exchange) {
	if d := x.judge(); d != nil {
		s.denyPlain(w, r, g, x, d)
		return
	}
	s.opts.Audit.Put(x.record(nil, strconv.Itoa(http.StatusOK)))
	if r.Method == http.MethodOptions {
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return
	}
	// RFC 9110, section 9.3.8: without fields that are likely to be secret.
	w.Header().Set("Content-Type", "message/http")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	h := r.Header.Clone()
	for _, name := range []string{"Authorization", "Proxy-Authorization", "Cookie"} {
		h.Del(name)
	}
	_, _ = fmt.Fprintf(w, "TRACE http://%s%s HTTP/1.%d\r\nHost: %s\r\n", x.request.authority(), x.request.path, x.request.minor, x.request.authority())
	_ = h.Write(w)
	_, _ = io.WriteString(w, "\r\n")
}

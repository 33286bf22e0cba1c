package proxy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/elazarl/goproxy"
)

// A forwarder carries plain HTTP exchanges to origins, through goproxy. The
// transport below it is our own: it knows no other proxy whatever the
// environment says, and connects only to the addresses of the exchange.
type forwarder struct {
	server    *Server
	proxy     *goproxy.ProxyHttpServer
	transport *http.Transport
	pool      pool
	once      atomic.Uint64 // makes pool keys that are used once
}

func newForwarder(s *Server) *forwarder {
	fw := &forwarder{server: s}
	fw.pool = pool{fw: fw, idle: make(map[originKey][]*pooled)}
	fw.transport = &http.Transport{
		Proxy:                  nil,
		DialContext:            fw.dial,
		DisableCompression:     true,
		ForceAttemptHTTP2:      false,
		MaxIdleConns:           1024,
		MaxIdleConnsPerHost:    64,
		MaxConnsPerHost:        512,
		IdleConnTimeout:        60 * time.Second,
		ResponseHeaderTimeout:  s.opts.StallTimeout,
		ExpectContinueTimeout:  3 * time.Second, // for origins that never answer the expectation
		MaxResponseHeaderBytes: 256 << 10,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
	}
	p := goproxy.NewProxyHttpServer()
	p.Tr = fw.transport
	p.ConnectDial = nil // set from the environment otherwise
	p.ConnectDialWithReq = func(*http.Request, string, string) (net.Conn, error) { return nil, errProhibited }
	p.KeepAcceptEncoding = true
	p.KeepHeader = true // forwarding hygiene is ours, both ways
	p.Logger = slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug)
	p.NonproxyHandler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeDenial(w, &denial{http.StatusBadRequest, "http_request_error", help, ""})
	})
	p.OnRequest().DoFunc(func(r *http.Request, ctx *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		ctx.RoundTripper = goproxy.RoundTripperFunc(func(r *http.Request, _ *goproxy.ProxyCtx) (*http.Response, error) {
			return forwardOf(r.Context()).roundTrip(r)
		})
		return r, nil
	})
	fw.proxy = p
	return fw
}

func (fw *forwarder) close() {
	fw.transport.CloseIdleConnections()
	fw.pool.close()
}

// A forward is an exchange that goproxy carries.
type forward struct {
	fw      *forwarder
	x       *exchange
	flow    *flow
	w       *forwardWriter
	stall   *stall
	content *watchedBody // of the request, nil for none
	conn    *originConn  // the last that the transport or the pool chose
	pooled  bool         // it goes through the pool

	mu       sync.Mutex // until the response is there, interim responses use w too
	began    bool       // the response is there
	denied   *denial    // what was sent instead of a response
	bodyErr  error      // the response's content broke off
	interims int
}

type forwardKey struct{}

func forwardOf(ctx context.Context) *forward { return ctx.Value(forwardKey{}).(*forward) }

// dial connects for the transport. Its context has the values of the exchange
// that asked first, which is judged once more: its connection may end up with
// another exchange, but only one whose poolKey is the same.
func (fw *forwarder) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	x := forwardOf(ctx).x
	v, _ := judge(fw.server.opts.Policy.Load(), x.sub, x.request, x.target, time.Now())
	if !v.Allowed() {
		return nil, errProhibited
	}
	c, err := fw.server.dial(ctx, x.target.addrs, x.request.port)
	if err != nil {
		return nil, err
	}
	return &originConn{TCPConn: c}, nil
}

func (fo *forward) gotConn(info httptrace.GotConnInfo) {
	if c, ok := info.Conn.(*originConn); ok {
		c.arm()
		fo.conn = c
	}
}

// poolKey stands for the origin in the transport's pool. It is made of the
// name and of the very addresses that were judged for this exchange, so that an
// exchange never gets a connection to an address that was not judged for it.
func (x *exchange) poolKey() string {
	h := sha256.New()
	_, _ = io.WriteString(h, x.request.hostPort())
	for _, a := range sortAddrs(x.target.addrs) {
		_, _ = io.WriteString(h, " "+a.String())
	}
	return hex.EncodeToString(h.Sum(nil)[:16]) + ":" + strconv.Itoa(int(x.request.port))
}

func sortAddrs(addrs []netip.Addr) []netip.Addr {
	addrs = slices.Clone(addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// serveForward carries one plain HTTP exchange.
func (s *Server) serveForward(w http.ResponseWriter, r *http.Request, g *gate, x *exchange) {
	ctx := r.Context()
	if x.request.upgrade {
		ctx = context.WithoutCancel(ctx) // as with CONNECT
	}
	if d := x.admit(ctx); d != nil {
		s.denyPlain(w, r, g, x, d)
		return
	}
	f := s.begin(ctx, x, x.request.upgrade)
	if f == nil {
		s.denyPlain(w, r, g, x, tooManyTunnels())
		return
	}
	if x.request.upgrade {
		s.serveUpgrade(w, r, g, f)
		return
	}
	defer s.end(f)
	if d := x.confirm(); d != nil {
		s.denyPlain(w, r, g, x, d)
		return
	}
	s.forwarder.serve(w, r, g, f)
}

func (fw *forwarder) serve(w http.ResponseWriter, r *http.Request, g *gate, f *flow) {
	if r.ContentLength != 0 {
		// An origin may answer while it is still being sent content.
		_ = http.NewResponseController(w).EnableFullDuplex()
	}
	fo := &forward{fw: fw, x: f.x, flow: f, w: &forwardWriter{ResponseWriter: w}}
	fo.stall = newStall(f, fw.server.opts.StallTimeout)
	defer fo.stall.stop()
	ctx := context.WithValue(f.ctx, forwardKey{}, fo)
	if g.private == 0 && authenticatesConnection(r.Header) {
		g.private = fw.once.Add(1)
	}
	fo.pooled = poolsOrigins && replayable(r) && g.private == 0
	if !fo.pooled {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: fo.interim, GotConn: fo.gotConn})
	}
	out := f.x.outgoing(r.WithContext(ctx))
	if r.ContentLength != 0 {
		fo.content = fo.stall.body(r.Body, nil)
		if out.Header.Get("Expect") != "" {
			fo.content.first = fo.sendContinue
		}
		out.Body = fo.content
	}
	if !fo.pooled {
		out.URL.Host = f.x.poolKey()
	}
	switch {
	case fo.pooled:
	case g.private != 0:
		out.URL.Host = "private" + strconv.FormatUint(g.private, 10) + "-" + out.URL.Host
	case !replayable(r):
		// A pooled connection may be at its end, and then only what can be sent
		// twice survives. The rest goes over a connection of its own.
		out.URL.Host = "once" + strconv.FormatUint(fw.once.Add(1), 10) + "-" + out.URL.Host
		out.Close = true
	}
	fw.proxy.ServeHTTP(fo.w, out)
	if fo.content != nil && !fo.content.ended.Load() {
		g.abandon() // the origin did not want the rest
	}
	switch {
	case fo.denied != nil:
		fw.server.denyPlain(w, r, g, f.x, fo.denied)
	case fo.bodyErr != nil:
		f.x.recordCut(f)
		// Ending the response properly would make a part look like the whole.
		panic(http.ErrAbortHandler)
	}
}

// authenticatesConnection reports credentials that count for the connection
// they are sent on and not for one request, against RFC 9110, section 11.1, but
// in wide use (RFC 4559). From then on the client's connection has connections
// to origins of its own, so that no other client speaks in its name.
func authenticatesConnection(h http.Header) bool {
	return slices.ContainsFunc(h["Authorization"], func(v string) bool {
		scheme, _, _ := strings.Cut(v, " ")
		return strings.EqualFold(scheme, "NTLM") || strings.EqualFold(scheme, "Negotiate")
	})
}

// replayable reports whether the transport may send the request again over
// another connection (RFC 9110, section 9.2.2).
func replayable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return r.ContentLength == 0
	}
	return false
}

// outgoing returns the request as the origin is to see it (RFC 9110, section
// 7.6): the target's host as Host, the path exactly as it was sent, end-to-end
// fields only, and Via.
func (x *exchange) outgoing(r *http.Request) *http.Request {
	q := x.request
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.Close = false
	out.Trailer = r.Trailer // filled in while the content is read
	out.Host = q.authority()
	out.URL = targetURL(q)
	trailers := hasToken(r.Header["Te"], "trailers")
	removeHopByHop(out.Header, r.Header["Connection"])
	if q.minor == 0 {
		delete(out.Header, "Expect") // means nothing in HTTP/1.0 (RFC 9110, section 10.1.1)
	}
	if trailers {
		// Ours again, for the next hop (RFC 9110, section 10.1.4).
		out.Header["Te"], out.Header["Connection"] = []string{"trailers"}, []string{"TE"}
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // none, not that of net/http
	}
	out.Header.Add("Via", "1."+strconv.Itoa(q.minor)+" "+x.server.pseudonym)
	return out
}

// targetURL makes net/http send the path byte by byte as the client did.
func targetURL(q *request) *url.URL {
	u := &url.URL{Scheme: "http", Host: q.authority()}
	path, query, ok := strings.Cut(q.path, "?")
	u.RawQuery, u.ForceQuery = query, ok && query == ""
	if p, err := url.PathUnescape(path); err == nil {
		u.Path, u.RawPath = p, path
		if u.EscapedPath() == path {
			return u
		}
	}
	u.Path, u.RawPath, u.Opaque = "", "", path
	if strings.HasPrefix(path, "//") {
		u.Opaque = "//" + q.authority() + path // becomes absolute-form
	}
	return u
}

// hopByHop are the fields that end at a proxy (RFC 9110, section 7.6.1),
// whether or not Connection names them.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Transfer-Encoding", "Upgrade", "Http2-Settings",
	"Proxy-Authenticate", "Proxy-Authorization", "Proxy-Authentication-Info",
}

func removeHopByHop(h http.Header, connection []string) {
	for _, v := range connection {
		for name := range strings.SplitSeq(v, ",") {
			h.Del(strings.Trim(name, " \t"))
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// roundTrip is what goproxy calls to reach the origin. It never returns an
// error, because goproxy would show it to the client.
func (fo *forward) roundTrip(r *http.Request) (*http.Response, error) {
	resp, err := fo.send(r)
	fo.mu.Lock()
	fo.began = true
	fo.mu.Unlock()
	if err == nil && resp.StatusCode < 200 {
		_ = resp.Body.Close()
		err = errors.New("protocol switch that nobody asked for, or no status code at all")
	}
	if err != nil && fo.content != nil && fo.content.broke.Load() {
		err = errClient // whatever the transport says about what came of it
	}
	if err != nil {
		fo.denied = fo.x.failure(fo.flow, err)
		fo.w.discard = true
		return &http.Response{StatusCode: fo.denied.status, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	}
	s := fo.fw.server
	s.stats.forwarded.Add(1)
	if s.audited {
		s.opts.Audit.Put(fo.x.record(nil, strconv.Itoa(resp.StatusCode)))
	}
	fo.w.stream = resp.ContentLength < 0
	fo.x.incoming(resp, fo.conn.options())
	resp.Body = fo.stall.body(resp.Body, &fo.bodyErr)
	return resp, nil
}

func (fo *forward) send(r *http.Request) (*http.Response, error) {
	if fo.pooled {
		return fo.fw.pool.roundTrip(fo, r, fo.x.originKey())
	}
	return fo.fw.transport.RoundTrip(r)
}

// incoming makes the response what the client is to see.
func (x *exchange) incoming(resp *http.Response, connection []string) {
	removeHopByHop(resp.Header, connection)
	resp.Header.Add("Via", strconv.Itoa(resp.ProtoMajor)+"."+strconv.Itoa(resp.ProtoMinor)+" "+x.server.pseudonym)
	if _, ok := resp.Header["Content-Type"]; !ok {
		resp.Header["Content-Type"] = nil // net/http would guess one
	}
}

// failure says why an exchange has no response.
func (x *exchange) failure(f *flow, err error) *denial {
	cause := context.Cause(f.ctx)
	switch {
	case x.wasCut(f):
		x.server.stats.cutByPolicy.Add(1)
		return x.verdictDenial()
	case errors.Is(cause, errStalled):
		err = cause
	case errors.Is(err, errProhibited):
		if d := x.confirm(); d != nil {
			return d // the policy changed in the last moment
		}
	case err.Error() == "http: server closed idle connection":
		err = io.EOF // net/http does not export its own
	}
	return originDenial(err)
}

// sendContinue is called when the transport wants the content of a client that
// waits for 100: the origin has sent it, or says nothing. It is sent from here
// because net/http would send it in the midst of another interim response.
func (fo *forward) sendContinue() {
	fo.mu.Lock()
	defer fo.mu.Unlock()
	if !fo.began {
		fo.w.ResponseWriter.WriteHeader(http.StatusContinue)
	}
}

// maxInterim bounds the interim responses of an exchange.
const maxInterim = 32

// interim passes an interim response on (RFC 9110, section 15.2), but for 100.
func (fo *forward) interim(code int, header textproto.MIMEHeader) error {
	fo.mu.Lock()
	defer fo.mu.Unlock()
	if fo.interims++; fo.interims > maxInterim {
		return errors.New("too many interim responses")
	}
	if fo.began || code == http.StatusContinue || fo.x.request.minor == 0 {
		return nil
	}
	h := http.Header(header).Clone()
	removeHopByHop(h, h["Connection"])
	dst := fo.w.Header()
	clear(dst)
	for k, v := range h {
		dst[k] = v
	}
	fo.w.ResponseWriter.WriteHeader(code)
	clear(dst)
	return nil
}

// A forwardWriter sends each piece of a response on at once, as the origin did.
type forwardWriter struct {
	http.ResponseWriter
	stream  bool // the end of the content is not known from the head
	discard bool // what goproxy writes is not what is sent
	scratch http.Header
}

func (w *forwardWriter) Header() http.Header {
	if w.discard {
		if w.scratch == nil {
			w.scratch = http.Header{}
		}
		return w.scratch
	}
	return w.ResponseWriter.Header()
}

func (w *forwardWriter) WriteHeader(code int) {
	if w.discard {
		return
	}
	w.ResponseWriter.WriteHeader(code)
	if w.stream {
		w.Flush()
	}
}

func (w *forwardWriter) Write(p []byte) (int, error) {
	if w.discard {
		return len(p), nil
	}
	n, err := w.ResponseWriter.Write(p)
	if err == nil {
		w.Flush()
	}
	return n, err
}

// ReadFrom implements io.ReaderFrom for io.Copy, which would make a buffer of
// its own for each response.
func (w *forwardWriter) ReadFrom(r io.Reader) (n int64, err error) {
	buf := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
	for {
		k, err := r.Read(buf[:])
		if k > 0 {
			if _, err := w.Write(buf[:k]); err != nil {
				return n, err
			}
			n += int64(k)
		}
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// Flush implements http.Flusher.
func (w *forwardWriter) Flush() {
	if !w.discard {
		_ = http.NewResponseController(w.ResponseWriter).Flush()
	}
}

package dnsserver

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"math"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go/http3"
)

const (
	dohPath = "/dns-query"
	dohType = "application/dns-message" // RFC 8484, section 6
	// maxHeaders bounds the header of a request, and so a question in the URL;
	// longer ones come by POST.
	maxHeaders = 16 << 10
	// maxFrame is the largest frame of HTTP/2 that is taken; it is the least that
	// there is.
	maxFrame = 16 << 10
)

// A web answers DNS over HTTPS (RFC 8484) where it is not over HTTP/2, see h2conn:
// HTTP/1.1 by net/http, HTTP/3 by quic-go. Requests are handled by one goroutine
// each; the streams of a connection are bounded as the questions of one over TCP
// are.
type web struct {
	server *Server
	handed *handed
	http   *http.Server
	http3  *http3.Server
}

func newWeb(s *Server) *web {
	w := &web{server: s, handed: &handed{make(chan net.Conn), s.ending}}
	o := &s.opts
	w.http = &http.Server{
		Handler:                      w,
		ReadHeaderTimeout:            o.HandshakeTimeout,
		ReadTimeout:                  o.HandshakeTimeout + o.ReadTimeout,
		WriteTimeout:                 o.Timeout + o.WriteTimeout,
		IdleTimeout:                  o.IdleEncrypted,
		MaxHeaderBytes:               maxHeaders,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0), // who panics for a dropped question need not be logged
		Protocols:                    new(http.Protocols),
	}
	w.http.Protocols.SetHTTP1(true)
	w.http3 = &http3.Server{Handler: w, MaxHeaderBytes: maxHeaders, IdleTimeout: o.IdleEncrypted, Logger: o.Log}
	return w
}

// A webConn is what TLS of a connection for HTTP runs over: whoever closes it
// gives its place up, and its peer is the client, not the load balancer.
type webConn struct {
	*net.TCPConn
	c *stream
}

func (w *webConn) Close() error {
	defer w.c.leavePlace()
	return w.TCPConn.Close()
}

func (w *webConn) RemoteAddr() net.Addr {
	if w.c.client == w.c.peer {
		return w.TCPConn.RemoteAddr()
	}
	return &net.TCPAddr{IP: w.c.client.AsSlice()}
}

// runWeb owns the connection after the handshake, or gives it to net/http, which
// speaks HTTP/1.1.
func (c *stream) runWeb() {
	t := c.conn.(*tls.Conn)
	if t.ConnectionState().NegotiatedProtocol != "h2" {
		c.server.web.handOver(c, t)
		return
	}
	defer c.end()
	h := newH2(c)
	c.proto = h
	h.hello()
	c.read()
	h.bye()
	c.open.Wait()
}

// A handed is the listener of net/http: connections that others have accepted.
type handed struct {
	conns  chan net.Conn
	ending <-chan struct{}
}

func (l *handed) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ending:
		return nil, net.ErrClosed
	}
}

func (*handed) Close() error   { return nil }
func (*handed) Addr() net.Addr { return &net.TCPAddr{} }

func (w *web) handOver(c *stream, t *tls.Conn) {
	w.server.streams.remove(c) // net/http knows best when it is idle
	_ = t.SetDeadline(time.Time{})
	select {
	case w.handed.conns <- t:
	case <-w.server.ending:
		c.end()
	}
}

// serve is a goroutine until the server ends.
func (w *web) serve() { _ = w.http.Serve(w.handed) }

// stop lets the requests in flight finish, until the server's life ends.
func (w *web) stop() {
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.http.Shutdown(w.server.life) })
	wg.Go(func() { _ = w.http3.Shutdown(w.server.life) })
	wg.Wait()
}

func (w *web) closeAll() {
	_ = w.http.Close()
	_ = w.http3.Close()
}

// A status is what is wrong with a request, as HTTP says it.
type status int

func (s status) Error() string { return http.StatusText(int(s)) }

// ServeHTTP answers one request.
func (w *web) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	c := &w.server.core
	tr := doh
	if r.ProtoMajor == 3 {
		tr = doh3
	}
	msg, err := w.message(rw, r)
	if err != nil {
		w.refuse(rw, err)
		return
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		w.refuse(rw, status(http.StatusBadRequest))
		return
	}
	if !w.server.queue(from.Addr().Unmap()) {
		rw.Header().Set("Retry-After", "1")
		w.refuse(rw, status(http.StatusTooManyRequests))
		return
	}
	q, reply := c.accept(nil, msg, w.device(r, from.Addr()), tr)
	switch {
	case q != nil:
		if reply = c.await(nil, q, r.Context().Done()); reply == nil {
			// HTTP has no silence: the stream, or with HTTP/1.1 the connection, is cut.
			panic(http.ErrAbortHandler)
		}
	case reply == nil:
		w.refuse(rw, status(http.StatusBadRequest)) // a reply is not answered by one
		return
	}
	w.write(rw, r, reply)
}

// device returns who asks: the token of a path is as good as that of a server
// name.
func (w *web) device(r *http.Request, from netip.Addr) netip.Addr {
	claim := claimOf(r.TLS, w.server.opts.Name)
	if t := pathToken(r); t != "" {
		claim.token = t
	}
	return w.server.device(&claim, from.Unmap().WithZone(""))
}

// pathToken returns the step of the path after that of all, or nothing.
func pathToken(r *http.Request) string {
	token, ok := strings.CutPrefix(r.URL.Path, dohPath+"/")
	if !ok {
		return ""
	}
	return token
}

// message returns the message of a request (RFC 8484, section 4.1).
func (w *web) message(rw http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.URL.Path != dohPath && !w.server.known(pathToken(r)) {
		return nil, status(http.StatusNotFound)
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		params, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil || len(params["dns"]) != 1 {
			return nil, status(http.StatusBadRequest)
		}
		msg, err := base64.RawURLEncoding.Strict().DecodeString(params["dns"][0])
		if err != nil {
			return nil, status(http.StatusBadRequest)
		}
		return msg, nil
	case http.MethodPost:
		return w.body(rw, r)
	}
	rw.Header().Set("Allow", "GET, HEAD, POST")
	return nil, status(http.StatusMethodNotAllowed)
}

// body returns the message of a POST. Memory grows with what has come.
func (w *web) body(rw http.ResponseWriter, r *http.Request) ([]byte, error) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != dohType {
		return nil, status(http.StatusUnsupportedMediaType)
	}
	if r.ContentLength > dns.MaxMsgSize {
		return nil, status(http.StatusRequestEntityTooLarge)
	}
	if r.ProtoMajor == 3 { // where the server has no time of its own for it
		_ = http.NewResponseController(rw).SetReadDeadline(time.Now().Add(w.server.opts.ReadTimeout))
	}
	msg, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, dns.MaxMsgSize))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return nil, status(http.StatusRequestEntityTooLarge)
	}
	if err != nil {
		return nil, status(http.StatusBadRequest)
	}
	return msg, nil
}

func (w *web) refuse(rw http.ResponseWriter, err error) {
	code, ok := errors.AsType[status](err)
	if !ok {
		code = http.StatusInternalServerError
	}
	w.server.core.stats.drop(dropRequest)
	rw.Header().Set("Cache-Control", "no-store")
	http.Error(rw, code.Error(), int(code))
}

// write sends the reply. What one device is told is not for others: their policy
// may be another, so no shared cache keeps it.
func (w *web) write(rw http.ResponseWriter, r *http.Request, reply []byte) {
	h := rw.Header()
	h.Set("Content-Type", dohType)
	h.Set("Content-Length", strconv.Itoa(len(reply)))
	h.Set("Cache-Control", "private, max-age="+strconv.FormatUint(uint64(freshness(reply)), 10))
	if r.ProtoMajor < 3 && w.server.opts.HTTP3 {
		if at, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
			h.Set("Alt-Svc", altService(uint16(at.Port)))
		}
	}
	if r.ProtoMajor == 3 {
		_ = http.NewResponseController(rw).SetWriteDeadline(time.Now().Add(w.server.opts.WriteTimeout))
	}
	_, _ = rw.Write(reply) // whoever has gone misses nothing
}

// altService says where HTTP/3 is, RFC 9114, section 3.1.1.
func altService(port uint16) string { return `h3=":` + strconv.Itoa(int(port)) + `"; ma=86400` }

// freshness is for how many seconds a reply may be kept: for the smallest TTL of
// its answers, and where it says that there is nothing, perhaps after aliases, for
// no longer than its SOA says (RFC 8484, section 5.1; RFC 2308, section 5). An error
// is not kept.
func freshness(p []byte) uint32 {
	if rcode := p[3] & 0xF; rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return 0
	}
	off := questionEnd(p)
	if off < 0 {
		return 0
	}
	life, proved := uint32(math.MaxUint32), p[3]&0xF == dns.RcodeSuccess
	for r := range records(p, off) {
		switch {
		case r.section == 0:
			life = min(life, r.ttl)
		case r.section == 1 && r.rtype == dns.TypeSOA && len(r.data) >= 4:
			life, proved = min(life, r.ttl, binary.BigEndian.Uint32(r.data[len(r.data)-4:])), true
		}
	}
	if life == math.MaxUint32 || !proved {
		return 0
	}
	return life
}

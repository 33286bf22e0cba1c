package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// serveUpgrade carries a WebSocket handshake (RFC 6455, section 4) and then
// the connection as a tunnel. Whether or not the origin agrees, the client's
// connection is never HTTP again: what follows the handshake may be frames that
// were sent too early (RFC 9931).
func (s *Server) serveUpgrade(w http.ResponseWriter, r *http.Request, g *gate, f *flow) {
	x, taken := f.x, false
	defer func() {
		if !taken {
			s.end(f)
		}
	}()
	origin, d := x.connectOrigin(f)
	if d != nil {
		s.denyPlain(w, r, g, x, d)
		return
	}
	defer func() { _ = origin.Close() }()
	stop := context.AfterFunc(f.ctx, func() { _ = origin.Close() })
	defer stop()
	resp, br, err := s.handshake(f, origin, r)
	if err != nil {
		s.denyPlain(w, r, g, x, x.failure(f, err))
		return
	}
	defer func() {
		_ = origin.Close() // first, or closing the content would wait for its end
		_ = resp.Body.Close()
	}()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		s.declined(w, g, f, resp)
		return
	}
	fromOrigin, err := br.Peek(br.Buffered())
	if err == nil {
		taken, err = s.switchProtocols(w, g, f, origin, resp, append([]byte(nil), fromOrigin...))
	}
	if err != nil {
		_ = g.Close()
		s.stats.failed.Add(1)
	}
}

// handshake sends the request and reads the answer to it.
func (s *Server) handshake(f *flow, origin *net.TCPConn, r *http.Request) (*http.Response, *bufio.Reader, error) {
	if err := origin.SetDeadline(time.Now().Add(s.opts.StallTimeout)); err != nil {
		return nil, nil, err
	}
	out := f.x.outgoing(r)
	out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	spellWebSocket(out.Header)
	if err := out.Write(origin); err != nil {
		return nil, nil, err
	}
	conn := &originConn{TCPConn: origin}
	conn.arm()
	limited := &io.LimitedReader{R: conn, N: s.forwarder.transport.MaxResponseHeaderBytes}
	br := bufio.NewReader(limited)
	for {
		resp, err := http.ReadResponse(br, out)
		if err != nil {
			return nil, nil, err
		}
		resp.Header["Connection"] = conn.options()
		switch code := resp.StatusCode; {
		case code == http.StatusSwitchingProtocols && !hasToken(resp.Header["Upgrade"], "websocket"):
			return nil, nil, errors.New("switch to another protocol than asked for")
		case code == http.StatusSwitchingProtocols:
			return resp, br, origin.SetDeadline(time.Time{})
		case code >= 200:
			limited.N = math.MaxInt64
			return resp, br, origin.SetDeadline(time.Time{})
		}
	}
}

// spellWebSocket writes field names as RFC 6455 does and net/http does not:
// software that takes the spelling literally is in use.
func spellWebSocket(h http.Header) {
	for name, values := range h {
		if rest, ok := strings.CutPrefix(name, "Sec-Websocket-"); ok {
			delete(h, name)
			h["Sec-WebSocket-"+rest] = values
		}
	}
}

// declined passes on an ordinary response to the handshake.
func (s *Server) declined(w http.ResponseWriter, g *gate, f *flow, resp *http.Response) {
	x := f.x
	s.stats.forwarded.Add(1)
	s.opts.Audit.Put(x.record(nil, strconv.Itoa(resp.StatusCode)))
	x.incoming(resp, resp.Header["Connection"])
	h := w.Header()
	maps.Copy(h, resp.Header)
	h.Set("Connection", "close")
	g.abandon()
	w.WriteHeader(resp.StatusCode)
	stall := newStall(f, s.opts.StallTimeout)
	defer stall.stop()
	var broken error
	if _, err := io.Copy(&forwardWriter{ResponseWriter: w}, stall.body(resp.Body, &broken)); err != nil {
		x.recordCut(f)
		panic(http.ErrAbortHandler)
	}
}

// switchProtocols sends the client the 101 and runs the tunnel, which then has
// taken the flow.
func (s *Server) switchProtocols(w http.ResponseWriter, g *gate, f *flow, origin *net.TCPConn, resp *http.Response, fromOrigin []byte) (taken bool, err error) {
	f.x.incoming(resp, resp.Header["Connection"])
	delete(resp.Header, "Content-Type")
	spellWebSocket(resp.Header)
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
	if err := resp.Header.Write(&head); err != nil {
		return false, err
	}
	head.WriteString("\r\n")
	early, err := hijack(w, g)
	if err != nil {
		return false, err
	}
	s.runTunnel(f, g, origin, opening{status: http.StatusSwitchingProtocols, head: head.Bytes(), fromClient: early, fromOrigin: fromOrigin})
	return true, nil
}

package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/hello"
	"github.com/weir-gateway/weir/gateway/policy"
)

// A protocol is what a transparent connection begins with.
type protocol uint8

const (
	protocolNone    protocol = iota // it ended before it said anything
	protocolTLS                     // or what begins like it
	protocolHTTP                    // or what some server may take for it
	protocolUnknown                 // anything else, and silence
	protocolQUIC                    // or what comes to where it is expected
)

var protocolNames = [...]string{"none", "tls", "http", "unknown", "quic"}

// A peek reads the first bytes of a transparent connection, which are sent on
// as they are if it is carried.
type peek struct {
	server *Server
	gate   *gate
	sub    policy.Subject
	begun  time.Time
	buf    []byte
	tls    hello.Reader
}

const (
	peekBuffer = 2 << 10  // most ClientHellos fit into it
	maxPeek    = 80 << 10 // a ClientHello may have 64 KiB (RFC 8446, section 4), in many records
)

func (p *peek) dst() netip.AddrPort {
	if p.gate.diverted == nil {
		return netip.AddrPort{}
	}
	return p.gate.diverted.dst
}

// look reads until it is clear what the connection is, the time is over, or the
// client has ended.
func (p *peek) look() protocol {
	c := p.gate.TCPConn
	_ = c.SetReadDeadline(p.begun.Add(p.server.opts.PeekTimeout))
	stop := context.AfterFunc(p.server.diverting.ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	p.buf = make([]byte, 0, peekBuffer)
	for {
		if len(p.buf) == cap(p.buf) {
			if len(p.buf) >= maxPeek {
				return protocolTLS // nothing else needs so much; it is incomplete
			}
			p.buf = append(make([]byte, 0, min(2*cap(p.buf), maxPeek)), p.buf...)
		}
		n, err := c.Read(p.buf[len(p.buf):cap(p.buf)])
		p.buf = p.buf[:len(p.buf)+n]
		what := protocolNone
		if n > 0 {
			what = p.classify(p.buf[len(p.buf)-n:])
		}
		switch {
		case what != protocolNone:
			return what
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && p.server.diverting.ctx.Err() == nil, errors.Is(err, io.EOF) && len(p.buf) > 0:
			return p.asItIs()
		default:
			return protocolNone
		}
	}
}

// classify says what the connection is, protocolNone for not yet. Signatures
// come first: a protocol may begin nearly like another.
func (p *peek) classify(more []byte) protocol {
	kind := p.tls.Feed(more)
	v, undecided := p.server.signed(p.sub, p.buf)
	if v.Blocked() {
		return protocolUnknown
	}
	switch kind {
	case hello.Incomplete:
		return protocolNone
	case hello.Found, hello.Missing:
		return protocolTLS
	}
	isHTTP, waiting := speaksHTTP(p.buf)
	switch {
	case isHTTP:
		return protocolHTTP
	case undecided || waiting:
		return protocolNone
	case kind == hello.Malformed:
		return protocolTLS
	}
	return protocolUnknown
}

// signed judges what a client says first by the signatures of the lists. While
// more is true, further bytes may tell.
func (s *Server) signed(sub policy.Subject, first []byte) (v policy.Verdict, more bool) {
	snap := s.opts.Policy.Load()
	if snap == nil {
		return policy.Verdict{}, false
	}
	return snap.Flow(sub, first[:min(len(first), blocklists.MaxFlow)], time.Now())
}

// asItIs says what a connection is that says no more for now.
func (p *peek) asItIs() protocol {
	if k := p.tls.Feed(nil); len(p.buf) > 0 && (k == hello.Incomplete || k == hello.Malformed) {
		return protocolTLS
	}
	return protocolUnknown
}

// first are the bytes that signatures look at.
func (p *peek) first() []byte { return p.buf[:min(len(p.buf), blocklists.MaxFlow)] }

// maxMethod is longer than every method that is in use.
const maxMethod = 24

// speaksHTTP reports whether a server could take the bytes for an HTTP request,
// and whether that is still open. It is wider than the standard, because the
// front refuses what it finds here and cannot understand, and nothing looks at
// what is not found: blanks and empty lines before the method, several blanks
// after it, methods in lower case.
func speaksHTTP(b []byte) (yes, open bool) {
	i := 0
	for i < len(b) && (b[i] == '\r' || b[i] == '\n' || b[i] == ' ' || b[i] == '\t') {
		i++
	}
	method := i
	for i < len(b) && ('A' <= b[i]&^0x20 && b[i]&^0x20 <= 'Z' || i > method && (b[i] == '-' || b[i] == '_')) {
		i++
	}
	if i == len(b) {
		return false, i-method <= maxMethod && method < maxMethod
	}
	if i == method || i-method > maxMethod || b[i] != ' ' && b[i] != '\t' {
		return false, false
	}
	if bytes.EqualFold(b[method:i], []byte(http.MethodConnect)) {
		return true, false // whatever follows; it is of no use to anybody but a foreign proxy
	}
	for i < len(b) && (b[i] == ' ' || b[i] == '\t') {
		i++
	}
	if i == len(b) {
		return false, true
	}
	return beginsTarget(b[i:])
}

// beginsTarget is for the other forms of a target (RFC 9112, section 3.2).
func beginsTarget(b []byte) (yes, open bool) {
	const scheme = "http"
	if b[0] == '/' || b[0] == '*' || b[0] == '?' {
		return true, false
	}
	for i := range min(len(b), len(scheme)) {
		if b[i]|0x20 != scheme[i] {
			return false, false
		}
	}
	return len(b) >= len(scheme), len(b) < len(scheme)
}

package dnsserver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// The error codes of DNS over QUIC (RFC 9250, section 4.3).
const (
	doqNoError          = 0x0
	doqProtocolError    = 0x2
	doqRequestCancelled = 0x3
	doqExcessiveLoad    = 0x4
	doqUnspecifiedError = 0x5
)

// serveDoQ is the goroutine of one listener of DNS over QUIC (RFC 9250).
func (s *Server) serveDoQ(l *quicListener) {
	for {
		conn, err := l.Accept(context.Background())
		if err != nil {
			return // it was closed
		}
		s.doq.add(conn)
		s.wg.Go(func() { s.serveQUICConn(conn, l.transport) })
	}
}

// serveQUICConn owns a connection: it takes streams, one question each, and
// when no more are to be taken it waits for those that are open. QUIC bounds how
// many those are.
func (s *Server) serveQUICConn(conn *quic.Conn, tr transport) {
	defer s.doq.remove(conn)
	st := conn.ConnectionState().TLS
	asker := &client{claim: claimOf(&st, s.opts.Name), addr: udpAddr(conn.RemoteAddr())}
	var open sync.WaitGroup
	for {
		stream, err := conn.AcceptStream(s.reading)
		if err != nil {
			break
		}
		open.Go(func() { s.serveQUICStream(conn, stream, asker, tr) })
	}
	open.Wait()
	_ = conn.CloseWithError(doqNoError, "")
}

// serveQUICStream answers the question of one stream.
func (s *Server) serveQUICStream(conn *quic.Conn, stream *quic.Stream, who *client, tr transport) {
	c := &s.core
	_ = stream.SetReadDeadline(time.Now().Add(s.opts.ReadTimeout))
	msg, err := readQUIC(stream)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.stats.drop(dropQUICSlow)
		stream.CancelRead(doqUnspecifiedError)
		stream.CancelWrite(doqUnspecifiedError)
		return
	case errors.Is(err, errFraming):
		s.protocolError(conn)
		return
	case err != nil: // the client has changed its mind, or is gone
		stream.CancelWrite(doqRequestCancelled)
		return
	}
	if !s.queue(who.addr) {
		stream.CancelWrite(doqExcessiveLoad)
		return
	}
	q, reply := c.accept(nil, msg, s.device(&who.claim, who.addr), tr)
	switch {
	case q == nil && reply == nil, q != nil && asksKeepalive(q.msg):
		s.protocolError(conn) // RFC 9250, section 5.5.2, for the latter
		return
	case q != nil:
		reply = c.await(nil, q, stream.Context().Done())
	}
	if reply == nil { // dropped by the policy, or nobody waits any more
		stream.CancelWrite(doqUnspecifiedError)
		return
	}
	_ = stream.SetWriteDeadline(time.Now().Add(s.opts.WriteTimeout))
	frame := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(reply)), uint16(len(reply))), reply...)
	if _, err := stream.Write(frame); err != nil {
		c.stats.drop(dropWriteError)
		stream.CancelWrite(doqUnspecifiedError)
		return
	}
	_ = stream.Close()
}

// protocolError ends a connection of which nothing good is to be expected (RFC
// 9250, section 4.3.3).
func (s *Server) protocolError(conn *quic.Conn) {
	s.core.stats.drop(dropQUICProtocol)
	_ = conn.CloseWithError(doqProtocolError, "")
}

var errFraming = errors.New("not one message and its end")

// readQUIC reads the one message of a stream and the stream's end (RFC 9250,
// section 4.2). Its id must be 0 (section 4.2.1).
func readQUIC(r io.Reader) ([]byte, error) {
	p, err := io.ReadAll(io.LimitReader(r, 2+dns.MaxMsgSize+1))
	switch {
	case err != nil:
		return nil, err
	case len(p) < 4 || int(binary.BigEndian.Uint16(p)) != len(p)-2 || p[2] != 0 || p[3] != 0:
		return nil, errFraming
	}
	return p[2:], nil
}

// asksKeepalive reports whether a question has the option that DNS over QUIC
// does not.
func asksKeepalive(m *dns.Msg) bool {
	opt := m.IsEdns0()
	if opt == nil {
		return false
	}
	for _, o := range opt.Option {
		if o.Option() == dns.EDNS0TCPKEEPALIVE {
			return true
		}
	}
	return false
}

package rpz

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists/source"
)

const (
	headerLen  = 12
	maxRecords = 4 // of a request, besides the question
)

// serveUDP answers what comes over UDP, one after the other: all of it is small,
// and nothing waits.
func (s *Server) serveUDP(c *net.UDPConn) {
	buf := make([]byte, maxRequest)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an error that ICMP brought, about what was sent to another
		}
		q := s.read(buf[:n], from.Addr(), false)
		if q == nil {
			continue
		}
		if out, err := q.sign.pack(q.answer()); err == nil {
			_, _ = c.WriteToUDPAddrPort(out, from) // lost, as anything may be over UDP
		}
	}
}

// accept takes connections, as many at once as there are tokens.
func (s *Server) accept(ctx context.Context, l *net.TCPListener, wg *sync.WaitGroup) {
	for {
		c, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select { // out of descriptors: some will come back
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case s.conns <- struct{}{}:
			wg.Go(func() {
				defer func() { <-s.conns }()
				s.serveConn(ctx, c)
			})
		default:
			s.stats.overload.Add(1)
			_ = c.Close()
		}
	}
}

// serveConn answers the requests of one connection, one after the other.
func (s *Server) serveConn(ctx context.Context, c *net.TCPConn) {
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	defer func() { _ = c.Close() }()
	from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
	for ctx.Err() == nil {
		_ = c.SetReadDeadline(time.Now().Add(idleTimeout)) // fails where the next read does
		wire, err := readMessage(c)
		if err != nil {
			return
		}
		q := s.read(wire, from, true)
		if q == nil || ctx.Err() != nil {
			return
		}
		if q.transfer() {
			err = s.transfer(ctx, c, q)
		} else {
			err = writeMessage(c, q.sign, q.answer())
		}
		if err != nil {
			return
		}
	}
}

func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n > maxRequest {
		return nil, errors.New("request is too long")
	}
	buf := make([]byte, n)
	_, err := io.ReadFull(r, buf)
	return buf, err
}

func writeMessage(c net.Conn, sign *signer, m *dns.Msg) error {
	out, err := sign.pack(m)
	if err != nil {
		return err
	}
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	framed := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(out)), uint16(len(out)))
	_, err = c.Write(append(framed, out...))
	return err
}

// A request is one that gets an answer.
type request struct {
	server *Server
	msg    *dns.Msg
	from   netip.Addr
	tcp    bool
	sign   *signer
	rcode  int // what is wrong with it
}

// read looks at a message in the order of the threat: its header before anything
// is made of it, who may ask before what is asked. Nil is not answered.
func (s *Server) read(wire []byte, from netip.Addr, tcp bool) *request {
	s.stats.requests.Add(1)
	if len(wire) < headerLen || wire[2]&0x80 != 0 || binary.BigEndian.Uint16(wire[4:]) != 1 {
		return nil
	}
	q := &request{server: s, from: from.Unmap().WithZone(""), tcp: tcp, msg: new(dns.Msg)}
	// Records that a request has none of are not even unpacked: a transfer's
	// question has one record of authority and a signature, a NOTIFY an answer.
	records := 0
	for at := 6; at < headerLen; at += 2 {
		records += int(binary.BigEndian.Uint16(wire[at:]))
	}
	if records > maxRecords {
		return nil
	}
	if err := q.msg.Unpack(wire); err != nil || len(q.msg.Question) != 1 {
		return nil
	}
	if _, ok := source.TSIGOf(q.msg); !ok {
		q.rcode = dns.RcodeFormatError
		return q
	}
	q.sign = s.verify(q.msg, wire)
	q.rcode = q.judge()
	if q.rcode != dns.RcodeSuccess {
		s.stats.refused.Add(1)
		s.log.Debug("zone transfer request refused", "from", q.from, "question", q.msg.Question[0].String(), "rcode", dns.RcodeToString[q.rcode])
	}
	return q
}

// judge returns the rcode of a request that gets no more than that.
func (q *request) judge() int {
	s := q.server
	if q.sign != nil && q.sign.fault != 0 {
		s.stats.badSignature.Add(1)
		return dns.RcodeNotAuth // RFC 8945, section 5.2
	}
	if q.msg.Opcode == dns.OpcodeNotify {
		return q.notified()
	}
	question := q.msg.Question[0]
	switch {
	case s.opts.Zone == "" || !q.allowed():
		return dns.RcodeRefused
	case q.msg.Opcode != dns.OpcodeQuery:
		return dns.RcodeNotImplemented
	case question.Qclass != dns.ClassINET || !strings.EqualFold(question.Name, s.zone):
		return dns.RcodeRefused
	case question.Qtype == dns.TypeAXFR && !q.tcp:
		return dns.RcodeFormatError // RFC 5936, section 4.2
	case question.Qtype != dns.TypeSOA && question.Qtype != dns.TypeAXFR && question.Qtype != dns.TypeIXFR:
		return dns.RcodeRefused
	case s.current.Load() == nil:
		return dns.RcodeServerFailure // the first version is being made
	}
	return dns.RcodeSuccess
}

// allowed reports whether the peer may have the zone.
func (q *request) allowed() bool {
	s := q.server
	if q.sign == nil {
		return s.opts.UnsignedLoopback && q.from.IsLoopback()
	}
	for _, p := range s.opts.Allow {
		if p.Contains(q.from) {
			return true
		}
	}
	return false
}

// notified hands a NOTIFY on to who follows that zone (RFC 1996, section 3.11:
// from its primary only).
func (q *request) notified() int {
	question := q.msg.Question[0]
	if q.server.opts.Notified == nil || question.Qtype != dns.TypeSOA || question.Qclass != dns.ClassINET {
		return dns.RcodeRefused
	}
	key := ""
	if q.sign != nil {
		key = q.sign.key.Name
	}
	zone := strings.TrimSuffix(dns.CanonicalName(question.Name), ".")
	if !q.server.opts.Notified(zone, q.from, key) {
		return dns.RcodeNotAuth
	}
	q.server.stats.notified.Add(1)
	return dns.RcodeSuccess
}

// reply returns the head of the answer.
func (q *request) reply() *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q.msg, q.rcode)
	m.Authoritative = q.rcode == dns.RcodeSuccess
	m.Compress = true
	return m
}

// answer returns the answer to what is no transfer: the zone's SOA, also to an
// IXFR question over UDP, which is asked again over TCP then (RFC 1995, section
// 2).
func (q *request) answer() *dns.Msg {
	m := q.reply()
	if q.rcode == dns.RcodeSuccess && q.msg.Opcode == dns.OpcodeQuery {
		m.Answer = []dns.RR{q.server.soa(q.server.current.Load().serial)}
	}
	return m
}

// transfer reports whether the answer is one or more messages of records.
func (q *request) transfer() bool {
	t := q.msg.Question[0].Qtype
	return q.rcode == dns.RcodeSuccess && q.tcp && q.msg.Opcode == dns.OpcodeQuery && (t == dns.TypeAXFR || t == dns.TypeIXFR)
}

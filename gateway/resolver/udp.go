package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// A transport asks one upstream one question.
type transport interface {
	// exchange returns the message that answers the question; with edns, the
	// query has an OPT record.
	exchange(ctx context.Context, k key, edns bool) (*dns.Msg, error)
	close()
}

// A udpTransport has a fresh connected socket for every query, so that whoever
// wants to forge a response must guess the port that the kernel drew, and the
// ID, within one query's time (RFC 5452, section 9.2). The number of sockets is
// bounded by MaxInFlight. A truncated response is asked for again over TCP.
type udpTransport struct {
	addr  netip.AddrPort
	tcp   *streamPool
	count *counters
}

// datagrams are the buffers that datagrams are read into.
var datagrams = sync.Pool{New: func() any { return new([maxMsg]byte) }}

func (t *udpTransport) exchange(ctx context.Context, k key, edns bool) (*dns.Msg, error) {
	m, err := t.datagram(ctx, k, edns)
	if err != nil || !m.Truncated {
		return m, err
	}
	t.count.truncated.Add(1)
	return t.tcp.exchange(ctx, k, edns)
}

func (t *udpTransport) close() { t.tcp.close() }

func (t *udpTransport) datagram(ctx context.Context, k key, edns bool) (*dns.Msg, error) {
	id := dns.Id()
	out, err := k.query(id, edns).Pack()
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", t.addr.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := c.Write(out); err != nil {
		return nil, orDone(ctx, err)
	}
	buf := datagrams.Get().(*[maxMsg]byte)
	defer datagrams.Put(buf)
	for {
		n, err := c.Read(buf[:])
		if err != nil {
			return nil, orDone(ctx, err)
		}
		m, err := parse(buf[:n], id, k)
		if !errors.Is(err, errMismatch) {
			return m, err
		}
		t.count.mismatched.Add(1)
	}
}

// orDone returns the context's error where that is what ended the operation.
func orDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

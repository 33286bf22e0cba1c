package resolver

import (
	"context"
	"errors"
	"log/slog"
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
// ID, within one query's time (RFC 5452, section 9.2); and beside these the
// spelling of the name, and the cookie where the upstream has cookies. The number
// of sockets is bounded by MaxInFlight. A truncated response is asked for again
// over TCP, and so is one that may be a forgery: what is said there nobody on
// the outside has made up.
type udpTransport struct {
	addr     netip.AddrPort
	tcp      *streamPool
	count    *counters
	log      *slog.Logger
	spelling spelling
	cookies  cookieJar
}

var (
	// errDoubt means that a response may be a forgery.
	errDoubt = errors.New("response is not as this upstream's are")
	// errBadCookie means that the upstream wants the cookie that came with it.
	errBadCookie = errors.New("upstream wants another cookie")
)

// datagrams are the buffers that datagrams are read into.
var datagrams = sync.Pool{New: func() any { return new([maxMsg]byte) }}

func (t *udpTransport) exchange(ctx context.Context, k key, edns bool) (*dns.Msg, error) {
	m, err := t.datagram(ctx, k, edns)
	if errors.Is(err, errBadCookie) {
		m, err = t.datagram(ctx, k, edns)
	}
	switch {
	case errors.Is(err, errDoubt), errors.Is(err, errBadCookie): // RFC 7873, section 5.3
		t.count.doubted.Add(1)
	case err == nil && m.Truncated:
		t.count.truncated.Add(1)
	default:
		return m, err
	}
	return t.tcp.exchange(ctx, k, edns)
}

func (t *udpTransport) close() { t.tcp.close() }

// A datagram is a query as it was sent.
type datagram struct {
	k      key
	id     uint16
	asked  []byte // header and question, as they are spelled; another spelling is not ours
	mixed  bool
	cookie *sentCookie // nil: none
}

func (t *udpTransport) datagram(ctx context.Context, k key, edns bool) (*dns.Msg, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "udp", t.addr.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	q := datagram{k: k, id: dns.Id()}
	m := k.query(q.id, edns)
	if edns {
		q.cookie = t.cookies.add(m, c.LocalAddr(), time.Now())
	}
	out, err := m.Pack()
	if err != nil {
		return nil, err
	}
	q.asked = questionOf(out)
	q.mixed = t.spelling.mix(q.asked, time.Now())
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
		m, err := t.accept(&q, buf[:n])
		if !errors.Is(err, errMismatch) {
			return m, err
		}
		t.count.mismatched.Add(1)
	}
}

// accept reads what came for a query, and says whether it may be the response.
func (t *udpTransport) accept(q *datagram, raw []byte) (*dns.Msg, error) {
	spelled := restore(raw, q.asked)
	m, err := parse(raw, q.id, q.k)
	if errors.Is(err, errMismatch) {
		return nil, err
	}
	// Old servers return a bare header with an error; there is no name in it.
	if q.mixed && count(raw, 4) == 1 && !t.spelling.note(spelled, time.Now()) {
		if t.spelling.broken(time.Now()) {
			t.log.Info("upstream resolver does not return names as they are spelled: they are sent in lower case from now on", "upstream", t.addr)
		}
		return nil, errDoubt
	}
	if err != nil || m.Truncated {
		return m, err
	}
	return m, t.cookies.check(q.cookie, m)
}

// orDone returns the context's error where that is what ended the operation.
func orDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

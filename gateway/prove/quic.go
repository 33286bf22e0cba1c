package prove

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// A heard counts what comes back on a connected socket: those alone hear of
// ICMP errors.
//
// It has no more methods than a packet connection needs: with those of the
// socket, quic-go would write to addresses, which connected sockets refuse.
type heard struct {
	net.PacketConn
	c       *net.UDPConn
	packets atomic.Int64
	failed  atomic.Pointer[error]
}

func (h *heard) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := h.c.Read(b)
	if err != nil {
		h.fail(err)
		return 0, nil, err
	}
	h.packets.Add(1)
	return n, h.c.RemoteAddr(), nil
}

func (h *heard) WriteTo(b []byte, _ net.Addr) (int, error) {
	n, err := h.c.Write(b)
	if err != nil {
		h.fail(err)
	}
	return n, err
}

func (h *heard) fail(err error) {
	if !errors.Is(err, net.ErrClosed) {
		h.failed.CompareAndSwap(nil, &err)
	}
}

// quic tries a handshake and says what was heard, whether it was complete, and
// how long it took until that was clear.
func (d *device) quic(ctx context.Context, to netip.AddrPort, name, protocol string, v quic.Version) (f Finding, complete bool, took time.Duration) {
	if !to.IsValid() {
		return Finding{NotTried, "no address to try"}, false, 0
	}
	if to.Addr().Is6() && !d.v6 {
		return Finding{NotTried, "this device has no IPv6"}, false, 0
	}
	start := time.Now()
	u, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return Finding{Closed, "socket " + brief(err)}, false, 0
	}
	h := &heard{PacketConn: u, c: u}
	defer func() { _ = u.Close() }()
	ctx, cancel := context.WithTimeout(ctx, d.wait)
	defer cancel()
	go h.watch(ctx, cancel)
	tr := &quic.Transport{Conn: h}
	defer func() { _ = tr.Close() }()
	// Whoever answers has been reached, whatever the certificate.
	c, err := tr.Dial(ctx, u.RemoteAddr(), &tls.Config{ServerName: name, NextProtos: []string{protocol}, MinVersion: tls.VersionTLS13},
		&quic.Config{Versions: []quic.Version{v}, HandshakeIdleTimeout: d.wait})
	took = time.Since(start)
	if err == nil {
		_ = c.CloseWithError(0, "")
		return Finding{Open, "handshake complete"}, true, took
	}
	if e := h.failed.Load(); e != nil && h.packets.Load() == 0 {
		return Finding{Closed, brief(*e)}, false, took
	}
	var refused *quic.TransportError
	if errors.As(err, &refused) && refused.Remote && refused.ErrorCode == quic.ConnectionRefused {
		return Finding{Closed, "CONNECTION_REFUSED"}, false, took // before anything was said but the name
	}
	if h.packets.Load() > 0 {
		return Finding{Open, "answered: " + brief(err)}, false, took
	}
	return Finding{Closed, "without an answer"}, false, took
}

// watch ends the attempt at the first error of the socket, which quic-go itself
// may take for a passing one.
func (h *heard) watch(ctx context.Context, cancel context.CancelFunc) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if h.failed.Load() != nil {
				cancel()
				return
			}
		}
	}
}

// opening is the first packet where no protocol is spoken.
var opening = []byte("\x00\x00\x00\x00weir prove")

// echoes sends a packet where nothing is said that an ordinary server would
// answer: silence proves nothing.
func (d *device) echoes(ctx context.Context, network, to string, first []byte) Finding {
	c, err := (&net.Dialer{Timeout: d.wait}).DialContext(ctx, network, to)
	if err != nil {
		return Finding{NotTried, "socket " + brief(err)}
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(d.wait / 2))
	buf := make([]byte, 1500)
	for range 2 { // the second hears of an error of the first
		if _, err := c.Write(first); err != nil {
			return Finding{Closed, brief(err)}
		}
		n, err := c.Read(buf)
		switch {
		case n > 0:
			return Finding{Open, "answered"}
		case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
			return Finding{NotTried, "no answer, which proves nothing: whoever is there may not know the protocol"}
		case err != nil:
			return Finding{Closed, brief(err)}
		}
	}
	return Finding{NotTried, "no answer"}
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

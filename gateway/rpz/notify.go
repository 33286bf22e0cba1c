package rpz

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// How often a peer that does not answer is told of one version, and how long it
// has to: the time doubles (RFC 1996, section 3.6). After that it is left to its
// own timer, or to the next version.
const (
	notifyTries = 6
	notifyFirst = time.Second
)

// A notifier tells one peer of new versions, always of the newest.
type notifier struct {
	server *Server
	peer   Peer
	wake   chan struct{}
}

func (n *notifier) tell() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run is the goroutine of the peer.
func (n *notifier) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
			n.notify(ctx)
		}
	}
}

// notify tells the peer until it answers.
func (n *notifier) notify(ctx context.Context) {
	s := n.server
	var err error
	for i, wait := 0, notifyFirst; i < notifyTries; i, wait = i+1, 2*wait {
		began := time.Now()
		if err = n.once(ctx, wait); err == nil {
			s.stats.notifies.Add(1)
			s.log.Debug("secondary notified", "zone", s.opts.Zone, "peer", n.peer.Addr, "tries", i+1)
			return
		}
		// A peer that refuses at once is not asked sooner than one that is silent.
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait - time.Since(began)):
		}
	}
	s.stats.unheard.Add(1)
	s.log.Warn("a secondary does not answer when it is notified; it will find the new version when it asks by itself",
		"zone", s.opts.Zone, "peer", n.peer.Addr, "tries", notifyTries, "error", err)
}

// once sends one NOTIFY and waits for its answer.
func (n *notifier) once(ctx context.Context, wait time.Duration) error {
	s := n.server
	m := new(dns.Msg)
	m.SetNotify(s.zone)
	m.Answer = []dns.RR{s.soa(s.current.Load().serial)}
	var sign *signer
	if k, ok := s.keys[dns.CanonicalName(n.peer.Key)]; ok && n.peer.Key != "" {
		sign = &signer{key: &k}
	}
	out, err := sign.pack(m)
	if err != nil {
		return err
	}
	c, err := n.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if err := c.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	if _, err := c.Write(out); err != nil {
		return err
	}
	return awaitNotified(c, m, sign)
}

// dial takes the address of a listener of the peer's family, because that is who
// the peer knows as its primary.
func (n *notifier) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	for _, l := range n.server.Addrs() {
		if a := l.Addr(); !a.IsUnspecified() && a.Is4() == n.peer.Addr.Addr().Is4() && a.IsLoopback() == n.peer.Addr.Addr().IsLoopback() {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
			break
		}
	}
	return d.DialContext(ctx, "udp", n.peer.Addr.String())
}

// awaitNotified reads until the answer comes that belongs to the question.
func awaitNotified(c net.Conn, m *dns.Msg, sign *signer) error {
	buf := make([]byte, maxRequest)
	for {
		size, err := c.Read(buf)
		if err != nil {
			return err
		}
		r := new(dns.Msg)
		if err := r.Unpack(buf[:size]); err != nil || !r.Response || r.Id != m.Id || r.Opcode != dns.OpcodeNotify {
			continue
		}
		if r.Rcode != dns.RcodeSuccess {
			return fmt.Errorf("the answer is %s", dns.RcodeToString[r.Rcode])
		}
		if sign != nil && r.IsTsig() != nil {
			if err := dns.TsigVerify(buf[:size], sign.key.secret(), sign.mac, false); err != nil {
				return errors.New("the answer is not signed as it should be")
			}
		}
		return nil
	}
}

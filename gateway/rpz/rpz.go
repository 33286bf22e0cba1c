// Package rpz is the primary of the policy in force, as a response policy zone
// that other resolvers follow: it answers SOA questions and transfers (AXFR, RFC
// 5936; IXFR, RFC 1995), tells its secondaries of changes (NOTIFY, RFC 1996) and
// signs all of it (TSIG, RFC 8945).
//
// The zone says what the policy decides for everybody, or for one group, by
// name and by address in answers. What a zone cannot say stays behind: rules for
// URLs, names that embed others, exemptions of single devices. The package
// decides nothing: it asks the policy at each name that some rule stands at.
package rpz

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/policy"
)

// Options are what a Server needs.
type Options struct {
	Listen []netip.AddrPort
	Zone   string // canonical name; empty: none is served, NOTIFYs are taken only
	Group  string // whose policy it is; empty: of whoever is in no group
	Keys   []Key
	// Allow are the networks that may ask, each with one of the keys. Loopback
	// may without, if UnsignedLoopback.
	Allow            []netip.Prefix
	UnsignedLoopback bool
	Notify           []Peer
	// Notified, if it is set, is told that the primary of another zone, which it
	// knows by that address, has a new version. It reports whether it cares.
	Notified func(zone string, from netip.Addr, key string) bool
	// Serial is that of the last version of an earlier run, 0 for none; Keep, if it
	// is set, keeps one before it is served.
	Serial uint32
	Keep   func(serial uint32) error
	// Pace, if it is set, gives for each walk through the policy what is called at
	// each name: whoever shares a processor with others can let them have it.
	Pace func() func()
	Log  *slog.Logger
}

// A Peer is a secondary that is told of changes.
type Peer struct {
	Addr netip.AddrPort
	Key  string // name of the key that signs what it is told; empty: none
}

// Limits. The clients of a primary are few servers that its operator named.
const (
	maxConns     = 64
	maxTransfers = 8
	idleTimeout  = 10 * time.Second // between two requests
	writeTimeout = 30 * time.Second // of one message
	maxTransfer  = 15 * time.Minute // of one transfer
	maxRequest   = 4096             // octets of a request
	// pause is between two versions: what changes meanwhile is one change.
	pause = time.Second
)

// A Server serves one zone. Publish gives it the policy; Serve answers.
type Server struct {
	opts      Options
	zone      string // with the final dot
	keys      map[string]Key
	log       *slog.Logger
	udp       []*net.UDPConn
	tcp       []*net.TCPListener
	conns     chan struct{} // tokens of connections
	transfers chan struct{} // tokens of transfers
	current   atomic.Pointer[edition]
	peers     []*notifier
	stats     Stats

	mu      sync.Mutex
	pending *policy.Snapshot // the latest that was published
	wake    chan struct{}
}

// An edition is what is served: the zone, and how it came to be.
type edition struct {
	*version
	journal journal
}

// Listen binds the listeners. Serve answers on them.
func Listen(opts Options) (*Server, error) {
	s := &Server{
		opts: opts, zone: dns.Fqdn(opts.Zone), keys: make(map[string]Key), log: opts.Log,
		conns: make(chan struct{}, maxConns), transfers: make(chan struct{}, maxTransfers),
		wake: make(chan struct{}, 1),
	}
	for _, k := range opts.Keys {
		s.keys[k.fqdn()] = k
	}
	for _, p := range opts.Notify {
		s.peers = append(s.peers, &notifier{server: s, peer: p, wake: make(chan struct{}, 1)})
	}
	for _, at := range opts.Listen {
		if err := s.bind(at); err != nil {
			_ = s.Close()
			return nil, fmt.Errorf("rpz.listen: %w", err)
		}
	}
	return s, nil
}

// bind listens on one address, over UDP and TCP on the same port.
func (s *Server) bind(at netip.AddrPort) error {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	s.tcp = append(s.tcp, l)
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(l.Addr().(*net.TCPAddr).AddrPort()))
	if err != nil {
		return err
	}
	s.udp = append(s.udp, c)
	return nil
}

// Addrs returns where the server listens.
func (s *Server) Addrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, l := range s.tcp {
		out = append(out, l.Addr().(*net.TCPAddr).AddrPort())
	}
	return out
}

// Close closes the listeners; Serve does that too.
func (s *Server) Close() error {
	for _, l := range s.tcp {
		_ = l.Close()
	}
	for _, c := range s.udp {
		_ = c.Close()
	}
	return nil
}

// Publish has the policy served in place of the one before. It does not wait:
// the zone follows in the background, and policies that come faster than zones
// can be made of them are one change. A nil Server publishes nothing.
func (s *Server) Publish(p *policy.Snapshot) {
	if s == nil || s.opts.Zone == "" {
		return
	}
	s.mu.Lock()
	s.pending = p
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Serve answers until the context is done.
func (s *Server) Serve(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.follow(ctx) })
	for _, p := range s.peers {
		wg.Go(func() { p.run(ctx) })
	}
	for _, c := range s.udp {
		wg.Go(func() { s.serveUDP(c) })
	}
	for _, l := range s.tcp {
		wg.Go(func() { s.accept(ctx, l, &wg) })
	}
	<-ctx.Done()
	err := s.Close()
	wg.Wait()
	return err
}

// follow is the goroutine that makes versions of policies.
func (s *Server) follow(ctx context.Context) {
	var p *policy.Snapshot
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-timer.C:
		}
		s.mu.Lock()
		if s.pending != nil {
			p, s.pending = s.pending, nil
		}
		s.mu.Unlock()
		if p == nil {
			continue
		}
		now := time.Now()
		s.publish(p, now)
		timer.Reset(untilNext(p, now))
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// untilNext is how long the zone is true if nobody changes the policy.
func untilNext(p *policy.Snapshot, now time.Time) time.Duration {
	at := p.NextChange(now)
	if at.IsZero() {
		return 24 * time.Hour
	}
	// A step of the clock must not be slept through.
	return min(time.Until(at)+time.Millisecond, time.Hour)
}

// publish makes the version of a policy at a time, and tells the peers if it is
// another one.
func (s *Server) publish(p *policy.Snapshot, now time.Time) {
	began := time.Now()
	if s.opts.Group != "" {
		of, ok := p.ForGroup(s.opts.Group, now)
		if !ok {
			s.log.Error("the group whose policy the response policy zone is has gone; the zone stays as it was", "group", s.opts.Group)
			return
		}
		p = of
	}
	old := s.current.Load()
	var last *version
	var log journal
	serial := serialAfter(s.opts.Serial, s.opts.Serial == 0, now)
	if old != nil {
		last, log = old.version, old.journal
		serial = serialAfter(last.serial, false, now)
	}
	// A name of so many characters has two octets more; the zone's is here with
	// its final dot, which stands for its root label.
	z := view{policy: p, at: now, room: maxName - len(s.zone), pace: s.opts.Pace}
	next, d := last.next(z, serial)
	switch {
	case d != nil:
		log = log.with(d)
	case last == nil || next.serial != last.serial:
		log = nil // what was before leads nowhere
	}
	if last != nil && next.serial == last.serial {
		s.current.Store(&edition{next, log})
		return
	}
	s.stats.took.Store(int64(time.Since(began)))
	s.release(&edition{next, log}, d)
}

// release serves a new version, and tells the peers.
func (s *Server) release(e *edition, d *delta) {
	if s.opts.Keep != nil {
		if err := s.opts.Keep(e.serial); err != nil {
			s.log.Error("serial of the response policy zone not kept; it goes on from the clock after a restart", "serial", e.serial, "error", err)
		}
	}
	s.stats.versions.Add(1)
	s.current.Store(e)
	changes := "all"
	if d != nil {
		changes = strconv.Itoa(d.size())
	}
	s.log.Info("response policy zone", "zone", s.opts.Zone, "serial", e.serial, "generation", e.policy.Generation(),
		"records", e.records, "changes", changes, "left_out", e.unfit, "took", time.Duration(s.stats.took.Load()))
	for _, n := range s.peers {
		n.tell()
	}
}

// maxName is how many characters a name may have, without the final dot (RFC
// 1035, section 2.3.4).
const maxName = 253

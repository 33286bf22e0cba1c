package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-gateway/weir/gateway/policy"
)

// A Choice is what happens to a transparent connection in a case of its own.
type Choice string

const (
	ChooseBlock   Choice = "block"
	ChooseAllow   Choice = "allow"
	ChooseReport  Choice = "report"
	ChooseResolve Choice = "resolve" // for names only
)

// Transparent is what SetTransparent replaces as a whole. The zero value holds
// back what is not known.
type Transparent struct {
	Unknown Choice // what is neither TLS nor HTTP; block
	Unseen  Choice // a name at an address that it was never said to have; resolve
}

// A giver is a Resolver that remembers which addresses it gave for a name.
type giver interface {
	Gave(name string, a netip.Addr) bool
}

// diverting are the transparent listeners: a packet filter brings them
// connections that were made to somebody else. Each connection has a goroutine
// while it is not known what it is, and while its origin is looked for; then it
// is net/http's or the engine's like those of the explicit proxy.
type diverting struct {
	listeners []*divertedListener
	choices   atomic.Pointer[Transparent]
	gave      func(name string, a netip.Addr) bool
	peeks     *admission
	peeking   counters // of peeks
	stats     divertedCounters
	ctx       context.Context
	stop      context.CancelFunc
	running   sync.WaitGroup
}

// A diverted is where a connection was going when it was brought here.
type diverted struct {
	dst netip.AddrPort
	how string // "tproxy" or "redirect", as records have it
}

// ErrTransparent is in the errors of Listen about transparent listeners.
var ErrTransparent = errors.New("transparent listener")

var (
	errDirect = errors.New("connection to the transparent listener itself")
	// errNoTProxy is returned by an option that only a privileged process sets.
	errNoTProxy = errors.New("TPROXY needs CAP_NET_ADMIN: give it to the service, or bring connections by REDIRECT")
)

// A divertedListener is one transparent listener.
type divertedListener struct {
	*net.TCPListener
	server *Server
	bound  netip.AddrPort
	warned time.Time // Accept's alone
}

// listenTransparent binds the transparent listeners.
func (s *Server) listenTransparent() error {
	t := &s.diverting
	t.ctx, t.stop = context.WithCancel(context.Background())
	t.peeks = newAdmission(s.opts.MaxPeeks, s.opts.MaxPeeksPerClient, &t.peeking)
	t.gave = func(string, netip.Addr) bool { return false }
	if g, ok := s.opts.Resolver.(giver); ok {
		t.gave = g.Gave
	}
	s.SetTransparent(s.opts.TransparentRules)
	for _, a := range s.opts.Transparent {
		l, err := bindTransparent(a)
		if errors.Is(err, errNoTProxy) && l != nil && !s.opts.RequireTProxy {
			s.opts.Log.Info("transparent listener takes connections that come by REDIRECT only", "listener", a, "why", err)
			err = nil
		}
		if err != nil {
			if l != nil {
				_ = l.Close()
			}
			return fmt.Errorf("%w %s: %w", ErrTransparent, a, err)
		}
		t.listeners = append(t.listeners, &divertedListener{TCPListener: l, server: s, bound: addrPortOf(l.Addr())})
	}
	return nil
}

// SetTransparent replaces what happens to unusual transparent connections that
// begin afterwards.
func (s *Server) SetTransparent(t Transparent) {
	orDefault(&t.Unknown, ChooseBlock)
	orDefault(&t.Unseen, ChooseResolve)
	s.diverting.choices.Store(&t)
}

// TransparentAddrs returns the addresses of the transparent listeners, in the
// order of the options.
func (s *Server) TransparentAddrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, l := range s.diverting.listeners {
		addrs = append(addrs, l.bound)
	}
	return addrs
}

func addrPortOf(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// retryAccept is how long a listener waits after an error that time may mend.
const retryAccept = 100 * time.Millisecond

// serve accepts until the listener is closed.
func (l *divertedListener) serve() {
	s := l.server
	for {
		c, err := l.AcceptTCP()
		switch {
		case err == nil:
			l.admit(c)
		case errors.Is(err, net.ErrClosed) || s.diverting.ctx.Err() != nil:
			return
		default: // out of descriptors or memory, most often
			if time.Since(l.warned) > 10*time.Second {
				l.warned = time.Now()
				s.opts.Log.Warn("transparent listener cannot accept connections", "listener", l.bound, "error", err)
			}
			time.Sleep(retryAccept)
		}
	}
}

// admit begins with a connection, if there are not too many.
func (l *divertedListener) admit(c *net.TCPConn) {
	s := l.server
	device := addrPortOf(c.RemoteAddr()).Addr()
	if !s.admit.enter(device) {
		reset(c)
		return
	}
	g := newGate(c, s, device, s.admit)
	if !s.diverting.peeks.enter(device) {
		g.reset()
		return
	}
	s.diverting.running.Go(func() { l.begin(g) })
}

// begin finds out where the connection was going, and what it is.
func (l *divertedListener) begin(g *gate) {
	s := l.server
	p := &peek{server: s, gate: g, sub: policy.Subject{Addr: g.device}, begun: time.Now()}
	defer func() {
		if v := recover(); v != nil {
			s.panicked("transparent", p.dst().String(), v)
			g.reset()
		}
	}()
	what, err := l.peek(p)
	if err != nil {
		s.diverting.stats.direct.Add(1)
		g.reset()
		return
	}
	p.decide(what)
}

func (l *divertedListener) peek(p *peek) (protocol, error) {
	defer l.server.diverting.peeks.leave(p.gate.device)
	var err error
	if p.gate.diverted, err = l.original(p.gate.TCPConn); err != nil {
		return protocolNone, err
	}
	return p.look(), nil
}

// original returns where the connection was going. TPROXY leaves that as the
// local address; REDIRECT has changed it, and the kernel remembers. What was
// made to the listener itself goes nowhere else: to carry it would be a loop.
func (l *divertedListener) original(c *net.TCPConn) (*diverted, error) {
	local := addrPortOf(c.LocalAddr())
	if local.Port() != l.bound.Port() || !l.bound.Addr().IsUnspecified() && local.Addr() != l.bound.Addr() {
		return &diverted{local, "tproxy"}, nil
	}
	dst, err := originalDst(c, local.Addr().Is4())
	switch {
	case err == nil && dst != local && dst.IsValid():
		return &diverted{dst, "redirect"}, nil
	case l.bound.Addr().IsUnspecified() && !isLocal(local.Addr()):
		return &diverted{local, "tproxy"}, nil // to somebody else's port of the same number
	}
	return nil, errDirect
}

// startTransparent begins to accept.
func (s *Server) startTransparent(running *sync.WaitGroup) {
	for _, l := range s.diverting.listeners {
		running.Go(l.serve)
	}
}

// stopTransparent ends accepting and peeking.
func (s *Server) stopTransparent() {
	s.diverting.stop()
	for _, l := range s.diverting.listeners {
		_ = l.Close()
	}
}

// reset ends a connection with a reset and not with an end.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// reset ends the gate's connection so.
func (g *gate) reset() {
	g.linger.Store(false)
	_ = g.SetLinger(0)
	_ = g.Close()
}

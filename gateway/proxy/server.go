// Package proxy is the HTTP proxy: plain HTTP is forwarded through goproxy,
// CONNECT and WebSocket become tunnels of our own. Clients that know nothing of
// a proxy have their connections brought to its transparent listeners by a
// packet filter.
//
// A request is understood once, strictly, before anything else looks at it
// (front.go); its host is the canonical host that the DNS plane judges too. It
// is then put to the policy, its name is resolved by the gateway's own
// resolver, every address is put to the policy and to the rule about special
// addresses, and the address that was checked is the one that is dialled.
//
// The package decides nothing by itself about bans, resolves no name by itself
// and reads no environment variable. It does not open TLS, does not cache, and
// does not authenticate.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// A Resolver gives the addresses of a canonical name and the links through
// which the answer reached them.
type Resolver interface {
	LookupAddrs(ctx context.Context, name string) ([]netip.Addr, []resolver.Link, error)
}

// Options are what a Server is made of. Policy and Resolver must be there; a
// zero limit means its default.
type Options struct {
	Listen   []netip.AddrPort
	Policy   *policy.Store
	Resolver Resolver
	Audit    audit.Sink   // nil: no record
	Log      *slog.Logger // nil: no messages

	ConnectPorts  []uint16         // ports that CONNECT may reach; none by default
	HTTPPorts     []uint16         // ports that plain HTTP may reach; none by default
	AllowNetworks []netip.Prefix   // private and special networks that may be reached; none by default
	Self          []netip.AddrPort // the gateway's other listeners: never a destination

	Transparent      []netip.AddrPort // listeners that a packet filter brings connections to
	TransparentRules Transparent      // until SetTransparent
	RequireTProxy    bool             // not to have the privilege for TPROXY is an error
	QUIC             []netip.AddrPort // UDP listeners that a packet filter brings QUIC to

	MaxConns          int           // client connections; 4096
	MaxConnsPerClient int           // of one client address; 1024
	MaxTunnels        int           // tunnels and upgraded connections; 4096
	MaxPeeks          int           // transparent connections of which it is not known what they are; 1024
	MaxPeeksPerClient int           // of one client address; 256
	MaxHeaderBytes    int           // request line and header fields; 64 KiB
	HeaderTimeout     time.Duration // for a whole request head; 10 s
	PeekTimeout       time.Duration // for a transparent connection to say what it is; 5 s
	IdleTimeout       time.Duration // between two requests of a connection; 2 min
	StallTimeout      time.Duration // without a byte in an exchange, or for response headers; 5 min
	TunnelIdle        time.Duration // without a byte in both directions of a tunnel; 10 min
	portable          bool          // in tests: without an engine
	ResolveTimeout    time.Duration // for the addresses of a name; 10 s
	DialTimeout       time.Duration // for a connection, over all addresses; 10 s
	Drain             time.Duration // for exchanges and tunnels to end at shutdown; 5 s
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

func (o *Options) setDefaults() {
	orDefault(&o.Audit, audit.Sink(audit.Discard{}))
	orDefault(&o.Log, slog.New(slog.DiscardHandler))
	orDefault(&o.MaxConns, 4096)
	orDefault(&o.MaxConnsPerClient, 1024)
	orDefault(&o.MaxTunnels, 4096)
	orDefault(&o.MaxPeeks, 1024)
	orDefault(&o.MaxPeeksPerClient, 256)
	orDefault(&o.PeekTimeout, 5*time.Second)
	orDefault(&o.MaxHeaderBytes, 64<<10)
	orDefault(&o.HeaderTimeout, 10*time.Second)
	orDefault(&o.IdleTimeout, 2*time.Minute)
	orDefault(&o.StallTimeout, 5*time.Minute)
	orDefault(&o.TunnelIdle, 10*time.Minute)
	orDefault(&o.ResolveTimeout, 10*time.Second)
	orDefault(&o.DialTimeout, 10*time.Second)
	orDefault(&o.Drain, 5*time.Second)
}

// A Server is the proxy on its listeners. It is made by Listen.
type Server struct {
	opts      Options
	listeners []*listener
	addrs     []netip.AddrPort
	rules     atomic.Pointer[rules]
	admit     *admission
	audited   bool // there is somebody to make records for
	flows     flows
	diverting diverting
	quic      quicSide
	engine    *engine // nil where net/http accepts
	handed    *handed // what the engine has for net/http
	http      *http.Server
	forwarder *forwarder
	pseudonym string // what stands for this instance in Via
	stats     counters
}

// rules are what SetRules replaces as a whole.
type rules struct {
	connectPorts, httpPorts []uint16
	guard                   guard
}

// Listen binds the listeners. Nothing is answered before Serve.
func Listen(opts Options) (*Server, error) {
	if opts.Policy == nil || opts.Resolver == nil {
		return nil, errors.New("proxy needs a policy and a resolver")
	}
	opts.setDefaults()
	s := &Server{opts: opts, pseudonym: newPseudonym()}
	_, discard := opts.Audit.(audit.Discard)
	s.audited = !discard
	s.admit = newAdmission(opts.MaxConns, opts.MaxConnsPerClient, &s.stats)
	for _, a := range opts.Listen {
		l, err := net.ListenTCP(network(a), net.TCPAddrFromAddrPort(a))
		if err != nil {
			s.closeListeners()
			return nil, fmt.Errorf("proxy listener %s: %w", a, err)
		}
		bound := l.Addr().(*net.TCPAddr).AddrPort()
		s.addrs = append(s.addrs, netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port()))
		s.listeners = append(s.listeners, &listener{TCPListener: l, server: s, admit: s.admit})
	}
	if err := errors.Join(s.listenTransparent(), s.listenQUIC()); err != nil {
		s.closeListeners()
		return nil, err
	}
	s.SetRules(opts.ConnectPorts, opts.HTTPPorts, opts.AllowNetworks)
	s.handed = newHanded(s.addrs)
	s.forwarder = newForwarder(s)
	s.http = s.newHTTPServer()
	return s, nil
}

// network is that of the address's own family, so that 0.0.0.0 and [::] stand
// beside each other, as on the DNS plane.
func network(a netip.AddrPort) string {
	if a.Addr().Unmap().Is4() {
		return "tcp4"
	}
	return "tcp6"
}

// Addrs returns the addresses of the listeners, in the order of the options.
func (s *Server) Addrs() []netip.AddrPort { return s.addrs }

// SetRules replaces which ports and which private networks may be reached, for
// all requests that begin afterwards. Tunnels that are open stay.
func (s *Server) SetRules(connectPorts, httpPorts []uint16, allow []netip.Prefix) {
	self := append(append([]netip.AddrPort(nil), s.addrs...), s.opts.Self...)
	self = append(self, s.TransparentAddrs()...)
	s.rules.Store(&rules{
		connectPorts: append([]uint16(nil), connectPorts...),
		httpPorts:    append([]uint16(nil), httpPorts...),
		guard:        newGuard(allow, self),
	})
}

func (s *Server) newHTTPServer() *http.Server {
	return &http.Server{
		Handler:                      http.HandlerFunc(s.serveHTTP),
		DisableGeneralOptionsHandler: true,                     // OPTIONS * is refused like every request to the proxy itself
		ReadHeaderTimeout:            2 * s.opts.HeaderTimeout, // for a client that sends nothing; then the gate's own, which answers
		IdleTimeout:                  s.opts.IdleTimeout,
		MaxHeaderBytes:               2 * s.opts.MaxHeaderBytes, // the gate's own bound is the one that counts
		ErrorLog:                     slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, gateKey{}, c.(*gate))
		},
	}
}

// recheckEvery is how often open tunnels are judged again without a new
// policy: exemptions end and bans take effect by the clock.
const recheckEvery = 5 * time.Second

// Serve answers until the context ends, then waits up to Options.Drain for
// exchanges and tunnels to end, closes the rest, and returns. It returns an
// error only when a listener failed.
func (s *Server) Serve(ctx context.Context) error {
	// Room for one error of each: what cannot be said any more is not waited for.
	failed := make(chan error, len(s.listeners)+1+maxEngineErrors)
	running := s.startServing(failed)
	s.startTransparent(running)
	s.startQUIC(running)
	tick := time.NewTicker(recheckEvery)
	defer tick.Stop()
	var err error
	for err == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			s.Recheck()
		case err = <-failed:
		}
	}
	s.shutdown()
	running.Wait()
	for len(failed) > 0 {
		err = errors.Join(err, <-failed)
	}
	return err
}

// maxEngineErrors is how many errors of an engine are kept.
const maxEngineErrors = 8

// startServing begins to accept: the engine, which hands net/http what is not
// CONNECT, or net/http itself.
func (s *Server) startServing(failed chan<- error) *sync.WaitGroup {
	var running sync.WaitGroup
	serve := func(l net.Listener) {
		running.Go(func() {
			if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("proxy listener %s: %w", l.Addr(), err)
			}
		})
	}
	if !s.opts.portable && len(s.listeners)+len(s.diverting.listeners) > 0 {
		e, err := startEngine(s, func(err error) {
			select {
			case failed <- err:
			default:
			}
		})
		if err == nil {
			s.engine = e
			for _, l := range s.listeners {
				_ = l.Close() // the engine has its own descriptors of them
			}
			serve(s.handed)
			return &running
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			s.opts.Log.Warn("proxy runs without its engine, at a higher cost", "error", err)
		}
	}
	for _, l := range s.listeners {
		serve(l)
	}
	if len(s.diverting.listeners) > 0 {
		serve(s.handed)
	}
	return &running
}

// shutdown ends in an order: no new connection, then time for what is open,
// then the end of what is left.
func (s *Server) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Drain)
	defer cancel()
	s.stopTransparent()
	s.stopQUIC()
	if s.engine != nil {
		s.engine.drain()
	}
	if err := s.http.Shutdown(ctx); err != nil {
		s.opts.Log.Info("proxy closes exchanges that did not end in time", "drain", s.opts.Drain)
	}
	if s.engine != nil {
		s.engine.wait(ctx)
	}
	if left := s.flows.wait(ctx); left > 0 {
		s.opts.Log.Info("proxy closes tunnels that did not end in time", "tunnels", left, "drain", s.opts.Drain)
	}
	s.flows.cutAll(endDrained)
	_ = s.http.Close()
	s.flows.wait(context.Background())
	s.diverting.running.Wait()
	if s.engine != nil {
		s.engine.stop()
	}
	s.forwarder.close()
}

// Close closes the listeners. It is for a server that never served; one that
// serves is ended through the context of Serve.
func (s *Server) Close() error {
	s.closeListeners()
	return nil
}

func (s *Server) closeListeners() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
	for _, l := range s.diverting.listeners {
		_ = l.Close()
	}
	for _, l := range s.quic.listeners {
		_ = l.Close()
	}
}

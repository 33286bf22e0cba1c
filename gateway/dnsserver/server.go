// Package dnsserver is the DNS plane: listeners for UDP, TCP, DoT, DoH and DoQ, the judgement of
// questions and of answers, and the replies that hold a banned name back.
//
// A message is checked as raw bytes before anything is allocated for it; its
// question is judged before anybody is asked; and the answer is judged again,
// link by link, under the snapshot that is in force when the reply is written.
// What it does NOT do: decide (package policy), resolve or cache (package
// resolver), or keep records (package audit). Handling of a question is apart
// from the allTransports, so a transport only moves bytes.
//
// It is a forwarder and authoritative for nothing. A question with RD=0 gets
// the verdict of policy or what the cache has, and is REFUSED otherwise. Zone
// transfers, NOTIFY and UPDATE are not offered, ANY is not asked upstream, and
// there is one class.
package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// A Resolver finds answers. Cached never blocks and returns nil for a miss;
// Resolve ends when its context does. Neither writes to the question.
type Resolver interface {
	Cached(q *dns.Msg) *resolver.Answer
	Resolve(ctx context.Context, q *dns.Msg) (*resolver.Answer, error)
}

// Options configure a Server. An address to listen on, Policy and Resolver are
// required; zero means the default given, for everything else.
type Options struct {
	// Listen are the addresses for UDP and TCP. An address listens for its own
	// family only, so 0.0.0.0 and [::] stand beside each other. Port 0 means any
	// free port, the same for UDP and TCP.
	Listen []netip.AddrPort
	// DoT, DoH and DoQ are addresses for DNS over TLS, HTTPS and QUIC, which need
	// Certs. HTTP3 has DoH answered over HTTP/3 too, at the same addresses.
	DoT, DoH, DoQ []netip.AddrPort
	HTTP3         bool
	// Proxies are networks of load balancers, which say by the PROXY protocol,
	// version 2, for whom they ask: over TCP, DoT and DoH always, over UDP where
	// they do. Over QUIC they cannot.
	Proxies []netip.Prefix
	// Name is what devices know the resolver by; its certificate must be for it.
	// With it the encrypted listeners are announced (RFC 9462), and a label under
	// it can be a token of Identities.
	Name     string
	Certs    *Certs
	Policy   *policy.Store
	Resolver Resolver
	Audit    audit.Sink   // default: audit.Discard
	Log      *slog.Logger // default: none

	// BlockTTL is how long blocked answers may be kept, negative ones included.
	// The default is 60 s: a name that is released works within a minute, and an
	// app that asks in a loop asks its device's cache, not the gateway.
	BlockTTL time.Duration

	Readers int           // goroutines that read UDP for each address; one for each processor
	Workers int           // questions that wait for the resolver at once; 1024
	Queue   int           // questions that wait for a worker; 4096
	Timeout time.Duration // from a question's arrival to its answer, the wait for a worker included; 4.5 s

	MaxTCP           int           // TCP connections in all; 1024
	MaxTCPPerClient  int           // connections of one address, for each transport; 64
	MaxConns         int           // connections in all, for each encrypted transport; 4096
	MaxPipeline      int           // unanswered questions of one TCP connection; 64
	Idle             time.Duration // how long a TCP connection without open questions is kept; 10 s
	IdleEncrypted    time.Duration // the same for encrypted ones, which cost more to open; 30 s
	HandshakeTimeout time.Duration // for the whole of a handshake; 5 s
	ReadTimeout      time.Duration // for the rest of a TCP message after its first byte; 3 s
	WriteTimeout     time.Duration // for one reply over TCP; 3 s

	// Drain bounds how long Serve waits for the questions in flight when it
	// ends; 5 s.
	Drain time.Duration

	// Tap gets a copy of what clients asked and got; nil: nobody does.
	Tap Tap
	// Limits are what a device and a network may ask.
	Limits Limits
	// MaxPerClient is how many questions of one device wait for the resolver at
	// once; a quarter of all that may.
	MaxPerClient int
	// Cookies are the DNS cookies of clients; nil: the option means nothing.
	Cookies *Cookies
	// Subnets says that the resolver passes client subnets on (resolver.Subnets):
	// questions with one go there, and replies say for how much of it they are.
	Subnets bool
	// Structured has blocked answers say why in a form that programs read.
	Structured *Structured

	portable bool // UDP without batches, for tests where there are batches
}

func (o *Options) setDefaults() error {
	switch {
	case len(o.Listen)+len(o.DoT)+len(o.DoH)+len(o.DoQ) == 0:
		return errors.New("dns server has no address to listen on")
	case o.Policy == nil:
		return errors.New("dns server has no policy store")
	case o.Resolver == nil:
		return errors.New("dns server has no resolver")
	case len(o.DoT)+len(o.DoH)+len(o.DoQ) > 0 && o.Certs == nil:
		return errNoCerts
	}
	if o.Audit == nil {
		o.Audit = audit.Discard{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	orDefault(&o.BlockTTL, 60*time.Second)
	orDefault(&o.Readers, runtime.NumCPU())
	orDefault(&o.Workers, 1024)
	orDefault(&o.Queue, 4096)
	orDefault(&o.MaxPerClient, (o.Workers+o.Queue)/4+1)
	orDefault(&o.Timeout, 4500*time.Millisecond) // stub resolvers wait 5 s; they should hear SERVFAIL, not silence
	orDefault(&o.MaxTCP, 1024)
	orDefault(&o.MaxTCPPerClient, 64)
	orDefault(&o.MaxConns, 4096)
	orDefault(&o.MaxPipeline, 64)
	orDefault(&o.Idle, 10*time.Second)
	orDefault(&o.IdleEncrypted, 30*time.Second)
	orDefault(&o.HandshakeTimeout, 5*time.Second)
	orDefault(&o.ReadTimeout, 3*time.Second)
	orDefault(&o.WriteTimeout, 3*time.Second)
	orDefault(&o.Drain, 5*time.Second)
	return nil
}

func orDefault[T ~int | ~int64](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// A Server owns its sockets from Listen until Serve returns or Close.
type Server struct {
	opts       Options
	core       core
	udp        []udpListener
	tcp        []*streamListener // TCP, then DoT and DoH
	quic       []*quicListener   // DoQ, and DoH over HTTP/3
	web        *web              // nil: no DoH
	streams    streams
	doq        quicConns
	identities atomic.Pointer[Identities]
	places     [allTransports]places
	// ending is closed when Serve stops reading.
	ending  chan struct{}
	endOnce sync.Once
	// reading ends with it.
	reading     context.Context
	stopStreams context.CancelFunc
	// life ends when the time to drain is over: waiting resolutions give up.
	life context.Context
	kill context.CancelFunc
	wg   sync.WaitGroup // readers, accepters and TCP connections
}

// Listen binds every address for UDP and TCP, or none.
func Listen(opts Options) (*Server, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, err
	}
	s := &Server{opts: opts, ending: make(chan struct{})}
	s.life, s.kill = context.WithCancel(context.Background())
	s.reading, s.stopStreams = context.WithCancel(context.Background())
	s.core = core{
		policy: opts.Policy, resolver: opts.Resolver, audit: opts.Audit,
		structured: opts.Structured,
		blockTTL:   uint32(opts.BlockTTL / time.Second),
		timeout:    opts.Timeout, cookies: opts.Cookies, subnets: opts.Subnets, limits: newLimiter(&opts.Limits), tap: opts.Tap, proxies: opts.Proxies,
	}
	s.core.hots = make(chan *hot, opts.Readers)
	for range opts.Readers {
		s.core.hots <- nil // made when it is first needed
	}
	s.core.exit = newExit(s.life, &s.core, opts.Workers, opts.Queue, opts.MaxPerClient)
	s.core.idle[tcp], s.core.idle[dot] = opts.Idle, opts.IdleEncrypted
	s.places[tcp].init(opts.MaxTCP, opts.MaxTCPPerClient)
	for t := dot; t < allTransports; t++ {
		s.places[t].init(opts.MaxConns, opts.MaxTCPPerClient)
	}
	if err := s.bindAll(); err != nil {
		s.closeSockets()
		return nil, err
	}
	return s, nil
}

func (s *Server) bindAll() error {
	for _, a := range s.opts.Listen {
		if err := s.bind(a); err != nil {
			return err
		}
	}
	if err := s.bindEncrypted(); err != nil {
		return err
	}
	s.core.name, s.core.endpoints = s.opts.Name, s.designate(s.opts.Name)
	return nil
}

// bindTries is how often port 0 is tried again when the free TCP port that was
// found is not free for UDP.
const bindTries = 32

func (s *Server) bind(a netip.AddrPort) error {
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	for try := 1; ; try++ {
		l, err := net.ListenTCP(network("tcp", a), net.TCPAddrFromAddrPort(a))
		if err != nil {
			return fmt.Errorf("dns server: %w", err)
		}
		at := netip.AddrPortFrom(a.Addr(), l.Addr().(*net.TCPAddr).AddrPort().Port())
		u, err := listenUDP(s, at)
		if err == nil {
			s.tcp = append(s.tcp, &streamListener{TCPListener: l, transport: tcp, places: &s.places[tcp], idle: s.opts.Idle})
			s.udp = append(s.udp, u)
			return nil
		}
		_ = l.Close()
		if a.Port() != 0 || try == bindTries {
			return fmt.Errorf("dns server: %w", err)
		}
	}
}

// network is the network of the address's own family.
func network(proto string, a netip.AddrPort) string {
	if a.Addr().Is4() {
		return proto + "4"
	}
	return proto + "6"
}

// Addrs returns the addresses that are bound, in the order of Options.Listen.
func (s *Server) Addrs() []netip.AddrPort {
	addrs := make([]netip.AddrPort, len(s.udp))
	for i, u := range s.udp {
		addrs[i] = u.addrPort()
	}
	return addrs
}

// Serve answers questions until ctx is done. Then it stops reading, answers
// what is in flight for as long as Options.Drain allows, closes every socket
// and returns nil. It can be called once.
func (s *Server) Serve(ctx context.Context) error {
	for _, u := range s.udp {
		u.serve(&s.wg)
	}
	for _, l := range s.tcp {
		s.wg.Go(func() { s.accept(l) })
	}
	if s.web != nil {
		s.wg.Go(s.web.serve)
	}
	for _, l := range s.quic {
		s.wg.Go(func() { s.serveQUIC(l) })
	}
	<-ctx.Done()
	s.drain()
	return nil
}

// Close closes the sockets at once. It is for a server that never served; one
// that serves is ended through the context of Serve.
func (s *Server) Close() error {
	s.end()
	s.kill()
	s.closeSockets()
	s.closeConns()
	return nil
}

func (s *Server) end() {
	s.endOnce.Do(func() {
		close(s.ending)
		s.stopStreams()
	})
}

func (s *Server) isEnding() bool {
	select {
	case <-s.ending:
		return true
	default:
		return false
	}
}

// killGrace is what resolutions that were told to give up have left to do so,
// and to write their SERVFAIL.
const killGrace = time.Second

// drain runs once everything else has started. UDP sockets stay open for
// writing until the last answer is out.
func (s *Server) drain() {
	s.end()
	for _, u := range s.udp {
		u.stopReading()
	}
	for _, l := range s.tcp {
		_ = l.Close()
	}
	for _, l := range s.quic {
		l.stopReading()
	}
	s.streams.stopReading()
	if s.web != nil {
		s.wg.Go(s.web.stop)
	}
	done := make(chan struct{})
	go s.quiesce(done)
	if !wait(done, s.opts.Drain) {
		s.opts.Log.Warn("dns server: questions were still in flight after the time to drain", "inflight", s.core.stats.inflight.Load())
	}
	s.kill()
	if !wait(done, killGrace) {
		s.closeConns()
	}
	s.closeSockets()
}

// quiesce closes done when nothing runs for the server any more.
func (s *Server) quiesce(done chan<- struct{}) {
	s.wg.Wait()
	s.core.exit.wait()
	close(done)
}

func wait(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

func (s *Server) closeConns() {
	s.streams.closeAll()
	s.doq.closeAll()
	if s.web != nil {
		s.web.closeAll()
	}
}

func (s *Server) closeSockets() {
	for _, l := range s.quic {
		l.close()
	}
	for _, u := range s.udp {
		u.close()
	}
	for _, l := range s.tcp {
		_ = l.Close()
	}
}

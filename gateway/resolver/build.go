package resolver

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	portDNS   = 53
	portTLS   = 853
	portHTTPS = 443
)

// A builder makes upstreams from what they share.
type builder struct {
	ctx   context.Context
	tasks *tasks
	now   clock
	count *counters
	log   *slog.Logger
	try   time.Duration
	late  time.Duration // after it, a try without a response is a miss
	// backoff is how long after the last miss the first probe is sent.
	backoff    time.Duration
	lingering  *atomic.Int64 // tries that lost and go on for a while
	mostLinger int64
	self       func(netip.AddrPort) bool
	tls        *tls.Config
	known      map[string]*upstream // by URL; while the groups are made
	hosts      *hosts
}

// linger ends a try after that time, and notes a miss if it had no response by
// then. It reports false where too many tries are lingering already.
func (b *builder) linger(tr *try, d time.Duration) bool {
	if b.lingering.Add(1) > b.mostLinger {
		b.lingering.Add(-1)
		return false
	}
	time.AfterFunc(d, func() {
		b.lingering.Add(-1)
		if !tr.done.Load() {
			tr.tooLate()
		}
		tr.cancel()
	})
	return true
}

// upstreamGroup makes the upstreams that the operator named, or follows the
// system's resolvers.
func (b *builder) upstreamGroup(urls []*url.URL, strategy Strategy, s *system) (*group, error) {
	g := &group{b: b, strategy: strategy, budget: newBudget()}
	if len(urls) == 0 {
		g.system = s
	}
	for _, u := range urls {
		up, err := b.upstream(u)
		if err != nil {
			return nil, err
		}
		g.ups = append(g.ups, up)
	}
	return g, nil
}

// bootstrapGroup makes the resolvers for host names of upstreams. Their tries
// are shorter, because several must fit into one try of an upstream.
func (b *builder) bootstrapGroup(addrs []netip.AddrPort, s *system) (*group, error) {
	short := *b
	short.try = b.try / 3
	short.late = min(lateAfter, short.try/2)
	b = &short
	g := &group{b: b, budget: newBudget()}
	if len(addrs) == 0 {
		g.system = s
	}
	for _, a := range addrs {
		if !a.IsValid() {
			return nil, fmt.Errorf("bootstrap resolver %s: give an address and a port, such as 192.0.2.53:53", a)
		}
		if b.self(a) {
			return nil, fmt.Errorf("bootstrap resolver %s is our own listener: name another resolver", a)
		}
		g.ups = append(g.ups, b.plain(a))
	}
	return g, nil
}

// plain makes an upstream over UDP with TCP beside it.
func (b *builder) plain(a netip.AddrPort) *upstream {
	e := &endpoint{addr: a.Addr(), port: a.Port(), self: b.self}
	u := b.wrap("udp://"+a.String(), &udpTransport{addr: a, tcp: newStreamPool(b, e.dial), count: b.count, log: b.log})
	u.plain = true
	return u
}

func (b *builder) wrap(address string, t transport) *upstream {
	return &upstream{address: address, transport: t, b: b}
}

// upstream makes an upstream, or returns the one that another group has already:
// how it is doing is the same for both.
func (b *builder) upstream(u *url.URL) (*upstream, error) {
	if u == nil {
		return nil, fmt.Errorf("upstream is missing: write it as udp://192.0.2.53:53")
	}
	if known := b.known[u.String()]; known != nil {
		return known, nil
	}
	up, err := b.connect(u)
	if err == nil {
		b.known[u.String()] = up
	}
	return up, err
}

func (b *builder) connect(u *url.URL) (*upstream, error) {
	e, err := b.endpoint(u)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", u.Redacted(), err)
	}
	switch u.Scheme {
	case "udp":
		return b.plain(netip.AddrPortFrom(e.addr, e.port)), nil
	case "tcp":
		return b.wrap(u.String(), newStreamPool(b, e.dial)), nil
	case "tls":
		return b.wrap(u.String(), newStreamPool(b, b.dialTLS(e))), nil
	case "quic":
		return b.wrap(u.String(), b.newQUIC(e)), nil
	case "h3":
		return b.wrap(u.Redacted(), newHTTPS(b, b.newHTTP3(e), u)), nil
	}
	return b.wrap(u.Redacted(), newHTTPS(b, b.newTransport(e), u)), nil
}

// ports are the schemes with their own ports.
var ports = map[string]uint16{"udp": portDNS, "tcp": portDNS, "tls": portTLS, "quic": portTLS, "https": portHTTPS, "h3": portHTTPS}

func (b *builder) endpoint(u *url.URL) (*endpoint, error) {
	port, ok := ports[u.Scheme]
	if !ok {
		return nil, fmt.Errorf("scheme %q is not known: use udp, tcp, tls, quic, https or h3", u.Scheme)
	}
	if s := u.Port(); s != "" {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("port %s is not one from 1 to 65535", s)
		}
		port = uint16(n)
	}
	e := &endpoint{host: u.Hostname(), port: port, hosts: b.hosts, self: b.self}
	if e.host == "" {
		return nil, fmt.Errorf("it has no host")
	}
	if a, err := netip.ParseAddr(e.host); err == nil {
		e.addr = a.Unmap()
		if b.self(netip.AddrPortFrom(e.addr, port)) {
			return nil, fmt.Errorf("it is our own listener, which would be a loop: name another resolver")
		}
		return e, nil
	}
	if u.Scheme == "udp" || u.Scheme == "tcp" {
		return nil, fmt.Errorf("host %q is a name: %s needs an address, because nothing proves who answers to the name", e.host, u.Scheme)
	}
	if _, ok := canonical(e.host); !ok {
		return nil, fmt.Errorf("host %q is neither an address nor a name", e.host)
	}
	return e, nil
}

// An endpoint is where an upstream's streams are dialled to.
type endpoint struct {
	host  string
	addr  netip.Addr // invalid where the host is a name
	port  uint16
	hosts *hosts
	self  func(netip.AddrPort) bool
}

// dial connects to the first address that takes the connection. A dead one may
// use up its share of the time only.
func (e *endpoint) dial(ctx context.Context) (net.Conn, error) {
	addrs, err := e.addrs(ctx)
	if err != nil {
		return nil, err
	}
	var last error
	for i, a := range addrs {
		c, err := e.dialAddr(ctx, netip.AddrPortFrom(a, e.port), len(addrs)-i)
		if err == nil {
			return c, nil
		}
		last = err
	}
	return nil, last
}

func (e *endpoint) dialAddr(ctx context.Context, a netip.AddrPort, share int) (net.Conn, error) {
	if e.self(a) {
		return nil, fmt.Errorf("%s is our own listener, which would be a loop", a)
	}
	var d net.Dialer
	if deadline, ok := ctx.Deadline(); ok {
		d.Timeout = time.Until(deadline) / time.Duration(share)
	}
	return d.DialContext(ctx, "tcp", a.String())
}

// dialTLS returns a function that connects over TLS and proves that the
// upstream is the host of its URL: by name, or by an IP SAN.
func (b *builder) dialTLS(e *endpoint) func(context.Context) (net.Conn, error) {
	conf := b.tlsConfig()
	conf.ServerName = e.serverName()
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(streamConns)
	return func(ctx context.Context) (net.Conn, error) {
		raw, err := e.dial(ctx)
		if err != nil {
			return nil, err
		}
		c := tls.Client(raw, conf)
		if err := c.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, fmt.Errorf("TLS with %s: %w", e.host, err)
		}
		return c, nil
	}
}

func (b *builder) tlsConfig() *tls.Config {
	conf := new(tls.Config)
	if b.tls != nil {
		conf = b.tls.Clone()
	}
	conf.ServerName = ""
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12) // RFC 9325, section 3.1.1
	return conf
}

// A tiedConn is closed with a context at the latest.
type tiedConn struct {
	net.Conn
	stop func() bool
}

func closeWith(ctx context.Context, c net.Conn) net.Conn {
	return &tiedConn{c, context.AfterFunc(ctx, func() { _ = c.Close() })}
}

// Close implements net.Conn.
func (c *tiedConn) Close() error {
	c.stop()
	return c.Conn.Close()
}

// newTransport makes the HTTP transport for an upstream. Everything that the
// environment could change is set.
func (b *builder) newTransport(e *endpoint) *http.Transport {
	return &http.Transport{
		Proxy: nil, // HTTPS_PROXY does not matter: the proxy may well be Weir
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			// The transport lets a dial outlive its request.
			ctx, cancel := context.WithTimeout(ctx, b.try)
			defer cancel()
			defer context.AfterFunc(b.ctx, cancel)()
			c, err := e.dial(ctx)
			if err != nil {
				return nil, err
			}
			return closeWith(b.ctx, c), nil
		},
		TLSClientConfig:        b.tlsConfig(),
		TLSHandshakeTimeout:    b.try,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    streamConns,
		MaxConnsPerHost:        2 * streamConns,
		IdleConnTimeout:        2 * streamIdle,
		MaxResponseHeaderBytes: 16 << 10,
		// A connection that died without a word is noticed by a ping.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: b.try},
	}
}

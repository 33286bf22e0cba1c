package gateway

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// A liveResolver is the resolver core that both planes use; it is replaced
// whole when the upstreams change.
type liveResolver struct {
	p       atomic.Pointer[resolver.Resolver]
	local   atomic.Pointer[resolver.Local]
	history resolver.History // outlives each of them
}

// retire is how long a replaced resolver may finish what it is asking.
const retire = 10 * time.Second

// replace puts a resolver for the configuration in use.
func (l *liveResolver) replace(cfg *config.Config, log *slog.Logger) error {
	data, err := localData(cfg, log)
	if err != nil {
		return err
	}
	next, err := newResolver(cfg, data, &l.history, log)
	if err != nil {
		return err
	}
	l.local.Store(data)
	if old := l.p.Swap(next); old != nil {
		time.AfterFunc(retire, func() { _ = old.Close() })
	}
	return nil
}

// setLocal puts the local data in use, if they are others.
func (l *liveResolver) setLocal(data *resolver.Local) {
	if !data.Equal(l.local.Load()) {
		l.local.Store(data)
		l.p.Load().SetLocal(data)
	}
}

// newResolver makes a resolver that remembers in the history, nil for none.
func newResolver(cfg *config.Config, data *resolver.Local, history *resolver.History, log *slog.Logger) (*resolver.Resolver, error) {
	return resolver.New(resolver.Options{
		Upstreams: cfg.DNS.Upstreams, Strategy: resolver.Strategy(cfg.DNS.Strategy), Routes: resolverRoutes(cfg), Bootstrap: cfg.DNS.Bootstrap,
		Self: cfg.DNS.Listen, CacheEntries: cfg.DNS.Cache.Entries, CacheBytes: cfg.DNS.Cache.Bytes, Log: log,
		Stale: resolver.Stale(cfg.DNS.Cache.Stale), TTL: resolver.TTLs(cfg.DNS.Cache.TTL),
		Subnets: resolver.Subnets{Fixed: cfg.DNS.Subnet.Network, Pass: cfg.DNS.Subnet.Mode == config.SubnetPass},
		Shape:   shape(cfg), Local: data, History: history,
	})
}

// shape is what is taken out of answers. Networks that the configuration names
// as ones to be reached are no surprise in an answer.
func shape(cfg *config.Config) resolver.Shape {
	return resolver.Shape{
		ECH:             cfg.DNS.ECH == config.Strip,
		H3:              cfg.DNS.H3 == config.Strip,
		Rebinding:       cfg.DNS.Rebinding.Block,
		PrivateNames:    privateNames(cfg),
		PrivateNetworks: slices.Concat(cfg.Proxy.AllowNetworks, cfg.VPN.Internal),
	}
}

// privateNames may have private addresses: what is asked at upstreams of its own
// is what is inside.
func privateNames(cfg *config.Config) []string {
	names := slices.Clone(cfg.DNS.Rebinding.Allow)
	for _, r := range cfg.DNS.Routes {
		names = append(names, r.Names...)
	}
	return names
}

// resolverRoutes translates who is asked for which names.
func resolverRoutes(cfg *config.Config) []resolver.Route {
	var routes []resolver.Route
	for _, r := range cfg.DNS.Routes {
		routes = append(routes, resolver.Route{Names: r.Names, Upstreams: r.Upstreams, Strategy: resolver.Strategy(r.Strategy)})
	}
	return routes
}

// Gave reports whether a resolver of this gateway said the name to be at the
// address. The proxy asks it of connections that come to it on their way.
func (l *liveResolver) Gave(name string, a netip.Addr) bool {
	return l.history.Gave(name, a, time.Now())
}

func (l *liveResolver) close() {
	if r := l.p.Load(); r != nil {
		_ = r.Close()
	}
}

// Cached implements dnsserver.Resolver.
func (l *liveResolver) Cached(q *dns.Msg) *resolver.Answer { return l.p.Load().Cached(q) }

// Resolve implements dnsserver.Resolver.
func (l *liveResolver) Resolve(ctx context.Context, q *dns.Msg) (*resolver.Answer, error) {
	return l.p.Load().Resolve(ctx, q)
}

// LookupAddrs implements proxy.Resolver.
func (l *liveResolver) LookupAddrs(ctx context.Context, name string) ([]netip.Addr, []resolver.Link, error) {
	return l.p.Load().LookupAddrs(ctx, name)
}

// Current lets the DNS server's readers use the resolver's cache without a
// message for each question.
func (l *liveResolver) Current() *resolver.Resolver { return l.p.Load() }

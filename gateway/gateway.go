// Package gateway puts the parts together and runs them: one policy on two
// planes.
//
// It compiles the lists of a configuration into a policy.Snapshot, hands that
// to the DNS plane (dnsserver) and the proxy plane (proxy) through one Store,
// and replaces it on reload: built beside the old one, swapped whole, or
// rejected whole; a list whose source cannot be taken is what it was, and no
// reason to reject the rest. One goroutine owns the list state. The package itself
// decides nothing and parses no packet.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/admin"
	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/dnsserver"
	"github.com/weir-gateway/weir/gateway/generation"
	"github.com/weir-gateway/weir/gateway/ledger"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/proxy"
	"github.com/weir-gateway/weir/gateway/rpz"
	"github.com/weir-gateway/weir/gateway/tap"
	"github.com/weir-gateway/weir/gateway/vpn"
)

// drain bounds how long a stopping gateway lets answers and tunnels finish.
const drain = 10 * time.Second

// Options are what a Gateway needs beside its configuration.
type Options struct {
	Version string
	Log     *slog.Logger
	// Load reads the configuration again, for Reload and for changes of the
	// file; nil for a configuration that has no file.
	Load func() (*config.Config, error)
}

// A Gateway answers DNS questions and proxies HTTP under one policy. Make it
// with New, run it once with Run.
type Gateway struct {
	opts     Options
	log      *slog.Logger
	store    policy.Store
	resolver liveResolver
	audit    *audit.Log        // nil for none
	tap      *tap.Tap          // nil for none
	dns      *dnsserver.Server // nil for none
	proxy    *proxy.Server     // nil for none
	admin    *admin.Server     // nil for none
	vpn      *vpn.Keeper       // nil for none
	zone     *rpz.Server       // nil for none
	certs    *certKeeper       // nil for none
	keys     []rpz.Key         // of zone transfers, both ways
	folder   *stateDir         // nil for none
	feeds    *feeds
	answers  *answerFile // the answer cache over restarts
	changes  chan change
	record   recorder
	uses     uses
	local    atomic.Pointer[local] // what is in force beside the configuration
	ended    chan struct{}         // closed when no change is carried out any more
	state    atomic.Pointer[state]
	stopping atomic.Bool
	counts   reloadCounts
	diffing  sync.Mutex // one Diff at a time
	metrics  *prometheus.Registry

	// Owned by the goroutine of own.
	cfg      *config.Config
	compiled *policySet // in force
	watched  watcher
	gens     generationState
	retry    time.Time // when to try a failed reload again; zero for not
}

// A state is what status and metrics show of the policy in force.
type state struct {
	generation uint64
	since      time.Time
	took       time.Duration
	lists      []ListStatus
	cfg        *config.Config
	canary     *CanaryStatus     // nil for none
	ahead      []ListStatus      // those of the canary, or lists
	change     generation.Header // what brought it
}

// reloadCounts are the results of reloads.
type reloadCounts struct {
	ok, failed atomic.Uint64
	unkept     atomic.Uint64          // generations that could not be written, at each try
	lastError  atomic.Pointer[string] // of the latest reload; nil after a good one
	lastOK     atomic.Int64           // time of the latest success, Unix nanoseconds
}

// New compiles the policy and binds every listener, or returns an error and
// leaves nothing behind. Nothing is answered before Run, and by then there is
// a policy.
func New(cfg *config.Config, opts Options) (*Gateway, error) {
	g := &Gateway{opts: opts, log: opts.Log, cfg: cfg, changes: make(chan change), ended: make(chan struct{})}
	began := time.Now()
	var err error
	if g.folder, err = openState(cfg, g.log); err != nil {
		return nil, err
	}
	file := withHosts(lookFile(cfg.File), cfg)
	if err := g.loadLocal(); err != nil {
		g.folder.close()
		return nil, err
	}
	if err = g.openGenerations(); err != nil {
		g.close()
		return nil, err
	}
	g.missRecord()
	if g.keys, err = tsigKeys(cfg.RPZ.Keys); err != nil {
		g.close()
		return nil, err
	}
	if g.feeds, err = newFeeds(g); err != nil {
		g.close()
		return nil, err
	}
	set, err := g.feeds.first(g.begin)
	if err != nil {
		g.close()
		return nil, err
	}
	g.publish(set, began)
	g.feeds.refuseFiles(set.ahead().refused)
	_ = g.reportPartial() // nobody waits, but it is counted
	g.metrics = g.registry()
	if err := g.bind(); err != nil {
		g.close()
		return nil, err
	}
	g.watchAll(file, set.ahead())
	settleMemory(set)
	if err = g.keepFirst(); err == nil {
		err = g.recordChange(change{who: whoGateway, kind: changeStart, why: "version " + opts.Version}, nil)
	}
	if err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// publish puts the compiled policy in force.
func (g *Gateway) publish(set *policySet, began time.Time) {
	g.store.Swap(set.snapshot)
	g.compiled = set
	now := time.Now()
	g.state.Store(&state{
		generation: set.snapshot.Generation(), since: now, took: now.Sub(began),
		lists: set.lists, cfg: g.cfg, canary: set.canary.status(), ahead: set.ahead().lists,
	})
	g.counts.lastOK.Store(now.UnixNano())
	g.vpn.Wake()
	g.zone.Publish(set.snapshot)
	for _, l := range set.lists {
		// Such a list is often one of another dialect that happens to give a few rules.
		if r := l.Report; r != nil && r.SkippedLines > r.RuleLines {
			g.log.Warn("most lines of a list are not used; weir lists lint says why", "list", l.Name, "source", l.Source,
				"format", l.Format, "skipped", r.SkippedLines, "used", r.RuleLines)
		}
	}
}

func (g *Gateway) bind() error {
	if err := g.resolver.replace(g.cfg, g.log); err != nil {
		return err
	}
	g.answers = newAnswerFile(g.folder, &g.resolver, g.log)
	g.answers.configure(g.cfg)
	var sink audit.Sink = audit.Discard{}
	if g.cfg.Audit.File != "" {
		l, err := audit.Open(g.cfg.Audit.File, auditOptions(&g.cfg.Audit), g.log)
		if err != nil {
			return err
		}
		l.Observe(g.uses.see)
		g.audit, sink = l, l
	}
	g.keepFilter()
	var err error
	if err := g.bindDNS(sink); err != nil {
		return err
	}
	if err := g.bindZone(); err != nil {
		return err
	}
	if err := g.listenAdmin(); err != nil {
		return listenError("admin.listen", err)
	}
	if len(g.cfg.Proxy.Listen)+len(g.cfg.Transparent.Listen)+len(quicListen(g.cfg)) > 0 {
		p, clients := g.cfg.Proxy, clientLimit(openFiles()-g.encryptedFiles())
		g.proxy, err = proxy.Listen(proxy.Options{
			Listen: p.Listen, Policy: &g.store, Resolver: &g.resolver, Audit: sink, Log: g.log,
			ConnectPorts: p.ConnectPorts, HTTPPorts: p.HTTPPorts, AllowNetworks: p.AllowNetworks,
			Self: g.ownAddrs(), MaxConns: clients, MaxTunnels: clients, Drain: drain,
			Transparent: g.cfg.Transparent.Listen, TransparentRules: transparentRules(g.cfg),
			QUIC:          quicListen(g.cfg),
			RequireTProxy: g.cfg.VPN.Interface != "" && g.cfg.VPN.Divert == config.DivertTProxy,
		})
		if err != nil {
			key := "proxy.listen"
			switch {
			case errors.Is(err, proxy.ErrTransparent):
				key = "transparent.listen"
			case errors.Is(err, proxy.ErrQUIC):
				key = "quic.listen"
			}
			return listenError(key, err)
		}
	}
	return nil
}

// transparentRules translates what happens to unusual transparent connections.
func transparentRules(cfg *config.Config) proxy.Transparent {
	return proxy.Transparent{Unknown: proxy.Choice(cfg.Transparent.Unknown), Unseen: proxy.Choice(cfg.Transparent.Unseen)}
}

// quicListen is where QUIC comes to, if it is looked into.
func quicListen(cfg *config.Config) []netip.AddrPort {
	if cfg.QUIC.Mode != config.QUICInspect {
		return nil
	}
	return cfg.QUIC.Listen
}

// ownAddrs are the gateway's own listeners, which the proxy must not reach.
func (g *Gateway) ownAddrs() []netip.AddrPort {
	addrs := slices.Concat(g.cfg.Proxy.Listen, g.cfg.Transparent.Listen)
	if g.dns != nil {
		addrs = append(addrs, g.dns.Addrs()...)
		addrs = append(addrs, slices.Concat(g.dns.DoTAddrs(), g.dns.DoHAddrs())...)
	}
	if addr := g.AdminAddr(); addr.IsValid() {
		addrs = append(addrs, addr)
	}
	return append(addrs, g.RPZAddrs()...)
}

// DNSAddrs returns where the DNS plane listens.
func (g *Gateway) DNSAddrs() []netip.AddrPort {
	if g.dns == nil {
		return nil
	}
	return g.dns.Addrs()
}

// ProxyAddrs returns where the proxy plane listens.
func (g *Gateway) ProxyAddrs() []netip.AddrPort {
	if g.proxy == nil {
		return nil
	}
	return g.proxy.Addrs()
}

// TransparentAddrs returns where the packet filter brings connections to.
func (g *Gateway) TransparentAddrs() []netip.AddrPort {
	if g.proxy == nil {
		return nil
	}
	return g.proxy.TransparentAddrs()
}

// RPZAddrs returns where the policy is served as a response policy zone.
func (g *Gateway) RPZAddrs() []netip.AddrPort {
	if g.zone == nil {
		return nil
	}
	return g.zone.Addrs()
}

// AdminAddr returns where the admin listener is, invalid for none.
func (g *Gateway) AdminAddr() netip.AddrPort {
	if g.admin == nil {
		return netip.AddrPort{}
	}
	return g.admin.Addr()
}

// Run serves until the context is done or a listener fails, then lets answers
// and tunnels in flight finish for a bounded time.
func (g *Gateway) Run(ctx context.Context) error {
	defer g.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make(chan error, 7)
	start := func(serve func(context.Context) error) {
		wg.Go(func() {
			if err := serve(ctx); err != nil {
				errs <- err
				cancel()
			}
		})
	}
	start(g.own)
	start(g.clock)
	start(g.feeds.run)
	start(g.answers.run)
	if g.dns != nil {
		start(g.dns.Serve)
	}
	if g.proxy != nil {
		start(g.proxy.Serve)
	}
	if g.vpn != nil {
		start(g.vpn.Run)
	}
	if g.zone != nil {
		start(g.zone.Serve)
	}
	if g.certs != nil {
		start(g.certs.run)
	}
	// The admin listener goes last, so that monitors see the draining.
	adminCtx, adminStop := context.WithCancel(context.WithoutCancel(ctx))
	var adminDone sync.WaitGroup
	if g.admin != nil {
		adminDone.Go(func() {
			if err := g.admin.Serve(adminCtx); err != nil {
				errs <- err
				cancel()
			}
		})
	}
	g.announce()
	<-ctx.Done()
	g.stopping.Store(true)
	g.log.Info("stopping", "drain", drain)
	wg.Wait()
	g.answers.save()
	adminStop()
	adminDone.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

func (g *Gateway) announce() {
	st := g.state.Load()
	bans := make([]string, 0, len(st.cfg.Bans))
	for _, b := range st.cfg.Bans {
		bans = append(bans, b.ID)
	}
	g.log.Info("ready", "version", g.opts.Version, "dns", g.DNSAddrs(), "dot", g.DoTAddrs(), "doh", g.DoHAddrs(), "doq", g.DoQAddrs(), "proxy", g.ProxyAddrs(), "transparent", g.TransparentAddrs(),
		"admin", g.AdminAddr(), "rpz", g.RPZAddrs(), "generation", st.generation, "bans", bans, "rules", g.store.Load().Rules())
}

// close releases what New made; what Run has served is closed already.
func (g *Gateway) close() {
	if g.dns != nil {
		_ = g.dns.Close()
	}
	if g.proxy != nil {
		_ = g.proxy.Close()
	}
	if g.admin != nil {
		_ = g.admin.Close()
	}
	if g.zone != nil {
		_ = g.zone.Close()
	}
	g.resolver.close()
	if g.audit != nil {
		_ = g.audit.Close()
	}
	if g.tap != nil {
		_ = g.tap.Close()
	}
	g.keepUses()
	g.note(g.record.denials.flush(time.Now(), true)...)
	g.record.close()
	g.feeds.close()
	g.folder.close()
}

// ready reports why the gateway is not ready, or nil.
func (g *Gateway) ready() error {
	switch {
	case g.stopping.Load():
		return errors.New("stopping")
	case g.store.Load() == nil:
		return errors.New("no policy is loaded")
	}
	return g.feeds.alarm(time.Now())
}

// Status is what the admin listener and the command line show of a running
// gateway.
type Status struct {
	Version    string        `json:"version"`
	Generation uint64        `json:"generation"`
	Since      time.Time     `json:"since"`
	Took       time.Duration `json:"compile_ns"`
	Config     string        `json:"config"` // empty: the built-in default
	Rules      int           `json:"rules"`
	LastError  string        `json:"last_reload_error,omitempty"`
	Who        string        `json:"who,omitempty"` // brought it in force
	Why        string        `json:"why,omitempty"`
	Kind       string        `json:"kind,omitempty"`    // of change
	Held       uint64        `json:"held_at,omitempty"` // the generation that a rollback went to, until weir lists update
	Canary     *CanaryStatus `json:"canary,omitempty"`  // a group that goes ahead of all others
	Ledger     *ledger.Head  `json:"ledger,omitempty"`  // end of the record of changes
	Lists      []ListStatus  `json:"lists"`
}

// Status returns the state of the policy in force.
func (g *Gateway) Status() Status {
	st := g.state.Load()
	s := Status{
		Version: g.opts.Version, Generation: st.generation, Since: st.since, Took: st.took,
		Config: st.cfg.File, Rules: g.store.Load().Rules(), Lists: g.feeds.describe(st.lists, time.Now()),
		Canary: st.canary, Ledger: g.record.head(),
	}
	s.Who, s.Why, s.Kind = st.change.Who, st.change.Why, st.change.Kind
	if st.change.Held {
		s.Held = st.change.Of
	}
	s.LastError = g.lastError()
	return s
}

// errStopped answers a change that comes too late.
var errStopped = fmt.Errorf("the gateway is stopping")

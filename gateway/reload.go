package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"syscall"
	"time"

	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/config"
)

// watchEvery is how often files are looked at. A change is acted on when two
// looks agree, so that a file is not read while it is being written; that and
// the compilation fit into a second. Looking is cheap, and unlike
// notifications it works for network file systems, renames and the symbolic
// links of mounted configuration alike.
const watchEvery = 250 * time.Millisecond

// retryEvery is how often a reload is tried again that failed because of the
// machine (too many open files, an input error) and not because of what the
// files say: no change of a file will announce that the machine has recovered.
const retryEvery = 5 * time.Second

// Reload reads the configuration and all lists again and puts them in force,
// or returns an error and changes nothing; where some lists only cannot be taken,
// the error says so. It returns when that is done.
func (g *Gateway) Reload(ctx context.Context) error {
	return g.change(ctx, change{who: "operator", why: "asked", kind: changeReload})
}

// own is the goroutine that owns the configuration and the list state.
func (g *Gateway) own(ctx context.Context) error {
	defer close(g.ended)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	g.showFinished(g.compiled)
	for {
		select {
		case <-ctx.Done():
			return nil
		case c := <-g.changes:
			if c.kind == changeReload && g.audit != nil {
				// The signal to reload is also that of log rotation.
				if err := g.audit.Reopen(); err != nil {
					g.log.Error("audit file not opened again, the old one stays in use", "error", err)
				}
			}
			g.carryOut(c)
		case <-tick.C:
			tendHeap()
			if g.watched.changed() {
				g.carryOut(change{who: whoGateway, why: "file changed", kind: changeFile})
			} else if !g.retry.IsZero() && time.Now().After(g.retry) {
				g.carryOut(change{who: whoGateway, why: "tried again", kind: changeRetry})
			} else if !g.gens.again.IsZero() && time.Now().After(g.gens.again) {
				_ = g.keep(change{}) // reports how it went
			}
		}
	}
}

// reload is one attempt, reported once.
func (g *Gateway) reload(c change) error {
	if of := g.gens.hold; of != 0 && c.kind != changeUpdate && g.compiled.canary == nil {
		g.log.Warn("change noted, not taken: a generation is held since a rollback", "why", c.why, "held", of)
		return heldError{of}
	}
	began, before := time.Now(), g.compiled
	err := g.tryReload(began)
	g.retry = time.Time{}
	if err != nil {
		if isSystem(err) {
			g.retry = time.Now().Add(retryEvery)
		}
		g.failed(c, err, g.state.Load().generation)
		return err
	}
	if g.compiled.canary == nil {
		g.gens.hold = 0
	}
	partial := g.reportPartial()
	if partial == nil || !partial.broken {
		g.counts.ok.Add(1)
	}
	g.counts.lastError.Store(nil)
	if st := g.state.Load(); g.compiled != before {
		g.log.Info("policy in force", "who", c.who, "why", c.why, "generation", st.generation, "rules", g.store.Load().Rules(), "took", st.took)
	}
	if partial != nil {
		return partial
	}
	return nil
}

// isSystem reports whether the error is one of the operating system, but for a
// file that is missing: that one coming back is a change.
func isSystem(err error) bool {
	_, ok := errors.AsType[syscall.Errno](err)
	return ok && !errors.Is(err, fs.ErrNotExist)
}

func (g *Gateway) tryReload(began time.Time) error {
	cfg, file := g.cfg, lookFile(g.cfg.File)
	if g.opts.Load != nil {
		var err error
		if cfg, err = g.opts.Load(); err != nil {
			return err
		}
	}
	if err := sameListeners(g.cfg, cfg); err != nil {
		return err
	}
	return g.adopt(cfg, file, nil, began)
}

// adopt compiles a configuration, with an update of a list or nil, and puts it
// in force.
func (g *Gateway) adopt(cfg *config.Config, file revisions, update *feedUpdate, began time.Time) error {
	file = withHosts(file, cfg)
	data, err := localData(cfg, g.log)
	if err != nil {
		return err
	}
	sh := g.feeds.shield
	if cfg != g.cfg {
		if sh, err = newShield(cfg.Protected); err != nil {
			return err
		}
	}
	from := copies{store: g.feeds.store, update: update, approved: g.feeds.approvals(), was: g.compiled.ahead(), shield: sh}
	set, err := compileWith(cfg, g.local.Load(), g.next(), g.compiled.ahead(), from)
	if err != nil {
		return err
	}
	defer set.heap.lift()
	if err := broken(set.refused); err != nil && g.gens.hold != 0 && g.compiled.canary == nil {
		return err // a hold ends with all that was asked for, or not
	}
	whole, err := g.whole(set)
	if err != nil {
		return err
	}
	if !sameUpstreams(&g.cfg.DNS, &cfg.DNS) || !reflect.DeepEqual(shape(g.cfg), shape(cfg)) {
		if err := g.resolver.replace(cfg, g.log); err != nil {
			return err
		}
	}
	if update != nil {
		if err := update.install(g.feeds.store); err != nil {
			return err
		}
		from.settle(set)
	}
	// Nothing below can fail.
	g.resolver.setLocal(data)
	g.cfg = cfg
	// Where all that has changed is not taken, what is in force is what was.
	if len(set.refused) == 0 || g.compiled.snapshot == nil || !set.says(g.compiled.ahead()) {
		g.publish(whole, began)
	}
	g.feeds.refuseFiles(set.refused)
	if g.admin != nil {
		g.admin.SetAccess(adminAccess(&cfg.Admin))
	}
	g.watched.watch(file, set.read)
	g.feeds.configure(cfg, sh)
	g.answers.configure(cfg)
	if g.dns != nil {
		g.dns.SetIdentities(identities(&cfg.DNS))
	}
	if g.proxy != nil {
		g.proxy.SetRules(cfg.Proxy.ConnectPorts, cfg.Proxy.HTTPPorts, cfg.Proxy.AllowNetworks)
		g.proxy.SetTransparent(transparentRules(cfg))
		g.proxy.Recheck()
	}
	settleMemory(whole)
	g.showFinished(g.compiled)
	return nil
}

// showFinished finishes the policy in force, and has the status show it.
func (g *Gateway) showFinished(set *policySet) {
	if set.finish() {
		st := *g.state.Load()
		st.lists, st.ahead = set.lists, set.ahead().lists
		g.state.Store(&st)
	}
}

// sameListeners refuses changes that only a restart can carry out, rather than
// carry out a part of the new configuration.
func sameListeners(old, next *config.Config) error {
	var errs []error
	check := func(key string, same bool) {
		if !same {
			errs = append(errs, fmt.Errorf("%s has changed: restart weir to apply the new configuration", key))
		}
	}
	check("dns.listen", slices.Equal(old.DNS.Listen, next.DNS.Listen))
	check("dns.client_subnet", (old.DNS.Subnet.Mode == config.SubnetPass) == (next.DNS.Subnet.Mode == config.SubnetPass))
	check("dns.cookies", old.DNS.Cookies == next.DNS.Cookies)
	check("dns.structured_errors", reflect.DeepEqual(old.DNS.Structured, next.DNS.Structured))
	check("dns.dnstap", old.DNS.Dnstap == next.DNS.Dnstap)
	check("dns.limits", reflect.DeepEqual(old.DNS.Limits, next.DNS.Limits))
	check("dns.tls", old.DNS.TLS == next.DNS.TLS)
	check("dns.proxy_protocol", slices.Equal(old.DNS.Proxies, next.DNS.Proxies))
	check("dns.dot", slices.Equal(old.DNS.DoT.Listen, next.DNS.DoT.Listen))
	check("dns.doh", slices.Equal(old.DNS.DoH.Listen, next.DNS.DoH.Listen) && old.DNS.DoH.HTTP3 == next.DNS.DoH.HTTP3)
	check("dns.doq", slices.Equal(old.DNS.DoQ.Listen, next.DNS.DoQ.Listen))
	check("proxy.listen", slices.Equal(old.Proxy.Listen, next.Proxy.Listen))
	check("transparent.listen", slices.Equal(old.Transparent.Listen, next.Transparent.Listen))
	check("quic", slices.Equal(quicListen(old), quicListen(next)))
	check("vpn.interface", old.VPN.Interface == next.VPN.Interface)
	check("rpz", reflect.DeepEqual(old.RPZ, next.RPZ))
	check("admin.listen", old.Admin.Listen == next.Admin.Listen)
	check("admin.tls", sameTLS(&old.Admin.TLS, &next.Admin.TLS))
	check("audit", old.Audit == next.Audit)
	check("log", old.Log == next.Log)
	check("state", old.State == next.State)
	return errors.Join(errs...)
}

func sameTLS(a, b *config.AdminTLS) bool {
	return a.Cert == b.Cert && a.Key == b.Key && a.ClientCA == b.ClientCA
}

func sameUpstreams(a, b *config.DNS) bool {
	return reflect.DeepEqual(a.Upstreams, b.Upstreams) && a.Strategy == b.Strategy && reflect.DeepEqual(a.Routes, b.Routes) && slices.Equal(a.Bootstrap, b.Bootstrap) && a.Subnet == b.Subnet && sameCache(a.Cache, b.Cache)
}

// sameCache reports whether the caches differ at most in what becomes of them at
// the end.
func sameCache(a, b config.Cache) bool {
	a.Persist = b.Persist
	return a == b
}

// revisions are the revisions of sources by their spelling.
type revisions map[string]revision

// A revision is a source's revision, or that it could not be had.
type revision struct {
	source.Revision
	absent bool
}

func look(src string) revision {
	rev, err := opener.Revision(src)
	return revision{rev, err != nil}
}

// lookFile is look for the configuration file, empty for none.
func lookFile(path string) revisions {
	if path == "" {
		return nil
	}
	src := "file:" + path
	return revisions{src: look(src)}
}

// A watcher notices that files have changed since they were read.
type watcher struct {
	seen    revisions // as they were read, or as last reported
	pending revisions // a difference seen once
}

// watch takes these as what was read.
func (w *watcher) watch(file, sources revisions) {
	w.seen, w.pending = maps.Clone(sources), nil
	maps.Copy(w.seen, file)
}

// expect takes a file as it is now as what was read: the gateway itself has changed it.
func (w *watcher) expect(src string) {
	if _, ok := w.seen[src]; ok {
		w.seen[src] = look(src)
	}
}

// seenFile is lookFile as it was when the file was last read: a change since then
// is still to be noticed.
func (w *watcher) seenFile(path string) revisions {
	if path == "" {
		return nil
	}
	src := "file:" + path
	return revisions{src: w.seen[src]}
}

// changed reports a change once, when two looks in a row agree on it. A change
// that is rejected is not reported again until the files change again.
func (w *watcher) changed() bool {
	now := make(revisions, len(w.seen))
	for src := range w.seen {
		now[src] = look(src)
	}
	if maps.Equal(now, w.seen) {
		w.pending = nil
		return false
	}
	if !maps.Equal(now, w.pending) {
		w.pending = now
		return false
	}
	w.seen, w.pending = now, nil
	return true
}

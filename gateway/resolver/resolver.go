// Package resolver finds answers: in its cache, or at upstream resolvers over
// UDP, TCP, TLS, QUIC and HTTPS.
//
// It decides nothing. It says what in an answer policy must judge (Answer.Links)
// and leaves judging to its callers, on cached answers too: nothing here knows
// a subject or a generation, so nothing here becomes stale when policy changes.
// Its own way to the upstreams never asks policy and never leads through Weir
// itself: an upstream is reached whatever the bans say.
//
// It is a forwarder. It does not recurse, does not validate DNSSEC (the AD bit
// is the upstream's word: see DNSSEC.md) and listens on nothing.
package resolver

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// Errors that callers branch on.
var (
	// ErrNoUpstream means that there is nowhere to ask.
	ErrNoUpstream = errors.New("no upstream resolver")
	// ErrBusy means that MaxInFlight questions wait for upstreams already.
	ErrBusy = errors.New("too many questions wait for upstream resolvers")
	// ErrNotFound means that the name does not exist or has no address.
	ErrNotFound = errors.New("name has no address")
	// ErrQuestion means that the message is no question that can be forwarded.
	ErrQuestion = errors.New("not a question that can be forwarded")
	// ErrClosed means that the Resolver was closed.
	ErrClosed = errors.New("resolver is closed")
)

const (
	defaultTimeout  = 5 * time.Second
	defaultTry      = 2 * time.Second
	defaultInFlight = 1024
	maxInFlight     = 32768
)

// Options are what a Resolver is made of. The zero Options forward to the
// system's resolvers without a cache.
type Options struct {
	// Upstreams are asked as Strategy says. Schemes are udp, tcp, tls, quic (RFC
	// 9250), https and h3 (HTTPS over HTTP/3);
	// the host is an address, or a name for all but udp and tcp. Without a port it is
	// the scheme's own, and without a path https and h3 mean /dns-query. Empty: the
	// system's resolvers, from ResolvConf.
	Upstreams []*url.URL
	Strategy  Strategy // of Upstreams; empty: Ordered
	Routes    []Route  // for names that are asked elsewhere
	// Bootstrap are the resolvers for host names of upstreams. Empty: the
	// system's.
	Bootstrap  []netip.AddrPort
	ResolvConf string // empty: /etc/resolv.conf
	// Self are our own listeners. A resolver that is one of them is refused.
	Self         []netip.AddrPort
	CacheEntries int  // 0: no cache
	CacheBytes   int  // what they may take; 0: 1 KiB for each entry
	TTL          TTLs // of answers
	Subnets      Subnets
	Stale        Stale
	Timeout      time.Duration // for a whole question; 0: 5 s. A try takes 2/5 of it, 2 s at the most
	// MaxInFlight bounds the exchanges with upstreams under way, and so the
	// sockets; equal questions share one. 0: 1024. More than 32768 count as
	// that, because one connection tells 65536 questions apart.
	MaxInFlight int
	TLSConfig   *tls.Config // nil: system roots. Its ServerName is not used
	Shape       Shape
	Local       *Local   // what is answered without asking anybody; nil: nothing
	History     *History // remembers what was given; nil: nothing does
	Log         *slog.Logger

	backoff time.Duration // before the first probe of an upstream that is down; 0: 1 s
	late    time.Duration // when a try without a response is a miss; 0: lateAfter
	try     time.Duration // how long one may take; 0: as Timeout says
}

// A Resolver answers from its cache and from upstreams. It is safe for
// concurrent use and owns its sockets and goroutines until Close.
type Resolver struct {
	now      clock
	timeout  time.Duration
	max      int
	main     *group
	routes   routes // beside it
	boot     *group // for host names of upstreams
	cache    *cache // nil: none
	failures failures
	meter    meter // of what is fetched ahead
	ttl      TTLs
	wait     time.Duration // for upstreams, where there is a stale answer
	shape    Shape
	subnets  Subnets
	local    atomic.Pointer[Local] // nil: none
	history  *History              // nil: none
	count    counters

	ctx    context.Context // of all exchanges, ended by Close
	cancel context.CancelFunc
	tasks  tasks // exchanges, connections and probes

	settings [sha256.Size]byte // of what is in a saved cache

	id    uint64        // no other Resolver of the process has it
	epoch atomic.Uint64 // since the last flush; no other Resolver has it. Written under mu

	mu       sync.Mutex
	closed   bool
	calls    map[callKey]*call
	tallies  []*tally // of the Hots that were here
	leftHits uint64   // of those that have gone
}

// epochs numbers the Resolvers and their flushes, from 1.
var epochs atomic.Uint64

// A clock tells the time; tests have their own.
type clock func() time.Time

// A call is one exchange that equal questions share. answer and err are
// written before done is closed and never after.
type call struct {
	done   chan struct{}
	answer *Answer
	err    error
}

// A callKey keeps questions asked after a Flush away from calls begun before.
type callKey struct {
	key
	epoch uint64
}

// New checks the options. It opens no socket and needs no network; where there
// is no upstream at all, which is logged, every Resolve fails with
// ErrNoUpstream until ResolvConf names one.
func New(opts Options) (*Resolver, error) { return newResolver(opts, time.Now, portDNS) }

// newResolver has what tests inject: the clock, and the port of the system's
// resolvers.
func newResolver(opts Options, now clock, port uint16) (*Resolver, error) {
	if opts.Timeout <= 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.MaxInFlight <= 0 {
		opts.MaxInFlight = defaultInFlight
	}
	opts.MaxInFlight = min(opts.MaxInFlight, maxInFlight)
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	r := &Resolver{
		now:     now,
		timeout: opts.Timeout,
		max:     opts.MaxInFlight,
		cache:   newCache(opts.CacheEntries, opts.CacheBytes, opts.Stale.Max),
		ttl:     opts.TTL, wait: cmp.Or(opts.Stale.Wait, defaultStaleWait),
		shape:   opts.Shape,
		subnets: opts.Subnets,
		history: opts.History,
		calls:   make(map[callKey]*call),
	}
	r.local.Store(opts.Local)
	r.settings = settings(&opts)
	r.id = epochs.Add(1)
	r.epoch.Store(r.id)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if err := r.build(opts, port); err != nil {
		r.cancel()
		return nil, err
	}
	return r, nil
}

// build makes the groups of upstreams. Nothing in them dials before the first
// question.
func (r *Resolver) build(opts Options, port uint16) error {
	if err := opts.Strategy.check(); err != nil {
		return err
	}
	b := &builder{
		ctx: r.ctx, tasks: &r.tasks, now: r.now, count: &r.count, log: opts.Log,
		try:       cmp.Or(opts.try, min(defaultTry, opts.Timeout*2/5)),
		backoff:   cmp.Or(opts.backoff, minBackoff),
		lingering: new(atomic.Int64), mostLinger: int64(r.max),
		self: selfCheck(opts.Self), tls: opts.TLSConfig,
	}
	b.late = min(cmp.Or(opts.late, lateAfter), b.try/2)
	system := newSystem(opts.ResolvConf, port, b.self, opts.Log)
	var err error
	if r.boot, err = b.bootstrapGroup(opts.Bootstrap, system); err != nil {
		return err
	}
	b.hosts = newHosts(r.boot, opts.Timeout, r.now)
	b.known = make(map[string]*upstream)
	if r.routes, err = b.routeGroups(opts.Routes); err != nil {
		return err
	}
	if r.main, err = b.upstreamGroup(opts.Upstreams, opts.Strategy, system); err != nil {
		return err
	}
	// That there is nowhere to ask is logged now, not with the first question.
	_, _ = r.main.current()
	return nil
}

// Close ends all exchanges and connections and waits for them.
func (r *Resolver) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.tasks.wait()
	for _, g := range r.groups() {
		g.close()
	}
	r.boot.close()
	return nil
}

// Cached returns the answer to q if it is in the cache, and nil otherwise. It
// may be stale, if it is known that upstreams do not answer now. It never blocks
// on the network.
func (r *Resolver) Cached(q *dns.Msg) *Answer {
	k, err := r.keyOf(q)
	if err != nil {
		return nil
	}
	a, _ := r.held(k)
	return a
}

// Resolve returns the answer to q from the cache or from upstreams. Equal
// questions under way share one exchange, which goes on when ctx ends: others
// may wait for it, and the next one finds its answer in the cache. An answer
// may say that an upstream has none (Rcode); an error means that none
// answered. Where the cache has an answer whose TTL is over, that is what comes
// in place of either, and when the upstreams take too long (RFC 8767).
func (r *Resolver) Resolve(ctx context.Context, q *dns.Msg) (*Answer, error) {
	k, err := r.keyOf(q)
	if err != nil {
		return nil, err
	}
	if a, err := r.held(k); a != nil || err != nil {
		return a, err
	}
	r.count.misses.Add(1)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	old := r.expired(k)
	c, err := r.join(k)
	switch {
	case err == nil:
	case old != nil && !errors.Is(err, ErrClosed):
		return r.giveStale(old), nil
	default:
		return nil, err
	}
	if old != nil {
		return r.await(ctx, c, old)
	}
	select {
	case <-c.done:
		return c.answer, c.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the answer to %s: %w", k, ctx.Err())
	}
}

// await waits for the call while a stale answer is at hand.
func (r *Resolver) await(ctx context.Context, c *call, old *Answer) (*Answer, error) {
	t := time.NewTimer(r.wait)
	defer t.Stop()
	select {
	case <-c.done:
		if c.err == nil && answered(c.answer.Rcode()) {
			return c.answer, nil
		}
	case <-t.C:
	case <-ctx.Done():
	}
	if r.ctx.Err() != nil {
		return nil, ErrClosed
	}
	return r.giveStale(old), nil
}

// join returns the call for the question, which it starts if there is none.
func (r *Resolver) join(k key) (*call, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	ck := callKey{k, r.epoch.Load()}
	if c := r.calls[ck]; c != nil {
		r.count.coalesced.Add(1)
		return c, nil
	}
	c := &call{done: make(chan struct{})}
	// A call may have ended between the look into the cache and the lock.
	if c.answer = r.cachedFor(k); c.answer != nil {
		close(c.done)
		return c, nil
	}
	if len(r.calls) >= r.max {
		r.count.busy.Add(1)
		return nil, ErrBusy
	}
	if !r.tasks.run(func() { r.exchange(ck, c) }) {
		return nil, ErrClosed
	}
	r.calls[ck] = c
	return c, nil
}

// exchange owns one call. Its time is its own, not that of any who wait.
func (r *Resolver) exchange(ck callKey, c *call) {
	ctx, cancel := context.WithTimeout(r.ctx, r.timeout)
	defer cancel()
	m, err := r.forward(ctx, ck.key)
	if err == nil {
		c.answer = r.take(ck.key, m)
	} else {
		c.err = fmt.Errorf("asking for %s: %w", ck.key, err)
		r.count.failed.Add(1)
	}
	r.mu.Lock()
	if ck.epoch == r.epoch.Load() && ck.cacheable() {
		r.keep(ck.key.cacheKey(), c)
	}
	delete(r.calls, ck)
	r.mu.Unlock()
	close(c.done)
}

// forward asks the upstreams for the name.
func (r *Resolver) forward(ctx context.Context, k key) (*dns.Msg, error) {
	g := r.group(k.name)
	if g == r.main && k.cacheable() {
		k.subnet = r.subnets.Fixed
	}
	return g.forward(ctx, k)
}

// SetLocal puts other local data in place. What was known before is forgotten:
// a name may be local now that was not.
func (r *Resolver) SetLocal(l *Local) {
	r.local.Store(l)
	r.Flush()
}

// take makes a response the answer that clients get.
func (r *Resolver) take(k key, m *dns.Msg) *Answer {
	a := r.shaped(k, m)
	if a.Filtered() {
		r.count.filtered.Add(1)
	}
	if s := ClientSubnet(m); s != nil {
		a.scope = s.SourceScope
	}
	r.history.add(a, r.now())
	return a
}

func (r *Resolver) shaped(k key, m *dns.Msg) *Answer {
	filtered := r.shape.apply(k, m)
	a := newAnswerWithin(r.ttl, k, m, r.now)
	if filtered {
		a.notes |= noteFiltered
	}
	a.life = hotLife(a.end())
	return a
}

// keep remembers what came of a call. A failure leaves the answer that was there
// in its place: it may be given when its TTL is over.
func (r *Resolver) keep(k cacheKey, c *call) {
	switch {
	case r.cache == nil:
	case c.err != nil || !answered(c.answer.Rcode()):
		r.failures.add(k, c.answer, c.err, r.now())
	default:
		r.failures.remove(k)
		r.count.evicted.Add(r.cache.put(k, c.answer))
	}
}

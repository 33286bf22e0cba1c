package vpn

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/policy"
)

const (
	// lookEvery is how often the keeper looks whether others have changed the
	// packet filter: a firewall that is loaded anew often takes all tables away.
	lookEvery = time.Second
	// A look at all elements may take this part of the time at the most.
	lookShare = 20
	// maxBackoff bounds the wait after errors.
	maxBackoff = 30 * time.Second
	// peersEvery is how often the table of WireGuard's peers is read.
	peersEvery = 10 * time.Second
)

// Options are what a Keeper works with.
type Options struct {
	Version string
	// InForce returns the configuration and the policy in force.
	InForce func() (*config.Config, *policy.Snapshot)
	Log     *slog.Logger
	Kernel  Kernel
}

// Stats are what a Keeper counts.
type Stats struct {
	Generation uint64    // of the policy that the kernel has, 0 for none
	Elements   int       // of all sets in the kernel
	Synced     time.Time // when kernel and policy were last known to be equal
	Updates    uint64    // transactions that followed the policy
	Repairs    uint64    // transactions that undid what others did
	Failures   uint64    // attempts that failed
	LastError  string    // of the latest attempt, empty for success
	// Foreign says that the rules are those of another "weir vpn apply", and only
	// the sets are kept.
	Foreign bool
	Peers   int // of WireGuard
}

// A Keeper keeps the kernel's table equal to the policy in force. One goroutine,
// that of Run, owns it; Wake, Stats and Identity are for everybody.
type Keeper struct {
	opts     Options
	wake     chan struct{}
	identity Identity

	mu    sync.Mutex
	stats Stats
	peers atomic.Int64

	// Owned by Run.
	have   *Ruleset // what the kernel has, nil for unknown
	digest string   // of the rules that were put there last
	seen   uint32   // the kernel's generation at that
	looked time.Time
	took   time.Duration // of the latest look at all elements
	made   rendering
}

// A rendering is a ruleset, and from what it was made.
type rendering struct {
	rs       Ruleset
	cfg      *config.Config
	snapshot uint64 // its ID, 0 for none
	banned   [][]policy.Range
	canary   [][]policy.Range // the same of a canary, nil for none
	from     time.Time
	until    time.Time // when time alone makes it another; zero for never
}

// NewKeeper returns a Keeper, which does nothing before Run.
func NewKeeper(opts Options) *Keeper { return &Keeper{opts: opts, wake: make(chan struct{}, 1)} }

// Wake tells that the policy in force has changed. It never waits, and a nil
// Keeper has nothing to do.
func (k *Keeper) Wake() {
	if k == nil {
		return
	}
	select {
	case k.wake <- struct{}{}:
	default: // it is being told already
	}
}

// Stats returns what has been counted.
func (k *Keeper) Stats() Stats {
	k.mu.Lock()
	defer k.mu.Unlock()
	st := k.stats
	st.Peers = int(k.peers.Load())
	return st
}

// Identity says who is behind an address.
func (k *Keeper) Identity() *Identity { return &k.identity }

// Run keeps the table until the context is done, and then leaves it as it is: a
// gateway that stops must not open the way. Errors are logged, counted and
// tried again; it never returns one.
func (k *Keeper) Run(ctx context.Context) error {
	var backoff time.Duration
	peers := time.NewTicker(peersEvery)
	defer peers.Stop()
	k.readPeers()
	for {
		next, err := k.step(time.Now())
		switch {
		case err == nil:
			backoff = 0
		default:
			backoff = min(max(2*backoff, lookEvery), maxBackoff)
			next = time.Now().Add(backoff)
		}
		k.report(err)
		if !k.wait(ctx, next, peers.C) {
			return nil
		}
	}
}

// wait waits until it is time for the next step, and reports whether there is
// one.
func (k *Keeper) wait(ctx context.Context, next time.Time, peers <-chan time.Time) bool {
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-k.wake:
			return true
		case <-timer.C:
			return true
		case <-peers:
			k.readPeers()
		}
	}
}

// step compares and, if need be, writes once. It returns when the next one is
// due.
func (k *Keeper) step(now time.Time) (time.Time, error) {
	cfg, snapshot := k.opts.InForce()
	next := now.Add(lookEvery)
	if at := snapshot.NextChange(now); !at.IsZero() && at.Before(next) {
		next = at
	}
	want := k.render(cfg, snapshot, now)
	generation, err := k.opts.Kernel.generation()
	if err != nil {
		return next, err
	}
	switch {
	case k.have != nil && generation == k.seen && k.have.mark() == want.mark():
		err = k.follow(want)
	case k.have != nil && k.have.mark() == want.mark() && now.Sub(k.looked) < lookShare*k.took:
		// Others write often, and looking at all elements costs too much to do it
		// each time. The rules are looked at, and the policy is followed.
		var d Difference
		if d, err = k.opts.Kernel.compare(want, false); err == nil && (d.Missing || len(d.Rules) > 0 && !k.Stats().Foreign) {
			err = k.look(want, generation, now)
		} else if err == nil {
			err = k.follow(want)
		}
	default:
		err = k.look(want, generation, now)
	}
	if err == nil {
		k.note(func(st *Stats) {
			st.Generation, st.Elements, st.Synced = snapshot.Generation(), want.Elements(), now
		})
	}
	return next, err
}

// follow changes the elements that the policy changed since.
func (k *Keeper) follow(want Ruleset) error {
	sets := diffSets(*k.have, want)
	if len(sets) == 0 {
		k.have = &want // the same, and shared from now on
		return nil
	}
	if err := k.opts.Kernel.update(want.setTypes(), sets); err != nil {
		k.have = nil
		return err
	}
	// If others have written meanwhile, this stays behind, and all is looked at.
	k.have, k.seen = &want, k.seen+1
	k.note(func(st *Stats) { st.Updates++ })
	return nil
}

// look reads what the kernel has and makes it equal. Rules of somebody who ran
// "weir vpn apply" with another configuration stay: who did it last, decides.
func (k *Keeper) look(want Ruleset, generation uint32, now time.Time) error {
	began := time.Now()
	d, err := k.opts.Kernel.Compare(want)
	k.looked, k.took = now, time.Since(began)
	if err != nil {
		k.have = nil
		return err
	}
	repair := k.digest == want.Digest()
	foreign := repair && !d.Missing && d.mark != "" && !strings.HasSuffix(d.mark, k.digest)
	if foreign {
		d.Rules, d.Routes = nil, nil
		d.Sets = slices.DeleteFunc(d.Sets, func(s SetDifference) bool { return !s.there })
	}
	k.note(func(st *Stats) { st.Foreign = foreign })
	if foreign && len(d.Sets) > 0 || !foreign && !d.Empty() {
		if repair {
			k.opts.Log.Warn("the packet filter was changed by others and is put right", "difference", d.String())
		} else {
			k.opts.Log.Info("the packet filter is put in place", "interface", k.opts.interfaceName(), "elements", want.Elements())
		}
		if err := k.opts.Kernel.write(want, &d); err != nil {
			k.have = nil
			return err
		}
		generation++
		k.note(func(st *Stats) {
			if repair {
				st.Repairs++
			} else {
				st.Updates++
			}
		})
	}
	if !foreign {
		k.digest = want.Digest()
	}
	k.have, k.seen = &want, generation
	return nil
}

func (o *Options) interfaceName() string {
	cfg, _ := o.InForce()
	return cfg.VPN.Interface
}

// render makes the ruleset, unless nothing has changed that it was made from:
// it is asked for every second. What the lists block is found once for a policy;
// only who is spared depends on the time.
func (k *Keeper) render(cfg *config.Config, s *policy.Snapshot, now time.Time) Ruleset {
	m := &k.made
	same := m.snapshot == s.ID()
	if same && m.cfg == cfg && !now.Before(m.from) && (m.until.IsZero() || now.Before(m.until)) {
		return m.rs
	}
	if !same {
		m.banned, m.canary = banned(s)
	}
	m.rs = Rules(k.opts.Version, cfg, bansOf(s, m.banned, m.canary, now))
	m.cfg, m.snapshot, m.from, m.until = cfg, s.ID(), now, s.NextChange(now)
	return m.rs
}

// Bans returns what the filter must know of the policy at that time.
func Bans(s *policy.Snapshot, now time.Time) []Ban {
	all, canary := banned(s)
	return bansOf(s, all, canary, now)
}

func banned(s *policy.Snapshot) (all, canary [][]policy.Range) {
	if c, _ := s.Canary(); c != nil {
		canary = c.Banned()
	}
	return s.Banned(), canary
}

// bansOf returns the bans of a policy and, where a canary runs, its bans as others
// beside them: for its group the filter holds back what either of the two does.
// To spare it what only its own policy lets through would open a way where the
// rules are another's, and the sets of a canary not among them.
func bansOf(s *policy.Snapshot, banned, canary [][]policy.Range, now time.Time) []Ban {
	spared := s.Spared(now)
	out := make([]Ban, 0, len(banned)+len(canary))
	for i, b := range s.Bans() {
		out = append(out, Ban{ID: b.ID, Banned: banned[i], Spared: spared[i]})
	}
	c, _ := s.Canary()
	if c == nil {
		return out
	}
	others := s.Others(now)
	for i, b := range c.Bans() {
		if len(canary[i]) > 0 {
			out = append(out, Ban{ID: b.ID + canaryMark, Banned: canary[i], Spared: others[i]})
		}
	}
	return out
}

// canaryMark is in the names of the sets of a canary; no ban's ID has a dot.
const canaryMark = ".canary"

func (k *Keeper) note(f func(*Stats)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f(&k.stats)
}

// report logs an error once, and that it is over.
func (k *Keeper) report(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	k.mu.Lock()
	last := k.stats.LastError
	k.stats.LastError = text
	if err != nil {
		k.stats.Failures++
	}
	k.mu.Unlock()
	switch {
	case err != nil && text != last:
		k.opts.Log.Error("the packet filter is not kept equal to the policy", "error", err)
	case err == nil && last != "":
		k.opts.Log.Info("the packet filter is kept equal to the policy again")
	}
}

// readPeers reads who is who, if the configuration says so.
func (k *Keeper) readPeers() {
	cfg, _ := k.opts.InForce()
	if !cfg.VPN.WireGuard {
		return
	}
	if err := k.identity.Refresh(cfg.VPN.Interface); err != nil {
		k.opts.Log.Warn("WireGuard's peers are not known; those known before stay", "error", err)
		return
	}
	k.peers.Store(int64(k.identity.Len()))
}

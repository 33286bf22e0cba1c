package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/ledger"
)

const (
	// feedsFolder is where copies are, in the state folder.
	feedsFolder = "feeds"
	// maxLooks is how many sources are looked at at once.
	maxLooks = 4
	// firstRetry is the first wait after a look that failed; each further one is
	// twice as long, to the list's interval.
	firstRetry = 10 * time.Second
	// missingRetry is the longest such wait for a list that was never fetched.
	missingRetry = time.Minute
)

// feeds looks after the lists that have a URL: each by itself, so that one that
// fails leaves the others alone and its own last version in force. It decides
// which versions are fit to go live; the goroutine of own puts them in force.
type feeds struct {
	g     *Gateway
	log   *slog.Logger
	store source.Store
	temp  bool          // the store ends with the gateway
	slots chan struct{} // looks under way
	wake  chan struct{} // something is due earlier than it was

	mu      sync.Mutex
	lists   []*feed // in the order of the configuration
	fetcher source.Fetcher
	shield  *shield
	// Lists in files: those that are refused now, versions that were approved and are
	// not in force yet, and how many were refused since the start.
	files        []*fileRefusal
	approved     map[string]string
	fileRefusals map[string]uint64
}

// A feed is one list. What is not said to be owned otherwise is under feeds.mu.
type feed struct {
	name string        // never changes, and so is nobody's
	turn chan struct{} // held by the one that looks, approves or discards

	list                blocklists.List
	good, held, refused *source.Copy // nil for none
	unwanted            *source.Copy // refused by a person; nil for none
	drops               int          // how often a canary's end has replaced good
	next                time.Time    // when to look again
	looks               uint64       // that found the newest version, or took it
	failures            int          // in a row
	lastReason          string       // of the latest failure; empty after a good look
	lastError           string
	lastFailed          time.Time
	noted               map[string]noted  // refusals on the record of changes, by reason
	refusals            map[string]uint64 // by reason, of a bounded set

	// Of a list that is a zone.
	zone   *source.ZoneState // of the version in force; nil for none
	looked time.Time         // when the latest look began
	again  bool              // the primary has told of a change since
}

func newFeeds(g *Gateway) (*feeds, error) {
	f := &feeds{g: g, log: g.log, slots: make(chan struct{}, maxLooks), wake: make(chan struct{}, 1), fileRefusals: make(map[string]uint64)}
	if g.folder != nil {
		dir, err := g.folder.folder(feedsFolder)
		if err != nil {
			return nil, fmt.Errorf("state: %w", err)
		}
		f.store.Dir = dir
		f.store.Clean()
		return f, nil
	}
	return f, nil
}

// home makes a folder for the copies where there is none for the state: they are
// fetched again by the next gateway.
func (f *feeds) home() {
	dir, err := os.MkdirTemp("", "weir-feeds-")
	if err != nil {
		f.log.Error("no folder for fetched lists: the gateway runs without them; state: names one", "error", err)
		return
	}
	f.store.Dir, f.temp = dir, true
}

// close removes what nobody will read again.
func (f *feeds) close() {
	if f != nil && f.temp {
		_ = os.RemoveAll(f.store.Dir)
	}
}

// first has the policy made that the gateway starts with. Lists without a copy are
// left out of it, but for those that are required: they are fetched here, and
// nowhere else is the network waited for.
func (f *feeds) first(begin func() (*policySet, error)) (*policySet, error) {
	cfg := f.g.cfg
	sh, err := newShield(cfg.Protected)
	if err != nil {
		return nil, err
	}
	f.configure(cfg, sh)
	var fetched []string
	for _, fd := range f.snapshot() {
		if !fd.list.Feed.Required || fd.good != nil {
			continue
		}
		f.log.Info("a required list was never fetched: fetching it before anything is answered", "list", fd.name, "source", fd.list.Source)
		err := f.look(context.Background(), fd, f.place)
		if err == nil && fd.good == nil {
			err = errors.New("its first version waits for approval (hold: true): start once without required, and approve it")
		}
		if err != nil {
			return nil, cfg.At(fd.list.Source, fmt.Errorf("list %s (%s): it is required, was never fetched, and cannot be now: %w", fd.name, fd.list.Source, err))
		}
		fetched = append(fetched, fd.name)
	}
	set, err := begin()
	if err != nil {
		for _, name := range fetched {
			_ = f.store.Remove(name, source.Good) // it was never in force
		}
	}
	return set, err
}

// place puts a version in its place, where there is no policy yet.
func (f *feeds) place(_ context.Context, u *feedUpdate) error { return u.install(f.store) }

// configure takes the lists of a configuration, with the shield of its protected
// names. What is known of a list stays.
func (f *feeds) configure(cfg *config.Config, sh *shield) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shield = sh
	f.fetcher = source.Fetcher{UserAgent: "weir/" + f.g.opts.Version, Bootstrap: cfg.DNS.Bootstrap}
	old := f.lists
	f.lists = nil
	for i := range cfg.Bans {
		for _, l := range cfg.Bans[i].Lists {
			if l.Feed == nil || !cfg.Bans[i].Enabled(l.Tier) {
				continue
			}
			if f.store.Dir == "" {
				f.home()
			}
			at := slices.IndexFunc(old, func(fd *feed) bool { return fd.name == l.Name })
			if at < 0 {
				f.lists = append(f.lists, f.newFeed(l))
				continue
			}
			fd := old[at]
			if fd.list.Source != l.Source {
				fd.next = time.Now()
			}
			fd.list = l
			f.lists = append(f.lists, fd)
		}
	}
	f.poke()
}

// newFeed reads what is known of a list. The first look is when the version that
// is there is as old as the interval.
func (f *feeds) newFeed(l blocklists.List) *feed {
	fd := &feed{name: l.Name, list: l, turn: make(chan struct{}, 1), refusals: make(map[string]uint64)}
	for kind, to := range map[source.Kind]**source.Copy{source.Good: &fd.good, source.Held: &fd.held, source.Refused: &fd.refused, source.Unwanted: &fd.unwanted} {
		if c, err := f.store.Load(l.Name, kind); err == nil {
			*to = &c
		}
	}
	if fd.good != nil && fd.good.URL == l.Source {
		fd.zone = f.zoneState(&l)
		fd.next = fd.good.Checked.Add(jitter(fd.interval()))
	}
	if l.Feed.Minisign+l.Feed.SHA256 == "" && strings.HasPrefix(l.Source, "http:") {
		f.log.Warn("a list comes over http and has neither a signature nor a digest: whoever is on the way can change it; use https, minisign or sha256",
			"list", l.Name, "source", l.Source)
	}
	return fd
}

// jitter spreads a wait, so that many gateways do not ask at the same moment.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + time.Duration(rand.Int64N(int64(d/5)+1))
}

func (f *feeds) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run looks at each list when it is due, until the context is done.
func (f *feeds) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		due, next := f.due(time.Now())
		for _, fd := range due {
			select {
			case f.slots <- struct{}{}:
			case <-ctx.Done():
				return nil
			}
			wg.Go(func() {
				defer func() { <-f.slots }()
				defer func() { <-fd.turn; f.poke() }()
				_ = f.look(ctx, fd, f.g.takeUpdate) // it reports how it went
			})
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-ctx.Done():
		case <-f.wake:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// due returns the lists to be looked at, whose turns it has taken, and when the
// next will be.
func (f *feeds) due(now time.Time) (due []*feed, next time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	next = now.Add(time.Hour)
	for _, fd := range f.lists {
		if fd.next.After(now) {
			next = earlier(next, fd.next)
			continue
		}
		select {
		case fd.turn <- struct{}{}:
			due = append(due, fd)
		default: // whoever has the turn says when the next is
		}
	}
	return due, next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// snapshot returns the lists as they are now.
func (f *feeds) snapshot() []*feed {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.lists)
}

// A feedUpdate is a version of a list that has passed what can be seen of it
// alone.
type feedUpdate struct {
	list blocklists.List
	file string // in the list's folder
	copy source.Copy
	who  string
	why  string
}

// install makes it the last good version.
func (u *feedUpdate) install(store source.Store) error {
	return store.Install(u.list.Name, source.Good, u.file, u.copy)
}

// look asks the source of a list for a newer version, and has take put it in
// force if it is fit. The caller has the list's turn.
func (f *feeds) look(ctx context.Context, fd *feed, take func(context.Context, *feedUpdate) error) error {
	f.mu.Lock()
	fd.looked, fd.again = time.Now(), false
	if fd.good != nil && !f.store.Has(fd.name, source.Good) {
		fd.good = nil // somebody has removed it: it is fetched again, whatever its source says of the newest
	}
	v := visit{feeds: f, fd: fd, list: fd.list, good: fd.good, held: fd.held, unwanted: fd.unwanted, drops: fd.drops, fetcher: f.fetcher, shield: f.shield, take: take}
	f.mu.Unlock()
	err := v.run(ctx)
	if ctx.Err() != nil && err != nil {
		return errStopped // nobody is to blame
	}
	f.record(fd, &v, err)
	f.remember(fd, &v, err)
	return err
}

// A visit is one look at one list.
type visit struct {
	feeds      *feeds
	fd         *feed
	list       blocklists.List
	good, held *source.Copy
	fetcher    source.Fetcher
	shield     *shield
	take       func(context.Context, *feedUpdate) error

	zone     *source.ZoneState // what the primary said of a zone; nil for nothing
	unwanted *source.Copy      // that nobody wants to be asked about again
	drops    int               // of the list when the look began
	again    bool              // it is what came
	refused  *source.Copy      // the version that came, and is not taken
}

func (v *visit) run(ctx context.Context) error {
	file, err := v.feeds.store.Create(v.list.Name)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // not there any more where it was put to use
	req := v.request(v.list.Source)
	resp, err := v.fetch(ctx, req, file)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if resp.NotModified {
		return v.unchanged(req.Validators)
	}
	var sign []byte
	if v.list.Feed.Minisign != "" {
		if sign, err = v.fetcher.FetchSmall(ctx, v.request(v.list.Source+".minisig")); err != nil {
			return &refusal{reasonSignature, fmt.Sprintf("there is no signature at %s.minisig: %v", v.list.Source, err)}
		}
	}
	now := time.Now()
	c := source.Copy{URL: v.list.Source, Validators: resp.Validators, Bytes: resp.Bytes, Fetched: now, Checked: now}
	c.SHA256, err = digestAndVerify(v.list.Feed, file.Name(), sign)
	if err == nil && v.good != nil && c.SHA256 == v.good.SHA256 {
		return v.same(c)
	}
	if err == nil {
		c.Rules, err = v.feeds.check(ctx, &v.list, v.shield, file.Name(), v.rulesInForce(ctx))
	}
	if err == nil && v.unwanted != nil && c.SHA256 == v.unwanted.SHA256 {
		v.again = true
		return v.touch()
	}
	if err == nil && v.list.Feed.Hold {
		return v.hold(file.Name(), c)
	}
	if err == nil {
		err = v.take(ctx, &feedUpdate{list: v.list, file: file.Name(), copy: c, who: whoGateway, why: "update of list " + v.list.Name})
	}
	switch held := (heldError{}); {
	case err == nil:
		v.good = &c
		if v.held != nil {
			v.held = nil
			_ = v.feeds.store.Remove(v.list.Name, source.Held)
		}
	case errors.As(err, &held):
		return v.hold(file.Name(), c) // until the hold of a rollback ends
	case reasonOf(err) != reasonOther && ctx.Err() == nil:
		v.quarantine(file.Name(), c, err)
	}
	return err
}

// fetch gets a version by the way that the source's URL says.
func (v *visit) fetch(ctx context.Context, req source.Request, w io.Writer) (source.Response, error) {
	if blocklists.IsZone(v.list.Source) {
		return v.fetchZone(ctx, w)
	}
	return v.fetcher.Fetch(ctx, req, w)
}

// request says what to ask of the source: whether there is a newer version than
// the one that waits for approval, or that is in force.
func (v *visit) request(url string) source.Request {
	feed := v.list.Feed
	req := source.Request{
		URL: url, Proxy: feed.Proxy, Networks: feed.Networks,
		Limits: source.FetchLimits{Bytes: feed.MaxSize, Total: feed.Timeout},
	}
	switch {
	case v.held != nil && v.held.URL == url && v.list.Feed.Hold:
		req.Validators = v.held.Validators
	case v.good != nil && v.good.URL == url:
		req.Validators = v.good.Validators
	}
	return req
}

// unchanged notes that the version that was asked about is the newest.
func (v *visit) unchanged(asked source.Validators) error {
	if v.held != nil && v.held.Validators == asked && v.list.Feed.Hold {
		return v.touch()
	}
	return v.same(*v.good)
}

// same notes that the version in force is the newest.
func (v *visit) same(c source.Copy) error {
	c.Rules, c.Fetched, c.By = v.good.Rules, v.good.Fetched, v.good.By
	if c.Fetched.IsZero() {
		c.Fetched = time.Now()
	}
	c.Checked = time.Now()
	v.good, v.held = &c, nil
	return errors.Join(v.feeds.store.Note(v.list.Name, source.Good, c), v.feeds.store.Remove(v.list.Name, source.Held))
}

// touch notes that the source was there, while another version than the one in
// force waits.
func (v *visit) touch() error {
	if v.good == nil {
		return nil
	}
	c := *v.good
	c.Checked = time.Now()
	v.good = &c
	return v.feeds.store.Note(v.list.Name, source.Good, c)
}

// hold keeps a version for somebody to approve.
func (v *visit) hold(file string, c source.Copy) error {
	if v.held == nil || v.held.SHA256 != c.SHA256 {
		what := "an update of a list waits for approval: weir lists approve"
		if !v.list.Feed.Hold {
			what = "an update of a list waits: a generation is held since a rollback"
		}
		v.feeds.log.Warn(what, "list", v.list.Name, "source", v.list.Source, "rules", c.Rules, "sha256", c.SHA256)
		v.feeds.g.note(ledger.Entry{Who: whoGateway, What: notedHeld, Object: "list " + v.list.Name, Why: what, After: c.SHA256})
	}
	v.held = &c
	return errors.Join(v.feeds.store.Install(v.list.Name, source.Held, file, c), v.touch())
}

// quarantine keeps a version that was refused, for people to look at: one of
// each list, and none larger than the list may be.
func (v *visit) quarantine(file string, c source.Copy, why error) {
	c.Reason, c.Message, c.Checked = reasonOf(why), why.Error(), time.Time{}
	v.refused = &c
	if err := v.feeds.store.Install(v.list.Name, source.Refused, file, c); err != nil {
		v.feeds.log.Error("refused update of a list not kept", "list", v.list.Name, "error", err)
	}
}

// rulesInForce returns how many rules the version in force has. It is counted
// where nothing is known of it.
func (v *visit) rulesInForce(ctx context.Context) int {
	if v.good == nil {
		return 0
	}
	if v.good.Rules == 0 {
		c := *v.good
		c.Rules, _ = v.feeds.check(ctx, &v.list, nil, v.feeds.store.Path(v.list.Name, source.Good), 0)
		v.good = &c
	}
	return v.good.Rules
}

// settle notes which versions there are. What was good when the visit began may not
// be any more: its canary was dropped meanwhile. The caller has feeds.mu.
func (v *visit) settle(fd *feed) {
	if fd.held = v.held; fd.drops == v.drops {
		fd.good = v.good
	}
}

// record notes how a look went, says so, and when the next will be.
func (f *feeds) record(fd *feed, v *visit, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v.settle(fd)
	if v.zone != nil && fd.drops == v.drops && !v.again {
		fd.zone = v.zone
	}
	defer func() {
		if fd.again {
			fd.next = earlier(fd.next, fd.looked.Add(leastGap))
		}
	}()
	if err == nil {
		fd.looks++
		fd.failures, fd.lastReason, fd.lastError = 0, "", ""
		fd.next = time.Now().Add(jitter(fd.interval()))
		if fd.refused != nil {
			fd.refused = nil
			_ = f.store.Remove(fd.name, source.Refused)
		}
		if v.unwanted != nil && !v.again && fd.drops == v.drops {
			fd.unwanted = nil
			_ = f.store.Remove(fd.name, source.Unwanted)
		}
		return
	}
	reason, text := reasonOf(err), err.Error()
	level := slog.LevelError
	if fd.lastReason == reason && fd.lastError == text {
		level = slog.LevelDebug // said once
	}
	fd.failures++
	fd.refusals[reason]++
	fd.lastReason, fd.lastError, fd.lastFailed = reason, text, time.Now()
	if v.refused != nil {
		fd.refused = v.refused
	}
	longest := fd.longestRetry()
	if fd.good == nil {
		longest = min(longest, missingRetry)
	}
	wait := min(firstRetry<<min(fd.failures-1, 20), longest)
	fd.next = time.Now().Add(jitter(wait))
	what := "list not updated, the version in force stays"
	if fd.good == nil {
		what = "list not fetched: the gateway runs without it"
	}
	f.log.Log(context.Background(), level, what, "list", fd.name, "source", fd.list.Source, "reason", reason,
		"error", text, "quarantined", v.refused != nil, "next", fd.next.Format(time.RFC3339))
}

// takeUpdate puts a version in force: compiled with all other lists, checked by
// the vectors of its ban, and on disk.
func (g *Gateway) takeUpdate(ctx context.Context, u *feedUpdate) error {
	var reply error
	taken := false
	c := change{who: u.who, why: u.why, kind: changeFeed, note: &note{object: "list " + u.list.Name}}
	if u.who != whoGateway {
		c.kind = changeAgreed
	}
	c.do = func() error {
		if of := g.gens.hold; of != 0 && g.compiled.canary == nil {
			reply = heldError{of}
			return reply
		}
		err := g.adoptAhead(u, c)
		if reply, taken = asRefusal(err, u.list.Name), err == nil; taken {
			st := g.state.Load()
			g.log.Info("policy in force", "who", u.who, "why", u.why, "generation", st.generation, "rules", g.store.Load().Rules(), "took", st.took)
		}
		return err
	}
	err := g.change(ctx, c)
	switch {
	case err == nil, errors.Is(err, errStopped), ctx.Err() != nil:
		return err // without a reply, do may be running: its variables are its own
	case taken:
		return nil // in force; that it is not on disk yet is said, and tried again
	case reply != nil:
		return reply
	}
	return err
}

// asRefusal returns the error as a refusal, if the list is to blame for it.
func asRefusal(err error, list string) error {
	if _, ok := errors.AsType[*vectorError](err); ok {
		return &refusal{reasonVectors, err.Error()}
	}
	if e, ok := errors.AsType[*listError](err); ok && e.list == list {
		return &refusal{reasonCompile, err.Error()}
	}
	return nil
}

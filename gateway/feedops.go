package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/gateway/ledger"
)

// Errors of the operations on feeds.
var (
	ErrNoFeed  = errors.New("no list of that name is fetched over the network")
	ErrNotHeld = errors.New("no update of the list waits for approval")
	ErrMoved   = errors.New("the update that waits is another one by now: look at it first")
)

// A FeedResult is what came of a look at a list.
type FeedResult struct {
	List    string `json:"list"`
	Outcome string `json:"outcome"` // unchanged, updated, held, refused (by a person, before), failed, or running
	Reason  string `json:"reason,omitempty"`
	Error   string `json:"error,omitempty"`
	Rules   int    `json:"rules,omitempty"`
}

// UpdateFeeds looks at the sources of all lists that have a URL, or of the one of
// that name, now. A list that fails is a result and no error, and so is one that
// is not done by the end of the context: it is looked at without the caller.
func (g *Gateway) UpdateFeeds(ctx context.Context, name string) ([]FeedResult, error) {
	lists := g.feeds.snapshot()
	if name != "" {
		lists = slices.DeleteFunc(lists, func(fd *feed) bool { return fd.name != name })
		if len(lists) == 0 {
			return nil, fmt.Errorf("%s: %w", name, ErrNoFeed)
		}
	}
	results := make([]FeedResult, len(lists))
	var wg sync.WaitGroup
	for i, fd := range lists {
		wg.Go(func() { results[i] = g.feeds.update(ctx, fd) })
	}
	wg.Wait()
	if g.stopping.Load() {
		return nil, errStopped
	}
	return results, nil
}

func (f *feeds) update(ctx context.Context, fd *feed) FeedResult {
	r := FeedResult{List: fd.name, Outcome: "running"}
	if fd.wait(ctx) != nil {
		return r // somebody else looks
	}
	defer f.done(fd)
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	case <-ctx.Done():
		f.soon(fd)
		return r
	}
	before := f.versions(fd)
	err := f.look(ctx, fd, f.g.takeUpdate)
	if errors.Is(err, errStopped) {
		f.soon(fd)
		return r
	}
	after := f.versions(fd)
	r.Outcome = "unchanged"
	switch {
	case err != nil:
		r.Outcome, r.Reason, r.Error = "failed", reasonOf(err), err.Error()
	case after.held != nil:
		r.Outcome, r.Rules = "held", after.held.Rules
	case after.unwanted != nil:
		r.Outcome, r.Reason = "refused", after.unwanted.Reason
	case after.good != nil:
		r.Rules = after.good.Rules
		if before.good == nil || before.good.SHA256 != after.good.SHA256 {
			r.Outcome = "updated"
		}
	}
	return r
}

// soon has the list looked at as soon as somebody can.
func (f *feeds) soon(fd *feed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fd.next = time.Now()
}

type versions struct{ good, held, unwanted *source.Copy }

func (f *feeds) versions(fd *feed) versions {
	f.mu.Lock()
	defer f.mu.Unlock()
	return versions{fd.good, fd.held, fd.unwanted}
}

// wait takes the list's turn; done gives it to the next.
func (fd *feed) wait(ctx context.Context) error {
	select {
	case fd.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *feeds) done(fd *feed) {
	<-fd.turn
	f.poke()
}

// ApproveFeed puts the version of a list in force that waits for it, or that a person
// has refused before. With a digest, only if that is the version. It passes the same
// checks again, because what is protected may have changed meanwhile.
func (g *Gateway) ApproveFeed(ctx context.Context, name, digest, who string) error {
	g.feeds.mu.Lock()
	file := g.feeds.refusedFile(name)
	g.feeds.mu.Unlock()
	switch {
	case file != nil && file.broken == nil:
		return g.approveFile(ctx, file, digest, who)
	case file != nil:
		return errMend(name, file.file)
	}
	return g.feeds.settleHeld(ctx, name, digest, func(v *visit, waits source.Copy, kind source.Kind) error {
		path := g.feeds.store.Path(name, kind)
		c := waits
		c.By, c.Reason, c.Message = who, "", ""
		if c.Checked.IsZero() {
			c.Checked = c.Fetched
		}
		sum, err := digestAndVerify(unsigned(v), path, nil)
		if err == nil && sum != c.SHA256 {
			err = ErrMoved // somebody else has written to the folder
		}
		if err == nil {
			c.Rules, err = g.feeds.check(ctx, &v.list, v.shield, path, 0)
		}
		if err == nil {
			err = g.takeUpdate(ctx, &feedUpdate{list: v.list, file: path, copy: c, who: who, why: "approved update of list " + name})
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", name, err)
		}
		v.good, v.held, v.unwanted = &c, nil, nil
		return errors.Join(g.feeds.store.Remove(name, source.Held), g.feeds.store.Remove(name, source.Unwanted))
	})
}

// unsigned is the feed of a version whose signature was checked when it came.
func unsigned(v *visit) *blocklists.Feed {
	feed := *v.list.Feed
	feed.Minisign = ""
	return &feed
}

// DiscardFeed drops the version of a list that waits for approval. It does not
// wait again as long as the source has no other.
func (g *Gateway) DiscardFeed(ctx context.Context, name, digest, who string) error {
	g.feeds.mu.Lock()
	file := g.feeds.refusedFile(name)
	g.feeds.mu.Unlock()
	if file != nil {
		return errMend(name, file.file)
	}
	return g.feeds.settleHeld(ctx, name, digest, func(v *visit, waits source.Copy, kind source.Kind) error {
		if kind != source.Held {
			return fmt.Errorf("%s: %w", name, ErrNotHeld) // it is discarded already
		}
		c := waits
		c.Reason, c.Message = reasonDiscarded, "discarded by "+who
		path := g.feeds.store.Path(name, source.Held)
		if err := g.feeds.store.Install(name, source.Unwanted, path, c); err != nil {
			return err
		}
		v.held, v.unwanted = nil, &c
		g.note(ledger.Entry{Who: who, What: notedDiscarded, Object: "list " + name, Why: c.Message, Before: c.SHA256})
		g.log.Info("update of a list discarded", "list", name, "who", who, "sha256", c.SHA256)
		return g.feeds.store.Remove(name, source.Held)
	})
}

// settleHeld has do decide over the version that waits, or that a person has refused.
func (f *feeds) settleHeld(ctx context.Context, name, digest string, do func(*visit, source.Copy, source.Kind) error) error {
	lists := f.snapshot()
	at := slices.IndexFunc(lists, func(fd *feed) bool { return fd.name == name })
	if at < 0 {
		return fmt.Errorf("%s: %w", name, ErrNoFeed)
	}
	fd := lists[at]
	if err := fd.wait(ctx); err != nil {
		return err
	}
	defer f.done(fd)
	f.mu.Lock()
	v := visit{feeds: f, fd: fd, list: fd.list, good: fd.good, held: fd.held, unwanted: fd.unwanted, drops: fd.drops, shield: f.shield}
	waits, kind := fd.approvable()
	f.mu.Unlock()
	switch {
	case waits == nil:
		return fmt.Errorf("%s: %w", name, ErrNotHeld)
	case digest != "" && digest != waits.SHA256:
		return fmt.Errorf("%s: %w", name, ErrMoved)
	}
	err := do(&v, *waits, kind)
	f.mu.Lock()
	defer f.mu.Unlock()
	if v.settle(fd); fd.drops == v.drops {
		fd.unwanted = v.unwanted
	}
	if err == nil {
		fd.next = earlier(fd.next, time.Now().Add(jitter(fd.interval())))
	}
	return err
}

// HeldFeed returns the version of a list that waits for approval, or that a person has
// refused, which can be approved as well.
func (g *Gateway) HeldFeed(name string) (*FeedVersion, error) {
	f := g.feeds
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.refusedFile(name); r != nil {
		if r.broken != nil {
			return nil, errMend(name, r.file)
		}
		return r.version(), nil
	}
	for _, fd := range f.lists {
		if fd.name != name {
			continue
		}
		c, kind := fd.approvable()
		if c == nil {
			return nil, fmt.Errorf("%s: %w", name, ErrNotHeld)
		}
		return f.version(name, kind, c), nil
	}
	if slices.ContainsFunc(f.g.state.Load().lists, func(l ListStatus) bool { return l.Name == name && l.Source != protectedSource }) {
		return nil, fmt.Errorf("%s: %w", name, ErrNotHeld)
	}
	return nil, fmt.Errorf("%s: %w", name, ErrNoFeed)
}

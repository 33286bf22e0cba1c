package gateway

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/parse"
	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/gateway/admin"
	"github.com/weir-gateway/weir/gateway/ledger"
)

// A list in a file that has changed passes the guards of those that are fetched: it
// must not begin to hold back a protected or well-known name, nor become another
// list by its size. Its first version is the operator's word, and so is what it said
// already. What is refused waits for somebody to approve it, as a version of a feed
// does; the file stays where it is, and its old rules in force.

// fileGrowth and fileShrink are wider than those of feeds: a person edits a file,
// and one name more or a hundred less are what is meant.
var (
	fileGrowth = blocklists.Drift{Percent: 900, Rules: 10_000}
	fileShrink = blocklists.Drift{Percent: 60, Rules: 1000}
)

// fileAlarm is how long a refused version may wait before it is an alarm: who looks
// at /readyz must not take a gateway out of service for an edit that is not in force.
const fileAlarm = 24 * time.Hour

// A fileRefusal is a version of a list in a file that is not taken.
type fileRefusal struct {
	list   string
	why    refusal
	broken error       // of one that nobody can approve; nil for one that waits for it
	held   source.Copy // what is known of the version
	file   string
	since  time.Time
	counts uint64 // refused versions of the list since the start
}

func (r *fileRefusal) Error() string {
	if r.broken != nil {
		return r.broken.Error()
	}
	return fmt.Sprintf("list %s (%s): %s; weir lists approve %[1]s takes it all the same", r.list, r.file, r.why.msg)
}

func (r *fileRefusal) Unwrap() error { return r.broken }

// A fileGuard looks at the rules of one changed file as they are read.
type fileGuard struct {
	c      *compiler
	p      *part
	was    *policySet
	index  int // of the list there
	shield *shield
	buf    []blocklists.Match
	held   string
}

// guard returns the guard of a list, nil for one that has none: that is no ban's, no
// file, new, or not changed.
func (c *compiler) guard(i int) (*fileGuard, error) {
	p := &c.parts[i]
	j, ok := c.before(i)
	if !ok || p.status.Source != p.source {
		return nil, nil
	}
	now, old := look(p.source), &c.copies.was.parts[j]
	if now == old.read && old.at.Sub(now.since()) >= racy {
		return nil, nil
	}
	if c.copies.shield == nil {
		sh, err := newShield(c.cfg.Protected)
		if err != nil {
			return nil, err
		}
		c.copies.shield = sh
	}
	return &fileGuard{c: c, p: p, was: c.copies.was, index: j, shield: c.copies.shield}, nil
}

// see looks at a rule. One that was there already is no news.
func (f *fileGuard) see(r blocklists.Rule) {
	if f == nil || f.held != "" {
		return
	}
	var name string
	if name, f.buf = f.shield.holds(&r, f.buf); name != "" && !f.was.set.Holds(f.index, r) {
		f.held = fmt.Sprintf("line %d: the rule %s would hold back %s, which is protected or well known", r.Line, r, strings.Clone(name))
	}
}

// verdict returns why the version is not taken, nil if it is.
func (f *fileGuard) verdict(rules int) *fileRefusal {
	if f == nil {
		return nil
	}
	was := f.was.parts[f.index].status.Rules
	r := &fileRefusal{list: f.p.status.Name, file: strings.TrimPrefix(f.p.source, "file:"), since: time.Now()}
	switch now := f.p.status.Report; {
	case now != nil && now.Skips[parse.SkipHTML] > 0 && !f.hadMarkup():
		r.why = refusal{parse.InputHTML, markupIn(now)}
	case f.held != "":
		r.why = refusal{reasonProtected, f.held}
	case rules > was && !fileGrowth.Allows(was, rules-was):
		r.why = refusal{reasonGrowth, fmt.Sprintf("it has %d rules, the version in force %d", rules, was)}
	case rules < was && !fileShrink.Allows(was, was-rules):
		r.why = refusal{reasonShrink, fmt.Sprintf("it has %d rules, the version in force %d", rules, was)}
	default:
		return nil
	}
	// Not before: a long file takes longer than all else that an edit does.
	sum := sourceDigest(f.p.source)
	if sum != "" && (sum == f.c.copies.approved[r.list] || sum == f.was.parts[f.index].status.Digest) {
		return nil // approved as it is; or another version of the program finds other rules in it
	}
	r.held = source.Copy{
		SHA256: sum, Bytes: f.p.read.Size, Rules: rules, Fetched: f.p.read.ModTime,
		Reason: r.why.reason, Message: r.why.msg,
	}
	return r
}

// hadMarkup reports whether the version in force has such lines already.
func (f *fileGuard) hadMarkup() bool {
	was := f.was.parts[f.index].status.Report
	return was != nil && was.Skips[parse.SkipHTML] > 0
}

// refuseFiles notes which files are refused now, and says which are so newly.
func (f *feeds) refuseFiles(now []*fileRefusal) {
	f.mu.Lock()
	old := f.files
	f.files = slices.Clone(now)
	var news []*fileRefusal
	for _, r := range now {
		r.counts = f.fileRefusals[r.list]
		if i := slices.IndexFunc(old, r.isStill); i >= 0 {
			r.since = old[i].since
			continue
		}
		f.fileRefusals[r.list]++
		r.counts++
		news = append(news, r)
	}
	f.approved = nil // what was approved is in force
	f.mu.Unlock()
	for _, r := range news {
		what := "changed list not taken, its old rules stay in force; weir lists approve takes it"
		if r.broken != nil {
			what = "list cannot be taken, its old rules stay in force; put it right, and it is taken"
		}
		f.log.Error(what, "list", r.list, "file", r.file, "reason", r.why.reason, "error", r.why.msg, "sha256", r.held.SHA256)
		if err := f.g.record.append(ledger.Entry{Who: whoGateway, What: "list refused", Object: "list " + r.list, Why: r.why.msg, After: r.held.SHA256}); err != nil {
			f.log.Error("refused list not on the record of changes", "list", r.list, "error", err)
		}
	}
}

// isStill reports whether the other is the same version, refused for the same.
func (r *fileRefusal) isStill(o *fileRefusal) bool {
	return o.list == r.list && o.held.SHA256 == r.held.SHA256 && o.why.reason == r.why.reason
}

// refusedFile returns the refused version of a list in a file, or nil. The caller
// has feeds.mu.
func (f *feeds) refusedFile(list string) *fileRefusal {
	if i := slices.IndexFunc(f.files, func(r *fileRefusal) bool { return r.list == list }); i >= 0 {
		return f.files[i]
	}
	return nil
}

func (r *fileRefusal) version() *FeedVersion {
	c := r.held
	return &FeedVersion{SHA256: c.SHA256, Bytes: c.Bytes, Rules: c.Rules, Fetched: c.Fetched, Reason: c.Reason, Message: c.Message, File: r.file}
}

func (r *fileRefusal) status() *FeedStatus {
	s := &FeedStatus{
		State: feedFailing, Failures: 1, Reason: r.why.reason, Error: r.why.msg, Failed: r.since,
		Refusals: map[string]uint64{r.why.reason: r.counts},
	}
	if r.broken == nil {
		s.State, s.Held = feedHeld, r.version()
	}
	return s
}

// approvals are the versions of files that are taken whatever the guards say.
func (f *feeds) approvals() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.approved
}

// approveFile puts the refused version of a list in a file in force.
func (g *Gateway) approveFile(ctx context.Context, r *fileRefusal, digest, who string) error {
	if digest != "" && digest != r.held.SHA256 {
		return fmt.Errorf("%s: %w", r.list, ErrMoved)
	}
	c := change{who: who, why: "approved change of list " + r.list, kind: changeFile, note: &note{object: "list " + r.list}}
	c.do = func() error {
		g.feeds.mu.Lock()
		next := map[string]string{r.list: r.held.SHA256}
		for list, sum := range g.feeds.approved {
			if list != r.list {
				next[list] = sum
			}
		}
		g.feeds.approved = next
		g.feeds.mu.Unlock()
		if err := g.reload(c); err != nil && !isPartial(err) {
			return err
		}
		g.feeds.mu.Lock()
		defer g.feeds.mu.Unlock()
		switch now := g.feeds.refusedFile(r.list); {
		case now == nil:
			return nil // that another list fails is no concern of this one
		case now.held.SHA256 == r.held.SHA256:
			return now
		}
		return fmt.Errorf("%s: %w", r.list, ErrMoved)
	}
	return g.change(ctx, c)
}

// errMend answers who would discard a file: it is the operator's.
func errMend(list, file string) error {
	return admin.Errorf(http.StatusConflict, "list %s is a file: put %s right, and it is taken", list, file)
}

// fileMetrics renders which files are refused.
func (f *feeds) fileMetrics(e emitter) {
	for _, r := range f.files {
		e.gauge("weir_list_file_refused", "Lists in files whose newest version is not in force, by reason.", 1, "list", r.list, "reason", r.why.reason)
	}
	for list, n := range f.fileRefusals {
		e.counter("weir_list_file_refusals_total", "Versions of lists in files that were not taken.", float64(n), "list", list)
	}
}

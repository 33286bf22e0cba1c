package gateway

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weir-gateway/weir/blocklists/source"
)

// FeedStatus is how a list that is fetched is doing.
type FeedStatus struct {
	// State is ok; missing (never fetched); stale (no good look for too long);
	// failing (the latest look was none, and the list is not stale yet); or held
	// (a new version waits for approval).
	State    string            `json:"state"`
	Checked  time.Time         `json:"checked,omitzero"` // when the source was last seen with nothing wrong
	Fetched  time.Time         `json:"fetched,omitzero"` // when what is in force came
	SHA256   string            `json:"sha256,omitempty"` // of it
	Next     time.Time         `json:"next,omitzero"`    // when it is looked at again
	Failures int               `json:"failures"`         // in a row
	Reason   string            `json:"reason,omitempty"` // of the latest failure, in a word
	Error    string            `json:"error,omitempty"`
	Failed   time.Time         `json:"failed,omitzero"`
	Refusals map[string]uint64 `json:"refusals,omitempty"` // failed looks since the start, by reason
	Looks    uint64            `json:"looks"`              // good ones since the start
	Held     *FeedVersion      `json:"held,omitempty"`
	Refused  *FeedVersion      `json:"refused,omitempty"` // in quarantine: the latest of a failure, or else what a person has refused
}

// A FeedVersion is a version of a list that is not in force.
type FeedVersion struct {
	SHA256  string    `json:"sha256"`
	Bytes   int64     `json:"bytes"`
	Rules   int       `json:"rules,omitempty"`
	Fetched time.Time `json:"fetched,omitzero"`
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"`
	File    string    `json:"file"` // where its bytes are, for people to look at
}

const (
	feedOK      = "ok"
	feedMissing = "missing"
	feedStale   = "stale"
	feedFailing = "failing"
	feedHeld    = "held"
)

// state says how the list is doing. The caller has feeds.mu.
func (fd *feed) state(now time.Time) string {
	after := fd.staleAfter()
	switch {
	case fd.good == nil:
		return feedMissing
	case after > 0 && now.Sub(fd.good.Checked) > after:
		return feedStale
	case fd.lastReason != "":
		return feedFailing
	case fd.held != nil:
		return feedHeld
	}
	return feedOK
}

// alarm returns why the lists that are fetched are no longer to be relied on, or
// nil.
func (f *feeds) alarm(now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, fd := range f.lists {
		why := fd.lastError
		if why == "" {
			why = "no look at it yet"
		}
		if fd.held != nil {
			why = "an update waits for approval"
		}
		switch fd.state(now) {
		case feedMissing:
			errs = append(errs, fmt.Errorf("list %s is missing: %s", fd.name, why))
		case feedStale:
			errs = append(errs, fmt.Errorf("list %s is stale, last good look at %s: %s", fd.name, fd.good.Checked.UTC().Format(time.RFC3339), why))
		}
	}
	for _, r := range f.files {
		if now.Sub(r.since) > fileAlarm {
			what := "has changed, and waits for approval since"
			if r.broken != nil {
				what = "cannot be taken, and keeps its old rules since"
			}
			errs = append(errs, fmt.Errorf("list %s %s %s: %s", r.list, what, r.since.UTC().Format(time.RFC3339), r.why.msg))
		}
	}
	return errors.Join(errs...)
}

// describe returns the lists with how those that are fetched are doing.
func (f *feeds) describe(lists []ListStatus, now time.Time) []ListStatus {
	lists = slices.Clone(lists)
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range lists {
		for _, fd := range f.lists {
			if fd.name == lists[i].Name {
				lists[i].Feed = f.status(fd, now)
			}
		}
		if r := f.refusedFile(lists[i].Name); r != nil && lists[i].Feed == nil {
			lists[i].Feed = r.status()
		}
	}
	return lists
}

func (f *feeds) status(fd *feed, now time.Time) *FeedStatus {
	s := &FeedStatus{
		State: fd.state(now), Next: fd.next, Failures: fd.failures, Looks: fd.looks,
		Reason: fd.lastReason, Error: fd.lastError, Failed: fd.lastFailed, Refusals: make(map[string]uint64, len(fd.refusals)),
	}
	for reason, n := range fd.refusals {
		s.Refusals[reason] = n
	}
	if fd.good != nil {
		s.Checked, s.Fetched, s.SHA256 = fd.good.Checked, fd.good.Fetched, fd.good.SHA256
	}
	s.Held = f.version(fd.name, source.Held, fd.held)
	if s.Refused = f.version(fd.name, source.Refused, fd.refused); s.Refused == nil {
		s.Refused = f.version(fd.name, source.Unwanted, fd.unwanted)
	}
	return s
}

func (f *feeds) version(list string, k source.Kind, c *source.Copy) *FeedVersion {
	if c == nil {
		return nil
	}
	return &FeedVersion{SHA256: c.SHA256, Bytes: c.Bytes, Rules: c.Rules, Fetched: c.Fetched, Reason: c.Reason, Message: c.Message, File: f.store.Path(list, k)}
}

// feedMetrics renders how the lists that are fetched are doing.
func (f *feeds) metrics(e emitter, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fileMetrics(e)
	for _, fd := range f.lists {
		list, is := fd.name, fd.state(now)
		for _, state := range []string{feedOK, feedMissing, feedStale, feedFailing, feedHeld} {
			v := 0.0
			if state == is {
				v = 1
			}
			e.gauge("weir_feed_state", "How a list that is fetched is doing: 1 at one of ok, missing, stale, failing and held.", v, "list", list, "state", state)
		}
		if fd.good != nil && !fd.good.Checked.IsZero() {
			e.gauge("weir_feed_checked_timestamp_seconds", "When the source was last seen with nothing wrong.", float64(fd.good.Checked.UnixNano())/1e9, "list", list)
			e.gauge("weir_feed_age_seconds", "Time since then.", now.Sub(fd.good.Checked).Seconds(), "list", list)
		}
		e.gauge("weir_feed_failures", "Looks at the source that failed since the latest good one.", float64(fd.failures), "list", list)
		e.counter("weir_feed_looks_total", "Looks at the source that were good.", float64(fd.looks), "list", list)
		for reason, n := range fd.refusals {
			e.counter("weir_feed_refused_total", "Looks at the source without a version that could be taken, by reason.", float64(n), "list", list, "reason", reason)
		}
	}
}

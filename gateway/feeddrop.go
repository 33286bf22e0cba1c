package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/gateway/ledger"
)

// What a person has seen of a list and does not want is kept apart from what the
// checks refuse: a source that sends an error page in between, which is in quarantine
// then, must not make anybody forget it. It is refused until the source has another
// version that passes, or somebody approves it after all.

// setAside keeps the copy that all others have of a list, before an update replaces
// it for the group that goes ahead.
func (f *feeds) setAside(l *blocklists.List) error {
	if l.Feed.Canary == "" || f.store.Has(l.Name, source.Before) {
		return nil
	}
	c, err := f.store.Load(l.Name, source.Good)
	if err == nil {
		err = f.store.Duplicate(l.Name, source.Good, source.Before, c)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is the first version
	}
	return err
}

// dropVersions has the lists that begin canaries go back to the copies that all
// others have, and refuses the versions that have come since. The gateway's owner
// calls it before the canary ends: whoever is killed in between finds it running.
func (f *feeds) dropVersions(others *policySet, who, why string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fd := range f.lists {
		if fd.list.Feed.Canary == "" {
			continue
		}
		if err := f.dropVersion(fd, others, who, why); err != nil {
			return fmt.Errorf("list %s: its version is not dropped: %w", fd.name, err)
		}
	}
	return nil
}

func (f *feeds) dropVersion(fd *feed, others *policySet, who, why string) error {
	// What the feed says may be behind: a look that has put its version in force may
	// not have noted that yet.
	c, err := f.store.Load(fd.name, source.Good)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	before, berr := f.store.Load(fd.name, source.Before)
	first := errors.Is(berr, fs.ErrNotExist) && others.lacks(fd.name)
	switch {
	case err != nil:
		return err
	case first:
	case errors.Is(berr, fs.ErrNotExist) || berr == nil && before.SHA256 == c.SHA256:
		return nil // none has come
	case berr != nil:
		return berr
	}
	c.Reason, c.Message, c.Checked = reasonDropped, "canary dropped by "+who, time.Time{}
	if why != "" {
		c.Message += ": " + why
	}
	if err := f.store.Duplicate(fd.name, source.Good, source.Unwanted, c); err != nil {
		return err
	}
	fd.good = nil
	if first {
		err = f.store.Remove(fd.name, source.Good)
	} else if err = f.store.Install(fd.name, source.Good, f.store.Path(fd.name, source.Before), before); err == nil {
		fd.good = &before
	}
	fd.unwanted, fd.zone = &c, f.zoneState(&fd.list)
	fd.drops++
	f.g.watched.expect("file:" + f.store.Path(fd.name, source.Good))
	f.g.note(ledger.Entry{Who: who, What: notedRefused, Object: "list " + fd.name, Why: clipped(reasonDropped + ": " + c.Message), After: c.SHA256})
	f.log.Info("version of a list refused with its canary", "list", fd.name, "who", who, "why", why, "sha256", c.SHA256)
	return errors.Join(err, f.store.Remove(fd.name, source.Before))
}

// lacks reports whether there is nothing of the list in the policy.
func (set *policySet) lacks(list string) bool {
	return !slices.ContainsFunc(set.parts, func(p part) bool { return p.status.Name == list && !p.status.Missing })
}

// forgetBefore removes what was set aside for a canary that is no more.
func (f *feeds) forgetBefore() {
	if err := f.store.RemoveAll(source.Before); err != nil {
		f.log.Error("copies of lists from before a canary not removed", "error", err)
	}
}

// approvable returns the version of a list that somebody can approve: one that waits
// for that, or else one that a person has refused. The caller has feeds.mu.
func (fd *feed) approvable() (*source.Copy, source.Kind) {
	if fd.held == nil && fd.unwanted != nil {
		return fd.unwanted, source.Unwanted
	}
	return fd.held, source.Held
}

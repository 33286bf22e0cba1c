package gateway

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

const (
	// maxEdit is how many rules the lists that have changed may have for the old
	// set to be edited: beyond, a new one is faster to question and soon as fast
	// to make.
	maxEdit = 4096
	// racy is how long a file must have been as it is for its revision to be
	// trusted: within one tick of the file system's clock it may have been
	// written twice.
	racy = 2 * time.Second
)

// edit returns the old set with what has changed, or nil where it must be built
// anew. An error is one of a list.
func (c *compiler) edit(old *policySet) (*blocklists.Set, error) {
	if old == nil || !slices.EqualFunc(c.parts, old.parts, sameList) {
		return nil, nil
	}
	var e blocklists.Edit
	for i := range c.parts {
		if _, stays := c.stays[i]; stays || c.takeOver(i, &old.parts[i]) {
			continue
		}
		guard, err := c.guard(i)
		if err != nil {
			return nil, err
		}
		before := e
		if c.takeDiff(i, &old.parts[i], old.set, &e) {
			for _, a := range e.Add[len(before.Add):] {
				guard.see(a.Rule)
			}
			if r := guard.verdict(c.parts[i].status.Rules); r != nil && c.stay(i, r) {
				e = before
			}
			continue
		}
		e.Drop = append(e.Drop, i)
		err = c.load(i, func(r blocklists.Rule) error {
			c.pace.step()
			guard.see(r)
			if len(e.Add) == maxEdit {
				return errLong
			}
			e.Add = append(e.Add, blocklists.Change{List: i, Rule: kept(r)})
			return nil
		})
		if errors.Is(err, errLong) {
			return nil, nil
		}
		r := guard.verdict(c.parts[i].status.Rules)
		if err != nil {
			r = c.failure(i, err)
		}
		switch {
		case r != nil && c.stay(i, r):
			e = before
		case err != nil:
			return nil, err
		}
	}
	if len(e.Drop)+len(e.Remove)+len(e.Add)+len(e.Shift) == 0 {
		return old.set, nil
	}
	if set, err := old.set.Edit(e); err == nil {
		return set, nil
	}
	return nil, nil // too many edits; a build says what else may be wrong
}

// kept returns the rule with strings of its own: those of the parser last as
// long as the line.
func kept(r blocklists.Rule) blocklists.Rule {
	r.Name, r.Path = strings.Clone(r.Name), strings.Clone(r.Path)
	return r
}

var errLong = errors.New("list is too long to edit the set with")

// sameList reports whether the two are the same list, whatever is in it.
func sameList(a, b part) bool {
	x, y := &a.status, &b.status
	return x.Name == y.Name && x.Ban == y.Ban && x.Role == y.Role && x.Source == y.Source && x.Format == y.Format ||
		x.Format == "" && y.Format == "" && x.Name == y.Name
}

// takeOver takes over what was in the list, if nothing of it has changed.
func (c *compiler) takeOver(i int, old *part) bool {
	p := &c.parts[i]
	p.same, p.patched, p.outline = false, false, nil
	if p.status.Format == "" {
		p.same = slices.Equal(p.inline, old.inline)
		return p.same
	}
	now := look(p.source)
	if p.source != old.source || now != old.read || now.absent || old.at.Sub(now.since()) < racy {
		return false
	}
	p.read, p.at, p.outline, p.patched, p.same = old.read, old.at, old.outline, old.patched, true
	p.status.Report, p.status.Rules, p.status.Digest = old.status.Report, old.status.Rules, old.status.Digest
	c.read[p.source] = now
	return true
}

// takeDiff takes over what was in a long list but for what has changed of it.
// The rest of its status is to be made up for when the policy is in force.
func (c *compiler) takeDiff(i int, old *part, set *blocklists.Set, e *blocklists.Edit) bool {
	if old.status.Rules <= maxEdit {
		return false
	}
	p := &c.parts[i]
	at, before := time.Now(), look(p.source)
	d, report := old.diff(p.source, i, set, &c.pace)
	if d == nil || len(d.Remove)+len(d.Add) > maxEdit || look(p.source) != before {
		return false
	}
	e.Remove, e.Add, e.Shift = append(e.Remove, d.Remove...), append(e.Add, d.Add...), append(e.Shift, d.Shift...)
	p.read, p.at, p.patched = before, at, true
	p.status.Report, p.status.Rules = report, report.Rules
	c.read[p.source] = before
	return true
}

// since is from when on the source has been as it is; embedded ones always
// have.
func (r *revision) since() time.Time {
	if !r.Changed.IsZero() {
		return r.Changed
	}
	return r.ModTime
}

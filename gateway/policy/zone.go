package policy

import (
	"iter"
	"net/netip"
	"time"
)

// Whoever hands the policy on to others, as a response policy zone, needs all of
// it: what the rules stand at, and what is decided there for a whole group.

// Names returns each name that a rule for names stands at, once and in no order,
// and in a snapshot for a group each that the group is exempt for. A name is
// valid until the next one.
func (s *Snapshot) Names() iter.Seq[string] {
	if s.of == "" || s.named == nil {
		return s.spec.Set.Names()
	}
	return func(yield func(string) bool) {
		for name := range s.named {
			if !s.spec.Set.StandsAt(name) && !yield(name) {
				return
			}
		}
		for name := range s.spec.Set.Names() {
			if !yield(name) {
				return
			}
		}
	}
}

// StandsAt reports whether Names has that very name.
func (s *Snapshot) StandsAt(name string) bool {
	return s.spec.Set.StandsAt(name) || s.of != "" && s.named[name] != nil
}

// Prefixes returns each prefix that a rule stands at, once, in order.
func (s *Snapshot) Prefixes() iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		var last netip.Prefix
		for m := range s.spec.Set.Prefixes() {
			if m.Rule.Prefix == last {
				continue
			}
			if last = m.Rule.Prefix; !yield(last) {
				return
			}
		}
	}
}

// Clients returns how many rules are about who asks. What is decided by them for
// a name is no rule of that name: protected names come before them.
func (s *Snapshot) Clients() int { return s.spec.Set.Clients() }

// Prefix judges the addresses of a prefix of which no rule for a longer prefix
// speaks. What IPv4 addresses they embed does not count.
func (s *Snapshot) Prefix(sub Subject, p netip.Prefix, now time.Time) (v Verdict) {
	s = s.Of(sub)
	s.judge(&v, sub, s.spec.Set.AppendPrefix(nil, p), now)
	return v
}

// ForGroup returns a snapshot that judges whom it knows nothing of as s judges
// the group at that time, without the exemptions of single devices; false for a
// group that is not there. Whoever follows it cannot tell names from bans, so the
// bans that the group is exempt from are none of it. The group of a canary is
// judged by that.
func (s *Snapshot) ForGroup(name string, now time.Time) (*Snapshot, bool) {
	if c, group := s.Canary(); c != nil && group == name {
		return c.ForGroup(name, now)
	}
	for i, g := range s.spec.Groups {
		if g.Name != name {
			continue
		}
		of := &Snapshot{id: snapshots.Add(1), spec: s.spec, allBans: s.newMask(), wide: s.wide, mirrors: s.mirrors}
		of.spec.Groups, of.spec.Exemptions, of.spec.Canary = nil, nil, nil
		of.of, of.named = name, s.named.of(name)
		of.exempt = make([]exemptions, len(s.spec.Bans))
		of.cache = newMatchCache(0)
		for b := range s.spec.Bans {
			if s.masks[i].has(b) && s.exempt[b].live(Subject{}, name, now) == nil {
				of.allBans.add(b)
			}
		}
		return of, true
	}
	return nil, false
}

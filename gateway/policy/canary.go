package policy

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// A Canary is another policy of the same generation, for one group only: it is
// tried there before it is everybody's.
type Canary struct {
	Group    string    // of the policy that it belongs to
	Snapshot *Snapshot // whose own Spec has no Canary
}

// withCanary checks that the canary fits to the rest of the snapshot.
func (s *Snapshot) withCanary() error {
	c := s.spec.Canary
	if c == nil {
		return nil
	}
	group := slices.IndexFunc(s.spec.Groups, func(g Group) bool { return g.Name == c.Group })
	switch {
	case group < 0:
		return fmt.Errorf("the canary is for group %s, which is not there", c.Group)
	case c.Snapshot == nil || c.Snapshot.canary != nil:
		return fmt.Errorf("the canary for group %s is no policy", c.Group)
	}
	s.canary, s.canaryGroup = c.Snapshot, group
	return nil
}

// Of returns the policy that judges the subject: the canary's for a device in its
// group, where one runs. Who is in the group is for the policy of all to say.
// Everything that judges begins with it.
func (s *Snapshot) Of(sub Subject) *Snapshot {
	if s.canary == nil {
		return s
	}
	return s.choose(sub)
}

// choose is not a part of Of, so that Of is one of whoever calls it.
//
//go:noinline
func (s *Snapshot) choose(sub Subject) *Snapshot {
	if i, ok := s.groupIndex(sub); ok && i == s.canaryGroup {
		return s.canary
	}
	return s
}

// Canary returns the policy of the group that is tried there, and the group; nil
// for none.
func (s *Snapshot) Canary() (*Snapshot, string) {
	if s.canary == nil {
		return nil, ""
	}
	return s.canary, s.spec.Canary.Group
}

// Others returns, for each ban of a canary, the devices for which it does not hold
// at that time, as Spared does: among them all that are not in its group. It is
// nil without a canary.
func (s *Snapshot) Others(now time.Time) [][]Range {
	if s.canary == nil {
		return nil
	}
	var w sweeper
	for _, family := range []struct {
		all     netip.Prefix
		devices iter.Seq2[netip.Prefix, int]
	}{
		{netip.PrefixFrom(netip.IPv4Unspecified(), 0), s.groups.AllSorted4()},
		{netip.PrefixFrom(netip.IPv6Unspecified(), 0), s.groups.AllSorted6()},
	} {
		if _, ok := s.groups.Get(family.all); !ok {
			w.add(family.all, true, 0)
		}
		for p, i := range family.devices {
			w.add(p, i != s.canaryGroup, 0)
		}
	}
	outside := w.end()
	spared := s.canary.Spared(now)
	for i := range spared {
		spared[i] = JoinRanges(append(spared[i], outside...))
	}
	return spared
}

package blocklists

import (
	"iter"
	"net/netip"
)

// Prefixes returns all prefix rules, each with its list, for whoever hands them
// on to something that matches by itself, such as a packet filter. A prefix
// stands before those inside it, IPv4 before IPv6; the rules of one prefix come
// in no order.
func (s *Set) Prefixes() iter.Seq[Match] {
	return func(yield func(Match) bool) {
		// What came by edits is merged in, so that the order holds for all.
		var added []Match
		if s.over != nil && s.over.core != nil {
			for m := range s.over.core.walkPrefixes(nil) {
				added = append(added, m)
			}
		}
		for m := range s.base.walkPrefixes(s.over) {
			for len(added) > 0 && added[0].Rule.Prefix.Compare(m.Rule.Prefix) < 0 {
				if !yield(added[0]) {
					return
				}
				added = added[1:]
			}
			if !yield(m) {
				return
			}
		}
		for _, m := range added {
			if !yield(m) {
				return
			}
		}
	}
}

// walkPrefixes walks the core's prefix rules but for those that the overlay
// hides.
func (c *core) walkPrefixes(over *overlay) iter.Seq[Match] {
	return func(yield func(Match) bool) {
		if c == nil || c.prefixes == nil {
			return
		}
		for p, first := range c.prefixes.AllSorted() {
			if !c.yieldPrefix(p, first, over, yield) {
				return
			}
		}
	}
}

func (c *core) yieldPrefix(p netip.Prefix, first uint32, over *overlay, yield func(Match) bool) bool {
	for i := first; i != 0; {
		r := c.addrs.at(i - 1)
		m := c.classes[r.class].match(r.line)
		if !over.hides(m.List, place{prefix: true, at: i}) {
			m.Rule.Line, m.Rule.Prefix = over.line(m.List, r.line), p
			if !yield(m) {
				return false
			}
		}
		i = r.next
	}
	return true
}

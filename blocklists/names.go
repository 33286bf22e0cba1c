package blocklists

import (
	"iter"
	"net/netip"
)

// Names returns each name that some rule for names stands at, once and in no
// order, for whoever carries the whole Set elsewhere. Rules with a path and
// signatures are not rules for names. The names are valid until the next one.
func (s *Set) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		if s.base != nil && !s.base.walkNames(s.over, func(string) bool { return false }, yield) {
			return
		}
		if s.over != nil && s.over.core != nil {
			s.over.core.walkNames(nil, func(name string) bool { return s.base.speaksAt(name, s.over) }, yield)
		}
	}
}

// StandsAt reports whether a rule for names stands at that very name.
func (s *Set) StandsAt(name string) bool {
	return s.base.speaksAt(name, s.over) || s.over != nil && s.over.core.speaksAt(name, nil)
}

func (c *core) speaksAt(name string, over *overlay) bool {
	if c == nil || len(c.table.buckets) == 0 {
		return false
	}
	b, i, _, _ := c.find(c.hash(name), name)
	return b != nil && c.speaks(b, i, over)
}

// walkNames gives the core's names but for those that are left out, and those
// of which the overlay hides all rules.
func (c *core) walkNames(over *overlay, leave func(string) bool, yield func(string) bool) bool {
	var buf [maxName]byte
	for n := range c.table.buckets {
		b := &c.table.buckets[n]
		for i := range width {
			if !b.taken(i) || b.kind(i) == inner || !c.speaks(b, i, over) {
				continue
			}
			offset := b.vals[i]
			if b.kind(i) == many {
				offset = c.heads.at(offset).text
			}
			r, _ := readRecord(c.records.at(offset))
			if name := c.endings.name(&r, buf[:0]); !leave(name) && !yield(name) {
				return false
			}
		}
	}
	return true
}

// speaks reports whether the entry, which is not an inner one, has a rule for
// names that the overlay does not hide.
func (c *core) speaks(b *bucket, i int, over *overlay) bool {
	if b.kind(i) != many {
		return over == nil || !c.hidden(b.vals[i], over)
	}
	for at := c.heads.at(b.vals[i]).names; at != 0; {
		r := c.refs.at(at - 1)
		if over == nil || !c.hidden(r.record, over) {
			return true
		}
		at = r.next
	}
	return false
}

func (c *core) hidden(offset uint32, over *overlay) bool {
	r, _ := readRecord(c.records.at(offset))
	return over.hides(int(c.classes[r.class].list), place{at: offset})
}

// AppendPrefix is AppendAddr for those addresses of a prefix of which no longer
// prefix of the Set speaks.
func (s *Set) AppendPrefix(dst []Match, p netip.Prefix) []Match {
	p = CanonicalPrefix(p)
	if !p.IsValid() {
		return dst
	}
	base := len(dst)
	if s.base != nil {
		dst = s.base.appendPrefix(dst, base, p, s.over)
	}
	if s.over != nil && s.over.core != nil {
		dst = s.over.core.appendPrefix(dst, base, p, nil)
	}
	return dst
}

package blocklists

import "iter"

// All returns every rule with its list, in no order that means anything. A name
// and a path are valid only until the next rule: whoever keeps them clones them.
func (s *Set) All() iter.Seq[Match] {
	return func(yield func(Match) bool) {
		for _, sig := range s.signs {
			if !yield(Match{List: sig.list, Rule: sig.rule}) {
				return
			}
		}
		if s.clients != nil {
			for _, m := range s.clients.rules {
				if !yield(m) {
					return
				}
			}
		}
		if s.base != nil && !s.base.walk(s.over, yield) {
			return
		}
		if s.over != nil && s.over.core != nil {
			s.over.core.walk(nil, yield)
		}
	}
}

// walk gives the core's rules but for those that the overlay hides, and returns
// false when no more are wanted.
func (c *core) walk(over *overlay, yield func(Match) bool) bool {
	for m := range c.walkPrefixes(over) {
		if !yield(m) {
			return false
		}
	}
	named := c.namedElsewhere()
	var buf [maxName]byte
	for i, chunk := range c.records {
		for at := 0; at < len(chunk); {
			offset := uint32(i<<chunkBits | at)
			r, size := readRecord(chunk[at:])
			at += size
			m := c.classes[r.class].match(r.line)
			if over != nil {
				if over.hides(m.List, place{at: offset}) {
					continue
				}
				m.Rule.Line = over.line(m.List, r.line)
			}
			if r.path {
				m.Rule.Path = r.pattern()
			}
			if len(r.text) == 0 {
				r, _ = readRecord(c.records.at(named[offset]))
			}
			m.Rule.Name = c.endings.name(&r, buf[:0])
			if !yield(m) {
				return false
			}
		}
	}
	return true
}

// Holds reports whether a list has a rule that says that, whatever its line.
func (s *Set) Holds(list int, r Rule) bool {
	if r.Kind.IsSignature() {
		for _, sig := range s.signs {
			if sig.says(list, &r) {
				return true
			}
		}
		return false
	}
	if r.Kind == Client {
		return s.clients.holds(list, r)
	}
	c := Change{List: list, Rule: r}
	key := c.key()
	if s.over != nil {
		if _, ok := s.over.added[key]; ok {
			return true
		}
	}
	if s.base == nil {
		return false
	}
	p, _, _, ok := s.base.locate(&key)
	return ok && !s.over.hides(list, p)
}

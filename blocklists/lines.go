package blocklists

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// spanBytes is about how many bytes of records a span is of.
const spanBytes = 32 << 10

// A span is what some of the records have that stand behind each other in one
// chunk: of which list and which lines, or of more than one list.
type span struct {
	chunk, at   uint32 // where they begin
	first, last uint32 // lines
	list        uint16
	mixed       bool
}

// spanAt returns the span that a record there belongs to: the last, or a new one
// where that is of another chunk or long enough.
func (c *core) spanAt(chunk, at int) *span {
	last := len(c.spans) - 1
	if last < 0 || int(c.spans[last].chunk) != chunk || at-int(c.spans[last].at) >= spanBytes {
		c.spans = append(c.spans, span{chunk: uint32(chunk), at: uint32(at), first: math.MaxUint32})
		last++
	}
	return &c.spans[last]
}

// recordsOf returns the records of a span and what follows, and where they end.
func (c *core) recordsOf(n int) (chunk []byte, end int) {
	chunk = c.records[c.spans[n].chunk]
	if next := n + 1; next < len(c.spans) && c.spans[next].chunk == c.spans[n].chunk {
		return chunk, int(c.spans[next].at)
	}
	return chunk, len(chunk)
}

// add adds a record.
func (s *span) add(list uint16, line uint32) {
	empty := s.first > s.last
	s.mixed = s.mixed || list != s.list && !empty
	s.list, s.first, s.last = list, min(s.first, line), max(s.last, line)
}

// RulesOf returns how many different rules of the list the Set holds.
func (s *Set) RulesOf(list int) int {
	n := 0
	for _, sig := range s.signs {
		if sig.list == list {
			n++
		}
	}
	s.clients.count(func(of, rules int) {
		if of == list {
			n += rules
		}
	})
	for i, count := range s.counts() {
		if int(s.base.classes[i].list) == list {
			n += count
		}
	}
	if s.over != nil && s.over.core != nil {
		for i, k := range s.over.core.classes {
			if int(k.list) == list {
				n += s.over.core.counts[i]
			}
		}
	}
	return n
}

// counts are those of the base's rules that still speak, by class.
func (s *Set) counts() []int {
	switch {
	case s.base == nil:
		return nil
	case s.over != nil:
		return s.over.counts
	}
	return s.base.counts
}

// NameRules returns the rules of a list that stand on lines from first up to
// last, in the order of their lines. It is false where it cannot tell: for a
// list of addresses, for rules with paths, and for names that several lists or
// kinds of rules share. It is meant for few lines: where a list was added
// as one and in the order of its lines, the rest of it is not looked at.
func (s *Set) NameRules(list, first, last int) ([]Rule, bool) {
	if s.base == nil {
		return nil, true
	}
	rules, ok := s.base.nameRules(nil, s.over, list, first, last)
	if ok && s.over != nil && s.over.core != nil {
		rules, ok = s.over.core.nameRules(rules, nil, list, first, last)
	}
	slices.SortStableFunc(rules, func(a, b Rule) int { return cmp.Compare(a.Line, b.Line) })
	return rules, ok
}

// nameRules appends those of one core, which the overlay may hide or move.
func (c *core) nameRules(dst []Rule, o *overlay, list, first, last int) ([]Rule, bool) {
	for i, k := range c.classes {
		if int(k.list) == list && k.kind == Prefix && c.counts[i] > 0 {
			return nil, false
		}
	}
	from, to := o.reach(list, first, last)
	for n, s := range c.spans {
		if !s.mixed && (int(s.list) != list || int(s.last) < from || int(s.first) > to) {
			continue
		}
		chunk, end := c.recordsOf(n)
		for at := int(s.at); at < end; {
			r, size := readRecord(chunk[at:])
			offset := s.chunk<<chunkBits | uint32(at)
			at += size
			if int(c.classes[r.class].list) != list || int(r.line) < from || int(r.line) > to || o.hides(list, place{at: offset}) {
				continue
			}
			line := o.line(list, r.line)
			if line < first || line > last {
				continue
			}
			if r.path || len(r.text) == 0 {
				return nil, false
			}
			rule := c.classes[r.class].match(uint32(line)).Rule
			rule.Name = strings.Clone(c.endings.name(&r, make([]byte, 0, maxName)))
			dst = append(dst, rule)
		}
	}
	return dst, true
}

// reach returns the lines of the base that may stand there now.
func (o *overlay) reach(list, first, last int) (from, to int) {
	most := 0
	if o != nil {
		for _, s := range o.lines[list] {
			most = max(most, s.by, -s.by)
		}
	}
	return first - most, last + min(most, math.MaxInt-last)
}

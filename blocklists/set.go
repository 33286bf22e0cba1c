package blocklists

import (
	"math"
	"net/netip"

	"github.com/gaissmai/bart"
)

// A Set is the compiled matcher for many lists at once: one walk answers for
// all of them. It is immutable and safe for concurrent use. The zero Set
// matches nothing.
type Set struct {
	base    *core
	over    *overlay // nil but after Edit
	signs   []*signature
	clients *clients // nil for none
}

// A core is the compiled rules of a Set.
type core struct {
	trie
	prefixes *bart.Table[uint32] // first reference of the prefix, as in head; nil for none
	addrs    pages[addrRef]
	counts   []int  // rules, by class
	spans    []span // of all records, in their order
}

// An addrRef is a prefix rule without its prefix.
type addrRef struct {
	next  uint32 // the next of the same prefix: index+1, 0 for none
	line  uint32
	class uint32
}

// MaxLists is how many lists one Set can hold.
const MaxLists = math.MaxUint16

// Lists returns one more than the highest list index that has a rule.
func (s *Set) Lists() int {
	n := 0
	s.count(func(list, rules int) {
		if rules > 0 {
			n = max(n, list+1)
		}
	})
	return n
}

// Rules returns how many different rules the Set holds.
func (s *Set) Rules() int {
	n := 0
	s.count(func(_, rules int) { n += rules })
	return n
}

// count gives the number of rules of each class, and its list.
func (s *Set) count(add func(list, rules int)) {
	for _, sig := range s.signs {
		add(sig.list, 1)
	}
	s.clients.count(add)
	if s.over != nil {
		s.over.core.count(s.over.core.classCounts(), add)
		s.base.count(s.over.counts, add)
		return
	}
	s.base.count(s.base.classCounts(), add)
}

func (c *core) classCounts() []int {
	if c == nil {
		return nil
	}
	return c.counts
}

func (c *core) count(counts []int, add func(list, rules int)) {
	for i, n := range counts {
		add(int(c.classes[i].list), n)
	}
}

// AppendName appends, for each list that speaks about the canonical name, the
// rule that decides for that list. Rules with a path do not speak about names.
//
// The name is not kept anywhere but in what is appended: Rule.Name is a part of
// it. A caller whose name lives in a buffer must clone that before it keeps a
// Match.
func (s *Set) AppendName(dst []Match, name string) []Match {
	return s.AppendURL(dst, name, "")
}

// AppendURL is AppendName for a plain HTTP request: rules with a path that
// matches the canonical path speak too. An empty path is that of no request.
func (s *Set) AppendURL(dst []Match, name, path string) []Match {
	base := len(dst)
	if s.base != nil {
		dst = s.base.appendURL(dst, base, name, path, s.over)
	}
	if s.over != nil && s.over.core != nil {
		dst = s.over.core.appendURL(dst, base, name, path, nil)
	}
	for i := base; i < len(dst); i++ {
		if dst[i].Rule.Action == None {
			return dropBarriers(dst, base)
		}
	}
	return dst
}

// dropBarriers takes out the names of policy zones that only kept wildcards
// above them from matching.
func dropBarriers(dst []Match, base int) []Match {
	kept := dst[:base]
	for _, m := range dst[base:] {
		if m.Rule.Action != None {
			kept = append(kept, m)
		}
	}
	return kept
}

// appendURL adds to dst[base:], as keep does, what the core says and the overlay,
// if there is one, does not hide.
func (c *core) appendURL(dst []Match, base int, name, path string, over *overlay) []Match {
	if len(c.table.buckets) == 0 || name == "" {
		return dst
	}
	start := labelStart(name, len(name))
	if !c.top {
		if start == 0 {
			return dst
		}
		start = labelStart(name, start-1)
	}
	for {
		b, i, r, under := c.find(c.hash(name[start:]), name[start:])
		switch {
		case b == nil:
		case b.kind(i) == many:
			dst = c.keepMany(dst, base, c.heads.at(b.vals[i]), name, start, path, over)
		default:
			dst = c.keepName(dst, base, b.vals[i], &r, name, start, over)
		}
		if !under || start == 0 {
			return dst
		}
		start = labelStart(name, start-1)
	}
}

// keepMany keeps the rules of one name. However many URL rules it has, DNS
// questions never walk them.
func (c *core) keepMany(dst []Match, base int, h *head, name string, start int, path string, over *overlay) []Match {
	for i := h.names; i != 0; {
		ref := c.refs.at(i - 1)
		r, _ := readRecord(c.records.at(ref.record))
		dst = c.keepName(dst, base, ref.record, &r, name, start, over)
		i = ref.next
	}
	if path == "" {
		return dst
	}
	for i := h.paths; i != 0; {
		ref := c.refs.at(i - 1)
		if r, _ := readRecord(c.records.at(ref.record)); matchPath(r.pattern(), path) {
			dst = c.keepName(dst, base, ref.record, &r, name, start, over)
		}
		i = ref.next
	}
	return dst
}

// keepName keeps the rule of the record at that offset, if it speaks about the
// name: it hangs at the part of it from start on.
func (c *core) keepName(dst []Match, base int, offset uint32, r *record, name string, start int, over *overlay) []Match {
	k := &c.classes[r.class]
	barrier := k.kind == Exact && start > 0
	if barrier && (k.mode == ModeDefault || r.path || len(dst) == base && over == nil) || k.kind == Under && start == 0 {
		return dst
	}
	m := k.match(r.line)
	if over != nil {
		if over.hides(m.List, place{at: offset}) {
			return dst
		}
		m.Rule.Line = over.line(m.List, r.line)
	}
	m.Rule.Name = name[start:]
	if barrier {
		// The name exists in its policy zone, and a wildcard above it does not
		// reach what is under it (RFC 4592, section 2.2.1).
		m.Rule.Kind, m.Rule.Action, m.Rule.Priority = Under, None, 0
	}
	if r.path {
		m.Rule.Path = r.pattern()
	}
	return keep(dst, base, &m)
}

// AppendAddr appends, for each list that speaks about the address, the rule
// that decides for that list. Zones are ignored and an IPv4-mapped address is
// its IPv4 address.
func (s *Set) AppendAddr(dst []Match, addr netip.Addr) []Match {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return dst
	}
	base := len(dst)
	if s.base != nil {
		dst = s.base.appendPrefix(dst, base, netip.PrefixFrom(addr, addr.BitLen()), s.over)
	}
	if s.over != nil && s.over.core != nil {
		dst = s.over.core.appendPrefix(dst, base, netip.PrefixFrom(addr, addr.BitLen()), nil)
	}
	return dst
}

func (c *core) appendPrefix(dst []Match, base int, of netip.Prefix, over *overlay) []Match {
	if c.prefixes == nil {
		return dst
	}
	for p, first := range c.prefixes.Supernets(of) {
		for i := first; i != 0; i = c.addrs.at(i - 1).next {
			r := c.addrs.at(i - 1)
			m := c.classes[r.class].match(r.line)
			if over != nil {
				if over.hides(m.List, place{prefix: true, at: i}) {
					continue
				}
				m.Rule.Line = over.line(m.List, r.line)
			}
			m.Rule.Prefix = p
			dst = keep(dst, base, &m)
		}
	}
	return dst
}

// match returns what all rules of the class say, and the line.
func (k *class) match(line uint32) Match {
	return Match{List: int(k.list), Rule: Rule{Kind: k.kind, Action: k.action, Mode: k.mode, Priority: k.priority, Data: k.data, Line: int(line)}}
}

// keep adds the match to dst[base:], which holds one rule a list, if it is the
// list's first or outranks the one that is there.
func keep(dst []Match, base int, m *Match) []Match {
	for i := base; i < len(dst); i++ {
		if dst[i].List == m.List {
			if m.outranks(&dst[i]) {
				dst[i] = *m
			}
			return dst
		}
	}
	return append(dst, *m)
}

// CanonicalPrefix returns the one form in which prefixes are compared: masked,
// and an IPv4-mapped one as IPv4.
func CanonicalPrefix(p netip.Prefix) netip.Prefix {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

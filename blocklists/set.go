package blocklists

import (
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/gaissmai/bart"
)

// A Set is the compiled matcher for many lists at once: one walk answers for
// all of them. It is immutable and safe for concurrent use. The zero Set
// matches nothing.
type Set struct {
	names    trie
	prefixes *bart.Table[uint32] // first reference of the prefix, as in node; nil for none
	refs     []ref
	paths    []string
	lists    int
	rules    int
}

// A ref is a rule without what the place where it hangs already says.
type ref struct {
	next     uint32 // the next reference of the same place: index+1, 0 for none
	line     uint32
	path     uint32 // index+1 into Set.paths, 0 for none
	list     uint16
	kind     Kind
	action   Action
	mode     Mode
	priority uint8
}

// MaxLists is how many lists one Set can hold.
const MaxLists = math.MaxUint16

// A Builder compiles rules into a Set. The zero Builder is ready to use; it is
// not safe for concurrent use, and Build ends its life.
type Builder struct {
	set Set
}

// ErrSetFull is returned by Builder.Add for a rule that a Set has no room for.
var ErrSetFull = errors.New("too many rules or lists for one set")

// Add adds a rule of the list with that index. Rules that say the same again
// are kept once, with their first line. An error means that the rule is not a
// rule and nothing was added; the Builder stays usable.
func (b *Builder) Add(list int, r Rule) error {
	s := &b.set
	if list < 0 || list >= MaxLists || len(s.refs) >= math.MaxUint32-1 || len(s.names.labels) >= math.MaxUint32-maxName*4 {
		return ErrSetFull
	}
	if r.Action != Block && r.Action != Allow {
		return fmt.Errorf("rule %q has no action", r)
	}
	var first uint32
	switch r.Kind {
	case Suffix, Exact, Under:
		if r.Name == "" {
			return ErrNameEmpty
		}
		if s.names.nodes == nil {
			s.names = newTrie()
		}
		n := &s.names.nodes[s.names.insert(r.Name)]
		first = s.link(n.ref, list, r)
		n.ref = first
	case Prefix:
		if !r.Prefix.IsValid() {
			return fmt.Errorf("rule %q has no prefix", r)
		}
		if s.prefixes == nil {
			s.prefixes = new(bart.Table[uint32])
		}
		p := canonicalPrefix(r.Prefix)
		s.prefixes.Modify(p, func(old uint32, _ bool) (uint32, bool) {
			first = s.link(old, list, r)
			return first, false
		})
	default:
		return fmt.Errorf("rule of unknown kind %d", r.Kind)
	}
	s.lists = max(s.lists, list+1)
	return nil
}

// link puts the rule at the head of the chain, unless the chain has it.
func (s *Set) link(head uint32, list int, r Rule) uint32 {
	if r.Path == "" {
		for i := head; i != 0; {
			o := &s.refs[i-1]
			if o.list == uint16(list) && o.kind == r.Kind && o.action == r.Action && o.mode == r.Mode && o.priority == r.Priority && o.path == 0 {
				return head
			}
			i = o.next
		}
	}
	n := ref{next: head, line: uint32(r.Line), list: uint16(list), kind: r.Kind, action: r.Action, mode: r.Mode, priority: r.Priority}
	if r.Path != "" {
		s.paths = append(s.paths, r.Path)
		n.path = uint32(len(s.paths))
	}
	s.refs = append(s.refs, n)
	s.rules++
	return uint32(len(s.refs))
}

// Build returns the compiled Set. The Builder must not be used afterwards.
func (b *Builder) Build() *Set {
	s := b.set
	b.set = Set{}
	return &s
}

// Lists returns one more than the highest list index that has a rule.
func (s *Set) Lists() int { return s.lists }

// Rules returns how many different rules the Set holds.
func (s *Set) Rules() int { return s.rules }

// AppendName appends, for each list that speaks about the canonical name, the
// rule that decides for that list. Rules with a path do not speak about names.
func (s *Set) AppendName(dst []Match, name string) []Match {
	return s.AppendURL(dst, name, "")
}

// AppendURL is AppendName for a plain HTTP request: rules with a path that
// matches the canonical path speak too. An empty path is that of no request.
func (s *Set) AppendURL(dst []Match, name, path string) []Match {
	if len(s.names.nodes) == 0 {
		return dst
	}
	base := len(dst)
	n := uint32(root)
	for end := len(name); end > 0; {
		start := labelStart(name, end)
		if n = s.names.child(n, name[start:end]); n == 0 {
			break
		}
		for i := s.names.nodes[n].ref; i != 0; i = s.refs[i-1].next {
			r := &s.refs[i-1]
			if r.kind == Exact && start > 0 || r.kind == Under && start == 0 {
				continue
			}
			if r.path != 0 && (path == "" || !matchPath(s.paths[r.path-1], path)) {
				continue
			}
			dst = s.keep(dst, base, r, Rule{Name: name[start:]})
		}
		end = start - 1
	}
	return dst
}

// AppendAddr appends, for each list that speaks about the address, the rule
// that decides for that list. Zones are ignored and an IPv4-mapped address is
// its IPv4 address.
func (s *Set) AppendAddr(dst []Match, addr netip.Addr) []Match {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() || s.prefixes == nil {
		return dst
	}
	base := len(dst)
	for p, first := range s.prefixes.Supernets(netip.PrefixFrom(addr, addr.BitLen())) {
		for i := first; i != 0; i = s.refs[i-1].next {
			dst = s.keep(dst, base, &s.refs[i-1], Rule{Prefix: p})
		}
	}
	return dst
}

// keep adds the rule to dst[base:], which holds one rule a list, if it is the
// list's first or outranks the one that is there.
func (s *Set) keep(dst []Match, base int, r *ref, rule Rule) []Match {
	rule.Kind, rule.Action, rule.Mode, rule.Priority, rule.Line = r.kind, r.action, r.mode, r.priority, int(r.line)
	if r.path != 0 {
		rule.Path = s.paths[r.path-1]
	}
	m := Match{List: int(r.list), Rule: rule}
	for i := base; i < len(dst); i++ {
		if dst[i].List == m.List {
			if m.outranks(&dst[i]) {
				dst[i] = m
			}
			return dst
		}
	}
	return append(dst, m)
}

// canonicalPrefix masks the prefix and turns an IPv4-mapped one into IPv4.
func canonicalPrefix(p netip.Prefix) netip.Prefix {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

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
	set  Set
	seen map[seenPath]struct{} // the path rules so far
}

// A seenPath is a path rule without its line.
type seenPath struct {
	list int
	rule Rule
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
		// A rule in another spelling would never match, and nobody would know.
		if c, err := CanonicalName(r.Name); err != nil {
			return err
		} else if c != r.Name {
			return fmt.Errorf("name of rule %q is not canonical", r)
		}
		if b.repeated(list, r) {
			return nil
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
		if r.Path != "" {
			return fmt.Errorf("rule %q is for an address and has a path", r)
		}
		if s.prefixes == nil {
			s.prefixes = new(bart.Table[uint32])
		}
		p := CanonicalPrefix(r.Prefix)
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

// repeated reports whether the rule has a path and was added before. Rules
// without a path find their like in their chain, which is short.
func (b *Builder) repeated(list int, r Rule) bool {
	if r.Path == "" {
		return false
	}
	r.Line = 0
	key := seenPath{list, r}
	if _, again := b.seen[key]; again {
		return true
	}
	if b.seen == nil {
		b.seen = make(map[seenPath]struct{})
	}
	b.seen[key] = struct{}{}
	return false
}

// link adds the rule to the chain, unless the chain has it, and returns the
// chain's head. Rules without a path stand before those with one: so however
// many URL rules a host has, DNS questions and repeated rules never walk them.
func (s *Set) link(head uint32, list int, r Rule) uint32 {
	n := ref{line: uint32(r.Line), list: uint16(list), kind: r.Kind, action: r.Action, mode: r.Mode, priority: r.Priority}
	var last uint32 // the last rule without a path
	for i := head; i != 0 && s.refs[i-1].path == 0; i = s.refs[i-1].next {
		if r.Path == "" && s.refs[i-1].says(&n) {
			return head
		}
		last = i
	}
	if r.Path != "" {
		s.paths = append(s.paths, r.Path)
		n.path = uint32(len(s.paths))
	}
	s.rules++
	i := uint32(len(s.refs)) + 1
	if r.Path == "" || last == 0 {
		n.next = head
		s.refs = append(s.refs, n)
		return i
	}
	n.next = s.refs[last-1].next
	s.refs = append(s.refs, n)
	s.refs[last-1].next = i
	return head
}

// says reports whether the two, of one place and without a path, say the same.
func (r *ref) says(o *ref) bool {
	return r.list == o.list && r.kind == o.kind && r.action == o.action && r.mode == o.mode && r.priority == o.priority
}

// Build returns the compiled Set. The Builder must not be used afterwards.
func (b *Builder) Build() *Set {
	s := b.set
	*b = Builder{}
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
			if r.path != 0 && path == "" {
				break // only rules with a path follow
			}
			if r.kind == Exact && start > 0 || r.kind == Under && start == 0 {
				continue
			}
			if r.path != 0 && !matchPath(s.paths[r.path-1], path) {
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

// CanonicalPrefix returns the one form in which prefixes are compared: masked,
// and an IPv4-mapped one as IPv4.
func CanonicalPrefix(p netip.Prefix) netip.Prefix {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

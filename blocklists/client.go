package blocklists

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// Rules of kind Client are about who asks, whatever is asked. They are few and
// stand apart from what is asked for: a Set that has none asks nothing of the
// client's address.

// clients are such rules, compiled. They are immutable.
type clients struct {
	rules []Match
	table bart.Table[[]int] // indexes in rules
}

func newClients(rules []Match) *clients {
	if len(rules) == 0 {
		return nil
	}
	c := &clients{rules: rules}
	for i := range rules {
		c.table.Modify(rules[i].Rule.Prefix, func(of []int, _ bool) ([]int, bool) { return append(of, i), false })
	}
	return c
}

// isApart reports whether rules of that kind are in no core.
func (k Kind) isApart() bool { return k.IsSignature() || k == Client }

// addClient adds a rule, unless it is there: then its first line counts.
func (b *Builder) addClient(list int, r Rule) error {
	if !r.Prefix.IsValid() || r.Prefix.Bits() == 0 {
		return fmt.Errorf("rule %q has no prefix, or one of everybody", r)
	}
	r.Prefix, r.Name, r.Path = CanonicalPrefix(r.Prefix), "", ""
	m := Match{List: list, Rule: r}
	if b.clientAt == nil {
		b.clientAt = make(map[Match]int)
	}
	key := m
	key.Rule.Line = 0
	if i, ok := b.clientAt[key]; ok {
		b.clients[i].Rule.Line = min(b.clients[i].Rule.Line, r.Line)
		return nil
	}
	b.clientAt[key] = len(b.clients)
	b.clients = append(b.clients, m)
	return nil
}

// holds reports whether a list says that of who asks, in whichever line.
func (c *clients) holds(list int, r Rule) bool {
	if c == nil {
		return false
	}
	of, _ := c.table.Get(CanonicalPrefix(r.Prefix))
	for _, i := range of {
		r.Line, r.Prefix = c.rules[i].Rule.Line, c.rules[i].Rule.Prefix
		if c.rules[i] == (Match{List: list, Rule: r}) {
			return true
		}
	}
	return false
}

// HasClients reports whether there are rules about who asks.
func (s *Set) HasClients() bool { return s.clients != nil }

// Clients returns how many rules are about who asks.
func (s *Set) Clients() int {
	if s.clients == nil {
		return 0
	}
	return len(s.clients.rules)
}

// AppendClient adds the rules about an address that asks to dst[base:], which
// are what AppendName or another has appended: they decide for their lists.
func (s *Set) AppendClient(dst []Match, base int, addr netip.Addr) []Match {
	addr = addr.Unmap().WithZone("")
	if s.clients == nil || !addr.IsValid() {
		return dst
	}
	for _, of := range s.clients.table.Supernets(netip.PrefixFrom(addr, addr.BitLen())) {
		for _, i := range of {
			dst = keep(dst, base, &s.clients.rules[i])
		}
	}
	return dst
}

// editClients returns what the rules are after the edit.
func (c *clients) edit(e *Edit) (*clients, error) {
	old := []Match(nil)
	if c != nil {
		old = c.rules
	}
	var b Builder
	for _, m := range old {
		gone := slices.Contains(e.Drop, m.List) || slices.ContainsFunc(e.Remove, func(r Change) bool {
			r.Rule.Line, r.Rule.Prefix = m.Rule.Line, CanonicalPrefix(r.Rule.Prefix)
			return r == Change(m)
		})
		if gone {
			continue
		}
		for _, s := range e.Shift {
			if s.List == m.List && m.Rule.Line > s.After {
				m.Rule.Line += s.By
			}
		}
		if err := b.addClient(m.List, m.Rule); err != nil {
			return nil, err
		}
	}
	for _, r := range e.Add {
		if r.Rule.Kind != Client {
			continue
		}
		if err := b.addClient(r.List, r.Rule); err != nil {
			return nil, err
		}
	}
	return newClients(b.clients), nil
}

func (c *clients) count(add func(list, rules int)) {
	if c != nil {
		for i := range c.rules {
			add(c.rules[i].List, 1)
		}
	}
}

func (c *clients) appendData(dst []Data, m *Match) []Data {
	if c == nil {
		return dst
	}
	of, _ := c.table.Get(CanonicalPrefix(m.Rule.Prefix))
	for _, i := range of {
		if r := &c.rules[i]; r.List == m.List && r.Rule.Mode == LocalData {
			dst = append(dst, r.Rule.Data)
		}
	}
	return dst
}

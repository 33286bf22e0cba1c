package policy

import (
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// A Range is the addresses from First to Last, both included and of one family.
type Range struct {
	First, Last netip.Addr
}

// RangeOf returns the addresses of a prefix.
func RangeOf(p netip.Prefix) Range {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(b)
	return Range{p.Addr(), last}
}

// Banned returns, for each ban, the addresses that its lists block: what Addr
// says of an address under that ban alone, as ranges in order that neither
// touch nor overlap. It is for whoever must decide without asking, such as a
// packet filter. What the operator's lists let through, and the protected ones, is
// in none. It knows nothing of the ban's times and exemptions (see
// Spared) nor of addresses that embed another (see blocklists.EmbeddedIPv4).
func (s *Snapshot) Banned() [][]Range {
	sweeps := make([]sweeper, len(s.spec.Lists))
	speaks := make([]blocklists.Rule, len(s.spec.Lists)) // for its prefix, of those so far
	for m := range s.spec.Set.Prefixes() {
		if r := &speaks[m.List]; r.Prefix != m.Rule.Prefix {
			sweeps[m.List].rule(r, s.spec.Lists[m.List].Role)
			*r = m.Rule
		} else if outranks(&m.Rule, r) {
			*r = m.Rule
		}
	}
	var permitted []Range
	out := make([][]Range, len(s.spec.Bans))
	for i := range sweeps {
		l := &s.spec.Lists[i]
		if sweeps[i].rule(&speaks[i], l.Role); l.Role == RoleBan {
			out[l.Ban] = append(out[l.Ban], sweeps[i].end()...)
		} else {
			permitted = append(permitted, sweeps[i].end()...)
		}
	}
	permitted = JoinRanges(permitted)
	for i := range out {
		out[i] = without(JoinRanges(out[i]), permitted)
	}
	return out
}

// without returns the ranges but for what is in others. Both are as JoinRanges
// leaves them.
func without(rs, others []Range) []Range {
	if len(others) == 0 {
		return rs
	}
	var out []Range
	for _, r := range rs {
		for len(others) > 0 && others[0].Last.Less(r.First) {
			others = others[1:]
		}
		for _, o := range others {
			if r.Last.Less(o.First) {
				break
			}
			if r.First.Less(o.First) {
				out = append(out, Range{r.First, o.First.Prev()})
			}
			if r.First = o.Last.Next(); !r.First.IsValid() || r.Last.Less(r.First) {
				r = Range{}
				break
			}
		}
		if r.First.IsValid() {
			out = append(out, r)
		}
	}
	return out
}

// outranks reports whether a rule speaks rather than another one of its list for
// the same prefix: allow before block, then the one that stands first.
func outranks(a, b *blocklists.Rule) bool {
	switch {
	case a.Priority != b.Priority:
		return a.Priority > b.Priority
	case a.Action != b.Action:
		return a.Action == blocklists.Allow
	}
	return a.Line < b.Line
}

// Spared returns, for each ban, the devices for which it does not hold at that
// time: those of groups without it, those with a live exemption, and before its
// effective time all. The ranges are as in Banned.
func (s *Snapshot) Spared(now time.Time) [][]Range {
	out := make([][]Range, len(s.spec.Bans))
	devices := slices.Collect(keys(s.groups.AllSorted()))
	for i, b := range s.spec.Bans {
		if !b.InForce(now) {
			out[i] = []Range{RangeOf(netip.PrefixFrom(netip.IPv4Unspecified(), 0)), RangeOf(netip.PrefixFrom(netip.IPv6Unspecified(), 0))}
			continue
		}
		var w sweeper
		for _, p := range devices {
			g, _ := s.groups.Get(p)
			exempt := s.exempt[i].first(s.exempt[i].groups[s.spec.Groups[g].Name], len(s.exempt[i].all), now) < len(s.exempt[i].all)
			w.add(p, exempt || !s.masks[g].has(i), 0)
		}
		spared := w.end()
		for _, e := range s.exempt[i].all {
			if e.Group == "" && e.Device.IsValid() && e.Live(now) {
				spared = append(spared, RangeOf(blocklists.CanonicalPrefix(e.Device)))
			}
		}
		out[i] = JoinRanges(spared)
	}
	return out
}

func keys[K, V any](seq iter.Seq2[K, V]) iter.Seq[K] {
	return func(yield func(K) bool) {
		for k := range seq {
			if !yield(k) {
				return
			}
		}
	}
}

// NextChange returns when, after now, time alone changes what Spared and Others return:
// a ban takes effect, an exemption begins or ends. It is zero for never.
func (s *Snapshot) NextChange(now time.Time) time.Time {
	var next time.Time
	at := func(t time.Time) {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, b := range s.spec.Bans {
		at(b.Effective)
	}
	for i := range s.spec.Exemptions {
		at(s.spec.Exemptions[i].From)
		at(s.spec.Exemptions[i].Until)
	}
	if s.canary != nil {
		at(s.canary.NextChange(now))
	}
	return next
}

// A sweeper turns prefixes, of which the innermost decides, into the ranges for
// which they say yes. They must be added in order, a prefix before those inside
// it: then those that hold the point reached are a stack.
type sweeper struct {
	stack []layer
	out   []Range
}

type layer struct {
	Range
	yes      bool
	priority uint8
	from     netip.Addr // the first address that nothing inside has decided yet
}

// rule adds what the rule says of its prefix, in a list of that role: whether it
// blocks, or in one that only lets through whether it does. The zero Rule says
// nothing.
func (w *sweeper) rule(r *blocklists.Rule, of Role) {
	if !r.Prefix.IsValid() {
		return
	}
	yes := r.Action == blocklists.Allow
	if of == RoleBan {
		yes = r.Action == blocklists.Block && r.Mode != blocklists.TCPOnly
	}
	w.add(r.Prefix, yes, r.Priority)
}

// add takes the next prefix, which is another one than those before. A higher
// priority wins before the inner prefix does.
func (w *sweeper) add(p netip.Prefix, yes bool, priority uint8) {
	l := layer{Range: RangeOf(p), yes: yes, priority: priority}
	l.from = l.First
	for n := len(w.stack); n > 0 && !holds(w.stack[n-1].Range, l.First); n-- {
		w.pop()
	}
	if n := len(w.stack); n > 0 {
		top := &w.stack[n-1]
		if top.priority > priority {
			l.yes, l.priority = top.yes, top.priority
		}
		top.emit(w, l.First.Prev())
		top.from = l.Last.Next()
	}
	w.stack = append(w.stack, l)
}

func holds(r Range, a netip.Addr) bool {
	return r.First.BitLen() == a.BitLen() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// emit decides what lies before something inside, or before the layer's end.
func (l *layer) emit(w *sweeper, last netip.Addr) {
	if l.yes && l.from.IsValid() && last.IsValid() && l.from.Compare(last) <= 0 {
		w.out = append(w.out, Range{l.from, last})
	}
}

func (w *sweeper) pop() {
	n := len(w.stack) - 1
	w.stack[n].emit(w, w.stack[n].Last)
	w.stack = w.stack[:n]
}

func (w *sweeper) end() []Range {
	for len(w.stack) > 0 {
		w.pop()
	}
	return w.out
}

// JoinRanges sorts the ranges and joins those that touch or overlap.
func JoinRanges(rs []Range) []Range {
	slices.SortFunc(rs, func(a, b Range) int { return a.First.Compare(b.First) })
	var out []Range
	for _, r := range rs {
		if n := len(out); n > 0 && r.First.BitLen() == out[n-1].Last.BitLen() {
			last := &out[n-1].Last
			if r.First.Compare(*last) <= 0 || r.First == last.Next() {
				if r.Last.Compare(*last) > 0 {
					*last = r.Last
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

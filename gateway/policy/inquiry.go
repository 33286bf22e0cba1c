package policy

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// An Inquiry judges what a question leads to, step after step, as policy zones
// mean it: a zone that has let the question's name pass, or who asks, has no
// more to say of what the answer leads to, and of the addresses of one answer
// the rule with the longest prefix speaks for all. Every other list judges each
// name and each address by itself. A zone's permission binds that zone only.
type Inquiry struct {
	s      *Snapshot
	sub    Subject
	now    time.Time
	passed []int // lists that have let it pass
}

// Inquire begins an inquiry after the question's name was judged. An empty name
// is that of no question.
func (s *Snapshot) Inquire(sub Subject, name string, now time.Time) Inquiry {
	s = s.Of(sub)
	q := Inquiry{s: s, sub: sub, now: now}
	if s.zones {
		var room [few]blocklists.Match
		q.note(s.find(room[:0], sub, asked{name: name}))
	}
	return q
}

// note remembers who lets it pass.
func (q *Inquiry) note(ms []blocklists.Match) {
	for i := range ms {
		switch ms[i].Rule.Mode {
		case blocklists.Passthru, blocklists.TCPOnly: // this far it is over TCP
			q.passed = append(q.passed, ms[i].List)
		}
	}
}

// Name judges a name that the question leads to.
func (q *Inquiry) Name(name string) Verdict {
	if !q.s.zones {
		return q.s.Name(q.sub, name, q.now)
	}
	ms := q.left(q.s.find(nil, q.sub, asked{name: name}))
	q.note(ms)
	return q.verdict(ms, name)
}

// Addrs judges the addresses of one answer. It gives each its verdict, in order,
// until more is false.
func (q *Inquiry) Addrs(addrs []netip.Addr, verdict func(i int, v Verdict) (more bool)) {
	if !q.s.zones {
		for i, a := range addrs {
			if !verdict(i, q.s.Addr(q.sub, a, q.now)) {
				return
			}
		}
		return
	}
	all := make([][]blocklists.Match, len(addrs))
	best := map[int]blocklists.Match{}
	for i, a := range addrs {
		all[i] = q.left(q.s.find(nil, q.sub, asked{addr: a}))
		for _, m := range all[i] {
			if old, ok := best[m.List]; m.Rule.Mode != blocklists.ModeDefault && (!ok || speaksFirst(&m.Rule, &old.Rule)) {
				best[m.List] = m
			}
		}
	}
	for i, ms := range all {
		ms = slices.DeleteFunc(ms, func(m blocklists.Match) bool {
			first, ok := best[m.List]
			return ok && m.Rule != first.Rule
		})
		if !verdict(i, q.verdict(ms, "")) {
			return
		}
	}
}

// speaksFirst reports whether the rule of a zone is before another of the same
// zone: by the longer prefix, then as their triggers are spelled, which is from
// the last number of the address on. Something must decide, and so does BIND.
func speaksFirst(a, b *blocklists.Rule) bool {
	if a.Prefix.Bits() != b.Prefix.Bits() {
		return a.Prefix.Bits() > b.Prefix.Bits()
	}
	x, y := a.Prefix.Addr().As16(), b.Prefix.Addr().As16()
	width := 2
	if a.Prefix.Addr().Is4() {
		width = 1
	}
	for i := len(x); i > 0; i -= width {
		if order := bytes.Compare(x[i-width:i], y[i-width:i]); order != 0 {
			return order < 0
		}
	}
	return false
}

// left returns the matches of the lists that have not let it pass.
func (q *Inquiry) left(ms []blocklists.Match) []blocklists.Match {
	if len(q.passed) == 0 {
		return ms
	}
	return slices.DeleteFunc(ms, func(m blocklists.Match) bool { return slices.Contains(q.passed, m.List) })
}

func (q *Inquiry) verdict(ms []blocklists.Match, name string) (v Verdict) {
	q.s.judge(&v, q.sub, ms, q.now)
	q.s.lift(&v, q.sub, name, q.now)
	return v
}

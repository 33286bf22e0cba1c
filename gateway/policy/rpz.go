package policy

import (
	"net/netip"
	"slices"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// LocalData returns the records that the rule of the subject's verdict answers
// with, in the order of their text. There are none but for mode LocalData.
func (s *Snapshot) LocalData(sub Subject, v *Verdict) []string {
	if v.Answer.Mode != blocklists.LocalData {
		return nil
	}
	s = s.Of(sub)
	data := s.spec.Set.AppendData(nil, blocklists.Match{List: s.listIndex(v), Rule: v.Rule})
	out := make([]string, len(data))
	for i, d := range data {
		out[i] = d.String()
	}
	slices.Sort(out)
	return out
}

// listIndex returns the index of the verdict's list, or -1.
func (s *Snapshot) listIndex(v *Verdict) int {
	return slices.IndexFunc(s.spec.Lists, func(l List) bool {
		return l.Name == v.List && l.Role == RoleBan && s.spec.Bans[l.Ban] == v.Ban
	})
}

// NameBeside is Name without the list of the verdict: it judges what that list
// itself has named in place of the truth. A zone rewrites an answer once.
func (s *Snapshot) NameBeside(of *Verdict, sub Subject, name string, now time.Time) (v Verdict) {
	s.decideBeside(&v, of, sub, asked{name: name}, now)
	return v
}

// AddrBeside is NameBeside for an address.
func (s *Snapshot) AddrBeside(of *Verdict, sub Subject, addr netip.Addr, now time.Time) (v Verdict) {
	s.decideBeside(&v, of, sub, asked{addr: addr}, now)
	return v
}

func (s *Snapshot) decideBeside(v, of *Verdict, sub Subject, q asked, now time.Time) {
	s = s.Of(sub)
	list := s.listIndex(of)
	ms := slices.DeleteFunc(s.find(nil, sub, q), func(m blocklists.Match) bool { return m.List == list })
	s.judge(v, sub, ms, now)
	s.lift(v, sub, q.name, now)
}

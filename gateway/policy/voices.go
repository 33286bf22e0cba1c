package policy

import (
	"net/netip"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// A Fate is what comes of one rule that speaks about what is judged, by itself:
// what decides in the end is the Verdict.
type Fate uint8

const (
	FateBlocks    Fate = iota // it holds it back
	FateReports               // it will, when its ban takes effect
	FateTCPOnly               // it sends it to TCP
	FateAllows                // it lets it through, against others of its ban's list
	FateOperator              // it lets it through, as the operator's
	FateProtected             // it lets it through, as a protected name
	FateExempted              // it would hold it back, but for an exemption
	FateElsewhere             // its ban does not hold for the subject's group
	FateSilent                // it blocks, in a list that only lets through
)

var fateNames = [...]string{"blocks", "not yet effective", "tcp only", "list allows", "operator allows", "protected", "exempted", "not for the group", "says nothing"}

// String returns the fate's words in explanations.
func (f Fate) String() string { return fateNames[f] }

// A Voice is a rule that speaks about what is judged, and what comes of it.
type Voice struct {
	List      string
	Ban       *blocklists.Ban // nil for the operator's and protected names
	Rule      blocklists.Rule
	Fate      Fate
	Exemption *Exemption // for FateExempted
}

// Voices returns every rule that speaks about a name, a URL (with a path) or an
// address, in the order of the lists: those too that decide nothing. It is for
// explanations, and takes its time.
func (s *Snapshot) Voices(sub Subject, host blocklists.Host, path string, now time.Time) []Voice {
	s = s.Of(sub)
	q := asked{name: host.Name, path: path, addr: host.Addr}
	group, bans := s.group(sub)
	var out []Voice
	for _, m := range s.find(nil, sub, q) {
		m.Rule.Name = strings.Clone(m.Rule.Name)
		v := Voice{List: s.spec.Lists[m.List].Name, Rule: m.Rule}
		l := &s.spec.Lists[m.List]
		if l.Role == RoleBan {
			v.Ban = s.spec.Bans[l.Ban]
		}
		v.Fate = s.fate(l, &m.Rule, bans, now)
		if v.Fate <= FateTCPOnly {
			if e := s.exempted(l.Ban, sub, group, host.Name, now); e != nil {
				v.Fate, v.Exemption = FateExempted, e
			}
		}
		out = append(out, v)
	}
	return out
}

// fate is what comes of a rule, exemptions aside.
func (s *Snapshot) fate(l *List, r *blocklists.Rule, bans mask, now time.Time) Fate {
	switch {
	case l.Role != RoleBan && r.Action != blocklists.Allow:
		return FateSilent
	case l.Role == RoleOperator:
		return FateOperator
	case l.Role == RoleProtected:
		return FateProtected
	case !bans.has(l.Ban):
		return FateElsewhere
	case r.Action == blocklists.Allow:
		return FateAllows
	case !s.spec.Bans[l.Ban].InForce(now):
		return FateReports
	case r.Mode == blocklists.TCPOnly:
		return FateTCPOnly
	}
	return FateBlocks
}

// exempted returns the live exemption of the subject from the ban, or for the
// name.
func (s *Snapshot) exempted(ban int, sub Subject, group, name string, now time.Time) *Exemption {
	if e := s.exempt[ban].live(sub, group, now); e != nil {
		return e
	}
	return s.named.live(sub, group, name, now)
}

// A Membership is which group a subject is in, and what holds for it.
type Membership struct {
	Group   string       // empty for none
	Network netip.Prefix // by which it is in the group
	Bans    []string     // the ids of those that hold for it
}

// Membership returns the subject's.
func (s *Snapshot) Membership(sub Subject) Membership {
	s = s.Of(sub)
	var m Membership
	name, bans := s.group(sub)
	m.Group = name
	for i, b := range s.spec.Bans {
		if bans.has(i) {
			m.Bans = append(m.Bans, b.ID)
		}
	}
	if _, ok := s.groupIndex(sub); ok {
		addr := deviceAddr(sub)
		m.Network, _, _ = s.groups.LookupPrefixLPM(netip.PrefixFrom(addr, addr.BitLen()))
	}
	return m
}

// Covers reports whether the exemption is for the subject, in that group.
func (e *Exemption) Covers(sub Subject, group string) bool {
	if e.Group != "" {
		return e.Group == group
	}
	addr := deviceAddr(sub)
	return e.Device.IsValid() && addr.IsValid() && blocklists.CanonicalPrefix(e.Device).Contains(addr)
}

// Concerns reports whether the exemption is for that canonical name, or from one
// of those bans.
func (e *Exemption) Concerns(name string, bans map[string]bool) bool {
	if e.Name == "" {
		return bans[e.Ban]
	}
	return name == e.Name || strings.HasSuffix(name, "."+e.Name)
}

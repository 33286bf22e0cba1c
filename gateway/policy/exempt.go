package policy

import (
	"net/netip"
	"strings"
	"time"

	"github.com/gaissmai/bart"

	"github.com/weir-gateway/weir/blocklists"
)

// An exemptions holds the exemptions from one ban by whom they cover, so that
// a question costs nothing for those of others.
type exemptions struct {
	all     []*Exemption
	devices *bart.Table[[]int] // indexes in all; nil for none
	groups  map[string][]int
}

func (x *exemptions) add(e *Exemption) {
	i := len(x.all)
	x.all = append(x.all, e)
	if e.Group != "" {
		if x.groups == nil {
			x.groups = make(map[string][]int)
		}
		x.groups[e.Group] = append(x.groups[e.Group], i)
		return
	}
	if !e.Device.IsValid() {
		return // covers nobody
	}
	if x.devices == nil {
		x.devices = new(bart.Table[[]int])
	}
	x.devices.Modify(blocklists.CanonicalPrefix(e.Device), func(old []int, _ bool) ([]int, bool) {
		return append(old, i), false
	})
}

// live returns the first exemption that covers the subject in that group and
// holds now, or nil.
func (x *exemptions) live(sub Subject, group string, now time.Time) *Exemption {
	if len(x.all) == 0 {
		return nil
	}
	first := len(x.all)
	if group != "" {
		first = x.first(x.groups[group], first, now)
	}
	// Most devices are exempt from nothing, which is sooner found.
	if addr := deviceAddr(sub); addr.IsValid() && x.devices != nil && x.devices.Contains(addr) {
		for _, of := range x.devices.Supernets(netip.PrefixFrom(addr, addr.BitLen())) {
			first = x.first(of, first, now)
		}
	}
	if first == len(x.all) {
		return nil
	}
	return x.all[first]
}

// first returns the least index that holds now, if it is below that limit,
// else the limit.
func (x *exemptions) first(of []int, limit int, now time.Time) int {
	for _, i := range of {
		if i >= limit {
			break
		}
		if x.all[i].Live(now) {
			return i
		}
	}
	return limit
}

// named holds the exemptions from whatever holds back a name, by the name. Nil
// is none, and costs a question nothing but to see that.
type named map[string]*exemptions

func (n *named) add(e *Exemption) {
	if *n == nil {
		*n = make(named)
	}
	x := (*n)[e.Name]
	if x == nil {
		x = new(exemptions)
		(*n)[e.Name] = x
	}
	x.add(e)
}

// live returns the exemption that covers the subject in that group for that
// canonical name now, or nil: one for the name itself before one for a name
// above.
func (n named) live(sub Subject, group, name string, now time.Time) *Exemption {
	for name != "" {
		if x := n[name]; x != nil {
			if e := x.live(sub, group, now); e != nil {
				return e
			}
		}
		_, above, ok := strings.Cut(name, ".")
		if !ok {
			break
		}
		name = above
	}
	return nil
}

// lift turns a verdict against that name into one that lets it through, if a
// live exemption does. The evidence stays: it says what it is exempt from. It is
// short so that it costs nothing where there is no such exemption.
func (s *Snapshot) lift(v *Verdict, sub Subject, name string, now time.Time) {
	if s.named != nil && v.Reason > ReasonExemption {
		s.named.lift(v, sub, name, now)
	}
}

func (n named) lift(v *Verdict, sub Subject, name string, now time.Time) {
	e := n.live(sub, v.Group, name, now)
	if e == nil {
		return
	}
	v.Action, v.Reason, v.Exemption = Allow, ReasonExemption, e
	v.Answer, v.Signal = blocklists.Answer{}, blocklists.SignalNone
}

// of returns those of the group, and nil for none.
func (n named) of(group string) named {
	var out named
	for name, x := range n {
		if len(x.groups[group]) == 0 {
			continue
		}
		if out == nil {
			out = make(named)
		}
		out[name] = x
	}
	return out
}

package policy

import (
	"net/netip"
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
	if addr := deviceAddr(sub); addr.IsValid() && x.devices != nil {
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

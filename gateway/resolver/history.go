package resolver

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// historyNames and historyAddrs bound a History: some 20 MB when it is full of
	// names with the usual few addresses.
	historyNames = 65536
	historyAddrs = 64
	// historyStay is for how long an address counts as given after its TTL: programs
	// keep connecting to what they were told once.
	historyStay = 24 * time.Hour
)

// A History remembers which addresses were given for which names. It is of the
// gateway, not of each device: all devices get their answers from one cache, so
// a name leads to the same places whoever asked first, and somebody who was
// given nothing cannot use it to go anywhere else than where the name leads. It
// is written where an answer comes from upstream; an answer from the cache costs
// nothing. The zero History is ready, and safe for concurrent use.
type History struct {
	mu      sync.Mutex
	names   *simplelru.LRU[string, []given]
	evicted uint64
}

// given is an address, and until when it counts as given.
type given struct {
	addr  netip.Addr
	until time.Time
}

// add remembers the addresses of an answer: for the question's name, for each
// name on the way to them, and hints for the target that they are of.
func (h *History) add(a *Answer, now time.Time) {
	if h == nil {
		return
	}
	var addrs []given
	until := now.Add(a.life + historyStay)
	names := []string{a.name[:len(a.name)-1]}
	for _, l := range a.links {
		switch {
		case l.Addr.IsValid():
			addrs = append(addrs, given{l.Addr.Unmap(), until})
		case l.Type == "CNAME" || l.Type == "DNAME" || l.Type == "HTTPS" || l.Type == "SVCB":
			names = append(names, l.Name)
		}
	}
	if len(addrs) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.names == nil {
		h.names, _ = simplelru.NewLRU[string, []given](historyNames, nil) // the size is above zero
	}
	for _, name := range names {
		if h.names.Add(name, merge(addrs, h.known(name), now)) {
			h.evicted++
		}
	}
}

func (h *History) known(name string) []given {
	old, _ := h.names.Peek(name)
	return old
}

// merge returns the new ones before those of the old that still count.
func merge(fresh, old []given, now time.Time) []given {
	all := slices.Clone(fresh)
	for _, g := range old {
		if g.until.After(now) && !slices.ContainsFunc(all, func(n given) bool { return n.addr == g.addr }) {
			all = append(all, g)
		}
	}
	return slices.Clip(all[:min(len(all), historyAddrs)])
}

// Gave reports whether the canonical name was said to be at the address.
func (h *History) Gave(name string, a netip.Addr, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.names == nil {
		return false
	}
	all, _ := h.names.Get(name)
	return slices.ContainsFunc(all, func(g given) bool { return g.addr == a.Unmap() && g.until.After(now) })
}

// HistoryStats are how full a History is.
type HistoryStats struct {
	Names   int
	Evicted uint64 // names that left to make room
}

// Stats returns how full it is.
func (h *History) Stats() HistoryStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.names == nil {
		return HistoryStats{}
	}
	return HistoryStats{h.names.Len(), h.evicted}
}

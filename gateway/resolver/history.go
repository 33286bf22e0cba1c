package resolver

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// The bounds of a History. Most names have a few addresses; who owns a zone may
// give every name in it a hundred, so their sum has a bound of its own. Full, it
// is some 20 MB.
const (
	historyNames   = 65536
	historyAddrs   = 64 // of one name
	historyTargets = 8  // of one name
	historyTotal   = 4 * historyNames
	// historyStay is for how long an address counts as given after its TTL: programs
	// keep connecting to what they were told once.
	historyStay = 24 * time.Hour
	// historyHops is how many targets in a row lead from a name to its addresses.
	historyHops = 2
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
	total   int // of what all names have
	evicted uint64
}

// given is an address, or the name of one that a client asks for the addresses
// of instead, and until when it counts as given.
type given struct {
	addr   netip.Addr
	target string
	until  int64 // Unix seconds
}

func (g given) same(o given) bool { return g.addr == o.addr && g.target == o.target }

// add remembers the addresses of an answer, for the question's name and for each
// name on the way to them. An HTTPS or SVCB record that leads elsewhere often has
// no address by it: the client then asks for those of the target, and still says
// that it goes to the question's name (RFC 9460, section 3).
func (h *History) add(a *Answer, now time.Time) {
	if h == nil {
		return
	}
	until := now.Add(a.life + historyStay).Unix()
	names := []string{a.name[:len(a.name)-1]}
	var addrs, targets []given
	for _, l := range a.links {
		switch {
		case l.Addr.IsValid():
			addrs = append(addrs, given{addr: l.Addr.Unmap(), until: until})
		case l.Type == "CNAME" || l.Type == "DNAME":
			names = append(names, l.Name)
		case l.Type == "HTTPS" || l.Type == "SVCB":
			targets = append(targets, given{target: l.Name, until: until})
		}
	}
	all := append(addrs[:min(len(addrs), historyAddrs)], targets[:min(len(targets), historyTargets)]...)
	if len(all) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range names {
		h.put(name, all, now.Unix())
	}
}

// put needs the lock.
func (h *History) put(name string, fresh []given, now int64) {
	if h.names == nil {
		h.names, _ = simplelru.NewLRU(historyNames, func(_ string, g []given) { h.total -= len(g) }) // the size is above zero
	}
	all := merge(fresh, h.known(name), now)
	h.names.Remove(name) // so that what it had is counted off
	h.total += len(all)
	if h.names.Add(name, all) {
		h.evicted++
	}
	for h.total > historyTotal && h.names.Len() > 1 {
		h.names.RemoveOldest()
		h.evicted++
	}
}

// known needs the lock.
func (h *History) known(name string) []given {
	old, _ := h.names.Peek(name)
	return old
}

// merge returns the new ones before those of the old that still count.
func merge(fresh, old []given, now int64) []given {
	all := slices.Clone(fresh)
	for _, g := range old {
		if g.until > now && !slices.ContainsFunc(all, g.same) {
			all = append(all, g)
		}
	}
	return slices.Clone(all[:min(len(all), historyAddrs+historyTargets)])
}

// Gave reports whether the canonical name was said to be at the address, or to
// be served by another name that was.
func (h *History) Gave(name string, a netip.Addr, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.names != nil && h.gave(name, a.Unmap(), now.Unix(), historyHops)
}

// gave needs the lock.
func (h *History) gave(name string, a netip.Addr, now int64, hops int) bool {
	all, _ := h.names.Get(name)
	return slices.ContainsFunc(all, func(g given) bool {
		switch {
		case g.until <= now:
			return false
		case g.target == "":
			return g.addr == a
		}
		return hops > 0 && h.gave(g.target, a, now, hops-1)
	})
}

// HistoryStats are how full a History is.
type HistoryStats struct {
	Names   int
	Given   int    // addresses and targets, of all names
	Evicted uint64 // names that left to make room
}

// Stats returns how full it is.
func (h *History) Stats() HistoryStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.names == nil {
		return HistoryStats{}
	}
	return HistoryStats{h.names.Len(), h.total, h.evicted}
}

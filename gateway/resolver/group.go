package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/miekg/dns"
)

// A group is upstreams in the order in which they are asked. The system's group
// changes with resolv.conf; the upstreams that stay keep their state.
type group struct {
	b         *builder
	system    *system // nil: the upstreams are fixed
	strategy  Strategy
	budget    *budget
	hedgeWins atomic.Uint64 // second queries whose answer came first

	mu  sync.Mutex
	ups []*upstream
	why string // there is none
}

// current returns the upstreams, after a look at the system's.
func (g *group) current() ([]*upstream, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.system != nil {
		var addrs []netip.AddrPort
		if addrs, g.why = g.system.read(g.b.now()); !slices.Equal(addrs, g.addrs()) {
			g.rebuild(addrs)
		}
	}
	if len(g.ups) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoUpstream, g.why)
	}
	return g.ups, nil
}

// forward asks the upstreams, in the order of the strategy and at the pace of a
// race. If all that respond have no answer, the last such response is returned.
func (g *group) forward(ctx context.Context, k key) (*dns.Msg, error) {
	ups, err := g.current()
	if err != nil {
		return nil, err
	}
	return newRace(ctx, g, k, ups).run()
}

// silent reports whether every upstream is down and has said nothing since.
func (g *group) silent() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, u := range g.ups {
		if !u.silent() {
			return false
		}
	}
	return len(g.ups) > 0
}

// addrs returns the addresses of a system group's upstreams.
func (g *group) addrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, u := range g.ups {
		addrs = append(addrs, u.transport.(*udpTransport).addr)
	}
	return addrs
}

func (g *group) rebuild(addrs []netip.AddrPort) {
	old := g.ups
	g.ups = nil
	for _, a := range addrs {
		at := slices.IndexFunc(old, func(u *upstream) bool { return u.transport.(*udpTransport).addr == a })
		if at < 0 {
			g.ups = append(g.ups, g.b.plain(a))
			continue
		}
		g.ups = append(g.ups, old[at])
		old = slices.Delete(slices.Clone(old), at, at+1)
	}
	for _, u := range old {
		u.close()
	}
}

func (g *group) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, u := range g.ups {
		u.close()
	}
}

func (g *group) stats() []UpstreamStats {
	g.mu.Lock()
	ups := g.ups
	g.mu.Unlock()
	out := make([]UpstreamStats, 0, len(ups))
	for _, u := range ups {
		out = append(out, u.stats())
	}
	return out
}

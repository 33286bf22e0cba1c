package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	failLimit  = 3 // failures in a row that send an upstream to the back
	minBackoff = time.Second
	maxBackoff = 30 * time.Second
	rounds     = 2 // how often an upstream that does not respond is asked
)

// A group is upstreams in the order in which they are asked. The system's group
// changes with resolv.conf; the upstreams that stay keep their state.
type group struct {
	b      *builder
	system *system // nil: the upstreams are fixed

	mu  sync.Mutex
	ups []*upstream
	why string // there is none
}

// An upstream is one resolver that is asked, and how it has been doing.
type upstream struct {
	address   string
	transport transport
	b         *builder

	mu       sync.Mutex
	queries  uint64
	failures uint64
	streak   int           // failures in a row
	backoff  time.Duration // 0: healthy
	until    time.Time     // asked last until then
	probing  bool          // one question is on its way to see
	rtt      time.Duration
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

// forward asks the upstreams one after another: the next one when a try fails
// or times out, or when an upstream says that it has no answer. Those that did
// not respond are asked once more, because datagrams get lost. If all that
// respond have no answer, the last such response is returned.
func (g *group) forward(ctx context.Context, k key) (*dns.Msg, error) {
	ups, err := g.current()
	if err != nil {
		return nil, err
	}
	var said *dns.Msg
	for range rounds {
		var m *dns.Msg
		m, ups, err = g.round(ctx, k, ups)
		if m != nil && answers(m) {
			return m, nil
		}
		if m != nil {
			said = m
		}
		if len(ups) == 0 || ctx.Err() != nil {
			break
		}
	}
	if said != nil {
		return said, nil
	}
	return nil, err
}

// round asks each upstream once, until one answers; those that are backing off
// come last. It returns the last response, those that did not respond, and why.
func (g *group) round(ctx context.Context, k key, ups []*upstream) (last *dns.Msg, silent []*upstream, failed error) {
	n := len(ups)
	ups = ups[:n:n]
	for i := 0; i < len(ups) && (i == 0 || ctx.Err() == nil); i++ {
		u := ups[i]
		if i < n && !u.claim(g.b.now()) {
			ups = append(ups, u)
			continue
		}
		m, err := u.ask(ctx, k)
		if err != nil {
			failed = fmt.Errorf("%s: %w", u.address, err)
			silent = append(silent, u)
			continue
		}
		if last = m; answers(m) {
			return m, nil, nil
		}
	}
	if failed == nil && last == nil {
		failed = ctx.Err()
	}
	return last, silent, failed
}

// claim reports whether the upstream may be asked in its place. One whose
// back-off is over gets one question there, as a probe; until that has an
// outcome, the others ask it last.
func (u *upstream) claim(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.backoff == 0 {
		return true
	}
	if now.Before(u.until) {
		return false
	}
	u.probing = true
	u.until = now.Add(max(u.backoff, 2*u.b.try))
	return true
}

// ask tries the upstream once, and once more without EDNS where the response
// may be due to that.
func (u *upstream) ask(ctx context.Context, k key) (*dns.Msg, error) {
	try, cancel := context.WithTimeout(ctx, u.b.try)
	defer cancel()
	start := time.Now()
	m, err := u.transport.exchange(try, k, true)
	if errors.Is(err, errMalformed) || err == nil && dislikesEDNS(m) {
		if err != nil {
			u.b.count.malformed.Add(1)
		}
		m, err = u.transport.exchange(try, k, false)
		if errors.Is(err, errMalformed) {
			u.b.count.malformed.Add(1)
		}
	}
	u.note(ctx, err, time.Since(start))
	return m, err
}

// note keeps the upstream's health. A response of any code is healthy: a broken
// zone must not count against the resolver that says so. A try that the whole
// question's time cut short says nothing.
func (u *upstream) note(ctx context.Context, err error, took time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.queries++
	if err == nil {
		if u.backoff > 0 {
			u.b.log.Info("upstream resolver responds again", "upstream", u.address)
		}
		u.streak, u.backoff, u.probing = 0, 0, false
		if u.rtt == 0 {
			u.rtt = took
		}
		u.rtt += (took - u.rtt) / 8 // as RFC 6298 smooths it
		return
	}
	if u.b.ctx.Err() != nil || ctx.Err() != nil && took < u.b.try/2 {
		return
	}
	u.failures++
	if !fault(err) {
		return
	}
	u.streak++
	now := u.b.now()
	// While it is asked last, a failure is no news; that of the probe is.
	if u.streak < failLimit || u.backoff > 0 && !u.probing && now.Before(u.until) {
		return
	}
	if u.backoff == 0 {
		u.b.log.Warn("upstream resolver does not respond", "upstream", u.address, "error", err)
	}
	u.backoff, u.probing = min(max(2*u.backoff, minBackoff), maxBackoff), false
	u.until = now.Add(u.backoff)
}

// fault reports whether an error says something about the upstream's health. A
// response that cannot be read may be due to the zone, and no descriptor left
// is our own trouble.
func fault(err error) bool {
	return !errors.Is(err, errMalformed) && !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE)
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
		u.transport.close()
	}
}

func (g *group) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, u := range g.ups {
		u.transport.close()
	}
}

func (g *group) stats() []UpstreamStats {
	g.mu.Lock()
	ups := g.ups
	g.mu.Unlock()
	out := make([]UpstreamStats, 0, len(ups))
	for _, u := range ups {
		u.mu.Lock()
		out = append(out, UpstreamStats{Address: u.address, Healthy: u.backoff == 0 || !g.b.now().Before(u.until),
			Queries: u.queries, Failures: u.failures, RTT: u.rtt})
		u.mu.Unlock()
	}
	return out
}

package resolver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/singleflight"
)

const (
	minHostTTL = 30 * time.Second // so that a TTL of 0 does not double every query
	maxHosts   = 64               // more than anybody has upstreams
)

// hosts resolves the host names of upstreams at the bootstrap resolvers, never
// through Weir. Addresses whose TTL is over are used until a bootstrap resolver
// has told new ones: the upstream proves itself by its certificate, not by its
// address.
type hosts struct {
	boot  *group
	limit time.Duration // for one lookup, whoever waits for it
	now   clock
	calls singleflight.Group

	mu    sync.Mutex
	known map[string]host
}

// A host is where an upstream's name leads.
type host struct {
	addrs   []netip.Addr
	expires time.Time
}

func newHosts(boot *group, limit time.Duration, now clock) *hosts {
	return &hosts{boot: boot, limit: limit, now: now, known: make(map[string]host)}
}

// lookup returns the addresses of a host name, IPv4 before IPv6. Equal lookups
// share one, which goes on when those who wait for it end.
func (h *hosts) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	h.mu.Lock()
	kept, ok := h.known[name]
	h.mu.Unlock()
	if ok && h.now().Before(kept.expires) {
		return kept.addrs, nil
	}
	done := h.calls.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(h.boot.b.ctx, h.limit)
		defer cancel()
		return h.find(ctx, name)
	})
	if ok {
		return kept.addrs, nil
	}
	select {
	case res := <-done:
		if res.Err == nil {
			return res.Val.(host).addrs, nil
		}
		return nil, fmt.Errorf("resolving upstream host %s: %w", name, res.Err)
	case <-ctx.Done():
		return nil, fmt.Errorf("resolving upstream host %s: %w", name, ctx.Err())
	}
}

// find resolves the name, both address families side by side, and keeps what it
// finds.
func (h *hosts) find(ctx context.Context, name string) (host, error) {
	var v6 host
	var err6 error
	done := make(chan struct{})
	go func() {
		defer close(done)
		v6, err6 = h.ask(ctx, name, dns.TypeAAAA)
	}()
	found, err := h.ask(ctx, name, dns.TypeA)
	<-done
	if err != nil && err6 != nil {
		return host{}, err
	}
	if err != nil || err6 == nil && v6.expires.Before(found.expires) {
		found.expires = v6.expires
	}
	found.addrs = append(found.addrs, v6.addrs...)
	// Half an answer is not kept for long, unless the other half is that there
	// is none.
	for _, e := range []error{err, err6} {
		if e != nil && !errors.Is(e, ErrNotFound) {
			found.expires = h.now().Add(minHostTTL)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.known[name]; ok || len(h.known) < maxHosts {
		h.known[name] = found
	}
	return found, nil
}

// ask resolves the name to addresses of one family.
func (h *hosts) ask(ctx context.Context, name string, qtype uint16) (host, error) {
	id, ok := canonical(name)
	if !ok {
		return host{}, fmt.Errorf("%w: name %q", ErrQuestion, name)
	}
	k := key{name: id, qtype: qtype, qclass: dns.ClassINET}
	m, err := h.boot.forward(ctx, k)
	if err != nil {
		return host{}, err
	}
	a := newAnswer(k, m, h.now)
	if len(a.addrs()) == 0 {
		return host{}, fmt.Errorf("%w: bootstrap resolver answers %s", ErrNotFound, dns.RcodeToString[a.Rcode()])
	}
	return host{a.addrs(), h.now().Add(max(a.life, minHostTTL))}, nil
}

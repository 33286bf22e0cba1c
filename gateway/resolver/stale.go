package resolver

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/weir-gateway/weir/gateway/wire"
)

const (
	// staleTTL is what is left of a stale answer's TTLs: the client asks again
	// soon, and not all the time (RFC 8767, section 5).
	staleTTL = 30
	// defaultStaleWait leaves stub resolvers, which wait two seconds or more, the
	// time to hear the stale answer (RFC 8767, section 5).
	defaultStaleWait = 1800 * time.Millisecond
)

// Notes on an Answer that a reply says more about than its bytes do.
const (
	noteFiltered = 1 << iota // private addresses were taken out
	noteStale                // its TTL is over
	noteExtended             // the upstream said more than its rcode
)

// Stale says when an answer whose TTL is over is given all the same (RFC 8767):
// where the upstreams fail, or take too long. The zero Stale is never.
type Stale struct {
	Max  time.Duration // for how long after its TTL
	Wait time.Duration // for how long upstreams are waited for; 0: 1.8 s
}

// Stale reports whether the TTL of the answer was over when it was given.
func (a *Answer) Stale() bool { return a.notes&noteStale != 0 }

// holds reports whether the answer's TTL is not over.
func (a *Answer) holds(now time.Time) bool { return now.Sub(a.stored) < a.end() }

// end is how long the answer holds.
func (a *Answer) end() time.Duration { return time.Duration(a.ttl) * time.Second }

// stale returns the answer as it is given when its TTL is over. What it leads to
// is the same, and nothing that was found out about that comes with it. Nobody
// has validated it lately, so it does not say that it is authentic.
func (a *Answer) stale(now time.Time) *Answer {
	s := &Answer{name: a.name, links: a.links, notes: a.notes&^noteExtended | noteStale, stored: now, now: a.now, size: a.size}
	s.wire = wire.Answer{Rcode: a.wire.Rcode, Answers: a.wire.Answers, Authorities: a.wire.Authorities,
		Body: slices.Clone(a.wire.Body), TTLs: a.wire.TTLs}
	for _, at := range s.wire.TTLs {
		binary.BigEndian.PutUint32(s.wire.Body[at:], staleTTL)
	}
	return s
}

// held returns what can be said without asking: local data, an answer that holds,
// a stale one where it is known that asking is in vain, or the failure of a moment ago.
func (r *Resolver) held(k key) (*Answer, error) {
	now, ck := r.now(), k.cacheKey()
	if a := r.localAnswer(k); a != nil {
		r.count.local.Add(1)
		r.history.add(a, now)
		return a, nil
	}
	if !k.cacheable() {
		return nil, nil
	}
	a := r.cache.look(ck, now)
	if a != nil && a.holds(now) {
		r.count.hits.Add(1)
		if now.Sub(a.stored) >= a.life {
			r.prefetch(k, a)
		}
		return a, nil
	}
	if n := r.nonexistent(k, now); n != nil {
		r.count.hits.Add(1)
		return n, nil
	}
	f := r.failures.get(ck, now)
	if a != nil && (f != nil || r.group(k.name).silent()) {
		return r.giveStale(a), nil
	}
	if f == nil {
		return nil, nil
	}
	r.count.failuresCached.Add(1)
	return f.answer, f.err
}

// expired returns the answer to give if upstreams do not, or nil.
func (r *Resolver) expired(k key) *Answer {
	if !k.cacheable() {
		return nil
	}
	return r.cache.look(k.cacheKey(), r.now())
}

// cachedFor returns the answer that holds, or nil.
func (r *Resolver) cachedFor(k key) *Answer {
	if !k.cacheable() {
		return nil
	}
	return r.cache.get(k.cacheKey(), r.now())
}

func (r *Resolver) giveStale(a *Answer) *Answer {
	r.count.stale.Add(1)
	return a.stale(r.now())
}

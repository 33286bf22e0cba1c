package resolver

import (
	"time"

	"github.com/miekg/dns"
)

// mostAsked are the types that nearly all questions have.
var mostAsked = [...]uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS}

// nonexistent returns the answer that the name does not exist, where that is known
// by a question for another type: it holds for all of them (RFC 2308, section 5).
// One behind an alias is about another name. It is kept for this type as well, so
// that the hot path finds it.
func (r *Resolver) nonexistent(k key, now time.Time) *Answer {
	epoch := r.epoch.Load()
	for _, t := range mostAsked {
		other := k
		if other.qtype = t; t == k.qtype {
			continue
		}
		a := r.cache.look(other.cacheKey(), now)
		if a == nil || !a.holds(now) || a.Rcode() != dns.RcodeNameError || a.wire.Answers > 0 {
			continue
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.epoch.Load() == epoch {
			r.count.evicted.Add(r.cache.put(k.cacheKey(), a))
		}
		return a
	}
	return nil
}

package resolver

import (
	"time"

	"github.com/miekg/dns"
)

// nonexistent returns the answer that the name does not exist, where that is known
// by a question for its address: it holds for all types (RFC 2308, section 5). By
// other types it is not believed, because there are servers that say so of each
// type that they do not know (RFC 4074, section 4.2), and the name is gone for
// their clients then. What is behind an alias is about another name. The answer is
// kept for this type as well, so that the hot path finds it.
func (r *Resolver) nonexistent(k key, now time.Time) *Answer {
	if k.qtype == dns.TypeA {
		return nil
	}
	epoch, address := r.epoch.Load(), k
	address.qtype = dns.TypeA
	a := r.cache.look(address.cacheKey(), now)
	if a == nil || !a.holds(now) || a.Rcode() != dns.RcodeNameError || a.wire.Answers > 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epoch.Load() == epoch {
		r.count.evicted.Add(r.cache.put(k.cacheKey(), a))
	}
	return a
}

package resolver

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/miekg/dns"
)

// maxNegativeTTL is for how many seconds it is kept at the most that something
// does not exist (RFC 2308, section 5: one to three hours work well).
const maxNegativeTTL = 3 * 60 * 60

// TTLs bound for how long answers are kept, here and by clients. Zero is no
// bound, but for a day that nothing outlives.
type TTLs struct {
	Min, Max time.Duration
	// Jitter is by how many per cent an answer's life is cut at the most, each by
	// another share: what came together does not end together.
	Jitter int
}

// even gives all records of a set the lowest TTL among them: in no case may a server
// send a set with TTLs that differ (RFC 2181, section 5.2). Its signatures have the
// set's (RFC 4034, section 3).
func even(rrs []dns.RR) {
	if !slices.ContainsFunc(rrs, func(rr dns.RR) bool { return rr.Header().Ttl != rrs[0].Header().Ttl }) {
		return
	}
	least := make(map[rrset]uint32, len(rrs))
	for _, rr := range rrs {
		set := signedSet(rr)
		if ttl, ok := least[set]; !ok || rr.Header().Ttl < ttl {
			least[set] = rr.Header().Ttl
		}
	}
	for _, rr := range rrs {
		rr.Header().Ttl = least[signedSet(rr)]
	}
}

// signedSet is the set that a record belongs to; a signature belongs to what it
// covers.
func signedSet(rr dns.RR) rrset {
	set := setOf(rr)
	if sig, ok := rr.(*dns.RRSIG); ok {
		set.typ = sig.TypeCovered
	}
	return set
}

// apply brings the response's life, and the TTLs of its records, within bounds.
// What must not be kept is not kept for the sake of a floor.
func (t TTLs) apply(r *response) {
	low, high := uint32(t.Min/time.Second), uint32(maxTTL)
	if t.Max > 0 {
		high = min(high, uint32(t.Max/time.Second))
	}
	low = min(low, high)
	for _, rrs := range [][]dns.RR{r.answer, r.ns} {
		for _, rr := range rrs {
			h := rr.Header()
			h.Ttl = min(max(h.Ttl, low), high)
			if r.negative && h.Rrtype == dns.TypeSOA {
				h.Ttl = min(h.Ttl, maxNegativeTTL)
			}
		}
	}
	if !r.keep {
		return
	}
	if r.negative {
		high = min(high, maxNegativeTTL)
	}
	r.life = min(max(r.life, time.Duration(low)*time.Second), time.Duration(high)*time.Second)
	if t.Jitter > 0 {
		t.scatter(r, max(low, 1))
	}
}

// scatter cuts the TTLs of a response, all alike, but not those that are at the
// floor.
func (t TTLs) scatter(r *response, floor uint32) {
	left := 1 - rand.Float64()*float64(t.Jitter)/100
	cut := func(ttl uint32) uint32 { return min(ttl, max(uint32(float64(ttl)*left), floor)) }
	for _, rrs := range [][]dns.RR{r.answer, r.ns} {
		for _, rr := range rrs {
			rr.Header().Ttl = cut(rr.Header().Ttl)
		}
	}
	r.life = time.Duration(cut(uint32(r.life/time.Second))) * time.Second
}

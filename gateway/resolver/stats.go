package resolver

import (
	"sync/atomic"
	"time"
)

// counters are what the parts of a Resolver count, each where it happens.
type counters struct {
	hits, misses, coalesced, busy, failed, evicted, filtered atomic.Uint64
	local                                                    atomic.Uint64
	stale, prefetched, prefetchDenied, failuresCached        atomic.Uint64
	mismatched, malformed, truncated, doubted                atomic.Uint64
}

// Stats are the counters of a Resolver since New, and its state now.
type Stats struct {
	Hits       uint64 // answers found in the cache; one that a Hot found and then Cached, for one question, counts twice
	Misses     uint64 // questions to Resolve that were not
	Coalesced  uint64 // misses that joined an exchange under way
	Busy       uint64 // misses refused with ErrBusy
	Failed     uint64 // exchanges in which no upstream answered
	Evicted    uint64 // answers that left the cache to make room
	Mismatched uint64 // responses ignored: wrong ID or question, or no response
	Malformed  uint64 // responses that could not be read
	Filtered   uint64 // answers that private addresses were taken out of
	Doubted    uint64 // UDP responses that may be forgeries, and were asked for again over TCP
	Truncated  uint64 // UDP responses that were asked for again over TCP
	Local      uint64 // answers from local data
	Stale      uint64 // answers given though their TTL was over
	Prefetched uint64 // answers fetched anew before their TTL was over
	Unfetched  uint64 // times that this was not done, because there was too much to do
	Refailed   uint64 // questions that failed as they had a moment before, without asking
	Entries    int    // answers in the cache
	Bytes      int    // that these take, about
	InFlight   int    // exchanges under way
	HedgeWins  uint64 // second queries whose answer came first
	Unhedged   uint64 // second queries that the budget did not allow
	Upstreams  []UpstreamStats
}

// UpstreamStats are the counters of one upstream.
type UpstreamStats struct {
	Address  string // as a URL
	Healthy  bool   // false while its breaker is open: it is asked after the others
	Queries  uint64
	Failures uint64        // tries without a usable response
	Late     uint64        // tries without a response when it was time to ask another
	Hedges   uint64        // queries that it got because another was late
	Probes   uint64        // questions of our own, while it was down
	Opened   uint64        // times that it went down
	RTT      time.Duration // smoothed; 0 before the first response
}

// Stats returns the counters. They are read one after another, so that under
// load they may not add up.
func (r *Resolver) Stats() Stats {
	r.mu.Lock()
	inFlight, hot := len(r.calls), r.hotHits()
	r.mu.Unlock()
	c := &r.count
	ups, wins, denied := r.upstreamStats()
	return Stats{
		HedgeWins: wins, Unhedged: denied,
		Hits: c.hits.Load() + hot, Misses: c.misses.Load(), Coalesced: c.coalesced.Load(),
		Busy: c.busy.Load(), Failed: c.failed.Load(), Evicted: c.evicted.Load(), Filtered: c.filtered.Load(), Local: c.local.Load(),
		Mismatched: c.mismatched.Load(), Malformed: c.malformed.Load(), Truncated: c.truncated.Load(), Doubted: c.doubted.Load(),
		Stale: c.stale.Load(), Prefetched: c.prefetched.Load(), Unfetched: c.prefetchDenied.Load(), Refailed: c.failuresCached.Load(),
		Bytes: r.cache.size(), Entries: r.cache.len(), InFlight: inFlight, Upstreams: ups,
	}
}

// upstreamStats returns what the groups count. An upstream that several ask is
// there once.
func (r *Resolver) upstreamStats() (ups []UpstreamStats, hedgeWins, denied uint64) {
	seen := make(map[string]bool)
	for _, g := range r.groups() {
		for _, u := range g.stats() {
			if !seen[u.Address] {
				seen[u.Address] = true
				ups = append(ups, u)
			}
		}
		hedgeWins += g.hedgeWins.Load()
		g.budget.mu.Lock()
		denied += g.budget.denied
		g.budget.mu.Unlock()
	}
	return ups, hedgeWins, denied
}

package dnsserver

import (
	"sync/atomic"
	"time"

	"github.com/weir-gateway/weir/gateway/policy"
)

// A fate is what became of a question.
type fate uint8

const (
	fateBlocked fate = iota
	fateCached
	fateForwarded
	fateSynthesized
	fateFailed
	fateOverloaded
	fateNone // it is not timed
	fates    = fateNone
)

var fateNames = [fates]string{"blocked", "cache", "upstream", "synthesized", "failed", "overloaded"}

// latencyBounds are the upper bounds of the buckets; what takes longer is in one
// more.
var latencyBounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second,
}

// latencies are how long questions took, from their arrival to their reply.
type latencies [allTransports][fates]histogram

type histogram struct {
	buckets [len(latencyBounds) + 1]atomic.Uint64
	sum     atomic.Int64 // nanoseconds
}

// took counts one question. It is not for the hot path.
func (l *latencies) took(t transport, f fate, d time.Duration) {
	if f >= fates {
		return
	}
	h := &l[t][f]
	i := 0
	for i < len(latencyBounds) && d > latencyBounds[i] {
		i++
	}
	h.buckets[i].Add(1)
	h.sum.Add(int64(max(d, 0)))
}

// spot counts questions that were answered at once, in a batch.
func (l *latencies) spot(t transport, f fate, n uint32) {
	if n > 0 {
		l[t][f].buckets[0].Add(uint64(n))
	}
}

// A Latency is how long the questions of one transport took that had one
// outcome. What is answered on the spot, in a batch, is not timed: it is in the
// first bucket, and adds nothing to the sum.
type Latency struct {
	Transport, Outcome string
	Bounds             []time.Duration
	Buckets            []uint64 // questions of each bucket, and of those beyond the last bound
	Sum                time.Duration
}

// Latency returns how long questions took since Listen, by transport and what
// became of them, as far as there were any.
func (s *Server) Latency() (all []Latency) {
	var spot [fates]uint64
	for _, u := range s.udp {
		for _, c := range u.stats() {
			spot[fateBlocked] += c.actions[policy.Block].Load()
			spot[fateCached] += c.cached.Load()
		}
	}
	for t := range s.core.latency {
		for o := range s.core.latency[t] {
			h := &s.core.latency[t][o]
			l := Latency{Transport: transportNames[t], Outcome: fateNames[o], Bounds: latencyBounds[:], Sum: time.Duration(h.sum.Load())}
			total := uint64(0)
			for i := range h.buckets {
				n := h.buckets[i].Load()
				if i == 0 && transport(t) == udp {
					n += spot[o]
				}
				l.Buckets = append(l.Buckets, n)
				total += n
			}
			if total > 0 {
				all = append(all, l)
			}
		}
	}
	return all
}

package main

import (
	"math"
	"math/bits"
	"time"
)

// Buckets are log-linear: 64 to each power of two, so a value is known to 1.6 %
// from a nanosecond to more than an hour, in 24 KiB.
const (
	perOctave = 64
	buckets   = perOctave * 38
)

// A histogram counts durations without keeping them. The zero value is empty;
// its size never grows, and what is longer than its range is counted at its end
// while max stays exact.
type histogram struct {
	counts [buckets]uint64
	n      uint64
	max    time.Duration
}

func (h *histogram) add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucket(uint64(d))]++
	h.n++
	h.max = max(h.max, d)
}

func (h *histogram) reset() { *h = histogram{} }

// quantile is the duration that a share p of what was added does not exceed: the
// upper edge of its bucket, so that rounding never flatters the server.
func (h *histogram) quantile(p float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(p*float64(h.n))), 1)
	var seen uint64
	for i, c := range h.counts {
		if seen += c; seen >= rank {
			if i == buckets-1 {
				break // it has no upper edge
			}
			return min(time.Duration(edge(i+1)-1), h.max)
		}
	}
	return h.max
}

func bucket(v uint64) int {
	if v < perOctave {
		return int(v)
	}
	shift := bits.Len64(v) - 7 // leaves the top bit and the six below it
	return min(shift*perOctave+int(v>>shift), buckets-1)
}

// edge is the least value of a bucket.
func edge(i int) uint64 {
	if i < 2*perOctave {
		return uint64(i)
	}
	shift := i/perOctave - 1
	return uint64(i-shift*perOctave) << shift
}

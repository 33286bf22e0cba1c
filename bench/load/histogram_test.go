package main

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestQuantilesOfAKnownDistribution: 1 to 100,000 us, each once, in any order.
func TestQuantilesOfAKnownDistribution(t *testing.T) {
	const n = 100_000
	var h histogram
	for _, i := range rand.New(rand.NewPCG(1, 2)).Perm(n) {
		h.add(time.Duration(i+1) * time.Microsecond)
	}
	for _, c := range []struct {
		p    float64
		want time.Duration
	}{{0.5, n / 2}, {0.9, n * 9 / 10}, {0.99, n * 99 / 100}, {0.999, n * 999 / 1000}} {
		want := c.want * time.Microsecond
		if got := h.quantile(c.p); got < want || got > want+want/50 {
			t.Errorf("quantile %v is %v, want %v, at most 2 %% more", c.p, got, want)
		}
	}
	if h.n != n || h.max != n*time.Microsecond || h.quantile(1) != h.max {
		t.Errorf("n %d, max %v, quantile 1 %v; want %d, %v", h.n, h.max, h.quantile(1), n, n*time.Microsecond)
	}
}

// TestQuantilesWithOutliers: one in a thousand is slow, and shows at p99.9 and
// not at p99.
func TestQuantilesWithOutliers(t *testing.T) {
	var h histogram
	for i := range 10_000 {
		d := 100 * time.Nanosecond
		if i%500 == 0 {
			d = time.Second
		}
		h.add(d)
	}
	if got := h.quantile(0.99); got < 100 || got > 102 {
		t.Errorf("p99 is %v, want 100ns", got)
	}
	if got := h.quantile(0.999); got != time.Second {
		t.Errorf("p99.9 is %v, want 1s", got)
	}
}

func TestHistogramEdges(t *testing.T) {
	var h histogram
	if h.quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	h.add(-time.Second) // a clock that went back
	h.add(1000 * time.Hour)
	if got := h.quantile(0.5); got != 0 {
		t.Errorf("median of 0 and 1000 h is %v, want 0", got)
	}
	if h.quantile(1) != 1000*time.Hour {
		t.Errorf("the longest is %v", h.quantile(1))
	}
	// Every value lies in its bucket, and buckets do not overlap.
	for v := uint64(1); v < 1<<40; v += 1 + v/97 {
		b := bucket(v)
		if edge(b) > v || edge(b+1) <= v {
			t.Fatalf("%d is in bucket %d, [%d,%d)", v, b, edge(b), edge(b+1))
		}
	}
}

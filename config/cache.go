package config

import (
	"regexp"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// Stale says when an answer whose TTL is over is given all the same.
type Stale struct {
	Max  time.Duration // for how long after its TTL; 0: never
	Wait time.Duration // for how long upstreams are waited for first
}

// TTL bounds for how long answers are kept.
type TTL struct {
	Min, Max time.Duration
	Jitter   int // per cent by which they are shortened at the most, each by another share
}

const (
	maxJitter = 50 // per cent
	// maxEntries bounds the answer cache: about 10 GB of answers.
	maxEntries = 10_000_000
	// minBytes is room for the longest answer in each part of the cache.
	minBytes, maxBytes = 2 << 20, 64 << 30
	// maxStale is the longest that RFC 8767, section 5 speaks of.
	maxStale = 7 * 24 * time.Hour
	// A floor above an hour keeps clients from what has moved; nothing is kept for
	// longer than a day.
	maxFloor, maxCap = time.Hour, 24 * time.Hour
)

func (v value) cache(c *Cache) {
	v.object(fields{
		"entries": set(&c.Entries, number(0, maxEntries)),
		"bytes":   set(&c.Bytes, value.cacheBytes),
		"persist": set(&c.Persist, value.boolean),
		"stale": func(v value) {
			v.object(fields{
				"max":  set(&c.Stale.Max, interval(0, maxStale)),
				"wait": set(&c.Stale.Wait, interval(50*time.Millisecond, 4*time.Second)),
			})
		},
		"ttl": func(v value) {
			v.object(fields{
				"min":    set(&c.TTL.Min, interval(0, maxFloor)),
				"max":    set(&c.TTL.Max, interval(time.Second, maxCap)),
				"jitter": set(&c.TTL.Jitter, number(0, maxJitter)),
			})
			if c.TTL.Min > c.TTL.Max {
				v.fail("min (%s) is above max (%s)", c.TTL.Min, c.TTL.Max)
			}
		},
	})
	if c.Persist && c.Entries == 0 {
		v.fail("persist is true and entries is 0: there is no cache that could survive a restart")
	}
}

// cacheBytes is 0, or a number with room for an answer of every size.
func (v value) cacheBytes() (int, bool) {
	n, ok := number(0, maxBytes)(v)
	if ok && n > 0 && n < minBytes {
		v.fail("want 0, which is 1 KiB for each entry, or %d and more, got %d", minBytes, n)
		return 0, false
	}
	return n, ok
}

var intervalForm = regexp.MustCompile(`^(0|[1-9][0-9]{0,8})(ms|s|m|h|d)$`)

var units = map[string]time.Duration{
	"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour,
}

// interval returns the decoder of a time that may be short, or none: a whole
// number and a unit.
func interval(low, high time.Duration) func(value) (time.Duration, bool) {
	return func(v value) (time.Duration, bool) {
		var m []string
		if v.n.Kind == yaml.ScalarNode && v.n.Tag == "!!str" {
			m = intervalForm.FindStringSubmatch(v.n.Value)
		}
		if m == nil {
			v.wrongType("a time such as 0s, 1800ms, 30s, 15m or 24h")
			return 0, false
		}
		n, _ := strconv.Atoi(m[1]) // nine digits
		d := time.Duration(n) * units[m[2]]
		if d < low || d > high {
			v.fail("want a time from %s to %s, got %s", low, high, v.n.Value)
			return 0, false
		}
		return d, true
	}
}

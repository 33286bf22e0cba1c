package admin

import (
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// How many requests an identity may make, and how often an address may show a
// credential that is no good, in a burst and afterwards per second.
const (
	requestBurst, requestRate = 200, 50
	failureBurst, failureRate = 10, 0.2
	maxBuckets                = 4096
)

// A limiter is a token bucket for each of many callers. It is bounded: beyond
// maxBuckets, newcomers share one bucket.
type limiter struct {
	burst, rate float64
	mu          sync.Mutex
	of          map[string]*bucket
}

type bucket struct {
	left float64
	at   time.Time
}

func newLimiter(burst, rate float64) *limiter {
	return &limiter{burst: burst, rate: rate, of: make(map[string]*bucket)}
}

// take takes one from the caller's bucket, if there is one in it; else it returns
// how long to wait for that.
func (l *limiter) take(who string, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(who, now)
	b.left = min(l.burst, b.left+now.Sub(b.at).Seconds()*l.rate)
	b.at = now
	if b.left < 1 {
		return time.Duration((1 - b.left) / l.rate * float64(time.Second))
	}
	b.left--
	return 0
}

func (l *limiter) bucket(who string, now time.Time) *bucket {
	if b := l.of[who]; b != nil {
		return b
	}
	if len(l.of) >= maxBuckets {
		for k, b := range l.of { // those that are full again say nothing
			if b.left+now.Sub(b.at).Seconds()*l.rate >= l.burst {
				delete(l.of, k)
			}
		}
	}
	if len(l.of) >= maxBuckets {
		who = ""
		if b := l.of[who]; b != nil {
			return b
		}
	}
	b := &bucket{l.burst, now}
	l.of[who] = b
	return b
}

// tooMany refuses until the wait is over.
func tooMany(w http.ResponseWriter, wait time.Duration, what string) {
	seconds := int(wait/time.Second) + 1
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	writeProblem(w, Errorf(http.StatusTooManyRequests, "%s; wait %d seconds", what, seconds))
}

// remote returns the address of the caller without the port.
func remote(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return host
}

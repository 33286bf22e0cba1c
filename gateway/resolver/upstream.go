package resolver

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	failLimit  = 3 // misses in a row that open an upstream's breaker
	minBackoff = time.Second
	maxBackoff = 30 * time.Second
	// lateAfter is when a try without a response is a miss. It is not given up:
	// its response still counts. But another upstream is asked by then, so that a
	// dead one costs a client this and no more.
	lateAfter = 200 * time.Millisecond
	// minHedge keeps a fast upstream from being doubted for a pause of a busy
	// machine.
	minHedge = 10 * time.Millisecond
	// coldAfter is from when on a connection may have to be made first: its
	// handshakes must not count as the upstream's slowness.
	coldAfter = 10 * time.Second
	// coldGrace is how many times longer such a try may take: TCP and TLS take two
	// round trips before the question's own.
	coldGrace = 3
	// tailShare: one response in that many comes later than an upstream's patience.
	tailShare = 8
)

// Responses whose times are known, and how often they are looked through.
const (
	timesKept  = 64
	timesEvery = 16
)

// An upstream is one resolver that is asked, and how it has been doing. Its
// breaker is open (down) after failLimit misses in a row: it is asked after the
// others then, and probed with questions of our own until one is answered in
// time.
type upstream struct {
	address   string
	transport transport
	plain     bool // datagrams, which get lost
	b         *builder
	retired   atomic.Bool // is no longer asked: the probes end

	// down repeats what health says, for a look without its lock.
	down atomic.Bool

	queries, failures, lates, hedges, probes, opened atomic.Uint64

	mu     sync.Mutex
	streak int // misses in a row
	heard  time.Time
	since  time.Time                // when it went down last
	rtt    time.Duration            // smoothed; 0 before the first response
	times  [timesKept]time.Duration // of the last responses, a ring
	heardN int
	tail   time.Duration // what all but one in tailShare of them took
}

// ask tries the upstream once, and once more without EDNS where the response
// may be due to that.
func (u *upstream) ask(ctx context.Context, k key) (*dns.Msg, error) {
	m, err := u.transport.exchange(ctx, k, true)
	if errors.Is(err, errMalformed) || err == nil && dislikesEDNS(m) {
		if err != nil {
			u.b.count.malformed.Add(1)
		}
		m, err = u.transport.exchange(ctx, k, false)
		if errors.Is(err, errMalformed) {
			u.b.count.malformed.Add(1)
		}
	}
	return m, err
}

// responded notes a response. One of any code is healthy: a broken zone must not
// count against the resolver that says so. A late one says that the upstream
// lives and not that it is well, so it changes no streak.
func (u *upstream) responded(took time.Duration, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.heard = now
	if u.rtt == 0 {
		u.rtt = took
	}
	u.rtt += (took - u.rtt) / 8 // as RFC 6298 smooths it
	u.times[u.heardN%timesKept] = took
	if u.heardN++; u.heardN%timesEvery == 0 {
		known := u.times
		n := min(u.heardN, timesKept)
		slices.Sort(known[:n])
		u.tail = known[n-1-n/tailShare]
	}
	if took > u.b.late {
		return
	}
	u.streak = 0
	if u.down.CompareAndSwap(true, false) {
		u.b.log.Info("upstream resolver responds again", "upstream", u.address)
	}
}

// missed notes a try that had no response in time, or an error in its place.
func (u *upstream) missed(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.b.ctx.Err() != nil {
		return
	}
	u.streak++
	if u.streak < failLimit || u.down.Swap(true) {
		return
	}
	u.since = time.Now()
	u.opened.Add(1)
	u.b.log.Warn("upstream resolver does not respond", "upstream", u.address, "error", err)
	if !u.b.tasks.run(u.probe) {
		u.down.Store(false) // closed
	}
}

// silent reports whether it is down and has said nothing since. One that is only
// slow has.
func (u *upstream) silent() bool {
	if !u.down.Load() {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.heard.Before(u.since)
}

// cold reports whether a try may have to connect first.
func (u *upstream) cold(now time.Time) bool {
	if u.plain {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return now.Sub(u.heard) > coldAfter
}

// patience is how long this upstream mostly takes to respond, and a half more.
// It is what nearly all responses took and no mean: of an upstream that is fast
// and now and then very slow, a mean says neither. Before much is known it is
// all the time there is.
func (u *upstream) patience() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.tail == 0 {
		return u.b.late
	}
	return min(max(u.tail*3/2, minHedge), u.b.late)
}

// latency is the smoothed round-trip time, 0 before the first response.
func (u *upstream) latency() time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.rtt
}

// probe asks the upstream by itself, ever more rarely, until it responds in
// time: no client's question is at risk to find out.
func (u *upstream) probe() {
	wait := u.b.backoff
	t := time.NewTimer(wait)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-u.b.ctx.Done():
			return
		}
		if u.retired.Load() || !u.down.Load() {
			return // a question of last resort was answered
		}
		// The first may have to connect; the second shows how it does.
		if u.probeOnce() && u.down.Load() {
			u.probeOnce()
		}
		wait = min(2*wait, maxBackoff)
		t.Reset(wait)
	}
}

// probeKey is a question that every resolver has an answer to, in its cache:
// the servers of the root.
var probeKey = key{name: ".", qtype: dns.TypeNS, qclass: dns.ClassINET}

func (u *upstream) probeOnce() (responds bool) {
	u.probes.Add(1)
	ctx, cancel := context.WithTimeout(u.b.ctx, u.b.try)
	defer cancel()
	start := time.Now()
	if _, err := u.ask(ctx, probeKey); err != nil && fault(err) {
		return false
	}
	u.responded(time.Since(start), time.Now())
	return true
}

// fault reports whether an error says something about the upstream's health. A
// response that cannot be read may be due to the zone, and no descriptor left
// is our own trouble.
func fault(err error) bool {
	return !errors.Is(err, errMalformed) && !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE)
}

func (u *upstream) stats() UpstreamStats {
	return UpstreamStats{Address: u.address, Healthy: !u.down.Load(), RTT: u.latency(),
		Queries: u.queries.Load(), Failures: u.failures.Load(), Late: u.lates.Load(),
		Hedges: u.hedges.Load(), Probes: u.probes.Load(), Opened: u.opened.Load()}
}

func (u *upstream) close() {
	u.retired.Store(true)
	u.transport.close()
}

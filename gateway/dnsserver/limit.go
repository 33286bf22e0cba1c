package dnsserver

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/wire"
)

// A Rate is how many questions somebody may ask: so many a second in the long
// run, and so many at once after a pause. The zero Rate is no limit.
type Rate struct {
	PerSecond int
	Burst     int // 0: as many as in a second
}

// Limits bound what a device, and all devices of a network together, may ask,
// over all transports. The zero Limits bound nothing.
//
// A question over UDP that is too much is not read, and gets no reply; every
// Slip-th gets an empty one with TC, so that a client that is in earnest comes
// again over TCP, and one whose address is forged gets nothing that is longer
// than what was sent in its name. A connection is read as slowly as the limit says,
// so that a flood costs no more than what is within it. When that is not enough, one
// over TCP or TLS is closed, and over HTTPS and QUIC the question is refused.
type Limits struct {
	Device  Rate // of an IPv4 address or an IPv6 /64
	Network Rate // of an IPv4 /24 or an IPv6 /56
	Exempt  []netip.Prefix
	Slip    int // 0: no question gets such a reply
}

// A limiter is Limits at work. All readers share it without a lock: a question
// costs one or two compare-and-swaps of memory that only its own device uses.
type limiter struct {
	device, network *buckets // nil: no limit
	exempt          []netip.Prefix
	slip            uint64
	base            time.Time // times are counted from here, by the clock that never jumps
	slipped, full   atomic.Uint64
}

func newLimiter(l *Limits) *limiter {
	if l.Device.PerSecond <= 0 && l.Network.PerSecond <= 0 {
		return nil
	}
	return &limiter{
		device: newBuckets(l.Device), network: newBuckets(l.Network),
		exempt: l.Exempt, slip: uint64(max(l.Slip, 0)), base: time.Now(),
	}
}

// over says which limit a question of the client is beyond.
func (l *limiter) over(client netip.Addr, now time.Time) (why drop, over bool) {
	at := int64(now.Sub(l.base))
	if l.device != nil && !l.take(l.device, client, deviceBits(client), at) {
		return dropRateDevice, !l.isExempt(client)
	}
	if l.network != nil && !l.take(l.network, client, networkBits(client), at) {
		return dropRateNetwork, !l.isExempt(client)
	}
	return 0, false
}

func (l *limiter) take(b *buckets, client netip.Addr, bits int, at int64) bool {
	slot := b.find(client, bits, at)
	if slot == nil {
		l.full.Add(1)
		return true
	}
	return slot.take(at, b.step, b.span)
}

// isExempt is asked only of who is beyond a limit.
func (l *limiter) isExempt(client netip.Addr) bool {
	for _, p := range l.exempt {
		if p.Contains(client) {
			return true
		}
	}
	return false
}

// delay takes a question of a connection in, and returns how long it must wait:
// who is beyond a limit comes when it would have been its turn.
func (l *limiter) delay(client netip.Addr, now time.Time) (wait time.Duration, why drop) {
	at := int64(now.Sub(l.base))
	if l.device != nil {
		wait, why = l.queue(l.device, client, deviceBits(client), at), dropRateDevice
	}
	if l.network != nil {
		if w := l.queue(l.network, client, networkBits(client), at); w > wait {
			wait, why = w, dropRateNetwork
		}
	}
	if wait > 0 && l.isExempt(client) {
		return 0, 0
	}
	return wait, why
}

func (l *limiter) queue(b *buckets, client netip.Addr, bits int, at int64) time.Duration {
	slot := b.find(client, bits, at)
	if slot == nil {
		l.full.Add(1)
		return 0
	}
	return slot.queue(at, b.step, b.span)
}

// slips reports whether it is this question's turn to be answered with TC.
func (l *limiter) slips() bool {
	return l.slip > 0 && l.slipped.Add(1)%l.slip == 0
}

// deviceBits and networkBits are the lengths of the prefixes that count as one.
// A device chooses any IPv6 address of its /64.
func deviceBits(a netip.Addr) int {
	if a.Is4() {
		return 32
	}
	return 64
}

func networkBits(a netip.Addr) int {
	if a.Is4() {
		return 24
	}
	return 56
}

const (
	bucketSets = 1 << 14 // 65,536 buckets in 1 MiB
	setShift   = 64 - 14
	// maxDelay is for how long a connection is held up before it is closed.
	maxDelay = 2 * time.Second
	// minDelay is for how long it is held up at the least: it is waked for several
	// questions then, and a flood costs less than those do one by one.
	minDelay = 10 * time.Millisecond
)

// buckets are the token buckets of all that is limited by one Rate. Their memory
// is fixed: a bucket that is full again is as good as none, so its slot is free
// for the next. Where no slot is free, which takes tens of thousands who ask at
// once or forged addresses, the question passes and is counted.
type buckets struct {
	step, span int64 // nanoseconds: of one question, and of a burst
	key        [2]uint64
	sets       [bucketSets][4]bucket // a set is a line of the processor's cache
}

// A bucket is what one prefix has asked for: the time at which it would be full
// again (the virtual scheduling of ITU-T I.371). One word, so that readers never
// see half of it. Two readers that take the same free slot at once lose a
// question's worth, no more.
type bucket struct {
	owner atomic.Uint64 // hash of the prefix, never 0
	due   atomic.Int64
}

func newBuckets(r Rate) *buckets {
	if r.PerSecond <= 0 {
		return nil
	}
	burst := r.Burst
	if burst <= 0 {
		burst = r.PerSecond
	}
	b := &buckets{step: max(int64(time.Second)/int64(r.PerSecond), 1), key: [2]uint64{rand.Uint64(), rand.Uint64()}}
	b.span = b.step * int64(burst)
	return b
}

// hash mixes the prefix with a key that nobody knows, so that nobody can choose
// addresses that share a set with another's.
func (b *buckets) hash(a netip.Addr, n int) uint64 {
	p := a.As16()
	hi := binary.BigEndian.Uint64(p[:8])
	var lo uint64
	if a.Is4() {
		lo = binary.BigEndian.Uint64(p[8:]) >> (32 - n)
	} else {
		hi >>= 64 - n
	}
	h, l := bits.Mul64(hi^b.key[0], lo^b.key[1])
	h, l = bits.Mul64(h^l^b.key[1], 0x9E3779B97F4A7C15)
	return h ^ l | 1
}

// find returns the bucket of the prefix, or nil where there is no room for it.
func (b *buckets) find(a netip.Addr, n int, now int64) *bucket {
	owner := b.hash(a, n)
	set := &b.sets[owner>>setShift]
	for i := range set {
		if set[i].owner.Load() == owner {
			return &set[i]
		}
	}
	for i := range set {
		s := &set[i]
		if old := s.owner.Load(); s.due.Load() <= now && s.owner.CompareAndSwap(old, owner) {
			return s
		}
	}
	return nil
}

// take takes a token out, or reports that there is none. What is refused costs
// no token, so that whoever goes on asking gets what the rate allows.
func (s *bucket) take(now, step, span int64) bool {
	for {
		due := s.due.Load()
		next := max(due, now) + step
		if next-now > span {
			return false
		}
		if s.due.CompareAndSwap(due, next) {
			return true
		}
	}
}

// queue takes a token out that may not be there yet, and returns when it will
// be. Beyond maxDelay nothing is taken.
func (s *bucket) queue(now, step, span int64) time.Duration {
	for {
		due := s.due.Load()
		next := max(due, now) + step
		wait := time.Duration(max(next-now-span, 0))
		if wait > maxDelay || s.due.CompareAndSwap(due, next) {
			return wait
		}
	}
}

// limited answers a question over UDP that is beyond a limit: with TC, or not.
func (h *hot) limited(dst []byte, inq *inquiry, why drop) []byte {
	if h.core.limits.slips() && inq.fate == wire.Simple {
		h.tally.slipped++
		return inq.query.AppendTruncated(dst)
	}
	h.tally.dropped[why]++
	return nil
}

// limit is reply within the limits.
func (h *hot) limit(dst []byte, inq *inquiry, snap *policy.Snapshot, now time.Time) (reply []byte, leave bool) {
	if h.core.limits != nil {
		if why, over := h.core.limits.over(inq.from, now); over {
			return h.limited(dst, inq, why), false
		}
	}
	return h.reply(dst, inq, snap, now)
}

// turn is how long the client's question must wait, because it asks for more than
// it may; it is false for one that would have to wait for too long.
func (s *Server) turn(client netip.Addr) (time.Duration, bool) {
	l := s.core.limits
	if l == nil {
		return 0, true
	}
	d, why := l.delay(client, time.Now())
	if d > maxDelay {
		s.core.stats.drop(why)
		return 0, false
	}
	if d > 0 {
		s.core.stats.paced.Add(1)
		d = max(d, minDelay)
	}
	return d, true
}

// queue waits for the client's turn, where each question has a goroutine of its
// own; it is false for one that is to be refused.
func (s *Server) queue(client netip.Addr) bool {
	d, ok := s.turn(client)
	if d > 0 {
		wait(s.ending, d)
	}
	return ok
}

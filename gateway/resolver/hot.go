package resolver

import (
	"hash/maphash"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/miekg/dns"
)

const (
	// hotBytes is what an answer of a Hot may take on average. What it keeps, the
	// cache mostly keeps as well; this bounds what it keeps alone.
	hotBytes = 512
	// hotTurn is how many newcomers a full Hot has for one place: names that come
	// once do not wear it out, and those that come often get in soon.
	hotTurn = 8
	// hotUse is how many hits of a Hot share one that counts as a use: moving an
	// answer to the front writes to cold memory of its neighbours, and what is
	// asked for often is moved soon enough all the same.
	hotUse = 8
	// hotTouch is how often an answer that is in use here is made one that is in
	// use in the resolver's cache as well.
	hotTouch = 4 * time.Second
)

// A Question is a question of class IN as a reader has it.
type Question struct {
	// Name is canonical (blocklists.CanonicalName): lower case, without the final
	// dot, empty for the root. It is borrowed: it may change after the call.
	Name   string
	Type   uint16
	DO, CD bool
}

// A Hot is one goroutine's cache in front of a Resolver's: an LRU that a hit
// reads without a lock and without a word that another goroutine writes. One
// goroutine owns it; it needs no closing. The zero Hot holds nothing and still
// finds what the Resolver's cache has.
//
// It is bounded by the number of its answers and by their bytes, beside the
// Resolver's cache: an answer that left that cache stays in use here until it
// expires or is pushed out. What it holds is what the Resolver's cache held
// since the last Flush: when it meets another Resolver than before, or one that
// was flushed since, it forgets everything.
type Hot struct {
	lru   *simplelru.LRU[uint64, *Answer] // by place; nil: holds nothing
	seed  maphash.Seed
	room  int // bytes
	size  int // entries
	bytes int
	turn  uint
	epoch uint64 // of the resolver when the first answer came
	tally *tally
}

// NewHot returns a Hot for that many answers; for none if there is no room for
// one.
func NewHot(entries int) *Hot {
	h := new(Hot)
	if entries <= 0 {
		return h
	}
	h.size, h.room = entries, max(entries*hotBytes, shardBytes)
	// The size is above zero, which is the only error.
	h.lru, _ = simplelru.NewLRU(entries, func(_ uint64, a *Answer) { h.bytes -= a.size })
	h.seed = maphash.MakeSeed()
	return h
}

// Get returns the resolver's cached answer to the question, or nil. It
// allocates nothing, but for an answer that it takes over from the resolver's
// cache, and never waits for the network. now is the time of the question.
func (h *Hot) Get(r *Resolver, q Question, now time.Time) *Answer {
	if a := h.Known(r, q, now); a != nil {
		return a
	}
	return h.fetch(r, q, now)
}

// Known is Get for what the Hot holds itself: it takes no lock at all.
func (h *Hot) Known(r *Resolver, q Question, now time.Time) *Answer {
	if e := r.epoch.Load(); e != h.epoch {
		h.meet(r, e)
	}
	if h.lru == nil {
		return nil
	}
	place := h.place(q)
	a, ok := h.lru.Peek(place)
	if !ok || a.name[:len(a.name)-1] != q.Name {
		return nil
	}
	age := now.Sub(a.stored)
	if age >= a.life {
		h.lru.Remove(place)
		return nil
	}
	if hits := h.tally.hits.Add(1); hits%hotUse == 0 {
		h.lru.Get(place)
	}
	if then := uint32(age / hotTouch); then != a.touched.Load() && r.cache.touch(q.key()) {
		a.touched.Store(then)
	}
	return a
}

// place is where the answer to a question is kept: a hash of it, because
// questions as keys take three times the memory, and comparing them reads
// memory that nothing else needs. Two questions about one name have two places,
// and the name is compared.
func (h *Hot) place(q Question) uint64 {
	kind := uint64(q.Type) << 2
	if q.DO {
		kind |= 1
	}
	if q.CD {
		kind |= 2
	}
	return maphash.String(h.seed, q.Name) ^ kind*0x9e3779b97f4a7c15
}

// fetch returns the answer of the resolver's cache.
func (h *Hot) fetch(r *Resolver, q Question, now time.Time) *Answer {
	a := r.cache.get(q.key(), now)
	if a != nil {
		h.tally.hits.Add(1)
		h.keep(q, a)
	}
	return a
}

func (q Question) key() cacheKey { return cacheKey{q, dns.ClassINET} }

// keep takes an answer over.
func (h *Hot) keep(q Question, a *Answer) {
	if h.lru == nil {
		return
	}
	if h.lru.Len() == h.size {
		if h.turn++; h.turn%hotTurn != 0 {
			return
		}
	}
	place := h.place(q)
	h.lru.Remove(place) // the answer before, or that of another name
	h.bytes += a.size
	h.lru.Add(place, a)
	for h.bytes > h.room && h.lru.Len() > 1 {
		h.lru.RemoveOldest()
	}
}

// meet forgets what is known of another resolver, or from before a flush.
func (h *Hot) meet(r *Resolver, epoch uint64) {
	if h.lru != nil {
		h.lru.Purge()
	}
	h.epoch = epoch
	if h.tally != nil && h.tally.resolver == r.id {
		return
	}
	if h.tally != nil {
		h.tally.left.Store(true)
	}
	t := &tally{resolver: r.id}
	h.tally = t
	r.mu.Lock()
	r.hotHits() // or those that have gone would pile up
	r.tallies = append(r.tallies, t)
	r.mu.Unlock()
	runtime.AddCleanup(h, func(t *tally) { t.left.Store(true) }, t)
}

// A tally is how often one Hot had an answer of one Resolver. It has cache
// lines of its own, so that counting costs no other goroutine anything. The Hot
// writes, Stats reads.
type tally struct {
	_        [64]byte
	hits     atomic.Uint64
	left     atomic.Bool // the Hot has gone: this is the last word
	resolver uint64
	_        [64]byte
}

// hotHits returns the hits of all Hots so far, and takes leave of those that
// have gone. It is called with r.mu held.
func (r *Resolver) hotHits() uint64 {
	var n uint64
	kept := r.tallies[:0]
	for _, t := range r.tallies {
		left, hits := t.left.Load(), t.hits.Load()
		if left {
			r.leftHits += hits
			continue
		}
		n += hits
		kept = append(kept, t)
	}
	clear(r.tallies[len(kept):])
	r.tallies = kept
	return r.leftHits + n
}

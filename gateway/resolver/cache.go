package resolver

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	cacheShards = 16
	// entryBytes is what an answer may take on average. Most take half of it;
	// without it a cache of large answers would take 60 times the memory.
	entryBytes = 1024
	shardBytes = 128 << 10 // what a small shard may take; one answer always has room
)

// A cache is a bounded LRU of answers. At the cap the least recently used one
// of the shard leaves. A nil cache holds nothing.
type cache struct {
	seed   maphash.Seed
	shards []cacheShard
	keep   time.Duration // for how long an answer stays after its TTL
}

// A cacheShard is one lock's part of the cache. It has cache lines of its own:
// goroutines that use two shards do not slow each other down.
type cacheShard struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[cacheKey, *Answer]
	bytes int
	room  int
	size  int
	_     [88]byte
}

// A cacheKey is a key with its name as a Question has it, so that the name of a
// question is looked for as it stands in a reader's buffer.
type cacheKey struct {
	Question
	class uint16
}

func (k key) cacheKey() cacheKey {
	return cacheKey{Question{Name: k.name[:len(k.name)-1], Type: k.qtype, DO: k.do, CD: k.cd}, k.qclass}
}

func newCache(entries, bytes int, keep time.Duration) *cache {
	if entries <= 0 {
		return nil
	}
	n := 1
	if entries >= 64*cacheShards {
		n = cacheShards
	}
	c := &cache{seed: maphash.MakeSeed(), shards: make([]cacheShard, n), keep: keep}
	for i := range c.shards {
		s := &c.shards[i]
		size := entries / n
		if i < entries%n {
			size++
		}
		s.room = max(size*entryBytes, shardBytes)
		if bytes > 0 {
			s.room = bytes / n
		}
		// The size is above zero, which is the only error.
		s.size = size
		s.lru, _ = simplelru.NewLRU(size, func(_ cacheKey, a *Answer) { s.bytes -= a.size })
	}
	return c
}

func (c *cache) shard(k cacheKey) *cacheShard {
	return &c.shards[maphash.Comparable(c.seed, k)%uint64(len(c.shards))]
}

// get returns the answer if the hot path may give it. It does not keep the key.
func (c *cache) get(k cacheKey, now time.Time) *Answer {
	if a := c.look(k, now); a != nil && a.fresh(now) {
		return a
	}
	return nil
}

// look returns the answer even if its TTL is over, for as long as it is kept.
func (c *cache) look(k cacheKey, now time.Time) *Answer {
	if c == nil {
		return nil
	}
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.lru.Get(k)
	if !ok {
		return nil
	}
	if now.Sub(a.stored) >= a.end()+c.keep {
		s.lru.Remove(k)
		return nil
	}
	return a
}

// touch makes the answer of that key one that was used just now, unless
// somebody else has the shard: recency is not worth waiting for.
func (c *cache) touch(k cacheKey) bool {
	if c == nil {
		return false
	}
	s := c.shard(k)
	if !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	s.lru.Get(k)
	return true
}

// put keeps an answer that may be cached, and returns how many left for it. What
// was there goes in any case: who has heard that it is otherwise now must not fall
// back on it (RFC 8767, section 5).
func (c *cache) put(k cacheKey, a *Answer) (evicted uint64) {
	if c == nil {
		return 0
	}
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lru.Remove(k); a.ttl == 0 {
		return 0
	}
	if name, ok := strings.CutSuffix(a.name, "."); ok && name == k.Name {
		k.Name = name // one copy of it is enough
	}
	s.bytes += a.size
	if s.lru.Add(k, a) {
		evicted++
	}
	for s.bytes > s.room && s.lru.Len() > 1 {
		s.lru.RemoveOldest()
		evicted++
	}
	return evicted
}

// forget removes the answers to questions whose names match, all of them for
// nil, and returns how many.
func (c *cache) forget(match func(name string) bool) (n int) {
	if c == nil {
		return 0
	}
	for i := range c.shards {
		n += c.shards[i].forget(match)
	}
	return n
}

func (s *cacheShard) forget(match func(name string) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if match == nil {
		n = s.lru.Len()
		s.lru.Purge()
		return n
	}
	for _, k := range s.lru.Keys() {
		if match(k.Name) && s.lru.Remove(k) {
			n++
		}
	}
	return n
}

// size returns how many bytes the answers take, about.
func (c *cache) size() int {
	if c == nil {
		return 0
	}
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += s.bytes
		s.mu.Unlock()
	}
	return n
}

func (c *cache) len() int {
	if c == nil {
		return 0
	}
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n += s.lru.Len()
		s.mu.Unlock()
	}
	return n
}

package resolver

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	cacheShards = 16
	// entryBytes is what an answer may take on average, as a message. Most take
	// a quarter of it; without it a cache of large answers would take 60 times
	// the memory.
	entryBytes = 1024
	shardBytes = 128 << 10 // a shard has room for the largest answer, at least
)

// A cache is a bounded LRU of answers. At the cap the least recently used one
// of the shard leaves. A nil cache holds nothing.
type cache struct {
	seed   maphash.Seed
	shards []cacheShard
}

// A cacheShard is one lock's part of the cache.
type cacheShard struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[key, *Answer]
	bytes int
	room  int
}

func newCache(entries int) *cache {
	if entries <= 0 {
		return nil
	}
	n := 1
	if entries >= 64*cacheShards {
		n = cacheShards
	}
	c := &cache{seed: maphash.MakeSeed(), shards: make([]cacheShard, n)}
	for i := range c.shards {
		s := &c.shards[i]
		size := entries / n
		if i < entries%n {
			size++
		}
		s.room = max(size*entryBytes, shardBytes)
		// The size is above zero, which is the only error.
		s.lru, _ = simplelru.NewLRU(size, func(_ key, a *Answer) { s.bytes -= a.size })
	}
	return c
}

func (c *cache) shard(k key) *cacheShard {
	return &c.shards[maphash.Comparable(c.seed, k)%uint64(len(c.shards))]
}

// get returns the answer if it still holds.
func (c *cache) get(k key, now time.Time) *Answer {
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
	if !a.fresh(now) {
		s.lru.Remove(k)
		return nil
	}
	return a
}

// put keeps an answer that may be cached, and returns how many left for it.
func (c *cache) put(k key, a *Answer) (evicted uint64) {
	if c == nil || a.life <= 0 {
		return 0
	}
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lru.Remove(k)
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

func (c *cache) flush() {
	if c == nil {
		return
	}
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.lru.Purge()
		s.mu.Unlock()
	}
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

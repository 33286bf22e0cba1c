package policy

import (
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/weir-gateway/weir/blocklists"
)

// A matchCache is an LRU of what the lists say about names, in front of the
// trie. It belongs to one Snapshot and goes with it, so it is never stale
// across generations; and it holds what the lists say, not verdicts, so it is
// not stale either when an exemption ends or a ban takes effect between two
// questions. A nil matchCache caches nothing.
type matchCache struct {
	lru *lru.Cache[string, []blocklists.Match]
}

func newMatchCache(entries int) *matchCache {
	if entries <= 0 {
		return nil
	}
	c, err := lru.New[string, []blocklists.Match](entries)
	if err != nil {
		return nil // only a size below 1 is an error
	}
	return &matchCache{c}
}

func (c *matchCache) get(name string) ([]blocklists.Match, bool) {
	if c == nil {
		return nil, false
	}
	return c.lru.Get(name)
}

func (c *matchCache) put(name string, ms []blocklists.Match) {
	if c != nil {
		// Not slices.Clone, which keeps the array of an empty slice: most names
		// are in no list.
		c.lru.Add(name, append([]blocklists.Match(nil), ms...))
	}
}

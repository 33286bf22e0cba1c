package policy

import (
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/weir-gateway/weir/blocklists"
)

// maxURL bounds what a matchCache keeps of one URL: longer ones hardly come
// twice, and whoever sends them chooses how long they are.
const maxURL = 512

// A matchCache is an LRU of what the lists say about URLs, in front of the
// Set. Names have none: walking the Set for a name costs less than finding it
// here would (see BENCHMARKS.md), but a host may have any number of rules with
// a path, and each is compared.
//
// It belongs to one Snapshot and goes with it, so it is never stale across
// generations; and it holds what the lists say, not verdicts, so it is not
// stale either when an exemption ends or a ban takes effect between two
// requests. It is shared and has a lock, which next to a proxied request costs
// nothing. It is bounded by its entries, and these by maxURL. A nil matchCache
// caches nothing.
type matchCache struct {
	lru *lru.Cache[url, []blocklists.Match]
}

type url struct{ host, path string }

func newMatchCache(entries int) *matchCache {
	if entries <= 0 {
		return nil
	}
	c, err := lru.New[url, []blocklists.Match](entries)
	if err != nil {
		return nil // only a size below 1 is an error
	}
	return &matchCache{c}
}

// get returns the matches, which must not be modified.
func (c *matchCache) get(host, path string) ([]blocklists.Match, bool) {
	if c == nil {
		return nil, false
	}
	return c.lru.Get(url{host, path})
}

// put keeps the matches of a URL, in memory of its own: host, path and matches
// are borrowed.
func (c *matchCache) put(host, path string, ms []blocklists.Match) {
	if c == nil || len(host)+len(path) > maxURL {
		return
	}
	host = strings.Clone(host)
	// Not slices.Clone, which keeps the array of an empty slice: most URLs are
	// in no list.
	kept := append([]blocklists.Match(nil), ms...)
	for i := range kept {
		r := &kept[i].Rule
		r.Name = host[len(host)-len(r.Name):] // it is the host or above it
	}
	c.lru.Add(url{host, strings.Clone(path)}, kept)
}

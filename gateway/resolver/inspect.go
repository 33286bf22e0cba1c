package resolver

import (
	"fmt"
	"time"

	"github.com/miekg/dns"
)

// A Cached is what the cache holds for one question about a name.
type Cached struct {
	Type     string   `json:"type"`
	DO       bool     `json:"do,omitempty"` // asked with signatures
	CD       bool     `json:"cd,omitempty"` // asked without validation
	Rcode    string   `json:"rcode"`
	Records  int      `json:"records"`
	TTL      int      `json:"ttl"` // seconds that are left of it; below zero, since when it is over
	Age      int      `json:"age"` // seconds
	Stale    bool     `json:"stale"`
	Links    []string `json:"links,omitempty"`    // what it leads to, which policy judges
	Snapshot uint64   `json:"-"`                  // under which it was judged last as a whole (policy.Snapshot.ID); 0: under none
	Free     bool     `json:"unlisted,omitempty"` // no list of that one speaks about what it leads to
	Failure  string   `json:"failure,omitempty"`  // instead of an answer: why there was none
}

// Inspect returns what the cache holds for a name, for the types that there are,
// stale answers and failures too. It changes nothing, not even what leaves the
// cache first.
func (r *Resolver) Inspect(name string) ([]Cached, error) {
	full, ok := canonical(name)
	if !ok {
		return nil, fmt.Errorf("%q is no name", name)
	}
	out := []Cached{}
	now := r.now()
	for qtype, word := range dns.TypeToString {
		for _, flags := range []Question{{}, {DO: true}, {CD: true}, {DO: true, CD: true}} {
			flags.Name, flags.Type = full[:len(full)-1], qtype
			k := flags.key()
			if a := r.cache.peek(k, now); a != nil {
				out = append(out, a.inspect(word, flags, now))
			} else if f := r.failures.peek(k, now); f != nil {
				out = append(out, f.inspect(word, flags, now))
			}
		}
	}
	return out, nil
}

// peek is look without a trace.
func (c *cache) peek(k cacheKey, now time.Time) *Answer {
	if c == nil {
		return nil
	}
	s := c.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.lru.Peek(k)
	if !ok || now.Sub(a.stored) >= a.end()+c.keep {
		return nil
	}
	return a
}

func (f *failures) peek(k cacheKey, now time.Time) *outcome {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lru == nil {
		return nil
	}
	if x, ok := f.lru.Peek(k); ok && now.Before(x.until) {
		return x
	}
	return nil
}

func (a *Answer) inspect(word string, q Question, now time.Time) Cached {
	standing := a.standing.Load()
	c := Cached{
		Type: word, DO: q.DO, CD: q.CD, Rcode: dns.RcodeToString[a.Rcode()], Records: int(a.wire.Answers),
		TTL: int(a.ttl) - int(a.Age(now)), Age: int(a.Age(now)), Stale: !a.holds(now),
		Snapshot: standing >> 2, Free: standing&linksFree != 0,
	}
	for _, l := range a.links {
		c.Links = append(c.Links, l.String())
	}
	return c
}

func (x *outcome) inspect(word string, q Question, now time.Time) Cached {
	c := Cached{Type: word, DO: q.DO, CD: q.CD, TTL: int(x.until.Sub(now) / time.Second)}
	if x.err != nil {
		c.Failure = x.err.Error()
		return c
	}
	c.Rcode = dns.RcodeToString[x.answer.Rcode()]
	c.Failure = "the upstream answered " + c.Rcode
	return c
}

package resolver

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestCacheKey(t *testing.T) {
	z := records(t, anyA)
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 100})
	with := func(change func(q *dns.Msg)) *dns.Msg {
		q := question("www.example", dns.TypeA)
		change(q)
		return q
	}
	for _, tt := range []struct {
		name string
		q    *dns.Msg
		hit  bool
	}{
		{"first", with(func(*dns.Msg) {}), false},
		{"again", with(func(*dns.Msg) {}), true},
		{"case", with(func(q *dns.Msg) { q.Question[0].Name = "WWW.eXaMple." }), true},
		{"escapes", with(func(q *dns.Msg) { q.Question[0].Name = `\119ww.example.` }), true},
		{"RD", with(func(q *dns.Msg) { q.RecursionDesired = false }), true},
		{"AD", with(func(q *dns.Msg) { q.AuthenticatedData = true }), true},
		{"EDNS", with(func(q *dns.Msg) { q.SetEdns0(4096, false) }), true},
		{"DO", with(func(q *dns.Msg) { q.SetEdns0(4096, true) }), false},
		{"CD", with(func(q *dns.Msg) { q.CheckingDisabled = true }), false},
		{"DO and CD", with(func(q *dns.Msg) { q.SetEdns0(4096, true); q.CheckingDisabled = true }), false},
		{"type", with(func(q *dns.Msg) { q.Question[0].Qtype = dns.TypeTXT }), false},
		{"class", with(func(q *dns.Msg) { q.Question[0].Qclass = dns.ClassCHAOS }), false},
		{"name", with(func(q *dns.Msg) { q.Question[0].Name = "example." }), false},
	} {
		before := z.queries.Load()
		if hit := r.Cached(tt.q) != nil; hit != tt.hit {
			t.Errorf("%s: Cached hit is %v, want %v", tt.name, hit, tt.hit)
		}
		if _, err := r.Resolve(t.Context(), tt.q); err != nil {
			t.Fatal(err)
		}
		if asked := z.queries.Load() > before; asked == tt.hit {
			t.Errorf("%s: upstream asked: %v", tt.name, asked)
		}
	}
}

func TestCacheExpires(t *testing.T) {
	z := records(t, "www.example. 10 IN A 192.0.2.1")
	negative := &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
		m.Ns = []dns.RR{rr(t, soa)}
		return m
	}}
	clk := newClock()
	pos := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10}, clk.now, portDNS)
	neg := openAt(t, Options{Upstreams: udp(t, listen(t, negative)), CacheEntries: 10}, clk.now, portDNS)
	resolve(t, pos, "www.example", dns.TypeA)
	resolve(t, neg, "www.example", dns.TypeA)
	clk.move(9900 * time.Millisecond)
	m := resolve(t, pos, "www.example", dns.TypeA).Reply(question("www.example", dns.TypeA))
	wantTexts(t, "positive after 9.9 s", m.Answer, "www.example. 1 IN A 192.0.2.1")
	m = resolve(t, neg, "www.example", dns.TypeA).Reply(question("www.example", dns.TypeA))
	wantTexts(t, "negative after 9.9 s", m.Ns, "example. 291 IN SOA ns.example. admin.example. 1 2 3 4 300")
	if m.Rcode != dns.RcodeNameError {
		t.Errorf("rcode %d", m.Rcode)
	}
	clk.move(100 * time.Millisecond)
	if pos.Cached(question("www.example", dns.TypeA)) != nil {
		t.Error("it is still there after its TTL")
	}
	if pos.Stats().Entries != 0 {
		t.Error("the expired answer keeps its place")
	}
	clk.move(290 * time.Second)
	resolve(t, neg, "www.example", dns.TypeA)
	if z.queries.Load() != 1 || negative.queries.Load() != 2 {
		t.Errorf("%d and %d queries, want 1 and 2", z.queries.Load(), negative.queries.Load())
	}
}

func TestCacheIsBounded(t *testing.T) {
	z := &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 60 IN A 192.0.2.1")}
		return m
	}}
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 3})
	for _, name := range []string{"a", "b", "c", "a", "d"} { // b is the least recently used
		resolve(t, r, name+".example", dns.TypeA)
	}
	for name, want := range map[string]bool{"a": true, "b": false, "c": true, "d": true} {
		if got := r.Cached(question(name+".example", dns.TypeA)) != nil; got != want {
			t.Errorf("%s is cached: %v, want %v", name, got, want)
		}
	}
	if s := r.Stats(); s.Entries != 3 || s.Evicted != 1 || s.Hits != 4 || s.Misses != 4 {
		t.Errorf("statistics: %+v", s)
	}
}

func TestCacheShards(t *testing.T) {
	const entries = 2000
	c := newCache(entries, 0, 0)
	if len(c.shards) != cacheShards {
		t.Fatalf("%d shards", len(c.shards))
	}
	now := time.Now()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2 * entries {
				k := key{name: fmt.Sprintf("%d.%d.", g, i)}
				c.put(k.cacheKey(), &Answer{name: k.name, life: time.Minute, ttl: 60, stored: now, size: 100})
				if a := c.get(k.cacheKey(), now); a != nil && a.name != k.name {
					t.Errorf("%s has the answer of %s", k.name, a.name)
				}
			}
		})
	}
	wg.Wait()
	if n := c.len(); n != entries {
		t.Errorf("%d entries, want %d", n, entries)
	}
	c.forget(nil)
	for i := range c.shards {
		if s := &c.shards[i]; s.bytes != 0 || s.lru.Len() != 0 {
			t.Errorf("shard %d has %d bytes in %d answers after flush", i, s.bytes, s.lru.Len())
		}
	}
}

// TestCacheBytes: large answers leave before they take the memory of many.
func TestCacheBytes(t *testing.T) {
	c := newCache(100, 0, 0)
	now := time.Now()
	var evicted uint64
	for i := range 100 {
		k := key{name: fmt.Sprintf("%d.", i)}
		evicted += c.put(k.cacheKey(), &Answer{name: k.name, life: time.Minute, ttl: 60, stored: now, size: maxMsg})
	}
	if want := shardBytes / maxMsg; c.len() != want || evicted != uint64(100-want) {
		t.Errorf("%d large answers are kept and %d left, want %d kept", c.len(), evicted, want)
	}
	// Replacing an answer takes its size off.
	for range 10 {
		c.put(key{name: "99."}.cacheKey(), &Answer{life: time.Minute, ttl: 60, stored: now, size: 10})
	}
	if got := c.shards[0].bytes; got != maxMsg+10 {
		t.Errorf("%d bytes, want %d", got, maxMsg+10)
	}
}

func TestNoCache(t *testing.T) {
	z := records(t, wwwA)
	r := open(t, Options{Upstreams: udp(t, listen(t, z))})
	for range 2 {
		resolve(t, r, "www.example", dns.TypeA)
	}
	r.Flush()
	if z.queries.Load() != 2 || r.Stats().Entries != 0 {
		t.Errorf("%d queries, %+v", z.queries.Load(), r.Stats())
	}
}

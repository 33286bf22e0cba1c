package resolver

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/dns"
)

// filled returns a resolver without an upstream whose cache has answers to
// "0.example" and so on.
func filled(t testing.TB, clk *testClock, entries, names int) *Resolver {
	t.Helper()
	r := openAt(t, Options{ResolvConf: "/nonexistent", CacheEntries: entries}, clk.now, portDNS)
	for i := range names {
		put(t, r, clk, hotName(i), "60")
	}
	return r
}

func hotName(i int) string { return fmt.Sprintf("%d.example", i) }

// put has the resolver's cache know an address of the name.
func put(t testing.TB, r *Resolver, clk *testClock, name, ttl string) *Answer {
	t.Helper()
	k := key{name: name + ".", qtype: dns.TypeA, qclass: dns.ClassINET}
	a := answerOf(t, clk, k, 0, name+". "+ttl+" IN A 192.0.2.1")
	r.cache.put(k.cacheKey(), a)
	return a
}

func askA(name string) Question { return Question{Name: name, Type: dns.TypeA} }

func TestHotKey(t *testing.T) {
	clk := newClock()
	r := filled(t, clk, 100, 0)
	questions := []Question{
		{"www.example", dns.TypeA, false, false}, {"www.example", dns.TypeA, true, false}, {"www.example", dns.TypeA, false, true},
		{"www.example", dns.TypeA, true, true}, {"www.example", dns.TypeAAAA, false, false}, {"example", dns.TypeA, false, false}, {"", dns.TypeA, false, false},
	}
	h := NewHot(100)
	for _, q := range questions {
		if h.Get(r, q, clk.now()) != nil {
			t.Fatalf("%+v is there", q)
		}
	}
	want := make(map[Question]*Answer)
	for _, q := range questions {
		k := key{name: dns.Fqdn(q.Name), qtype: q.Type, qclass: dns.ClassINET, do: q.DO, cd: q.CD}
		want[q] = answerOf(t, clk, k, 0, k.name+" 60 IN "+dns.TypeToString[q.Type]+map[uint16]string{dns.TypeA: " 192.0.2.1", dns.TypeAAAA: " ::1"}[q.Type])
		r.cache.put(k.cacheKey(), want[q])
		// The same name in another class is another question.
		k.qclass = dns.ClassCHAOS
		r.cache.put(k.cacheKey(), answerOf(t, clk, k, 0, k.name+" 60 CH A 192.0.2.2"))
	}
	for range 2 { // from the resolver's cache, and from the Hot
		for _, q := range questions {
			if a := h.Get(r, q, clk.now()); a == nil || a != want[q] {
				t.Errorf("%+v: got %p, want %p", q, a, want[q])
			}
		}
	}
	if h.lru.Len() != len(questions) {
		t.Errorf("%d entries, want %d", h.lru.Len(), len(questions))
	}
}

// TestHotBorrowsNames: the name lies in a buffer that the next question
// overwrites.
func TestHotBorrowsNames(t *testing.T) {
	clk := newClock()
	r := filled(t, clk, 100, 10)
	h := NewHot(100)
	buf := make([]byte, 64)
	get := func(name string) *Answer {
		copy(buf, name)
		return h.Get(r, askA(unsafe.String(&buf[0], len(name))), clk.now())
	}
	for range 3 {
		for i := range 10 {
			if a := get(hotName(i)); a == nil || a.name != hotName(i)+"." {
				t.Fatalf("%s: %+v", hotName(i), a)
			}
		}
		if get("x.example") != nil {
			t.Error("a name that nobody put there has an answer")
		}
	}
	// It is the Hot that has them, under names of their own.
	r.cache.forget(nil)
	copy(buf, strings.Repeat("z", len(buf)))
	for i := range 10 {
		if a := get(hotName(i)); a == nil || a.name != hotName(i)+"." {
			t.Errorf("%s is not in the Hot: %+v", hotName(i), a)
		}
	}
}

func TestHotForgets(t *testing.T) {
	clk := newClock()
	r, other := filled(t, clk, 100, 10), filled(t, clk, 100, 0)
	h := NewHot(100)
	get := func(r *Resolver, i int) *Answer { return h.Get(r, askA(hotName(i)), clk.now()) }
	if get(r, 1) == nil || get(r, 2) == nil {
		t.Fatal("not there")
	}
	if get(other, 1) != nil {
		t.Error("an answer of another resolver")
	}
	if get(r, 1) == nil {
		t.Error("the first resolver's answer is lost")
	}
	r.Flush()
	if get(r, 1) != nil || h.lru.Len() != 0 {
		t.Error("an answer after Flush")
	}
	put(t, r, clk, hotName(3), "10")
	if get(r, 3) == nil {
		t.Fatal("not there")
	}
	clk.move(9900 * time.Millisecond)
	if get(r, 3) == nil {
		t.Error("gone before its TTL is over")
	}
	clk.move(100 * time.Millisecond)
	if get(r, 3) != nil || h.lru.Len() != 0 || h.bytes != 0 {
		t.Errorf("expired, and %d entries of %d bytes are left", h.lru.Len(), h.bytes)
	}
	if r.Stats().Entries != 0 {
		t.Error("the expired answer keeps its place in the resolver's cache")
	}
}

// TestHotFlushRace: whatever the order, no question that begins after Flush
// has returned gets an answer from before.
func TestHotFlushRace(t *testing.T) {
	clk := newClock()
	r := filled(t, clk, 100, 0)
	old := put(t, r, clk, "www.example", "60")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	flushed := make(chan *Answer, 1)
	for range 2 {
		wg.Go(func() {
			h := NewHot(10)
			for {
				select {
				case <-stop:
					return
				default:
				}
				h.Get(r, askA("www.example"), clk.now())
			}
		})
	}
	h := NewHot(10)
	for range 300 {
		h.Get(r, askA("www.example"), clk.now())
		go func() {
			r.Flush()
			flushed <- nil
		}()
		h.Get(r, askA("www.example"), clk.now())
		<-flushed
		if a := h.Get(r, askA("www.example"), clk.now()); a == old {
			t.Fatal("an answer from before Flush")
		}
		old = put(t, r, clk, "www.example", "60")
	}
	close(stop)
	wg.Wait()
}

func TestHotIsBounded(t *testing.T) {
	clk := newClock()
	const names, entries = 1000, 50
	r := filled(t, clk, names, names)
	h := NewHot(entries)
	sum := func() (n int) {
		for _, a := range h.lru.Values() {
			n += a.size
		}
		return n
	}
	for i := range 20 * names {
		if h.Get(r, askA(hotName(i%names)), clk.now()) == nil {
			t.Fatal("not there")
		}
		if h.lru.Len() > entries || h.bytes > h.room {
			t.Fatalf("%d entries of %d bytes", h.lru.Len(), h.bytes)
		}
	}
	if h.lru.Len() != entries || h.bytes != sum() {
		t.Errorf("%d entries, %d bytes counted, %d there", h.lru.Len(), h.bytes, sum())
	}
	// Large answers leave before they take the memory of many.
	k := key{qtype: dns.TypeTXT, qclass: dns.ClassINET}
	var size int
	for i := range entries {
		k.name = fmt.Sprintf("%d.large.", i)
		text := strings.Repeat(`"`+strings.Repeat("x", 255)+`" `, 100)
		a := answerOf(t, clk, k, 0, k.name+" 60 IN TXT "+text)
		size = a.size
		r.cache.put(k.cacheKey(), a)
		for range hotTurn {
			h.Get(r, Question{Name: k.name[:len(k.name)-1], Type: dns.TypeTXT}, clk.now())
		}
		if h.bytes > h.room || h.bytes != sum() {
			t.Fatalf("%d bytes counted, %d there, %d are allowed", h.bytes, sum(), h.room)
		}
	}
	if h.bytes < h.room-size-entries*1000 {
		t.Errorf("only %d bytes of %d are used", h.bytes, h.room)
	}
}

// TestHotLetsFewIn: names that come once do not wear out what is full.
func TestHotLetsFewIn(t *testing.T) {
	clk := newClock()
	r := filled(t, clk, 1000, 1000)
	h := NewHot(100)
	for i := range 100 {
		h.Get(r, askA(hotName(i)), clk.now())
	}
	for i := 100; i < 1000; i++ {
		h.Get(r, askA(hotName(i)), clk.now())
		h.Get(r, askA(hotName(0)), clk.now())
	}
	if !h.lru.Contains(h.place(askA(hotName(0)))) {
		t.Error("what is used all the time was pushed out")
	}
	// And whoever keeps coming gets in.
	for range hotTurn {
		h.Get(r, askA(hotName(500)), clk.now())
	}
	if !h.lru.Contains(h.place(askA(hotName(500)))) {
		t.Error("a newcomer that keeps coming stays outside")
	}
}

// TestHotTouches: what only a Hot is asked for is not the least recently used
// in the resolver's cache.
func TestHotTouches(t *testing.T) {
	clk := newClock()
	r := filled(t, clk, 10, 1)
	h := NewHot(10)
	for i := 1; i < 100; i++ {
		clk.move(time.Second / 2)
		if h.Get(r, askA(hotName(0)), clk.now()) == nil {
			t.Fatal("not there")
		}
		put(t, r, clk, hotName(i), "60")
	}
	if r.Cached(question(hotName(0), dns.TypeA)) == nil {
		t.Error("the one in use all the time left the resolver's cache")
	}
	// Whoever holds the shard does not stop a hit.
	s := &r.cache.shards[0]
	s.mu.Lock()
	clk.move(hotTouch)
	a := h.Get(r, askA(hotName(0)), clk.now())
	s.mu.Unlock()
	if a == nil {
		t.Fatal("not there")
	}
	if then := uint32(clk.now().Sub(a.stored) / hotTouch); a.touched.Load() == then {
		t.Error("counted as touched without being it")
	} else if h.Get(r, askA(hotName(0)), clk.now()); a.touched.Load() != then {
		t.Error("not touched at the next chance")
	}
}

// TestHotHits: hits are counted at once, and none is lost when a Hot leaves.
func TestHotHits(t *testing.T) {
	clk := newClock()
	r, other := filled(t, clk, 100, 10), filled(t, clk, 100, 10)
	var hots []*Hot
	for range 3 {
		hots = append(hots, NewHot(5))
	}
	hots = append(hots, new(Hot)) // holds nothing
	n := uint64(0)
	for round := range 4 {
		for _, h := range hots {
			for i := range 12 { // two are misses
				h.Get(r, askA(hotName(i)), clk.now())
			}
			n += 10
			if got := r.Stats().Hits; got != n {
				t.Fatalf("round %d: %d hits, want %d", round, got, n)
			}
		}
		for _, h := range hots {
			h.Get(other, askA(hotName(1)), clk.now())
		}
	}
	if got := other.Stats().Hits; got != 16 {
		t.Errorf("the other resolver has %d hits, want 16", got)
	}
	for range 100 {
		hots[0].Get(r, askA(hotName(1)), clk.now())
		hots[0].Get(other, askA(hotName(1)), clk.now())
		n++
	}
	if len(r.tallies) > len(hots) {
		t.Errorf("%d tallies of %d Hots", len(r.tallies), len(hots))
	}
	clear(hots)
	until(t, "the end of the tallies", func() bool {
		runtime.GC()
		_ = r.Stats()
		return len(r.tallies) == 0
	})
	if r.Stats().Hits != n {
		t.Errorf("%d tallies are left, %d hits, want %d", len(r.tallies), r.Stats().Hits, n)
	}
}

func TestZeroHot(t *testing.T) {
	clk := newClock()
	r := filled(t, clk, 10, 1)
	for _, h := range []*Hot{new(Hot), NewHot(0), NewHot(-1)} {
		if h.Get(r, askA(hotName(0)), clk.now()) == nil || h.Get(r, askA(hotName(1)), clk.now()) != nil {
			t.Error("it does not say what the resolver's cache has")
		}
	}
	none := filled(t, clk, 0, 0)
	if h := NewHot(10); h.Get(none, askA(hotName(0)), clk.now()) != nil {
		t.Error("an answer of a resolver without a cache")
	}
}

// TestHotUnderResolve runs real exchanges, flushes and several Hots at a time.
func TestHotUnderResolve(t *testing.T) {
	z := &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr(t, q.Question[0].Name+" 60 IN A 192.0.2.1")}
		return m
	}}
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 20})
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			h := NewHot(5)
			hits := 0
			for i := range 600 {
				name := hotName((i * (g + 1)) % 30)
				a := h.Get(r, askA(name), time.Now())
				if a == nil {
					if _, err := r.Resolve(t.Context(), question(name, dns.TypeA)); err != nil {
						t.Error(err)
						return
					}
					continue
				}
				if hits++; a.name != name+"." {
					t.Errorf("%s has the answer of %s", name, a.name)
				}
				if i%97 == 0 {
					r.Flush()
				}
			}
			if hits == 0 {
				t.Error("no hit at all")
			}
		})
	}
	wg.Wait()
}

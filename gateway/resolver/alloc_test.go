//go:build !race

// The race detector changes what is allocated.

package resolver

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/wire"
)

// TestHotAllocations pins what a question to the cache allocates, and shows
// which road each took.
func TestHotAllocations(t *testing.T) {
	clk := newClock()
	r := filled(t, clk, 100, 20)
	h := NewHot(10)
	for i := range 10 {
		h.Get(r, askA(hotName(i)), clk.now())
	}
	clean, dirty := cleanSnapshot(t), listSnapshot(t, "cdn.test")
	k := key{name: "www.example.", qtype: dns.TypeA, qclass: dns.ClassINET}
	linked := answerOf(t, clk, k, 0, "www.example. 60 IN CNAME a.cdn.test.", "a.cdn.test. 60 IN A 192.0.2.1", "a.cdn.test. 60 IN AAAA ::1")
	raw := client{name: "1.EXAMPLE.", qtype: dns.TypeA, rd: true, edns: true, do: false, size: 1232}.query(t)
	var q wire.Query
	buf := make([]byte, 0, 512)
	now := clk.now()
	none, bad := NewHot(0), 0
	check := func(ok bool) {
		if !ok {
			bad++
		}
	}
	for _, tt := range []struct {
		about string
		f     func()
	}{
		{"hit", func() { check(h.Get(r, askA(hotName3), now) != nil) }},
		{"miss of both", func() { check(h.Get(r, askA("absent.example"), now) == nil) }},
		{"hit of the resolver's cache only", func() { check(none.Get(r, askA(hotName3), now) != nil) }},
		{"clean, known", func() { check(linked.Clean(clean)) }},
		{"clean, found out", func() { check(linked.Clean(clean) && !linked.Clean(dirty)) }},
		{"from question to reply", func() {
			f, _ := q.Parse(raw)
			a := h.Get(r, Question{Name: q.Name(), Type: q.Type, DO: q.DO, CD: q.CheckingDisabled()}, now)
			reply, fits := q.AppendAnswer(buf, a.Wire(), a.Age(now))
			check(f == wire.Simple && a.Plain() && a.Clean(clean) && fits && len(reply) > len(raw))
		}},
	} {
		tt.f()
		if got := testing.AllocsPerRun(500, tt.f); got != 0 {
			t.Errorf("%s: %v allocations, want none", tt.about, got)
		}
	}
	// Of what is pushed in and out all the time, one in hotTurn is an entry.
	const questions = 800
	got := testing.AllocsPerRun(1, func() {
		for i := range questions {
			check(h.Get(r, askA(names20[i%20]), now) != nil)
		}
	})
	if got > questions/hotTurn {
		t.Errorf("a Hot that is too small: %v allocations for %d questions, want at most one in %d", got, questions, hotTurn)
	}
	if bad > 0 {
		t.Errorf("%d of the calls did something else", bad)
	}
}

const hotName3 = "3.example"

var names20 = func() (s [20]string) {
	for i := range s {
		s[i] = hotName(i)
	}
	return s
}()

// TestAnswerMemory pins what an answer takes in the cache, all told: an A
// record behind an alias, as most answers have.
func TestAnswerMemory(t *testing.T) {
	const n, most = 20_000, 720
	clk := newClock()
	c := newCache(n, 0, 0)
	live := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := live()
	counted := 0
	for i := range n {
		k := key{name: fmt.Sprintf("www.name%d.example.", i), qtype: dns.TypeA, qclass: dns.ClassINET}
		m := k.query(1, false)
		m.Response = true
		m.Answer = []dns.RR{rr(t, fmt.Sprintf("%s 60 IN CNAME name%d.cdn.test.", k.name, i)),
			rr(t, fmt.Sprintf("name%d.cdn.test. 60 IN A 192.0.2.1", i)), rr(t, fmt.Sprintf("name%d.cdn.test. 60 IN A 192.0.2.2", i))}
		m, err := parse(pack(t, m), 1, k)
		if err != nil {
			t.Fatal(err)
		}
		a := newAnswer(k, m, clk.now)
		c.put(k.cacheKey(), a)
		counted += a.size
	}
	each := int(live()-before) / c.len()
	t.Logf("%d bytes an answer, %d of them counted", each, counted/n)
	if each > most || each < counted/n {
		t.Errorf("%d bytes an answer, of which %d are counted; want at most %d", each, counted/n, most)
	}
	if a := c.get(key{name: fmt.Sprintf("www.name%d.example.", n-1), qtype: dns.TypeA, qclass: dns.ClassINET}.cacheKey(), clk.now()); a == nil || a.life != time.Minute {
		t.Error("the last one is not in the cache")
	}
}

package policy

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/weir-gateway/weir/blocklists"
)

// TestCacheFollowsTheClock: what is cached is what the lists say, so exemptions
// end and bans begin between two questions.
func TestCacheFollowsTheClock(t *testing.T) {
	spec := house(t)
	spec.CacheEntries = 100
	s := snapshot(t, spec)
	exempt, other := device("10.8.0.7"), device("10.8.0.9")
	steps := []struct {
		sub    Subject
		host   string
		after  time.Duration
		action Action
	}{
		{exempt, "wechat.example", 0, Allow},
		{other, "wechat.example", 0, Block}, // another subject, the same entry
		{exempt, "wechat.example", time.Minute, Block},
		{exempt, "wechat.example", 0, Allow}, // clocks may be set back
		{other, "later.example", 0, Report},
		{other, "later.example", time.Hour, Block},
		{other, "later.example", 0, Report},
	}
	for i, st := range steps {
		if v := s.URL(st.sub, st.host, "/a", noon.Add(st.after)); v.Action != st.action {
			t.Errorf("step %d: %v, want %v", i, v.Action, st.action)
		}
	}
	if _, ok := s.cache.get("wechat.example", "/a"); !ok {
		t.Error("nothing was cached: this test shows nothing")
	}
}

func TestCacheIsBounded(t *testing.T) {
	spec := house(t)
	spec.CacheEntries = 10
	s := snapshot(t, spec)
	for i := range 1000 {
		name := fmt.Sprintf("n%d.wechat.example", i)
		if v := s.URL(Subject{}, name, "/", noon); !v.Blocked() {
			t.Fatalf("%s: %v", name, v.Action)
		}
		if n := s.cache.lru.Len(); n > 10 {
			t.Fatalf("%d entries in a cache of 10", n)
		}
	}
	if _, ok := s.cache.get("n999.wechat.example", "/"); !ok {
		t.Error("the latest URL is not cached")
	}
	if _, ok := s.cache.get("n0.wechat.example", "/"); ok {
		t.Error("the first URL is still cached")
	}
}

func TestNoCache(t *testing.T) {
	for _, entries := range []int{0, -1} {
		if newMatchCache(entries) != nil {
			t.Errorf("a cache of %d entries is there", entries)
		}
	}
	var none *matchCache
	none.put("a.example", "/", nil)
	if _, ok := none.get("a.example", "/"); ok {
		t.Error("no cache has something")
	}
}

// TestCacheKeepsNothingBorrowed: the caller's buffers change after the call.
func TestCacheKeepsNothingBorrowed(t *testing.T) {
	spec := house(t)
	spec.CacheEntries = 100
	s := snapshot(t, spec)
	const host, path = "a.both.example", "/x"
	lent := []byte(host + path)
	ask := func() Verdict {
		return s.URL(Subject{}, unsafe.String(&lent[0], len(host)), unsafe.String(&lent[len(host)], len(path)), noon)
	}
	if v := ask(); v.Rule.Name != "both.example" {
		t.Fatalf("got %s by %q", spell(v), v.Rule.Name)
	}
	copy(lent, strings.Repeat("z", len(lent)))
	if v := ask(); v.Blocked() {
		t.Errorf("another host got %s", spell(v))
	}
	ms, ok := s.cache.get(host, path)
	if !ok || len(ms) != 1 || ms[0].Rule.Name != "both.example" {
		t.Errorf("kept %v: %+v", ok, ms)
	}
}

// TestNameIsNotKept: a name is lent for the call, and what the pool of rooms
// and the cache hold afterwards is not a part of it.
func TestNameIsNotKept(t *testing.T) {
	var lists [][]blocklists.Rule
	var spec Spec
	for i := range 2 * few {
		lists = append(lists, []blocklists.Rule{block(i+1, "both.example")})
		spec.Lists = append(spec.Lists, List{Name: fmt.Sprint(i)})
	}
	spec.Bans, spec.Set, spec.CacheEntries = []*blocklists.Ban{{ID: "b"}}, build(t, lists), 100
	s := snapshot(t, spec)
	if v := s.Name(Subject{}, "a.both.example", noon); !v.Blocked() || v.Rule.Line != 1 {
		t.Fatalf("got %s", spell(v))
	}
	if n := s.cache.lru.Len(); n != 0 {
		t.Errorf("%d names are cached", n)
	}
	d := desks.Get().(*Desk)
	if d.verdict.Rule.Name != "" {
		t.Errorf("the verdict is still there: %+v", d.verdict)
	}
	for i, m := range d.matches[:cap(d.matches)] {
		if m.Rule.Name != "" {
			t.Errorf("match %d is still there: %+v", i, m)
		}
	}
}

// TestCacheLeavesOut: most URLs are in no list, and their entries must not hold
// the room of those that are; and long URLs are not kept at all.
func TestCacheLeavesOut(t *testing.T) {
	c := newMatchCache(2)
	room := make([]blocklists.Match, 1, 8)
	room[0].Rule.Name = "example"
	c.put("a.example", "/", room[:0])
	if ms, ok := c.get("a.example", "/"); !ok || cap(ms) != 0 {
		t.Errorf("an empty entry: there %v, room for %d matches", ok, cap(ms))
	}
	c.put("a.example", "/", room)
	if ms, _ := c.get("a.example", "/"); len(ms) != 1 || &ms[0] == &room[0] {
		t.Error("an entry shares the caller's array")
	}
	long := "/" + strings.Repeat("x", maxURL)
	c.put("a.example", long, room)
	if _, ok := c.get("a.example", long); ok || c.lru.Len() != 1 {
		t.Errorf("a long URL is kept; %d entries", c.lru.Len())
	}
}

// TestSwapUnderQuestions swaps policies while others ask: no verdict mixes two
// generations, and none is older than the swap that went before its question.
func TestSwapUnderQuestions(t *testing.T) {
	// Generations take turns in what they block, so each verdict shows its own.
	policies := make([]*Snapshot, 2000)
	for i := range policies {
		policies[i] = snapshot(t, Spec{
			Generation:   uint64(i),
			Set:          build(t, [][]blocklists.Rule{{block(i+1, fmt.Sprintf("n%d.example", i%3))}}),
			Lists:        []List{{Name: "l"}},
			Bans:         []*blocklists.Ban{{ID: "b"}},
			CacheEntries: 2,
		})
	}
	var store Store
	var active, asked atomic.Uint64
	store.Swap(policies[0])
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				least := active.Load()
				n := i % 4
				v := store.Load().Name(Subject{}, fmt.Sprintf("n%d.example", n), noon)
				if v.Generation < least {
					t.Errorf("generation %d answered, %d was in force", v.Generation, least)
					return
				}
				if blocked := v.Generation%3 == uint64(n); v.Blocked() != blocked || blocked && v.Rule.Line != int(v.Generation)+1 {
					t.Errorf("generation %d, name %d: %v by line %d", v.Generation, n, v.Action, v.Rule.Line)
					return
				}
				asked.Add(1)
			}
		})
	}
	for i, p := range policies {
		store.Swap(p)
		active.Store(uint64(i))
		for seen := asked.Load(); i%50 == 0 && asked.Load() < seen+10 && !t.Failed(); {
			time.Sleep(10 * time.Microsecond)
		}
	}
	close(stop)
	wg.Wait()
	if asked.Load() < 400 {
		t.Errorf("only %d questions met the swaps", asked.Load())
	}
}

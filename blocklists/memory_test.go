//go:build !race

// The race detector changes what is allocated and how much memory things take.

package blocklists

import (
	"net/netip"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
	"unsafe"
)

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// heapPeak samples the heap, garbage included, until it is told to stop.
func heapPeak() (stop func() uint64) {
	done, peak := make(chan struct{}), make(chan uint64)
	go func() {
		var most uint64
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for tick := time.NewTicker(time.Millisecond); ; {
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64())
			select {
			case <-tick.C:
			case <-done:
				tick.Stop()
				peak <- most
				return
			}
		}
	}()
	return func() uint64 { close(done); return <-peak }
}

// TestMemoryOfRealNames pins what a name costs all told, with its list and its
// line: as the heap grows, and as the sum of what the Set is made of. Building
// takes little more than the Set does.
func TestMemoryOfRealNames(t *testing.T) {
	for _, want := range []int{million, 1_986_552} {
		list := names(t, union, want)
		before := liveHeap()
		peak := heapPeak()
		start := time.Now()
		var b Builder
		suffixes(t, &b, 0, list)
		s := b.Build()
		took := time.Since(start)
		most := int64(peak() - before)
		live := int64(liveHeap() - before)
		runtime.KeepAlive(list)
		t.Logf("%d rules in %v: %.1f bytes a name live, %.1f summed, peak %.2f of the set",
			s.Rules(), took, float64(live)/float64(want), float64(s.size())/float64(want), float64(most)/float64(live))
		if s.Rules() != want {
			t.Errorf("%d rules, want %d", s.Rules(), want)
		}
		if live > int64(want)*30 || s.size() > want*30 {
			t.Errorf("%d names take %d bytes, %d summed; want at most 30 a name", want, live, s.size())
		}
		if most > live*11/10 {
			t.Errorf("%d bytes in use while %d were built", most, live)
		}
		if took > 15*time.Second {
			t.Errorf("%d names compile in %v", want, took)
		}
	}
}

// size returns the bytes that the name rules of a Set take, slack included.
func (s *Set) size() int {
	c := s.base
	n := int(unsafe.Sizeof(*c)) + cap(c.table.buckets)*int(unsafe.Sizeof(bucket{}))
	for _, chunk := range c.records {
		n += cap(chunk)
	}
	for _, page := range c.heads {
		n += cap(page) * int(unsafe.Sizeof(head{}))
	}
	for _, page := range c.refs {
		n += cap(page) * int(unsafe.Sizeof(ref{}))
	}
	return n
}

// TestMemoryOfOverlappingLists: the same names in several lists cost a second
// record without text and a link, not a second name.
func TestMemoryOfOverlappingLists(t *testing.T) {
	list := names(t, union, 200_000)
	before := liveHeap()
	var b Builder
	for i := range 5 {
		suffixes(t, &b, i, list)
	}
	s := b.Build()
	live := int64(liveHeap() - before)
	runtime.KeepAlive(list)
	if s.Rules() != 1_000_000 {
		t.Errorf("%d rules, want 1000000", s.Rules())
	}
	t.Logf("%.1f bytes a rule", float64(live)/1e6)
	if live > 25e6 {
		t.Errorf("a million rules of 200,000 names take %d bytes", live)
	}
}

// TestMemoryOfRepeats: what a list says again leaves nothing behind.
func TestMemoryOfRepeats(t *testing.T) {
	list := names(t, union, 100_000)
	before := liveHeap()
	var b Builder
	for range 4 {
		suffixes(t, &b, 0, list)
	}
	s := b.Build()
	live := int64(liveHeap() - before)
	runtime.KeepAlive(list)
	if s.Rules() != 100_000 || live > 100_000*32 {
		t.Errorf("%d rules in %d bytes", s.Rules(), live)
	}
	if got := s.AppendName(nil, list[99_999]); len(got) != 1 || got[0].Rule.Line > 100_000 {
		t.Errorf("a repeated name: %+v", got)
	}
}

// TestAllocationPins pins what the path of a question allocates.
func TestAllocationPins(t *testing.T) {
	s := compile(t,
		"wechat.com\n@@mail.wechat.com\nwechat.com/app^\n192.0.2.0/24\n2001:db8::/32",
		"com\n192.0.2.128/25\n::/0",
	)
	edited, err := s.Edit(Edit{
		Remove: []Change{{1, rule(t, 0, "com")}},
		Shift:  []Shift{{0, 1, 1}},
		Add:    []Change{{1, rule(t, 1, "new.example")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]Match, 0, 8)
	v4, v6 := netip.MustParseAddr("192.0.2.130"), netip.MustParseAddr("2001:db8::1")
	var sink int
	tests := []struct {
		about string
		want  float64
		f     func()
	}{
		{"AppendName, hit in both lists", 0, func() { sink += len(s.AppendName(buf, "x.mail.wechat.com")) }},
		{"AppendName, miss", 0, func() { sink += len(s.AppendName(buf, "www.innocent.example")) }},
		{"AppendURL", 0, func() { sink += len(s.AppendURL(buf, "a.wechat.com", "/app/x")) }},
		{"AppendName of an edited Set", 0, func() { sink += len(edited.AppendName(buf, "x.mail.wechat.com")) }},
		{"AppendName of an edited Set, with what was added", 0, func() { sink += len(edited.AppendName(buf, "y.new.example")) }},
		{"AppendAddr of an edited Set", 0, func() { sink += len(edited.AppendAddr(buf, v4)) }},
		{"AppendAddr, IPv4", 0, func() { sink += len(s.AppendAddr(buf, v4)) }},
		{"AppendAddr, IPv6", 0, func() { sink += len(s.AppendAddr(buf, v6)) }},
		{"CanonicalName of a canonical name", 0, func() { n, _ := CanonicalName("short.weixin.qq.com"); sink += len(n) }},
		{"CanonicalName with a final dot", 0, func() { n, _ := CanonicalName("short.weixin.qq.com."); sink += len(n) }},
		{"CanonicalName with capitals: the new name", 1, func() { n, _ := CanonicalName("Short.Weixin.QQ.com"); sink += len(n) }},
		{"ParseHost of a name", 0, func() { h, _ := ParseHost("short.weixin.qq.com"); sink += len(h.Name) }},
		{"EmbeddedIPv4", 0, func() { sink += EmbeddedIPv4(v6).BitLen() }},
		{"CanonicalPath of a canonical path", 0, func() { sink += len(CanonicalPath("/a/b")) }},
	}
	for _, tt := range tests {
		if got := testing.AllocsPerRun(200, tt.f); got > tt.want {
			t.Errorf("%s: %v allocations, want %v", tt.about, got, tt.want)
		}
	}
	if sink == 0 {
		t.Error("nothing was done")
	}
}

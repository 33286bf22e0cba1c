//go:build !race

// The race detector changes what is allocated and how much memory things take.

package blocklists

import (
	"net/netip"
	"runtime"
	"testing"
	"time"
)

func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestMemoryOfAMillionNames: peers need 170 to 600 MB for as many.
func TestMemoryOfAMillionNames(t *testing.T) {
	list := names(t, union, 1e6)
	before := liveHeap()
	start := time.Now()
	var b Builder
	suffixes(t, &b, 0, list)
	s := b.Build()
	took := time.Since(start)
	live := int64(liveHeap() - before)
	runtime.KeepAlive(list)
	t.Logf("%d rules in %v, %.1f MB", s.Rules(), took, float64(live)/1e6)
	if s.Rules() != 1_000_000 {
		t.Errorf("%d rules, want 1000000", s.Rules())
	}
	if live > 90e6 {
		t.Errorf("a million names take %d bytes, want at most 90 MB", live)
	}
	if took > 15*time.Second {
		t.Errorf("a million names compile in %v", took)
	}
}

// TestAllocationPins pins what the path of a question allocates.
func TestAllocationPins(t *testing.T) {
	s := compile(t,
		"wechat.com\n@@mail.wechat.com\nwechat.com/app^\n192.0.2.0/24\n2001:db8::/32",
		"com\n192.0.2.128/25\n::/0",
	)
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

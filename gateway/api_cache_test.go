package gateway

import (
	"strings"
	"testing"
)

// Flushing takes out what is named, and the next question is asked again.
func TestFlushCache(t *testing.T) {
	f := newFixture(t, map[string]string{"weir.yml": ownBan, "own.txt": "banned.example\n"})
	names := []string{"a.allowed.example", "allowed.example", "other.example"}
	for _, tt := range []struct {
		flush CacheFlush
		want  int
	}{
		{CacheFlush{Name: "Allowed.Example."}, 1}, {CacheFlush{Under: "allowed.example"}, 2},
		{CacheFlush{All: true}, 3}, {CacheFlush{Name: "nowhere.example"}, 0},
	} {
		if _, err := f.FlushCache(CacheFlush{All: true}); err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			f.rcode(n)
		}
		got, err := f.FlushCache(tt.flush)
		if err != nil || got.Removed != tt.want {
			t.Errorf("%+v: %d answers, %v; want %d", tt.flush, got.Removed, err, tt.want)
		}
	}
	for _, bad := range []CacheFlush{{}, {Name: "a", All: true}, {Name: "a", Under: "b"}, {Name: strings.Repeat("a", 64)}, {Under: "a..b"}} {
		if got, err := f.FlushCache(bad); err == nil {
			t.Errorf("%+v removes %d answers", bad, got.Removed)
		}
	}
}

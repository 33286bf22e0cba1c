package gateway

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestGCPercent(t *testing.T) {
	for _, tt := range []struct {
		live, tables uint64
		want         int
	}{
		{0, 0, 400}, {1 << 20, 1 << 20, 400}, {16 << 20, 16 << 20, 100}, {32 << 20, 32 << 20, 50}, {1 << 30, 1 << 30, 10},
		{32 << 20, 16 << 20, 100}, {16 << 20, 32 << 20, 100}, {16 << 20, 0, 200},
	} {
		if got := gcPercent(tt.live, tt.tables); got != tt.want {
			t.Errorf("%d bytes alive, %d of them tables: GOGC=%d, want %d", tt.live, tt.tables, got, tt.want)
		}
	}
	if liveHeap() == 0 {
		debug.FreeOSMemory()
		if liveHeap() == 0 {
			t.Error("nothing is alive after a collection")
		}
	}
}

// What lives grows after the policy was built, as caches do, and shrinks: the
// room beside it goes with that.
func TestTendHeap(t *testing.T) {
	if os.Getenv("GOGC") != "" {
		t.Setenv("GOGC", "")
	}
	before := debug.SetGCPercent(mostPercent)
	defer debug.SetGCPercent(before)
	defer tables.Store(tables.Load())
	caches := make([][]byte, 64)
	for i := range caches {
		caches[i] = make([]byte, 1<<20)
	}
	for _, tt := range []struct {
		state  string
		tables uint64
	}{{"all of it tables", 1 << 40}, {"none of it", 0}} {
		tables.Store(tt.tables)
		runtime.GC()
		tendHeap()
		want := gcPercent(liveHeap(), tt.tables)
		if got := int(read("/gc/gogc:percent")); got < want-want/7 || got > want+want/7 {
			t.Errorf("%s: GOGC is %d with %d bytes alive, want about %d", tt.state, got, liveHeap(), want)
		}
	}
	if got := read("/gc/gogc:percent"); got < 110 {
		t.Errorf("GOGC is %d with 64 MiB of caches, want at least 110", got)
	}
	runtime.KeepAlive(caches)
}

func TestGroupLimit(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("memory.max", "max\n")
	write("a/memory.max", "300000000\n")
	write("a/b/memory.max", "400000000\n")
	write("c/memory.max", "max\n")
	for self, want := range map[string]int64{
		"0::/\n": 0, "0::/a\n": 300000000, "0::/a/b\n": 300000000, "0::/c\n": 0, "0::/none\n": 0,
		"0::/../x\n": 0, "12:memory:/a\n0::/a\n": 0, "": 0,
	} {
		write("self", self)
		if got := groupLimit(filepath.Join(root, "self"), root); got != want {
			t.Errorf("group %q: limit %d, want %d", self, got, want)
		}
	}
	if got := groupLimit(filepath.Join(root, "nothing"), root); got != 0 {
		t.Errorf("without a group: limit %d", got)
	}
}

// TestHeapBound pins that a compilation beside a policy has its first collection
// late and the others early, and that the collector is as it was afterwards,
// whatever comes after that.
func TestHeapBound(t *testing.T) {
	percent := func() int {
		n := debug.SetGCPercent(77)
		debug.SetGCPercent(n)
		return n
	}
	before := percent()
	for _, beside := range []bool{false, true} {
		b := boundHeap(beside)
		if beside {
			// What other tests leave behind may have begun a collection.
			if got := percent(); got != besideGCPercent && got != compileGCPercent {
				t.Errorf("GOGC before the first collection is %d, want %d", got, besideGCPercent)
			}
			runtime.GC()
		}
		for deadline := time.Now().Add(time.Minute); percent() != compileGCPercent; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("beside=%t: GOGC is %d, want %d", beside, percent(), compileGCPercent)
			}
		}
		b.lift()
		b.tighten()
		b.lift()
		if got := percent(); got != before {
			t.Errorf("beside=%t: GOGC is %d afterwards, was %d", beside, got, before)
		}
	}
	(*heapBound)(nil).lift()
}

package gateway

import (
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// garbageRoom is how much garbage may lie beside what lives before it is
	// collected. The runtime's own measure is a share of what lives, and here
	// most of what lives are a policy's tables: they are large, hold no pointers
	// and cost the collector nothing, so with them it would wait for far too
	// long. A question on the hot path leaves no garbage; a forwarded one leaves
	// some 10 KB, so this is a collection of a few milliseconds for every 1,500 of
	// them. What else lives, connections and caches, is what garbage comes of, and
	// the collector's to walk: beside it may lie as much again, as the runtime has
	// it, so that a busy proxy or a large cache does not mean collecting all the time.
	garbageRoom = 16 << 20
	// leastPercent keeps a policy of many millions of names from being collected
	// all the time, and mostPercent a small one from being never.
	leastPercent, mostPercent = 10, 400
	// largePolicy is from how many rules on the memory that compiling took, and on
	// a reload that of the old policy, is given back at once. The runtime would
	// keep it for minutes, and a gateway beside others must not look twice its
	// size after each change of a list.
	largePolicy = 100_000
)

// compileGCPercent is how much the heap may grow between two collections while
// a policy is compiled. Most of what a list leaves behind has no pointers to
// follow: collecting often is cheap and keeps the peak low.
//
// Beside a policy that is in force, even a few milliseconds of the collector
// are late answers, and a list of plain names leaves next to nothing to collect.
// So the first collection comes only when more lives than two policies of the
// old one's size, by besideGCPercent; from then on they are as often.
const (
	compileGCPercent = 25
	besideGCPercent  = 150
)

// A heapBound is how a compilation has set the collector, until it is lifted.
// Nil is none.
type heapBound struct {
	mu     sync.Mutex
	before int
	lifted bool
}

func boundHeap(beside bool) *heapBound {
	if !beside {
		return &heapBound{before: debug.SetGCPercent(compileGCPercent)}
	}
	b := &heapBound{before: debug.SetGCPercent(besideGCPercent)}
	// Nothing holds the sentinel, so it goes with the first collection.
	runtime.AddCleanup(new(*heapBound), func(b *heapBound) { b.tighten() }, b)
	return b
}

func (b *heapBound) tighten() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.lifted {
		debug.SetGCPercent(compileGCPercent)
	}
}

// lift sets the collector as it was.
func (b *heapBound) lift() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.lifted {
		b.lifted = true
		debug.SetGCPercent(b.before)
	}
}

// settleMemory is called when a set was built and put in force: what lives now
// will live for long. GOGC in the environment is stronger.
//
// It must not run on a thread of less weight than the others, however well that
// would suit the readers: it stops the world and takes the heap's locks, and
// beside other busy programs such a thread waits 0.3 s for its turn with them.
func settleMemory(set *policySet) {
	if !set.built {
		return
	}
	if set.set.Rules() > largePolicy {
		debug.FreeOSMemory() // collects first
	}
	// Not before: what lives is small again, so that this starts no collection.
	set.heap.lift()
	tables.Store(liveHeap())
	tendHeap()
}

// tables is what lived when the policy had been built: its tables, above all.
var tables atomic.Uint64

// tendHeap keeps the room for garbage as what lives grows and shrinks: caches
// fill long after the policy was built. It is not for while a policy is compiled,
// so only the goroutine of own calls it. Setting the percentage stops the world
// for a moment, so a difference of an eighth is let be.
func tendHeap() {
	if os.Getenv("GOGC") != "" {
		return
	}
	want := gcPercent(liveHeap(), tables.Load())
	if is := int(read("/gc/gogc:percent")); want < is-is/8 || want > is+is/8 {
		debug.SetGCPercent(want)
	}
}

// liveHeap is what the last collection found alive.
func liveHeap() uint64 { return read("/gc/heap/live:bytes") }

func read(metric string) uint64 {
	s := []metrics.Sample{{Name: metric}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s[0].Value.Uint64()
}

// gcPercent is GOGC where so much lives, tables of a policy among it.
func gcPercent(live, tables uint64) int {
	room := garbageRoom + live - min(live, tables)
	return int(min(max(room*100/max(live, 1), leastPercent), mostPercent))
}

// LimitMemory has the collector work harder when the process comes near what
// its control group allows, before the kernel ends it. GOMEMLIMIT in the
// environment is stronger. It returns the limit, 0 for none.
func LimitMemory() int64 {
	if os.Getenv("GOMEMLIMIT") != "" {
		return 0
	}
	limit := groupLimit("/proc/self/cgroup", "/sys/fs/cgroup")
	if limit == 0 {
		return 0
	}
	// A tenth is for what the collector does not count: the program itself and
	// the kernel's buffers.
	limit -= limit / 10
	debug.SetMemoryLimit(limit)
	return limit
}

// groupLimit returns the least memory limit of the process's control group and
// those above it (cgroup v2), 0 for none.
func groupLimit(self, root string) int64 {
	b, err := os.ReadFile(self)
	if err != nil {
		return 0
	}
	path, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "0::/")
	if !ok || strings.Contains(path, "..") {
		return 0 // version 1, or a group outside of what we see
	}
	least := int64(math.MaxInt64)
	for {
		if b, err := os.ReadFile(root + "/" + path + "/memory.max"); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
				least = min(least, n)
			}
		}
		if path == "" {
			break
		}
		path = path[:max(strings.LastIndexByte(path, '/'), 0)]
	}
	if least == math.MaxInt64 {
		return 0
	}
	return least
}

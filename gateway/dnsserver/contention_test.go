package dnsserver

import (
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
)

// Readers that answer blocked and cached questions at once never wait for each
// other: neither the mutex profile nor the block profile has a sample with a
// frame of ours.
func TestHotPathHasNoMutex(t *testing.T) {
	w := newRoads(t)
	w.audit = audit.Discard{}
	blocked, cached := pack(t, query("wechat.com", dns.TypeA)), pack(t, edns(query("good.example", dns.TypeA), 1232))
	var begin, readers sync.WaitGroup
	begin.Add(1)
	before := map[string]int64{}
	for i := range 2 * max(runtime.NumCPU(), 2) {
		h := newHot(w.core)
		r := &hammer{hot: h, counted: new(counters)}
		r.run(t, [][]byte{blocked, cached}, 2) // warm
		readers.Go(func() {
			begin.Wait()
			r.run(t, [][]byte{blocked, cached}[i%2:], 200_000)
		})
	}
	runtime.SetMutexProfileFraction(1)
	runtime.SetBlockProfileRate(1)
	defer runtime.SetMutexProfileFraction(0)
	defer runtime.SetBlockProfileRate(0)
	contention(before)
	begin.Done()
	readers.Wait()
	after := map[string]int64{}
	contention(after)
	for stack, n := range after {
		if n > before[stack] {
			t.Errorf("%d waits at\n%s", n-before[stack], stack)
		}
	}
}

// A hammer is a reader without a socket.
type hammer struct {
	hot     *hot
	counted *counters
}

func (r *hammer) run(t *testing.T, questions [][]byte, times int) {
	out := make([]byte, 0, replySize)
	now := time.Now()
	var left int
	var p []byte
	answer := func(snap *policy.Snapshot) {
		if reply, leave := r.hot.answer(out, p, anyDevice, snap, now); leave || len(reply) == 0 {
			left++
		}
	}
	for i := range times {
		p = questions[i%len(questions)]
		r.hot.judge(answer)
		r.hot.commit(r.counted)
	}
	if left > 0 {
		t.Errorf("%d questions left the hot path", left)
	}
}

// contention adds up, by stack, how often somebody waited in code of ours that
// is no test's.
func contention(to map[string]int64) {
	for _, profile := range []func([]runtime.BlockProfileRecord) (int, bool){runtime.MutexProfile, runtime.BlockProfile} {
		records := make([]runtime.BlockProfileRecord, 10_000)
		n, ok := profile(records)
		if !ok {
			panic("more stacks in a profile than room for them")
		}
		for _, r := range records[:n] {
			if stack, ours := frames(r.Stack()); ours {
				to[stack] += r.Count
			}
		}
	}
}

func frames(pcs []uintptr) (stack string, ours bool) {
	var b strings.Builder
	var memory bool
	fs := runtime.CallersFrames(pcs)
	for {
		f, more := fs.Next()
		b.WriteString("\t" + f.Function + " " + f.File + "\n")
		ours = ours || strings.Contains(f.Function, "weir-gateway/weir/") && !strings.HasSuffix(f.File, "_test.go")
		// Waits of the allocator and of the collector are not looked for here:
		// the pins of allocations say that there are none, but for the race
		// detector, under which a sync.Pool forgets what it was given. After a
		// collection each processor takes a pool's lock once.
		memory = memory || f.Function == "runtime.mallocgc" || f.Function == "sync.(*Pool).pinSlow"
		if !more {
			return b.String(), ours && !memory
		}
	}
}

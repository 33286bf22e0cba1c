package dnsserver

import (
	"os"
	"runtime"
	"strconv"
	"testing"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// shortThreads counts the threads of this process that want a processor no longer than
// a reader does.
func shortThreads(t *testing.T) (n int) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		if attr, err := unix.SchedGetAttr(tid, 0); err == nil && attr.Policy == unix.SCHED_NORMAL && attr.Runtime == uint64(readerSlice) {
			n++
		}
	}
	return n
}

// Each reader has a thread that has the processor as soon as a question comes, and
// leaves none behind that has. Not parallel: it looks at all threads.
func TestReadersWantLittle(t *testing.T) {
	others := shortThreads(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if !knowsSlices(t, *before) {
		var u unix.Utsname
		_ = unix.Uname(&u)
		t.Logf("Linux %s has no thread say how long it wants a processor", unix.ByteSliceToString(u.Release[:]))
		return
	}
	end := shortSlice()
	if n := shortThreads(t) - others; n != 1 {
		t.Errorf("%d threads more want little, want one", n)
	}
	end()
	if after, err := unix.SchedGetAttr(0, 0); err != nil || *after != *before {
		t.Errorf("the thread is left with %+v, %v, was %+v", after, err, before)
	}
	r := start(t, zones, Options{Readers: 3})
	eventually(t, "a thread for each reader", func() bool { return shortThreads(t) == others+3 })
	if m := r.ask(t, "udp", query("wechat.com", dns.TypeA)); m.Rcode != dns.RcodeNameError {
		t.Errorf("%v", m)
	}
	r.stop(t)
	eventually(t, "no thread of a reader", func() bool { return shortThreads(t) == others })
}

// knowsSlices reports whether the kernel remembers what a thread wants.
func knowsSlices(t *testing.T, was unix.SchedAttr) bool {
	t.Helper()
	attr := was
	attr.Runtime = uint64(readerSlice)
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		t.Fatal(err)
	}
	now, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SchedSetAttr(0, &was, 0); err != nil {
		t.Fatal(err)
	}
	return now.Runtime == attr.Runtime
}

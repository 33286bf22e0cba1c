package dnsserver

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// readerSlice is how long a reader wants a processor at a time, the least that there
// is. Since Linux 6.12 a thread that wakes up and wants less than the one that runs
// has the processor at once (sched_setattr(2), sched_runtime of SCHED_OTHER, for which
// no privilege is needed). Otherwise that one keeps it for some 3 ms, and so does each
// other that waits: a compilation, the collector, another program. All questions that
// come meanwhile are late. A reader's share of the processor stays what it was.
const readerSlice = 100 * time.Microsecond

// shortSlice has the goroutine's thread want a processor for short times only, and
// returns what ends that. Kernels that do not know this do not mind.
func shortSlice() (end func()) {
	runtime.LockOSThread()
	was, err := unix.SchedGetAttr(0, 0)
	if err != nil || was.Policy != unix.SCHED_NORMAL {
		return runtime.UnlockOSThread // whoever runs it otherwise knows why
	}
	short := *was
	short.Runtime = uint64(readerSlice)
	_ = unix.SchedSetAttr(0, &short, 0)
	return func() {
		_ = unix.SchedSetAttr(0, was, 0)
		runtime.UnlockOSThread()
	}
}

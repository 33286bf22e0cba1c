package gateway

import (
	"runtime"

	"golang.org/x/sys/unix"
)

const (
	leastNice = 19
	// backgroundSlice is the shortest that the kernel knows, in nanoseconds.
	backgroundSlice = 100_000
)

// inBackground runs f, and waits for it, on a thread that leaves the processor
// to all others. Only who is privileged may take that back, so the thread is one
// of its own and ends with f. Under full load f takes about 70 times as long:
// it is for what can wait.
func inBackground(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Nice: leastNice, Runtime: backgroundSlice}, 0)
		f()
	}()
	<-done
}

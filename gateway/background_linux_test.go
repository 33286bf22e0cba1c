package gateway

import (
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestInBackground pins that only the thread of its own is the least of all, and
// that it ends: a thread that went back to the scheduler of Go could carry a
// reader next, and nobody may make it as good as the others again.
func TestInBackground(t *testing.T) {
	nice, tid := 0, 0
	inBackground(func() {
		tid = unix.Gettid()
		nice = niceOf(tid)
	})
	if nice != leastNice {
		t.Errorf("nice value in the background is %d, want %d", nice, leastNice)
	}
	deadline := time.Now().Add(5 * time.Second)
	for left := -1; left != 0; time.Sleep(time.Millisecond) {
		left = 0
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			// The process's first thread cannot end; it is parked for good instead.
			if n, _ := strconv.Atoi(task.Name()); n != os.Getpid() && niceOf(n) == leastNice {
				left++
			}
		}
		if left > 0 && time.Now().After(deadline) {
			t.Fatalf("%d threads are still the least of all, thread %d was", left, tid)
		}
	}
}

// niceOf returns the nice value of a thread. The system call gives 20 less it.
func niceOf(tid int) int {
	n, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
	if err != nil {
		return -1
	}
	return 20 - n
}

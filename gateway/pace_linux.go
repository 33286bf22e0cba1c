package gateway

import "golang.org/x/sys/unix"

// giveAway lets another thread have the processor, if one waits for it. The
// scheduler of Go is not told: its own threads are what the kernel is to choose
// from.
func giveAway() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

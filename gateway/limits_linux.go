package gateway

import "syscall"

// openFiles is how many files the process may open. The runtime has raised it
// as far as it may.
func openFiles() uint64 {
	var r syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r) != nil {
		return 1024
	}
	return r.Cur
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is USER_HZ, which Linux fixes at 100 for what /proc shows.
const ticksPerSecond = 100

// A usage is what a server's processes had used at one moment.
type usage struct {
	ticks  uint64                // user and system time of the processes and of children that ended, in 10 ms
	reaped uint64                // the part of children that ended
	clocks map[int]time.Duration // each process's own CPU clock, in ns, threads that ended included
	procs  map[int]processMemory // memory of each process
}

type processMemory struct{ resident, peak uint64 }

// A spent is the CPU time between two usages.
type spent struct {
	time   time.Duration
	source string // which account of the kernel it is from
}

// measure reads the usage of the processes and of all that descend from them.
func measure(pids []int) (usage, error) {
	u := usage{clocks: map[int]time.Duration{}, procs: map[int]processMemory{}}
	for _, pid := range descend(pids) {
		own, reaped, err := processTicks(pid)
		if err != nil {
			if slices.Contains(pids, pid) {
				return u, fmt.Errorf("cpu time of process %d: %w", pid, err)
			}
			continue // a child that ended since
		}
		u.ticks += own + reaped
		u.reaped += reaped
		if t, err := processClock(pid); err == nil {
			u.clocks[pid] = t
		}
		u.procs[pid] = readMemory(pid)
	}
	return u, nil
}

// since is what was spent from one usage to another. The processes' CPU clocks
// have nanoseconds but go with their process; where one ended, the kernel's
// ticks, which keep everything in steps of 10 ms, are the truth.
func (u usage) since(before usage) spent {
	sum, complete := ticks(u.reaped-before.reaped), len(u.clocks) == len(u.procs)
	for pid, t := range before.clocks {
		_, there := u.clocks[pid]
		sum, complete = sum-t, complete && there
	}
	for _, t := range u.clocks {
		sum += t
	}
	if complete && len(before.clocks) == len(before.procs) {
		return spent{sum, "process CPU clocks"}
	}
	return spent{ticks(u.ticks - before.ticks), "/proc/PID/stat"}
}

func ticks(n uint64) time.Duration { return time.Duration(n) * time.Second / ticksPerSecond }

func (u usage) memory() (resident, peak uint64) {
	for _, m := range u.procs {
		resident += m.resident
		peak += m.peak
	}
	return resident, peak
}

// descend returns the processes and all their descendants.
func descend(pids []int) []int {
	parent := make(map[int]int)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		if pid, f, err := readStat(name); err == nil {
			parent[pid], _ = strconv.Atoi(f[1])
		}
	}
	all := slices.Clone(pids)
	for i := 0; i < len(all); i++ {
		for pid, of := range parent {
			if of == all[i] && !slices.Contains(all, pid) {
				all = append(all, pid)
			}
		}
	}
	return all
}

// readStat returns the fields of a stat file that follow the command's name,
// which is in parentheses and may hold anything.
func readStat(name string) (pid int, fields []string, err error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, nil, err
	}
	head, _, _ := bytes.Cut(b, []byte(" ("))
	tail := b[bytes.LastIndexByte(b, ')')+1:]
	if pid, err = strconv.Atoi(string(head)); err != nil {
		return 0, nil, err
	}
	if fields = strings.Fields(string(tail)); len(fields) < 15 {
		return 0, nil, errors.New(name + ": too few fields")
	}
	return pid, fields, nil
}

// processTicks sums utime and stime of a process, and cutime and cstime.
func processTicks(pid int) (own, reaped uint64, err error) {
	_, f, err := readStat(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	var n [4]uint64
	for i, s := range f[11:15] {
		if n[i], err = strconv.ParseUint(s, 10, 64); err != nil {
			return 0, 0, err
		}
	}
	return n[0] + n[1], n[2] + n[3], nil
}

// processClock is the CPU time of all threads of a process, those that ended
// included: clock_getcpuclockid(3) makes the clock's number of the process's.
func processClock(pid int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|2, &t); err != nil {
		return 0, err
	}
	return time.Duration(t.Nano()), nil
}

// machineTime is the time that all CPUs of the machine were busy, and that a
// hypervisor kept from them.
func machineTime() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var busy uint64
	for i, f := range strings.Fields(line) {
		// cpu user nice system idle iowait irq softirq steal; guests are in user.
		if i == 0 || i == 4 || i == 5 || i > 8 {
			continue
		}
		n, _ := strconv.ParseUint(f, 10, 64)
		busy += n
	}
	return ticks(busy)
}

func readMemory(pid int) (m processMemory) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return m
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		n, _ := strconv.ParseUint(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			m.resident = n << 10
		case "VmHWM:":
			m.peak = n << 10
		}
	}
	return m
}

// descriptors counts the open files of the processes.
func descriptors(pids []int) (n int) {
	for _, pid := range descend(pids) {
		entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		n += len(entries)
	}
	return n
}

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processors are where servers run and where the load comes from. They are
// different where the machine has two.
type processors struct{ server, load int }

func twoProcessors() (processors, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return processors{}, err
	}
	var found []int
	for cpu := 0; len(found) < 2 && cpu < len(set)*64; cpu++ {
		if set.IsSet(cpu) {
			found = append(found, cpu)
		}
	}
	switch len(found) {
	case 0:
		return processors{}, errors.New("no processor to run on")
	case 1:
		return processors{found[0], found[0]}, nil
	}
	return processors{found[0], found[1]}, nil
}

// pinAll moves every thread of this process to one processor. Threads that the
// runtime starts later come from one of these.
func pinAll(cpu int) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if err := pin(tid, cpu); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

func pin(tid, cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(tid, &set)
}

// A nursery starts processes from one thread that is pinned to the servers'
// processor: they inherit that, and the kernel kills them when the thread ends,
// which it does with this process and not before.
type nursery struct{ starts chan func() }

func newNursery(cpu int) (*nursery, error) {
	n := &nursery{starts: make(chan func())}
	pinned := make(chan error)
	go n.run(cpu, pinned)
	return n, <-pinned
}

// run is the nursery's goroutine; it ends with the process.
func (n *nursery) run(cpu int, pinned chan<- error) {
	runtime.LockOSThread()
	pinned <- pin(0, cpu)
	for start := range n.starts {
		start()
	}
}

// A process is a server that runs beside this one.
type process struct {
	name string
	cmd  *exec.Cmd
	logs tail
	done chan struct{} // closed when it has ended
}

// readyTime bounds how long a server may take to say where it listens.
const readyTime = 30 * time.Second

// start runs a command and reads lines from its output until ready accepts one.
// What a server says on standard error is the output of weir and the last words
// of the floor.
func (n *nursery) start(name string, fromStderr bool, ready func(line []byte) bool, path string, args ...string) (*process, error) {
	p := &process{name: name, cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Close() }()
	p.cmd.Stdout, p.cmd.Stderr = w, &p.logs
	if fromStderr {
		p.cmd.Stdout, p.cmd.Stderr = nil, w
	}
	began := make(chan error, 1)
	n.starts <- func() { began <- p.cmd.Start() }
	if err := <-began; err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	found := make(chan struct{})
	go p.scan(r, ready, found)
	select {
	case <-found:
		return p, nil
	case <-p.done:
		return nil, fmt.Errorf("%s ended before it was ready: %s", name, p.logs.text())
	case <-time.After(readyTime):
		p.stop()
		return nil, fmt.Errorf("%s was not ready within %v: %s", name, readyTime, p.logs.text())
	}
}

// scan reads what the server says until it ends.
func (p *process) scan(r io.ReadCloser, ready func([]byte) bool, found chan<- struct{}) {
	defer func() { _ = r.Close() }()
	s, waiting := bufio.NewScanner(r), true
	for s.Scan() {
		if waiting && ready(s.Bytes()) {
			waiting = false
			close(found)
		}
		_, _ = p.logs.Write(append(s.Bytes(), '\n'))
	}
}

// stopTime is how long a server has to end by itself.
const stopTime = 10 * time.Second

// stop ends the process, kindly first. It may be called twice.
func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// pinnedTo returns an error if the process may run anywhere else. A load that
// shares the servers' processor by mistake still gives plausible numbers.
func (p *process) pinnedTo(cpu int) error {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(p.cmd.Process.Pid, &set); err != nil {
		return fmt.Errorf("processors of %s: %w", p.name, err)
	}
	if set.Count() != 1 || !set.IsSet(cpu) {
		return fmt.Errorf("%s is not on processor %d alone", p.name, cpu)
	}
	return nil
}

// alive says whether the process still runs.
func (p *process) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended: %s", p.name, p.logs.text())
	default:
		return nil
	}
}

// cpu returns the processor time of all threads that the process has and had.
// It is the kernel's own clock of the process (clock_getcpuclockid(3)): in
// nanoseconds, where /proc/PID/stat counts ticks of 10 ms, and it keeps what
// threads that have ended took, which a sum over /proc/PID/task/*/schedstat
// loses.
func (p *process) cpu() (time.Duration, error) {
	const schedClock = 2 // CPUCLOCK_SCHED, of the process and not of one thread
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|schedClock), &ts); err != nil {
		return 0, fmt.Errorf("processor time of %s: %w", p.name, err)
	}
	return time.Duration(ts.Nano()), nil
}

// A tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// tailSize bounds a tail.
const tailSize = 4096

// Write implements io.Writer; it never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - tailSize; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}

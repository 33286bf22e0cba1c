package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// canStep says whether instructions are counted here.
const canStep = true

// loopEnds is the function that testing.B.Loop calls before the first and after
// the last iteration, and not in between.
const loopEnds = "testing.(*B).loopSlowPath"

// stepTime bounds the counting of one benchmark; stepping is a thousand times
// slower than running.
const stepTime = 60 * time.Second

// A stepper runs a benchmark under ptrace(2) and counts the instructions of its
// loop one by one. Virtual machines often have no hardware counters; this needs
// none, and what it counts is exact: the same number run after run, whatever
// else the machine does.
//
// All its calls are made by one thread, which the kernel takes for the tracer.
type stepper struct {
	pid  int
	text []byte // the program's code
	base uint64 // where the code is in memory
	slow uint64 // address of loopEnds
	// halted are threads that stopped while another was waited for.
	halted map[int]unix.Signal
}

// A count is what an iteration of a benchmark executed.
type count struct {
	instructions uint64
	// locked are those of them that lock the bus: atomic changes, and with them
	// every mutex, whether or not somebody else wants it.
	locked uint64
}

// countSteps runs n iterations of one benchmark of a test program.
func countSteps(ctx context.Context, program, dir, bench string, n int) (count, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	type result struct {
		count
		error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends as a tracer
		c, err := traceBench(ctx, program, dir, bench, n)
		done <- result{c, err}
	}()
	r := <-done
	if r.error != nil {
		return count{}, fmt.Errorf("counting the instructions of %s: %w", bench, r.error)
	}
	return r.count, nil
}

func traceBench(ctx context.Context, program, dir, bench string, n int) (count, error) {
	s := new(stepper)
	if err := s.load(program); err != nil {
		return count{}, err
	}
	cmd := exec.Command(program, "-test.run=^$", "-test.bench="+only(bench), "-test.benchtime="+strconv.Itoa(n)+"x", "-test.cpu=1")
	cmd.Dir = dir
	// No collection and no preemption in the middle of a loop.
	cmd.Env = append(os.Environ(), "GOGC=off", "GODEBUG=asyncpreemptoff=1")
	// Tracer and program take turns, so they do best on one processor. The thread
	// ends with the counting, and its place with it.
	if cpus, err := twoProcessors(); err == nil {
		_ = pin(0, cpus.server) // slower without
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		return count{}, fmt.Errorf("%w: %w", errNotPermitted, err)
	} else if err != nil {
		return count{}, err
	}
	s.pid = cmd.Process.Pid
	kill := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer func() {
		kill()
		_ = cmd.Process.Kill()
		s.reap()
		_ = cmd.Process.Release() // it is reaped
	}()
	c, err := s.trace(ctx, n)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return c, err
}

// load finds the code of the program and the function that ends the loop.
func (s *stepper) load(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	text := f.Section(".text")
	if f.Type != elf.ET_EXEC || text == nil {
		return errors.New("the test program has no fixed address")
	}
	if s.text, err = text.Data(); err != nil {
		return err
	}
	s.base = text.Addr
	symbols, err := f.Symbols()
	for _, sym := range symbols {
		if sym.Name == loopEnds {
			s.slow = sym.Value
			return nil
		}
	}
	return fmt.Errorf("no %s in the test program: %w", loopEnds, errors.Join(err, errors.ErrUnsupported))
}

// trace counts from the first return of loopEnds, where the loop begins, to its
// second call.
func (s *stepper) trace(ctx context.Context, n int) (count, error) {
	if _, err := s.stopped(s.pid); err != nil { // at the end of exec
		return count{}, err
	}
	if err := unix.PtraceSetOptions(s.pid, unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
		return count{}, err
	}
	tid, regs, err := s.runTo(ctx, s.pid, s.slow)
	if err != nil {
		return count{}, err
	}
	var word [8]byte
	if _, err := unix.PtracePeekData(tid, uintptr(regs.Rsp), word[:]); err != nil {
		return count{}, err
	}
	back := uint64(0)
	for i := range word {
		back |= uint64(word[i]) << (8 * i)
	}
	if tid, _, err = s.runTo(ctx, tid, back); err != nil {
		return count{}, err
	}
	if err := s.freeze(tid); err != nil {
		return count{}, err
	}
	return s.step(ctx, tid, n)
}

// runTo lets the process run until one of its threads is about to execute the
// instruction at address, and returns that thread. tid is the thread that is
// stopped now.
func (s *stepper) runTo(ctx context.Context, tid int, address uint64) (int, unix.PtraceRegs, error) {
	var regs unix.PtraceRegs
	var was [1]byte
	if _, err := unix.PtracePeekText(tid, uintptr(address), was[:]); err != nil {
		return 0, regs, err
	}
	if _, err := unix.PtracePokeText(tid, uintptr(address), []byte{0xCC}); err != nil { // INT3
		return 0, regs, err
	}
	if err := unix.PtraceCont(tid, 0); err != nil {
		return 0, regs, err
	}
	for ctx.Err() == nil {
		at, sig, err := s.event()
		if err != nil {
			return 0, regs, err
		}
		if sig == unix.SIGTRAP {
			if err := unix.PtraceGetRegs(at, &regs); err != nil {
				return 0, regs, err
			}
			if regs.Rip == address+1 {
				regs.Rip = address
				_, err := unix.PtracePokeText(at, uintptr(address), was[:])
				return at, regs, errors.Join(err, unix.PtraceSetRegs(at, &regs))
			}
			sig = 0 // a thread has begun another
		}
		if sig == unix.SIGSTOP {
			sig = 0 // a thread's first stop
		}
		if err := unix.PtraceCont(at, int(sig)); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, regs, err
		}
	}
	return 0, regs, ctx.Err()
}

// errNoLoop is a benchmark that ended without a loop that can be counted.
var errNoLoop = errors.New("the benchmark ended: it must exist, loop with b.Loop once, and pass")

// event waits for a thread of the process to stop.
func (s *stepper) event() (tid int, sig unix.Signal, err error) {
	for {
		var status unix.WaitStatus
		// For any thread: that of the process is not seen to end before the others
		// are. And of this thread's children only: the rest are not its to reap.
		tid, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, 0, errors.Join(errNoLoop, err)
		case status.Stopped():
			return tid, status.StopSignal(), nil
		case tid == s.pid:
			return 0, 0, errNoLoop
		}
	}
}

// stopped waits for that thread to stop. Others that stop before it stay so.
func (s *stepper) stopped(tid int) (unix.Signal, error) {
	if sig, ok := s.halted[tid]; ok {
		delete(s.halted, tid)
		return sig, nil
	}
	for {
		at, sig, err := s.event()
		if err != nil || at == tid {
			return sig, err
		}
		if s.halted == nil {
			s.halted = make(map[int]unix.Signal)
		}
		s.halted[at] = sig
	}
}

// reap waits for every thread of a process that was killed. A tracer has to: the
// kernel keeps the process until its tracer has seen all its threads end.
func (s *stepper) reap() {
	for {
		_, err := unix.Wait4(-1, nil, unix.WALL|unix.WNOTHREAD, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // ECHILD: none is left
		}
	}
}

// freeze stops all other threads for good: the runtime's monitor would take a
// loop that is stepped for one that hangs, and preempt it.
func (s *stepper) freeze(tid int) error {
	tasks, err := os.ReadDir("/proc/" + strconv.Itoa(s.pid) + "/task")
	if err != nil {
		return err
	}
	for _, t := range tasks {
		other, err := strconv.Atoi(t.Name())
		if err != nil {
			return err
		}
		if other == tid {
			continue
		}
		if err := unix.Tgkill(s.pid, other, unix.SIGSTOP); err != nil {
			return err
		}
		if _, err := s.stopped(other); err != nil {
			return err
		}
	}
	return nil
}

// step executes one instruction after the other until the loop ends, and
// returns what the middle one of n iterations took.
func (s *stepper) step(ctx context.Context, tid, n int) (count, error) {
	var total count
	var regs unix.PtraceRegs
	marks := new(marker)
	deliver := 0
	for ctx.Err() == nil {
		if err := unix.PtraceGetRegs(tid, &regs); err != nil {
			return count{}, err
		}
		if regs.Rip == s.slow {
			return marks.middle(n)
		}
		marks.see(regs.Rip, regs.Rsp, total)
		lock := locked(s.at(regs.Rip))
		sig, err := s.stepOne(tid, deliver)
		if err != nil {
			return count{}, err
		}
		deliver = 0
		if sig != unix.SIGTRAP {
			deliver = int(sig) // for the next step; nothing was executed
			continue
		}
		total.instructions++
		if lock {
			total.locked++
		}
	}
	return count{}, ctx.Err()
}

// A marker tells the iterations of a loop apart: each begins at the first
// instruction that is executed again in the frame of the loop.
type marker struct {
	frame uint64   // the stack pointer in the loop
	first []uint64 // the first instructions of the first iteration
	start uint64   // with which each iteration begins; zero until it is known
	at    []count  // what had been executed at the start of each
}

// maxFirst bounds how long the start of an iteration is looked for.
const maxFirst = 64

func (m *marker) see(pc, sp uint64, total count) {
	if m.frame == 0 {
		m.frame = sp
	}
	if sp != m.frame {
		return
	}
	if m.start == 0 && slices.Contains(m.first, pc) {
		m.start = pc
	}
	if m.start == 0 && len(m.first) < maxFirst {
		m.first = append(m.first, pc)
	}
	if pc == m.start {
		m.at = append(m.at, total)
	}
}

// middle returns what the median iteration took: a table that grows or a
// scheduler that looks in are in one of them, and not in the median. The start
// is known from the second of the n iterations on.
func (m *marker) middle(n int) (count, error) {
	if len(m.at) != n-1 {
		return count{}, fmt.Errorf("%d starts in %d iterations: the loop must call and not contain what it measures", len(m.at), n)
	}
	var instructions, locks []uint64
	for i := 1; i < len(m.at); i++ {
		instructions = append(instructions, m.at[i].instructions-m.at[i-1].instructions)
		locks = append(locks, m.at[i].locked-m.at[i-1].locked)
	}
	slices.Sort(instructions)
	slices.Sort(locks)
	return count{instructions[len(instructions)/2], locks[len(locks)/2]}, nil
}

func (s *stepper) stepOne(tid, deliver int) (unix.Signal, error) {
	// x/sys has no step that delivers a signal.
	if _, _, e := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SINGLESTEP, uintptr(tid), 0, uintptr(deliver), 0, 0); e != 0 {
		return 0, e
	}
	return s.stopped(tid)
}

// at returns the code from an address on, nothing for code outside the program.
func (s *stepper) at(address uint64) []byte {
	if address < s.base || address-s.base >= uint64(len(s.text)) {
		return nil
	}
	return s.text[address-s.base:]
}

// locked says whether an instruction locks the bus: a LOCK prefix, or XCHG with
// memory, which needs none (Intel SDM, volume 3A, section 10.1.2.2).
func locked(code []byte) bool {
	for i, b := range code {
		switch b {
		case 0xF0:
			return true
		case 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF2, 0xF3:
			continue
		}
		if b&0xF0 == 0x40 && i+1 < len(code) { // REX, the last prefix
			i++
			b = code[i]
		}
		return (b == 0x86 || b == 0x87) && i+1 < len(code) && code[i+1] < 0xC0
	}
	return false
}

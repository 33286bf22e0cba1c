package main

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// maxBehind is how many questions an open loop catches up on at once, when the
// generator or the machine was busy elsewhere.
const maxBehind = 4096

// A transport carries questions and answers of all flows of an engine.
type transport interface {
	// send asks up to n questions on a flow; the i-th is due at first + i*step.
	send(flow, n int, first, step time.Duration)
	// ready reads, and writes, what the flow can.
	ready(flow int, events uint32)
	close()
}

// An engine is one run against a DNS server. One goroutine, locked to its thread,
// owns all of it and of its transport; once the names are read nothing grows.
type engine struct {
	options
	tally
	transport
	rings []*ring // one for each flow
	epoll int
	rng   *rand.PCG
	meter *meter // nil while warming up
	start time.Time
	turn  int    // open loop: the flow whose turn it is
	paced uint64 // open loop: questions that were due so far
	done  bool   // the ordered pass has sent everything
	fatal error  // the transport cannot go on
}

// dnsCommand parses the flags, runs and reports.
func dnsCommand(ctx context.Context, mode string, args []string, out io.Writer, open func(*engine) error) error {
	o, err := parseDNSOptions(mode, args)
	if err != nil {
		return err
	}
	r, err := runEngine(ctx, mode, o, open)
	if err != nil {
		return err
	}
	return errors.Join(r.write(out, o.json), r.verdict())
}

func runEngine(ctx context.Context, mode string, o options, open func(*engine) error) (*report, error) {
	e := &engine{options: o, rng: rand.NewPCG(o.seed, 1)}
	e.tally = tally{lists: o.names, derived: o.derived}
	var err error
	if e.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(e.epoll) }()
	if err := open(e); err != nil {
		return nil, err
	}
	defer e.close()
	return e.run(ctx, mode)
}

// watch enters a descriptor, or changes what is waited for on it.
func (e *engine) watch(op, fd, flow int, events uint32) error {
	return unix.EpollCtl(e.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(flow)})
}

func (e *engine) now() time.Duration { return time.Since(e.start) }

// run loads the server: a warm-up that is not counted, the measured time, and
// then a wait for what is under way.
func (e *engine) run(ctx context.Context, mode string) (*report, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	e.start = time.Now()
	if err := e.until(ctx, e.now()+e.warm); err != nil {
		return nil, err
	}
	e.reset()
	m, err := startMeter(e.pids)
	if err != nil {
		return nil, err
	}
	if e.rate > 0 {
		// Reading /proc takes milliseconds: what came meanwhile has waited for this
		// program and not for the server, and what was due meanwhile is not owed.
		if _, err := e.poll(0); err != nil {
			return nil, err
		}
		e.reset()
		e.paced = e.due(e.now())
	}
	m.interval(e.every, &e.tally)
	e.meter = m
	if err := e.until(ctx, e.now()+e.length); err != nil {
		return nil, err
	}
	r := e.newReport(mode)
	if err := m.stop(r, e.received, &e.tally); err != nil {
		return nil, err
	}
	if err := e.drain(); err != nil {
		return nil, err
	}
	r.fill(&e.tally)
	return r, nil
}

// until runs the loop until that moment, the end of the pass or of the context.
func (e *engine) until(ctx context.Context, end time.Duration) error {
	swept := -time.Second
	for now := e.now(); now < end && e.fatal == nil; now = e.now() {
		if now-swept > 20*time.Millisecond {
			swept = now
			e.sweep(now)
			e.meter.tick(&e.tally)
			if err := ctx.Err(); err != nil || e.passed() {
				return err
			}
		}
		wait := 1 // ms
		if e.rate > 0 {
			e.pace(now)
			wait = 0
		}
		n, err := e.poll(wait)
		if err != nil {
			return err
		}
		if wait == 0 && n == 0 {
			nap(50 * time.Microsecond)
		}
	}
	return e.fatal
}

// nap is time.Sleep for less than a millisecond, of which that makes one: the poller
// of the runtime counts in those. The goroutine has its thread to itself.
func nap(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&ts, nil) // interrupted, it is only shorter
}

// poll serves the flows that are ready and keeps their windows full.
func (e *engine) poll(wait int) (int, error) {
	var events [64]unix.EpollEvent
	n, err := unix.EpollWait(e.epoll, events[:], wait)
	if err != nil {
		if errors.Is(err, unix.EINTR) {
			err = nil
		}
		return 0, err
	}
	for _, ev := range events[:n] {
		e.ready(int(ev.Fd), ev.Events)
		if e.rate == 0 {
			e.fillWindow(int(ev.Fd))
		}
	}
	return n, nil
}

// passed says whether the ordered pass is over and nothing is under way.
func (e *engine) passed() bool { return e.done && e.waiting() == 0 }

func (e *engine) waiting() (n int) {
	for _, r := range e.rings {
		n += r.waiting
	}
	return n
}

func (e *engine) sweep(now time.Duration) {
	for i, r := range e.rings {
		e.lost += uint64(r.expire(now - e.timeout))
		if e.rate == 0 {
			e.fillWindow(i)
		}
	}
}

func (e *engine) fillWindow(flow int) {
	if k := e.window - e.rings[flow].waiting; k > 0 && !e.done {
		e.send(flow, k, e.now(), 0)
	}
}

// pace sends what an open loop owes by now. Each question counts from when it
// was due, so that neither a generator nor a server that stalls can hide it.
func (e *engine) pace(now time.Duration) {
	step := time.Duration(1e9 / e.rate)
	due := e.due(now)
	if due <= e.paced {
		return
	}
	e.behind = max(e.behind, now-time.Duration(float64(e.paced)/e.rate*1e9))
	for owed := min(due-e.paced, maxBehind); owed > 0; {
		k := min(owed, 8)
		e.send(e.turn, int(k), time.Duration(float64(e.paced)/e.rate*1e9), step)
		e.turn = (e.turn + 1) % len(e.rings)
		e.paced += k
		owed -= k
	}
}

// due is how many questions an open loop should have sent by now.
func (e *engine) due(now time.Duration) uint64 { return uint64(now.Seconds() * e.rate) }

// choose draws a question, or takes the next one of an ordered pass.
func (e *engine) choose() (list int, index uint32, ok bool) {
	if !e.once {
		li := e.lists.draw(e.rng)
		return li, uint32(below(e.rng, uint64(e.lists[li].count()))), true
	}
	for li, l := range e.lists {
		if l.next < l.count() {
			l.next++
			return li, uint32(l.next - 1), true
		}
	}
	e.done = true
	return 0, 0, false
}

// drain waits for the answers under way, at most for the timeout, and gives up
// the rest.
func (e *engine) drain() error {
	e.done, e.rate = true, 0 // nothing more is sent
	for end := e.now() + e.timeout; e.now() < end && e.waiting() > 0; {
		if _, err := e.poll(1); err != nil {
			return err
		}
	}
	for _, r := range e.rings {
		e.lost += uint64(r.expire(e.now()))
	}
	return e.fatal
}

// dialable is the socket address of a server, and its family.
func dialable(a netip.AddrPort) (unix.Sockaddr, int) {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}, unix.AF_INET
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}, unix.AF_INET6
}

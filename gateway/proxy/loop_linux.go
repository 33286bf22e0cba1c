package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A loop is one goroutine with an epoll set, and a thread while it waits. The
// runtime's own poller would save the thread, but costs each turn two passages
// through the kernel's and one through the scheduler.
//
// Everything but the inbox belongs to the goroutine of run. Descriptors are
// registered once, edge-triggered, in both directions; what is ready is kept
// as flags in the side. Who has more to do than its share stands in ready, and
// goes on in the next turn; the loop itself lets others have the processor every
// few milliseconds.
type loop struct {
	engine *engine
	server *Server
	epfd   int
	wakefd int

	mu    sync.Mutex
	inbox []task
	woken bool // wakefd was written to and not yet read
	gone  bool // nothing is taken any more

	tasks     []task  // an inbox that was emptied, for its room
	sides     []*side // by descriptor
	listeners []*source
	gen       int32
	events    [128]unix.EpollEvent
	buf       [copyChunk]byte // what is being read, of whichever side
	out       []byte          // an answer being built
	heads     [][]byte        // free head buffers
	intakes   []*intake       // free intakes
	pipes     pipes
	ready     []runner
	now       int64 // nanoseconds since epoch, of this turn
	epoch     time.Time
	began     int64 // when others last had their turn
	draining  bool
	stopping  bool

	// What waits for its time. All of one queue wait equally long, so the first
	// is always the next.
	silent, partial, dials, attempts, lingers, idle, retries queue
}

const (
	copyChunk = 64 << 10
	turnTime  = int64(2 * time.Millisecond)
	tick      = int64(10 * time.Millisecond) // how exact deadlines are

	wakeGen   = -1 // instead of a side's generation, in an event
	sourceGen = -2
)

// A runner has more to do in the next turn.
type runner interface{ run() }

// An owner is what a side belongs to.
type owner interface {
	// event is called when the side's flags were set.
	event(s *side, events uint32)
	// abort closes everything at once, with no word to anybody.
	abort()
}

// A side is a socket in a loop. Its owner may change; its descriptor and
// generation do not.
type side struct {
	owner      owner
	fd         int
	gen        int32
	registered bool // in the epoll set
	readable   bool // the last read did not find it empty
	writable   bool // the last write did not find it full
	hup        bool // its end, or an error, is to be read sooner or later
}

func newLoop(e *engine, pipes int) (*loop, error) {
	s := e.server
	l := &loop{engine: e, server: s, epfd: -1, wakefd: -1, epoch: time.Now()}
	l.pipes.max = pipes
	l.silent.wait = int64(2 * s.opts.HeaderTimeout)
	l.partial.wait = int64(s.opts.HeaderTimeout)
	l.dials.wait = int64(s.opts.DialTimeout)
	l.attempts.wait = int64(attemptDelay)
	l.lingers.wait = int64(lingerTime)
	l.idle.wait = int64(s.opts.TunnelIdle)
	l.retries.wait = int64(acceptRetry)
	var err error
	if l.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll set: %w", err)
	}
	if l.wakefd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(l.epfd)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err = l.watch(l.wakefd, wakeGen, unix.EPOLLIN); err != nil {
		_, _ = unix.Close(l.epfd), unix.Close(l.wakefd)
		return nil, fmt.Errorf("epoll set: %w", err)
	}
	return l, nil
}

func (l *loop) watch(fd int, gen int32, events uint32) error {
	return unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(fd), Pad: gen})
}

// A task is what others have for the loop: a function to call, or else a
// connection that was accepted.
type task struct {
	f      func()
	fd     int
	client netip.Addr
}

func (l *loop) do(t task) {
	if t.f != nil {
		t.f()
		return
	}
	l.receive(t.fd, t.client)
}

// post has f called by the loop, in its next turn. It is false, and f is never
// called, when the loop has ended.
func (l *loop) post(f func()) bool { return l.send(task{f: f}) }

func (l *loop) send(t task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return false
	}
	l.inbox = append(l.inbox, t)
	if !l.woken {
		l.woken = true
		l.wake()
	}
	return true
}

func (l *loop) wake() { _, _ = unix.Write(l.wakefd, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// run is the loop's goroutine.
func (l *loop) run() {
	defer l.closeAll()
	for l.now = int64(time.Since(l.epoch)); !l.stopping; {
		n, err := l.poll()
		if err != nil {
			l.engine.failed(fmt.Errorf("proxy loop: %w", err))
			return
		}
		l.turn(n)
	}
}

// poll takes what has come; where there is nothing, and nobody has more to do,
// it waits. It looks before it waits, because a call that lasts costs a processor
// that is given away and taken back.
func (l *loop) poll() (n int, err error) {
	n, err = unix.EpollWait(l.epfd, l.events[:], 0)
	if n == 0 && err == nil && len(l.ready) == 0 {
		n, err = unix.EpollWait(l.epfd, l.events[:], l.untilDue())
		l.began = int64(time.Since(l.epoch))
		l.now = l.began
	}
	if errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	return n, err
}

// turn handles n events, and those who had more to do.
func (l *loop) turn(n int) {
	for i := range n {
		l.dispatch(&l.events[i])
	}
	l.runReady(l.began)
	l.now = int64(time.Since(l.epoch))
	l.expire()
	if l.now-l.began > turnTime {
		runtime.Gosched() // others have their turn
		l.began = int64(time.Since(l.epoch))
		l.now = l.began
	}
}

// runReady lets everybody who had more to do go on once, while there is time.
func (l *loop) runReady(begin int64) {
	for n := len(l.ready); n > 0; n-- {
		r := l.ready[0]
		l.ready = l.ready[1:]
		r.run()
		if int64(time.Since(l.epoch))-begin > turnTime {
			break
		}
	}
	if len(l.ready) == 0 {
		l.ready = nil
	}
}

func (l *loop) dispatch(ev *unix.EpollEvent) {
	switch ev.Pad {
	case wakeGen:
		l.takeInbox()
		return
	case sourceGen:
		for _, src := range l.listeners {
			if src.fd == int(ev.Fd) {
				src.run()
			}
		}
		return
	}
	if int(ev.Fd) >= len(l.sides) {
		return
	}
	s := l.sides[ev.Fd]
	if s == nil || s.gen != ev.Pad {
		return // closed earlier in this turn
	}
	const end = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	if ev.Events&(unix.EPOLLIN|end) != 0 {
		s.readable = true
		s.hup = s.hup || ev.Events&end != 0
	}
	if ev.Events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		s.writable = true
	}
	defer l.recovered(s.owner, s.fd)
	s.owner.event(s, ev.Events)
}

// recovered turns a panic into the end of what it happened to: the owner, and
// who else may own the descriptor by now.
func (l *loop) recovered(o owner, fd int) {
	v := recover()
	if v == nil {
		return
	}
	l.server.panicked("CONNECT", "", v)
	o.abort()
	if fd >= 0 && fd < len(l.sides) && l.sides[fd] != nil {
		l.sides[fd].owner.abort()
	}
}

func (l *loop) takeInbox() {
	var b [8]byte
	_, _ = unix.Read(l.wakefd, b[:])
	l.mu.Lock()
	inbox := l.inbox
	l.inbox, l.woken = l.tasks, false
	l.mu.Unlock()
	for _, t := range inbox {
		l.do(t)
	}
	clear(inbox)
	l.tasks = inbox[:0]
}

// add makes the descriptor a side of the loop. It is registered when somebody
// first has to wait for it.
func (l *loop) add(s *side) {
	for s.fd >= len(l.sides) {
		l.sides = append(l.sides, make([]*side, max(64, len(l.sides)))...)
	}
	if l.gen++; l.gen < 0 {
		l.gen = 1
	}
	s.gen = l.gen
	l.sides[s.fd] = s
}

// move makes a copy of the side, which must be the old one's only use from now
// on, the side of its descriptor.
func (l *loop) move(old, s *side, o owner) {
	*s = *old
	s.owner = o
	l.sides[s.fd] = s
}

// await registers the side, once.
func (l *loop) await(s *side) error {
	if s.registered {
		return nil
	}
	s.registered = true
	return l.watch(s.fd, s.gen, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP)
}

// close closes the side's descriptor, which also leaves the epoll set.
func (l *loop) close(s *side) {
	if s.fd < 0 {
		return
	}
	if s.fd < len(l.sides) && l.sides[s.fd] == s {
		l.sides[s.fd] = nil
	}
	_ = unix.Close(s.fd)
	s.fd = -1
}

// again has r go on in the next turn.
func (l *loop) again(r runner) { l.ready = append(l.ready, r) }

// drain is the loop's part of engine.drain.
func (l *loop) drain() {
	l.draining = true
	l.closeListeners()
	for l.silent.first != nil {
		l.silent.first.owner.abort()
	}
}

func (l *loop) closeListeners() {
	for _, src := range l.listeners {
		src.remove()
		_ = unix.Close(src.fd)
	}
	l.listeners = nil
}

// closeAll ends everything that the loop still has.
func (l *loop) closeAll() {
	l.mu.Lock()
	l.gone = true
	inbox := l.inbox
	l.inbox = nil
	l.mu.Unlock()
	for _, t := range inbox {
		l.do(t) // adds what is to be closed
	}
	l.closeListeners()
	for _, s := range l.sides {
		if s != nil {
			s.owner.abort()
		}
	}
	l.pipes.close()
	_, _ = unix.Close(l.wakefd), unix.Close(l.epfd)
}

package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A loop is one goroutine with an epoll set. The set itself is watched by the
// runtime's poller, so a loop that waits holds no thread, and it competes for
// a processor as every goroutine does.
//
// Everything but the inbox belongs to the goroutine of run. Descriptors are
// registered once, edge-triggered, in both directions; what is ready is kept
// as flags in the side. A turn is bounded in time; who has more to do then
// stands in ready, and the loop wakes itself through the poller, so that
// others have their turn first.
type loop struct {
	engine *engine
	server *Server
	epfd   int
	wakefd int
	poll   *os.File // of epfd, which it owns

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
	armed     int64 // when the poller is to wake the loop; 0 for not
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
	if err = errors.Join(l.watch(l.wakefd, wakeGen, unix.EPOLLIN), unix.SetNonblock(l.epfd, true)); err != nil {
		_, _ = unix.Close(l.epfd), unix.Close(l.wakefd)
		return nil, fmt.Errorf("epoll set: %w", err)
	}
	l.poll = os.NewFile(uintptr(l.epfd), "epoll")
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
	rc, err := l.poll.SyscallConn()
	if err != nil {
		l.engine.failed(fmt.Errorf("proxy loop: %w", err))
		return
	}
	for !l.stopping {
		// The function never reports that it is done while the loop goes on: it
		// returns to the poller, which calls it again after the next edge.
		err := rc.Read(func(uintptr) bool { return l.turn() })
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			l.armed = 0
			_ = l.poll.SetReadDeadline(time.Time{})
		case err != nil:
			l.engine.failed(fmt.Errorf("proxy loop: %w", err))
			return
		}
	}
}

// turn handles what has come, and returns whether the loop is to end. It
// empties the epoll set, or wakes itself: an edge is never lost.
func (l *loop) turn() bool {
	begin := int64(time.Since(l.epoch))
	l.now = begin
	for {
		n, err := unix.EpollWait(l.epfd, l.events[:], 0)
		for i := range max(n, 0) {
			l.dispatch(&l.events[i])
		}
		l.runReady(begin)
		l.now = int64(time.Since(l.epoch))
		l.expire()
		switch {
		case l.stopping:
			return true
		case len(l.ready) > 0 || n == len(l.events) && l.now-begin > turnTime || errors.Is(err, unix.EINTR):
			l.wake()
			return false
		case n < len(l.events):
			l.arm()
			return false
		}
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
	_ = unix.Close(l.wakefd)
	_ = l.poll.Close()
}

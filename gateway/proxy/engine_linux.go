package proxy

import (
	"context"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// An engine carries CONNECT from accept to the last byte: a few loops, each
// with an epoll set, move every head, answer and tunnel as states of small
// objects, so that none of them costs a goroutine, a stack, or a buffer while
// nothing moves. What is not CONNECT is handed to net/http with the bytes that
// were read.
//
// A loop is one goroutine and owns its descriptors: it alone reads, writes,
// registers and closes them, so a descriptor is never closed under a system
// call, and never used under its next owner. Everybody else posts. What may
// block (resolving a name) is done by bounded helpers, which post back.
type engine struct {
	server *Server
	loops  []*loop
	next   atomic.Uint32 // which loop gets the next connection
	failed func(error)   // a listener broke

	ctx     context.Context // of what the helpers do
	cancel  context.CancelFunc
	jobs    chan *relay
	helpers atomic.Int32
	// resolving counts relays that are not on the register yet.
	resolving atomic.Int32
	running   sync.WaitGroup // loops and helpers
}

// maxLoops bounds the loops; one for each processor up to there.
const maxLoops = 64

// startEngine starts the loops. The first one also accepts, from its own
// copies of the listening sockets, which the engine owns from here on.
func startEngine(s *Server, failed func(error)) (*engine, error) {
	e := &engine{server: s, failed: failed, jobs: make(chan *relay)}
	n := min(runtime.GOMAXPROCS(0), maxLoops)
	for range n {
		l, err := newLoop(e, max(maxPipes/n, minPipes))
		if err != nil {
			e.discard()
			return nil, err
		}
		e.loops = append(e.loops, l)
	}
	for _, ln := range s.listeners {
		if err := e.loops[0].listen(ln); err != nil {
			e.discard()
			return nil, err
		}
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	for _, l := range e.loops {
		e.running.Go(l.run)
	}
	return e, nil
}

// discard closes what was made before the loops ran.
func (e *engine) discard() {
	for _, l := range e.loops {
		l.closeAll()
	}
}

// pick returns the loop for the next connection.
func (e *engine) pick() *loop {
	if len(e.loops) == 1 {
		return e.loops[0]
	}
	return e.loops[int(e.next.Add(1))%len(e.loops)]
}

// drain ends accepting, and the connections on which nothing has begun.
func (e *engine) drain() {
	for _, l := range e.loops {
		l.post(l.drain)
	}
}

// wait waits until every name is resolved, or the context ends: those that
// wait for one will be on the register, or denied.
func (e *engine) wait(ctx context.Context) {
	for e.resolving.Load() > 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

// stop ends the loops with everything they still have. When it returns, every
// descriptor is closed and every helper is gone.
func (e *engine) stop() {
	e.cancel()
	for _, l := range e.loops {
		l.post(func() { l.stopping = true })
	}
	e.running.Wait()
}

// adopt takes over the two connections of a tunnel that net/http began. The
// gate keeps its place in the admission until the tunnel's end. It is false
// where descriptors are short; then nothing was taken.
func (e *engine) adopt(f *flow, g *gate, origin *net.TCPConn, begin opening) bool {
	client, err := duplicate(g.TCPConn)
	if err != nil {
		return false
	}
	out, err := duplicate(origin)
	if err != nil {
		_ = unix.Close(client)
		return false
	}
	g.detach()
	_ = origin.Close()
	l := e.pick()
	r := newRelay(l, f.x, g.device)
	r.flow = f
	r.client.fd, r.origin.fd = client, out
	if !l.post(func() { r.adopted(begin) }) {
		r.abort()
	}
	return true
}

// duplicate returns a descriptor of its own for the connection's socket.
func duplicate(c *net.TCPConn) (int, error) {
	rc, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var dupErr error
	if err := rc.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return -1, err
	}
	return fd, dupErr
}

// maxHelpers is how many helpers stay for the next job; there may be more, one
// for each connection that waits for a name, and so never more than MaxConns.
const maxHelpers = 16

// ask has a helper resolve the relay's name: one that waits, or a new one.
func (e *engine) ask(r *relay) {
	select {
	case e.jobs <- r:
	default:
		e.helpers.Add(1)
		e.running.Go(func() { e.help(r) })
	}
}

// help resolves until there are enough other helpers.
func (e *engine) help(r *relay) {
	defer e.helpers.Add(-1)
	for {
		e.resolve(r)
		if e.helpers.Load() > maxHelpers {
			return
		}
		select {
		case r = <-e.jobs:
		case <-e.ctx.Done():
			return
		}
	}
}

// resolve owns the relay's exchange until it posts back.
func (e *engine) resolve(r *relay) {
	then := func() {
		e.resolving.Add(-1)
		r.abort()
	}
	defer func() {
		if v := recover(); v != nil {
			e.server.panicked("CONNECT", r.x.request.host.String(), v)
		}
		r.loop.post(then)
	}()
	d := r.x.resolve(e.ctx)
	then = func() { r.resolved(d) }
}

package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-gateway/weir/gateway/policy"
)

// An ending is why a tunnel or an exchange was ended from here.
type ending string

// Error implements error, so that an ending can be the cause of a context.
func (e ending) Error() string { return string(e) }

const (
	endClosed  ending = "closed" // both sides were done
	endBroken  ending = "broken" // a side broke off
	endIdle    ending = "idle"
	endDrained ending = "drained"
	endCut     ending = "cut" // the policy in force blocks it
)

// A cut is an ending by policy, with the verdict.
type cut struct {
	verdict policy.Verdict
	via     string
}

func (*cut) Error() string        { return string(endCut) }
func (*cut) Is(target error) bool { return target == endCut }

// flows are the exchanges and tunnels that are open, so that a new policy can
// cut them and a shutdown can wait for them.
type flows struct {
	mu      sync.Mutex
	open    map[*flow]struct{}
	tunnels int
	removed chan struct{} // a token after each removal; nil while nobody waits
}

// A flow is an exchange that a new policy can end. Its context ends with the
// cause of its end.
type flow struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	x      *exchange
	tunnel bool
}

// begin registers the exchange. It is nil when it would be a tunnel too many.
// What is judged after this and found allowed cannot be missed by Recheck.
func (s *Server) begin(ctx context.Context, x *exchange, tunnel bool) *flow {
	s.flows.mu.Lock()
	defer s.flows.mu.Unlock()
	if tunnel && s.flows.tunnels >= s.opts.MaxTunnels {
		s.stats.refusedTunnels.Add(1)
		return nil
	}
	f := &flow{x: x, tunnel: tunnel}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	if s.flows.open == nil {
		s.flows.open = make(map[*flow]struct{})
	}
	s.flows.open[f] = struct{}{}
	if tunnel {
		s.flows.tunnels++
	}
	return f
}

// end takes the flow off the register.
func (s *Server) end(f *flow) {
	f.cancel(endClosed)
	s.flows.mu.Lock()
	defer s.flows.mu.Unlock()
	delete(s.flows.open, f)
	if f.tunnel {
		s.flows.tunnels--
	}
	if s.flows.removed != nil {
		select {
		case s.flows.removed <- struct{}{}:
		default:
		}
	}
}

func (f *flows) openTunnels() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tunnels
}

func (f *flows) all() []*flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]*flow, 0, len(f.open))
	for o := range f.open {
		all = append(all, o)
	}
	return all
}

// wait waits until nothing is open, and returns what is left when the context
// ends first.
func (f *flows) wait(ctx context.Context) int {
	f.mu.Lock()
	if f.removed == nil {
		f.removed = make(chan struct{}, 1)
	}
	f.mu.Unlock()
	for {
		f.mu.Lock()
		left := len(f.open)
		f.mu.Unlock()
		if left == 0 {
			return 0
		}
		select {
		case <-f.removed:
		case <-ctx.Done():
			return left
		}
	}
}

func (f *flows) cutAll(why ending) {
	for _, o := range f.all() {
		o.cancel(why)
	}
}

// Recheck judges every open tunnel and exchange under the policy in force, as
// if it began now, and ends those that it blocks. Call it after a swap of the
// policy; what is allowed is not disturbed.
func (s *Server) Recheck() {
	snap := s.opts.Policy.Load()
	now := time.Now()
	for _, f := range s.flows.all() {
		if v, via := judge(snap, f.x.sub, f.x.request, f.x.target, now); v.Blocked() {
			f.cancel(&cut{v, via})
		}
	}
}

// A tunnel copies bytes both ways until both sides are done. It owns both
// connections.
type tunnel struct {
	client, origin *net.TCPConn
	close          func() // closes both
	idle           time.Duration
	last           atomic.Int64 // when the last byte came, in nanoseconds since opened
	opened         time.Time
	in, out        atomic.Int64 // from the origin, to the origin
}

// run copies until the end and says which end it was. The early bytes were
// received on a connection before the tunnel was there.
func (t *tunnel) run(f *flow, fromClient, fromOrigin []byte) ending {
	stop := context.AfterFunc(f.ctx, t.close)
	defer stop()
	defer t.close()
	watch := t.watch(f)
	defer watch.Stop()
	done := make(chan error, 1)
	go func() { done <- t.copy(t.client, t.origin, fromOrigin, &t.in) }()
	err := t.copy(t.origin, t.client, fromClient, &t.out)
	err = errors.Join(err, <-done)
	var why ending
	switch cause := context.Cause(f.ctx); {
	case errors.As(cause, &why):
		return why
	case errors.Is(cause, endCut):
		return endCut
	case err != nil:
		return endBroken
	}
	return endClosed
}

// watch ends a tunnel that is idle in both directions.
func (t *tunnel) watch(f *flow) *time.Timer {
	var timer *time.Timer
	var mu sync.Mutex // timer is set before its function looks
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(t.idle, func() {
		mu.Lock()
		defer mu.Unlock()
		if left := t.idle - time.Since(t.opened.Add(time.Duration(t.last.Load()))); left > 0 {
			timer.Reset(left)
			return
		}
		f.cancel(endIdle)
	})
	return timer
}

// reset makes both sides see that the tunnel broke, not that it ended.
func (t *tunnel) reset() {
	_ = t.client.SetLinger(0)
	_ = t.origin.SetLinger(0)
	t.close()
}

const (
	copyBuffer  = 32 << 10
	bulkyReads  = 16              // full buffers in a row before splicing
	spliceBytes = 4 << 20         // of one splice
	spliceTime  = 2 * time.Second // of one splice without a byte
)

var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// copy moves bytes from src to dst until src ends, and then ends dst: one half
// of the tunnel is closed, the other goes on. Bulky transfers leave the pooled
// buffer for splice(2), which needs bare connections; it comes back from there
// often enough to count.
func (t *tunnel) copy(dst, src *net.TCPConn, early []byte, n *atomic.Int64) error {
	err := t.copyAll(dst, src, early, n)
	if err != nil {
		t.reset()
		return err
	}
	_ = dst.CloseWrite() // fails where dst is gone, which its own direction finds out
	return nil
}

func (t *tunnel) copyAll(dst, src *net.TCPConn, early []byte, n *atomic.Int64) error {
	if len(early) > 0 {
		t.count(n, len(early))
		if _, err := dst.Write(early); err != nil {
			return err
		}
	}
	buf := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
	for full := 0; ; {
		k, err := src.Read(buf[:])
		t.count(n, k)
		if k > 0 {
			if _, err := dst.Write(buf[:k]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if full++; k < copyBuffer {
			full = 0
		}
		if full >= bulkyReads {
			full = 0
			if err := t.splice(dst, src, n); err != nil {
				return err
			}
		}
	}
}

func (t *tunnel) splice(dst, src *net.TCPConn, n *atomic.Int64) error {
	for {
		if err := src.SetReadDeadline(time.Now().Add(spliceTime)); err != nil {
			return err
		}
		k, err := dst.ReadFrom(&io.LimitedReader{R: src, N: spliceBytes})
		t.count(n, int(k))
		if k == spliceBytes && err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		return errors.Join(err, src.SetReadDeadline(time.Time{}))
	}
}

func (t *tunnel) count(n *atomic.Int64, k int) {
	if k > 0 {
		n.Add(int64(k))
		t.last.Store(int64(time.Since(t.opened)))
	}
}

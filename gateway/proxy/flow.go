package proxy

import (
	"context"
	"errors"
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
	endCut     ending = "cut"     // the policy in force blocks it
	endRefused ending = "refused" // what the client said first may not pass
)

// A cut is an ending by policy, with the verdict.
type cut struct {
	verdict policy.Verdict
	via     string
}

func (*cut) Error() string        { return string(endCut) }
func (*cut) Is(target error) bool { return target == endCut }

// flows are the exchanges and tunnels that are open, so that a new policy can
// cut them and a shutdown can wait for them. They are a list through the flows
// themselves: to begin and to end one costs a lock and four pointers.
type flows struct {
	mu      sync.Mutex
	first   *flow
	open    int
	tunnels int
	removed chan struct{} // a token after each removal; nil while nobody waits
}

// A flow is an exchange that a new policy can end. One of net/http has a
// context, which ends with the cause of the flow's end; one that an engine
// carries has a carrier, which is told.
type flow struct {
	ctx     context.Context // of net/http's flows; nil for the engine's own
	cancel  context.CancelCauseFunc
	carrier atomic.Pointer[relay]
	x       *exchange
	tunnel  bool
	// words are what the client said first in the tunnel, for Recheck; nil before.
	words atomic.Pointer[words]

	next, prev *flow // in flows, under its lock
}

// end ends the flow from any goroutine; the first cause counts.
func (f *flow) end(cause error) {
	if f.cancel != nil {
		f.cancel(cause)
	}
	if r := f.carrier.Load(); r != nil {
		r.endFrom(cause)
	}
}

// begin registers the exchange. It is nil when it would be a tunnel too many.
// What is judged after this and found allowed cannot be missed by Recheck.
func (s *Server) begin(ctx context.Context, x *exchange, tunnel bool) *flow {
	f := &flow{x: x, tunnel: tunnel}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	if !s.register(f) {
		f.cancel(nil)
		return nil
	}
	return f
}

// register puts the flow on the register, if it is not a tunnel too many.
func (s *Server) register(f *flow) bool {
	r := &s.flows
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.tunnel {
		if r.tunnels >= s.opts.MaxTunnels {
			s.stats.refusedTunnels.Add(1)
			return false
		}
		r.tunnels++
	}
	r.open++
	f.next = r.first
	if f.next != nil {
		f.next.prev = f
	}
	r.first = f
	return true
}

// end takes the flow off the register.
func (s *Server) end(f *flow) {
	if f.cancel != nil {
		f.cancel(endClosed)
	}
	r := &s.flows
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		r.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	}
	f.next, f.prev = nil, nil
	r.open--
	if f.tunnel {
		r.tunnels--
	}
	if r.removed != nil {
		select {
		case r.removed <- struct{}{}:
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
	all := make([]*flow, 0, f.open)
	for o := f.first; o != nil; o = o.next {
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
		left := f.open
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
		o.end(why)
	}
}

// Recheck judges every open tunnel and exchange under the policy in force, as
// if it began now, and ends those that it blocks. Call it after a swap of the
// policy; what is allowed is not disturbed.
func (s *Server) Recheck() {
	snap := s.opts.Policy.Load()
	now := time.Now()
	for _, f := range s.flows.all() {
		v, via := judge(snap, f.x.sub, f.x.request, f.x.target, now)
		if w := f.words.Load(); w != nil && v.Allowed() {
			v, via = w.judge(snap, f.x.sub, f.x.request.host.Name, now), helloVia(w.hello)
		}
		if v.Blocked() {
			f.end(&cut{v, via})
		}
	}
}

// endingOf says how a flow that ended with the cause is recorded; ok is false
// where nothing but its own two sides ended it.
func endingOf(cause error) (why ending, ok bool) {
	switch {
	case errors.As(cause, &why):
		return why, true
	case errors.Is(cause, endCut):
		return endCut, true
	}
	return "", false
}

// causeOf is why the flow ended, nil while it has not.
func causeOf(f *flow) error {
	if f.ctx == nil {
		return nil
	}
	return context.Cause(f.ctx)
}

package dnsserver

import (
	"context"
	"sync"
)

// An exit is the one way by which questions leave for the resolver: a bounded
// number of workers, started as they are needed, and a bounded queue before
// them. What fits neither is not taken.
type exit struct {
	life context.Context // ends when waiting resolutions must give up
	core *core

	mu      sync.Mutex
	idle    sync.Cond // running has become 0
	workers int
	running int
	queue   []*question // a ring
	head, n int
}

func newExit(life context.Context, c *core, workers, queue int) *exit {
	e := &exit{life: life, core: c, workers: workers, queue: make([]*question, queue)}
	e.idle.L = &e.mu
	return e
}

// take takes the question and reports true, or reports that there is no room.
// It never blocks.
func (e *exit) take(q *question) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.running < e.workers:
		e.running++
		go e.work(q)
	case e.n < len(e.queue):
		e.queue[(e.head+e.n)%len(e.queue)] = q
		e.n++
	default:
		return false
	}
	e.core.stats.inflight.Add(1)
	return true
}

// work is a worker: it lives for as long as there are questions.
func (e *exit) work(q *question) {
	for q != nil {
		e.resolve(q)
		e.core.stats.inflight.Add(-1)
		q.to.respond(q)
		q = e.next()
	}
}

// next returns the question that has waited longest, or nil, which ends the
// worker.
func (e *exit) next() *question {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.n == 0 {
		if e.running--; e.running == 0 {
			e.idle.Broadcast()
		}
		return nil
	}
	q := e.queue[e.head]
	e.queue[e.head] = nil
	e.head = (e.head + 1) % len(e.queue)
	e.n--
	return q
}

// resolve asks the resolver, within the question's time: the client does not
// wait longer because we were busy.
func (e *exit) resolve(q *question) {
	ctx, cancel := context.WithDeadline(e.life, q.arrived.Add(e.core.timeout))
	defer cancel()
	q.answer, q.err = e.core.resolver.Resolve(ctx, q.msg)
	if q.answer == nil && q.err == nil {
		q.err = errNoAnswer
	}
}

// wait returns when no worker runs.
func (e *exit) wait() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.running > 0 {
		e.idle.Wait()
	}
}

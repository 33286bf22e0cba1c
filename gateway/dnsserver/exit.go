package dnsserver

import (
	"context"
	"net/netip"
	"sync"
)

// An exit is the one way by which messages leave the readers that answer on
// the spot: a bounded number of workers, started as they are needed, and a
// bounded queue before them, of which no client may have more than its part.
// What fits neither is not taken.
type exit struct {
	life context.Context // ends when waiting resolutions must give up
	core *core

	mu      sync.Mutex
	idle    sync.Cond // running has become 0
	workers int
	running int
	queue   []task // a ring
	head, n int
	clients map[netip.Prefix]int // tasks taken and not yet done; no more of them than tasks
	part    int
}

// A task is what a worker does for one message. It may wait for the resolver.
type task interface {
	run(e *exit)
	client() netip.Addr
}

func newExit(life context.Context, c *core, workers, queue, part int) *exit {
	e := &exit{life: life, core: c, workers: workers, queue: make([]task, queue), clients: map[netip.Prefix]int{}, part: part}
	e.idle.L = &e.mu
	return e
}

// take takes the task and reports true, or reports that there is no room. It
// never blocks.
func (e *exit) take(t task) bool {
	client := device(t.client())
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.clients[client] >= e.part:
		return false
	case e.running < e.workers:
		e.running++
		go e.work(t)
	case e.n < len(e.queue):
		e.queue[(e.head+e.n)%len(e.queue)] = t
		e.n++
	default:
		return false
	}
	e.clients[client]++
	e.core.stats.inflight.Add(1)
	return true
}

// work is a worker: it lives for as long as there are tasks.
func (e *exit) work(t task) {
	for t != nil {
		client := device(t.client())
		t.run(e)
		t = e.next(client)
	}
}

// next takes note that a task of the client is done, and returns the one that
// has waited longest, or nil, which ends the worker.
func (e *exit) next(done netip.Prefix) task {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.clients[done]--; e.clients[done] == 0 {
		delete(e.clients, done)
	}
	if e.n == 0 {
		if e.running--; e.running == 0 {
			e.idle.Broadcast()
		}
		return nil
	}
	t := e.queue[e.head]
	e.queue[e.head] = nil
	e.head = (e.head + 1) % len(e.queue)
	e.n--
	return t
}

// resolve asks the resolver, within the question's time: the client does not
// wait longer because we were busy.
func (e *exit) resolve(q *question) {
	ctx, cancel := context.WithDeadline(e.life, q.arrived.Add(e.core.timeout))
	defer cancel()
	q.resolved(e.core.resolver.Resolve(ctx, q.asks()))
}

// wait returns when no worker runs.
func (e *exit) wait() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.running > 0 {
		e.idle.Wait()
	}
}

// device is what counts as one client.
func device(a netip.Addr) netip.Prefix {
	p, _ := a.Prefix(deviceBits(a)) // the zero Prefix is that of no address
	return p
}

func (q *question) client() netip.Addr { return q.from.Addr }

// An asker gets a question back when the resolver was asked. respond does not
// wait.
type asker interface{ respond(q *question) }

// run implements task for a question of an asker, who judges and sends the
// answer.
func (q *question) run(e *exit) {
	e.resolve(q)
	e.core.stats.inflight.Add(-1)
	q.back.respond(q)
}

// A waiter is an asker that waits for one question.
type waiter chan struct{}

func (w waiter) respond(*question) { w <- struct{}{} }

// await is reply for a goroutine that can wait. It is nil for a question that is
// dropped, and when gone is closed before there is an answer.
func (c *core) await(dst []byte, q *question, gone <-chan struct{}) []byte {
	for {
		reply, miss := c.reply(dst, q)
		if !miss {
			return reply
		}
		w := make(waiter, 1)
		q.back = w
		if !c.exit.take(q) {
			q.resolved(nil, errOverload)
			continue
		}
		select {
		case <-w:
		case <-gone: // the worker still has the question
			return nil
		}
	}
}

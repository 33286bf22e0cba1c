package resolver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	rounds = 2 // how often an upstream that does not respond is asked
	// Questions earn hedgeShare of a second query each, up to hedgeBurst in store:
	// hedging adds a quarter to the load at the most, whatever the upstreams do.
	hedgeShare = 4
	hedgeBurst = 32
)

// errLate is a try that had no response when another upstream was asked.
var errLate = errors.New("no response in time")

// A budget is how many second queries a group may still send ahead of a failure.
type budget struct {
	mu     sync.Mutex
	earned uint64 // in hedgeShares
	denied uint64
}

func newBudget() *budget { return &budget{earned: hedgeShare * hedgeBurst} }

func (b *budget) earn() {
	b.mu.Lock()
	b.earned = min(b.earned+1, hedgeShare*hedgeBurst)
	b.mu.Unlock()
}

func (b *budget) spend() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.earned < hedgeShare {
		b.denied++
		return false
	}
	b.earned -= hedgeShare
	return true
}

// A race is one question on its way to upstreams: the first answer wins. The
// next upstream is asked when one fails or says that it has no answer; and when
// one is late, within the budget or because it is down. One goroutine owns it.
type race struct {
	g       *group
	ctx     context.Context
	k       key
	queue   []*upstream // to ask, in that order
	asked   map[*upstream]int
	out     []*try
	results chan *try
	said    *dns.Msg // the last response without an answer
	err     error    // the last failure
}

// A try is one query of a race. Its goroutine writes what comes of it before it
// sends it to the race's results; all else is the race's.
type try struct {
	u      *upstream
	start  time.Time
	cold   bool
	hedge  bool
	limit  time.Duration // without a response until then, it is a miss
	late   bool          // and has been noted as one
	done   atomic.Bool
	cancel context.CancelFunc

	m    *dns.Msg
	err  error
	took time.Duration
}

func newRace(ctx context.Context, g *group, k key, ups []*upstream) *race {
	return &race{g: g, ctx: ctx, k: k, queue: g.strategy.order(ups),
		asked: make(map[*upstream]int, len(ups)), results: make(chan *try, rounds*len(ups))}
}

// run returns the first answer, else the last response, else the last error.
func (r *race) run() (*dns.Msg, error) {
	defer r.leave()
	r.g.budget.earn()
	r.next(false)
	if r.g.strategy == Parallel {
		for len(r.queue) > 0 && !r.queue[0].down.Load() {
			r.next(false)
		}
	}
	t := time.NewTimer(r.pause())
	defer t.Stop()
	for len(r.out) > 0 {
		select {
		case tr := <-r.results:
			if r.take(tr) {
				return tr.m, nil
			}
			r.next(false)
		case <-t.C:
			if r.overdue() {
				r.next(true)
			}
		case <-r.ctx.Done():
			r.fail(r.ctx.Err())
			r.abandon()
		}
		t.Reset(r.pause())
	}
	if r.said != nil {
		return r.said, nil
	}
	return nil, r.err
}

// pause is how long to wait before the next upstream may be asked too: as long
// as the last one asked mostly takes where the strategy hedges, and until it is
// late otherwise.
func (r *race) pause() time.Duration {
	if len(r.out) == 0 {
		return r.g.b.late
	}
	last := r.out[len(r.out)-1]
	age := time.Since(last.start)
	if r.g.strategy.hedges() && !last.cold {
		if p := last.u.patience() - age; p > 0 {
			return p
		}
	}
	if left := r.g.b.late - age; left > 0 {
		return left
	}
	return r.g.b.late / 2
}

// overdue notes which tries are late, and reports whether one more may be sent.
func (r *race) overdue() bool {
	now := time.Now()
	for _, tr := range r.out {
		if !tr.late && now.Sub(tr.start) >= tr.limit {
			tr.tooLate()
		}
	}
	last := r.out[len(r.out)-1]
	u := r.upcoming()
	if u == nil {
		return false
	}
	// What has turned out to be down since it was asked is no load to spare.
	if last.u.down.Load() && !u.down.Load() {
		return true
	}
	return r.g.budget.spend()
}

// upcoming is the upstream to ask next, nil for none. A datagram that had no
// response is sent again, where all others have been asked.
func (r *race) upcoming() *upstream {
	if len(r.queue) > 0 {
		return r.queue[0]
	}
	for _, tr := range r.out {
		if tr.u.plain && r.asked[tr.u] < rounds {
			return tr.u
		}
	}
	return nil
}

// next asks the next upstream, if there is one and time left.
func (r *race) next(hedge bool) {
	var u *upstream
	if hedge {
		u = r.upcoming()
	} else if len(r.queue) > 0 {
		u = r.queue[0]
	}
	if u == nil || len(r.asked) > 0 && r.ctx.Err() != nil {
		return
	}
	if len(r.queue) > 0 {
		r.queue = r.queue[1:]
	}
	r.asked[u]++
	tr := &try{u: u, start: time.Now(), hedge: hedge}
	tr.limit = r.g.b.late
	if tr.cold = u.cold(tr.start); tr.cold {
		tr.limit *= coldGrace
	}
	if hedge {
		u.hedges.Add(1)
	}
	// Not the race's context: a response that comes after the race still says how
	// long this upstream takes.
	end := tr.start.Add(r.g.b.try)
	if d, ok := r.ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	ctx, cancel := context.WithDeadline(r.g.b.ctx, end)
	tr.cancel = cancel
	r.out = append(r.out, tr)
	u.queries.Add(1)
	if !r.g.b.tasks.run(func() { tr.run(ctx, r.k, r.results) }) {
		cancel()
		tr.err = ErrClosed
		r.results <- tr // it has room for every try
	}
}

// run asks, notes how that went for the upstream, and tells the race.
func (tr *try) run(ctx context.Context, k key, results chan<- *try) {
	defer tr.cancel()
	tr.m, tr.err = tr.u.ask(ctx, k)
	tr.took = time.Since(tr.start)
	if tr.err == nil {
		tr.u.responded(tr.took, time.Now())
	}
	tr.done.Store(true)
	results <- tr // it has room for every try
}

// tooLate notes that the try has no response yet. It is the race's, and after
// the race of whoever lets the try linger.
func (tr *try) tooLate() {
	tr.late = true
	tr.u.lates.Add(1)
	tr.u.missed(errLate)
}

// take takes what came of a try, and reports whether it is the answer.
func (r *race) take(tr *try) bool {
	for i, o := range r.out {
		if o == tr {
			r.out = append(r.out[:i:i], r.out[i+1:]...)
			break
		}
	}
	if tr.err == nil {
		r.said = tr.m
		if tr.hedge && answers(tr.m) {
			r.g.hedgeWins.Add(1)
		}
		return answers(tr.m)
	}
	r.fail(fmt.Errorf("%s: %w", tr.u.address, tr.err))
	if r.g.b.ctx.Err() != nil || r.ctx.Err() != nil && tr.took < tr.limit {
		return false // it was not given the time
	}
	tr.u.failures.Add(1)
	if !tr.late && fault(tr.err) {
		tr.late = true
		tr.u.missed(tr.err)
	}
	if r.asked[tr.u] < rounds {
		r.queue = append(r.queue, tr.u)
	}
	return false
}

func (r *race) fail(err error) {
	if r.err == nil || r.ctx.Err() == nil {
		r.err = err
	}
}

// leave lets the tries that lost go on until they are late, to learn how long
// they take, and ends them then.
func (r *race) leave() {
	for _, tr := range r.out {
		left := tr.limit - time.Since(tr.start)
		if tr.late || left <= 0 || !r.g.b.linger(tr, left) {
			tr.cancel()
		}
	}
}

// abandon ends all tries: the question's time is over.
func (r *race) abandon() {
	for _, tr := range r.out {
		tr.cancel()
	}
	r.out, r.queue = nil, nil
}

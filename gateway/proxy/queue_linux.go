package proxy

import "time"

// A queue is what waits equally long, in the order of its time.
type queue struct {
	wait        int64 // nanoseconds
	first, last *timer
}

// A timer is in one queue at the most.
type timer struct {
	owner      owner
	fire       func(*timer)
	queue      *queue
	at         int64
	next, prev *timer
}

// start puts the timer at the end of the queue, out of the one it is in.
func (l *loop) start(t *timer, q *queue) {
	t.remove()
	t.queue, t.at = q, l.now+q.wait
	if t.prev = q.last; t.prev != nil {
		t.prev.next = t
	} else {
		q.first = t
	}
	q.last = t
}

// remove takes the timer out of its queue, if it is in one.
func (t *timer) remove() {
	q := t.queue
	if q == nil {
		return
	}
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		q.first = t.next
	}
	if t.next != nil {
		t.next.prev = t.prev
	} else {
		q.last = t.prev
	}
	t.queue, t.next, t.prev = nil, nil, nil
}

func (l *loop) queues() [7]*queue {
	return [...]*queue{&l.silent, &l.partial, &l.dials, &l.attempts, &l.lingers, &l.idle, &l.retries}
}

// expire fires what is due.
func (l *loop) expire() {
	for _, q := range l.queues() {
		for t := q.first; t != nil && t.at <= l.now; t = q.first {
			t.remove()
			l.fire(t)
		}
	}
}

func (l *loop) fire(t *timer) {
	defer l.recovered(t.owner, -1)
	t.fire(t)
}

// untilDue returns how many milliseconds it is until the first is due, and a
// little more; -1 where nothing waits.
func (l *loop) untilDue() int {
	at := int64(0)
	for _, q := range l.queues() {
		if q.first != nil && (at == 0 || q.first.at < at) {
			at = q.first.at
		}
	}
	if at == 0 {
		return -1
	}
	return int((max(at-l.now, 0) + tick) / int64(time.Millisecond))
}

package main

import "time"

// A slot is what became of one message ID.
type slot struct {
	due   time.Duration // when the question was due, since the start
	index uint32        // which question of its list
	list  uint8
	state slotState
}

type slotState uint8

const (
	unused  slotState = iota
	waiting           // sent, not answered
	expired           // given up, counted as lost; an answer now is late
	settled           // answered; another answer now was not asked for
)

// A ring is the message IDs of one flow, handed out in turn. [oldest,next) may
// still wait; an ID comes round again only when all others have been used, so
// that a late answer is told from a wrong one. It is owned by the one goroutine
// that runs the load, its size is fixed when it is made, and when all IDs wait
// nothing more is issued.
type ring struct {
	slots        []slot // a power of two, at most 65536
	next, oldest uint32
	waiting      int
}

func newRing(size int) *ring { return &ring{slots: make([]slot, size)} }

// issue hands out the next ID; false if every one waits.
func (r *ring) issue(due time.Duration, list int, index uint32) (uint16, bool) {
	if int(r.next-r.oldest) >= len(r.slots) {
		return 0, false
	}
	id := r.next & uint32(len(r.slots)-1)
	r.slots[id] = slot{due: due, index: index, list: uint8(list), state: waiting}
	r.next++
	r.waiting++
	return uint16(id), true
}

// revoke takes back the last IDs, whose questions could not be sent.
func (r *ring) revoke(n int) {
	for range n {
		r.next--
		r.slots[r.next&uint32(len(r.slots)-1)].state = unused
		r.waiting--
	}
}

// forget drops all IDs: their connection is gone.
func (r *ring) forget() {
	clear(r.slots)
	r.next, r.oldest, r.waiting = 0, 0, 0
}

// settle returns what was known of an ID when its answer came, and marks it.
func (r *ring) settle(id uint16) slot {
	if int(id) >= len(r.slots) {
		return slot{}
	}
	s := r.slots[id]
	switch s.state {
	case waiting:
		r.waiting--
		r.slots[id].state = settled
	case expired:
		r.slots[id].state = settled
	case unused, settled:
	}
	return s
}

// expire gives up what was due before the deadline, in the order of issue, and
// returns how many that were.
func (r *ring) expire(deadline time.Duration) (lost int) {
	for ; r.oldest != r.next; r.oldest++ {
		s := &r.slots[r.oldest&uint32(len(r.slots)-1)]
		if s.state != waiting {
			continue
		}
		if s.due > deadline {
			return lost
		}
		s.state = expired
		r.waiting--
		lost++
	}
	return lost
}

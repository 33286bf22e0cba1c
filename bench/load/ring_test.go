package main

import (
	"testing"
	"time"
)

func TestRing(t *testing.T) {
	r := newRing(4)
	for i := range 4 {
		if id, ok := r.issue(time.Duration(i), 0, uint32(i)); !ok || int(id) != i {
			t.Fatalf("issue %d: %d, %v", i, id, ok)
		}
	}
	if _, ok := r.issue(4, 0, 4); ok {
		t.Error("a fifth ID of four")
	}
	r.revoke(1)
	if r.waiting != 3 || r.settle(3).state != unused {
		t.Errorf("after revoke: %d wait, state %d", r.waiting, r.slots[3].state)
	}
	if s := r.settle(0); s.state != waiting || s.index != 0 {
		t.Errorf("settle 0: %+v", s)
	}
	if s := r.settle(0); s.state != settled {
		t.Errorf("the second answer finds state %d, want settled", s.state)
	}
	if lost := r.expire(1); lost != 1 || r.waiting != 1 {
		t.Errorf("expire: %d lost, %d wait; want 1, 1", lost, r.waiting)
	}
	if s := r.settle(1); s.state != expired {
		t.Errorf("a late answer finds state %d, want expired", s.state)
	}
	if s := r.settle(9); s.state != unused {
		t.Errorf("an ID beyond the ring finds state %d", s.state)
	}
	if lost := r.expire(100); lost != 1 || r.waiting != 0 {
		t.Errorf("expire all: %d lost, %d wait", lost, r.waiting)
	}
}

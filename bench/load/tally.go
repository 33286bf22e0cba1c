package main

import (
	"fmt"
	"time"
)

// maxExamples bounds how many wrong answers are described.
const maxExamples = 5

// A tally is what has been counted since it was last reset: plain numbers, owned
// by the goroutine that runs the load.
type tally struct {
	lists   lists
	derived bool // addresses are the built-in upstream's

	sent, received  uint64 // received: answers in time, right or wrong
	lost, late      uint64 // lost: no answer in time; late: it came after all
	wrong           uint64 // answers of another class than expected, late ones too
	unasked         uint64 // answers to an ID that nothing waits for: wrong, too
	unsent          uint64 // questions that the kernel did not take
	reconnects      uint64
	class           [classes]uint64
	bytesOut, bytes uint64 // of questions and answers
	latency         histogram
	longest         time.Duration // of the interval
	behind          time.Duration // open loop: how late a question left at the most, which is in its latency
	examples        []string
}

// answer counts one message that came for a flow.
func (t *tally) answer(r *ring, id uint16, m []byte, now time.Duration) {
	s := r.settle(id)
	if s.state != waiting && s.state != expired {
		t.unasked++
		t.example("an answer to ID %d, which nothing waits for", id)
		return
	}
	l := t.lists[s.list]
	c := classify(l.query(s.index), m, t.derived)
	if !l.expect.accepts(c) {
		t.wrong++
		t.example("%s of %s: %s", questionName(l.query(s.index)), l, c)
	}
	if s.state == expired {
		t.late++
		return
	}
	t.received++
	t.class[c]++
	t.bytes += uint64(len(m))
	t.latency.add(now - s.due)
	t.longest = max(t.longest, now-s.due)
}

// example remembers the first wrong answers, for whoever looks for the reason.
func (t *tally) example(format string, args ...any) {
	if len(t.examples) < maxExamples {
		t.examples = append(t.examples, fmt.Sprintf(format, args...))
	}
}

// reset forgets what the warm-up counted, but for wrong answers: those are wrong
// at any time.
func (t *tally) reset() {
	*t = tally{lists: t.lists, derived: t.derived, wrong: t.wrong, unasked: t.unasked, examples: t.examples}
}

func questionName(q []byte) string { return string(appendName(nil, q)) }

// appendName appends the name of a question, without its final dot.
func appendName(b, q []byte) []byte {
	for o := headerSize; o < len(q) && q[o] != 0 && o+int(q[o]) < len(q); o += int(q[o]) + 1 {
		if o > headerSize {
			b = append(b, '.')
		}
		b = append(b, q[o+1:o+1+int(q[o])]...)
	}
	return b
}

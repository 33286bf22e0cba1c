package gateway

import (
	"io"
	"time"
)

const (
	// paceEvery is how long a compilation holds a processor that somebody may wait
	// for. Left to itself it would hold it to the end of its slice, which the kernel
	// sees at a tick of its timer: at 250 Hz that is 3 to 7 ms, in which a reader of
	// DNS questions on the same processor is late for all that come. Shorter, and
	// readers take more and smaller batches, so that the compilation takes longer.
	paceEvery = 500 * time.Microsecond
	// patience is how long a compilation is that considerate. Where the readers
	// leave nothing of a processor, it takes its share after that: a ban must come
	// into force under any load.
	patience = time.Second
	// paceSteps is how many rules are added between two looks at the clock.
	paceSteps = 32
)

// A pacer has a computation on the processor of others give it away all the
// time. The zero pacer does not: there is nobody yet to be considerate of.
type pacer struct {
	steps uint
	next  time.Time // when to give it away again
	end   time.Time // of the patience
	gave  int       // how often it did
}

func (p *pacer) begin() { p.end = time.Now().Add(patience) }

// newPace returns the step of a pacer of its own.
func newPace() func() {
	p := new(pacer)
	p.begin()
	return p.step
}

// step is pause for what takes much less time than a look at the clock.
func (p *pacer) step() {
	if p.steps++; p.steps%paceSteps == 0 {
		p.pause()
	}
}

// A pacedReader pauses at each read.
type pacedReader struct {
	io.Reader
	pace *pacer
}

func (r pacedReader) Read(b []byte) (int, error) {
	r.pace.pause()
	return r.Reader.Read(b)
}

// A pacedReaderAt does too.
type pacedReaderAt struct {
	io.ReaderAt
	pace *pacer
}

func (r pacedReaderAt) ReadAt(b []byte, at int64) (int, error) {
	r.pace.pause()
	return r.ReaderAt.ReadAt(b, at)
}

// pause gives the processor away if it is time to.
func (p *pacer) pause() {
	if p.end.IsZero() {
		return
	}
	now := time.Now()
	if now.Before(p.next) || now.After(p.end) {
		return
	}
	p.gave++
	giveAway()
	p.next = time.Now().Add(paceEvery)
}

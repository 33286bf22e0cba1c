package rpz

import (
	"hash/maphash"
	"slices"
	"strings"
	"time"
)

// A version is the zone under one serial. It is immutable.
type version struct {
	view
	serial  uint32
	sums    sums
	records int // of the policy
	unfit   int
}

// An entry is an owner and what the zone says there.
type entry struct {
	owner string
	action
}

// A delta is what made one version of the one before.
type delta struct {
	from, to       uint32
	removed, added []entry
}

func (d *delta) size() int { return len(d.removed) + len(d.added) }

// next returns the version that follows v, nil for the first, and the delta
// from v. The delta is nil after the first, and where so much has changed that
// a whole zone says it better; the version is v itself where nothing has.
func (v *version) next(z view, serial uint32) (*version, *delta) {
	n := &version{view: z, serial: serial}
	n.sums.seed = maphash.MakeSeed()
	if v != nil {
		n.sums.seed = v.sums.seed
		n.sums.of = make([]uint64, 0, len(v.sums.of)+len(v.sums.of)/16)
	}
	n.unfit = n.walk(func(owner string, a action) bool {
		n.sums.of = append(n.sums.of, n.sums.hash(owner, a))
		n.records += a.size()
		return true
	})
	slices.Sort(n.sums.of)
	if v == nil {
		return n, nil
	}
	added, removed := missing(n.sums.of, v.sums.of), missing(v.sums.of, n.sums.of)
	switch {
	case len(added)+len(removed) == 0:
		// The next comparison begins from here, and the old policy can go.
		n.serial = v.serial
		return n, nil
	case len(added)+len(removed) > maxDelta:
		return n, nil
	}
	return n, &delta{from: v.serial, to: serial, removed: v.collect(removed), added: n.collect(added)}
}

// collect returns the owners of those hashes.
func (v *version) collect(which map[uint64]struct{}) []entry {
	if len(which) == 0 {
		return nil
	}
	out := make([]entry, 0, len(which))
	v.walk(func(owner string, a action) bool {
		if _, ok := which[v.sums.hash(owner, a)]; ok {
			out = append(out, entry{strings.Clone(owner), a})
		}
		return len(out) < len(which)
	})
	return out
}

// A journal is the latest deltas, each of which begins where the one before
// ends. It is immutable.
type journal []*delta

const (
	// maxDeltas and maxDelta bound what is remembered of changes, together and
	// each: a server that is further behind takes the whole zone.
	maxDeltas = 256
	maxDelta  = 1 << 16
	maxSum    = 1 << 18
)

// with returns the journal with a delta added, and as many of the others as
// there is room for.
func (j journal) with(d *delta) journal {
	out := append(slices.Clone(j), d)
	sum := 0
	for i := len(out) - 1; i >= 0; i-- {
		if sum += out[i].size(); sum > maxSum || len(out)-i > maxDeltas {
			return slices.Clone(out[i+1:])
		}
	}
	return out
}

// since returns the deltas that lead from that serial to the end.
func (j journal) since(serial uint32) journal {
	for i, d := range j {
		if d.from == serial {
			return j[i:]
		}
	}
	return nil
}

// newer reports whether serial a is after b (RFC 1982, section 3.2).
func newer(a, b uint32) bool { return a != b && a-b < 1<<31 }

// serialAfter returns the serial of a version that is made now, after the one
// with serial last, if there was one. It is the time in seconds: so it goes on
// over restarts, whoever changes the policy, and where time alone changes what
// is in force.
func serialAfter(last uint32, first bool, now time.Time) uint32 {
	s := uint32(now.Unix())
	if first || newer(s, last) {
		return s
	}
	return last + 1
}

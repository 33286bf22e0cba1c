package main

import (
	"fmt"
	"slices"
)

// A round is one turn of the floor and one of weir, one after the other: what
// an operation cost the server in each. Only the quotient of the two is judged,
// because what disturbs the machine for longer than a round disturbs both.
type round struct {
	floor, weir float64 // microseconds of CPU per operation
}

// A measurement is all that was seen of one kind of traffic.
type measurement struct {
	name   string
	rounds []round
	ops    uint64 // operations that weir completed
	wrong  uint64 // answers that were not what was asked for, of either
	lost   uint64 // questions without an answer, of either
	detail string // the first wrong answer
	// calls is how many read and write system calls weir spent on an operation;
	// NaN if it does not say, and zero where it is not counted.
	calls float64
}

// A limit is what a measurement is held to. The zero limit allows nothing.
type limit struct {
	ratio float64 // the most that the median of weir/floor may be
	noise float64 // by how much of itself the median may be above it
	calls float64 // the most system calls per operation; zero: not judged
}

// A verdict is the judgement of one line of the table.
type verdict struct {
	failed bool
	again  bool // failed by cost alone: more rounds may show that it was noise
	text   string
}

// spread is a median and the extremes around it.
type spread struct{ median, least, most float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	middle := v[len(v)/2]
	if len(v)%2 == 0 {
		middle = (middle + v[len(v)/2-1]) / 2
	}
	return spread{middle, v[0], v[len(v)-1]}
}

// ratios returns weir/floor of each round. The median of them is the statistic:
// a ratio of medians would compare rounds that lie minutes apart.
func (m *measurement) ratios() spread {
	var v []float64
	for _, r := range m.rounds {
		if r.floor > 0 {
			v = append(v, r.weir/r.floor)
		}
	}
	return spreadOf(v)
}

// costs returns what operations cost the floor and weir.
func (m *measurement) costs() (floor, weir spread) {
	var f, w []float64
	for _, r := range m.rounds {
		f, w = append(f, r.floor), append(w, r.weir)
	}
	return spreadOf(f), spreadOf(w)
}

// fewestRounds is how many rounds a verdict needs.
const fewestRounds = 5

// judge holds a measurement to its limit. Faults come before cost: a server
// that answers wrongly has no speed.
func judge(m *measurement, l limit) verdict {
	r := m.ratios()
	switch {
	case m.wrong > 0:
		return verdict{failed: true, text: fmt.Sprintf("FAIL: %d wrong answers (%s)", m.wrong, m.detail)}
	case m.lost > 0:
		return verdict{failed: true, text: fmt.Sprintf("FAIL: %d without an answer", m.lost)}
	case len(m.rounds) < fewestRounds || m.ops == 0 || r.least <= 0:
		return verdict{failed: true, text: fmt.Sprintf("FAIL: no verdict from %d rounds and %d operations", len(m.rounds), m.ops)}
	case !(r.median <= l.ratio*(1+l.noise)):
		return verdict{failed: true, again: true, text: fmt.Sprintf("FAIL: %.0f %% over", 100*(r.median/l.ratio-1))}
	case l.calls > 0 && !(m.calls <= l.calls):
		return verdict{failed: true, again: true, text: fmt.Sprintf("FAIL: %.3f system calls each, limit %.3f", m.calls, l.calls)}
	case r.median > l.ratio:
		return verdict{text: "ok, within noise"}
	}
	return verdict{text: "ok"}
}

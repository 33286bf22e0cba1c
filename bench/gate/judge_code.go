package main

import "fmt"

// A codeNoise is by how much of themselves the time and the instructions of the
// hot path may be above the baseline.
type codeNoise struct{ time, instructions float64 }

// noiseOf returns the noise for a baseline of that machine on this one.
func noiseOf(base, now *baseline) codeNoise {
	n := sameNoise
	if base.Processor != now.Processor || base.Go != now.Go {
		n.time = otherNoise.time
	}
	if base.Go != now.Go {
		n.instructions = otherNoise.instructions
	}
	return n
}

// benchRows are the lines of one benchmark of the hot path.
func benchRows(b *bench, base map[string]record, noise codeNoise) []row {
	was, known := base[b.name]
	name := "code/" + b.name
	if !known {
		return []row{{name: name, verdict: verdict{failed: true, text: "FAIL: not in the baseline; make it with -update"}}}
	}
	// Compared as multiples of the baseline, like traffic with its floor.
	r, each := b.ratio(), b.ratios()
	rows := []row{{
		name: name + " time", floor: fmt.Sprintf("%.3f ref", was.Ratio), weir: fmt.Sprintf("%.3f ref", r),
		ratio: times(r, was.Ratio), spread: times(each.least, was.Ratio) + ".." + times(each.most, was.Ratio),
		limit: fmt.Sprintf("1 +%.0f %%", 100*noise.time), verdict: within(r, was.Ratio, noise.time),
	}}
	if b.counted && was.Instructions > 0 {
		rows = append(rows, row{
			name: name + " instructions", floor: fmt.Sprintf("%.1f", was.Instructions), weir: fmt.Sprintf("%.1f", b.steps),
			ratio: times(b.steps, was.Instructions), limit: fmt.Sprintf("1 +%.0f %%", 100*noise.instructions),
			verdict: within(b.steps, was.Instructions, noise.instructions),
		}, exactly(name+" locked", b.atomics, was.Locked))
	}
	return append(rows, exactly(name+" allocations", b.allocs, was.Allocs))
}

func times(a, b float64) string {
	if b == 0 {
		return ""
	}
	return fmt.Sprintf("%.3f", a/b)
}

// within judges a quantity that may be above its baseline by some noise.
func within(now, was, noise float64) verdict {
	switch {
	case !(now > 0 && was > 0):
		return verdict{failed: true, text: "FAIL: nothing was measured"}
	case !(now <= was*(1+noise)):
		return verdict{failed: true, text: fmt.Sprintf("FAIL: %.1f %% over", 100*(now/was-1))}
	case now < was*(1-noise):
		return verdict{text: "ok, better: -update keeps it so"}
	}
	return verdict{text: "ok"}
}

// someOperations is what may happen once in the iterations of a loop and is not
// part of the operation: a table that grows, a clock that is read.
const someOperations = 0.25

// exactly judges a quantity that is a whole number for each operation.
func exactly(name string, now, was float64) row {
	r := row{name: name, floor: fmt.Sprintf("%.3g", was), weir: fmt.Sprintf("%.3g", now), limit: "none more"}
	switch {
	case !(now < was+someOperations):
		r.verdict = verdict{failed: true, text: fmt.Sprintf("FAIL: %.3g more", now-was)}
	case now < was-someOperations:
		r.verdict = verdict{text: "ok, better: -update keeps it so"}
	default:
		r.verdict = verdict{text: "ok"}
	}
	return r
}

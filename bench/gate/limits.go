package main

// limits is what each kind of traffic may cost, as a multiple of what it costs
// the floor in the same run. The noise is what the median of the rounds moves
// from run to run on a quiet machine with two processors; the numbers and how
// they were found are in bench/RESULTS.md.
var limits = map[string]limit{
	"udp/blocked":     {ratio: 1.15, noise: 0.08, calls: 0.1},
	"udp/cached":      {ratio: 1.30, noise: 0.08, calls: 0.1},
	"udp/mixed":       {ratio: 1.30, noise: 0.08, calls: 0.1},
	"connect/blocked": {ratio: 1.20, noise: 0.10},
	"connect/set-up":  {ratio: 1.10, noise: 0.10},
	// The floor parses nothing, and the faster a processor is at parsing the less
	// that shows: 4.3 to 4.6 on an AMD EPYC, 4.1 to 6.5 on an
	// Intel Xeon, whose figures move so far within an hour for one program.
	"http/get": {ratio: 6.20, noise: 0.15},
}

// What the hot path may be above baseline.json: on the processor and with the
// release of Go that it was made with, and elsewhere. Instructions are exact:
// they differ with the compiler and hardly with the processor. Times differ with
// both and with what neighbours leave of the caches, so they only show what
// instructions do not: a cache that is missed, a table that is walked in vain.
var (
	sameNoise  = codeNoise{time: 0.35, instructions: 0.03}
	otherNoise = codeNoise{time: 0.70, instructions: 0.15}
)

package main

import (
	"fmt"
	"strconv"
	"strings"
)

// A benchLine is one result of a Go benchmark. A unit that is not in the line
// is negative.
type benchLine struct {
	name          string // without "Benchmark"
	ns, allocs, b float64
}

// parseBench reads the results in the output of a test program that ran with
// -test.cpu=1, which leaves names as they are, and -test.benchmem. Lines of
// other kinds are passed over; a result that cannot be read is an error.
func parseBench(out string) ([]benchLine, error) {
	var found []benchLine
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		// A benchmark that logs has its name on a line of its own.
		if len(f) < 2 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		l := benchLine{strings.TrimPrefix(f[0], "Benchmark"), -1, -1, -1}
		if _, err := strconv.ParseUint(f[1], 10, 64); err != nil || len(f)%2 != 0 {
			return nil, fmt.Errorf("benchmark result %q cannot be read", strings.TrimSpace(line))
		}
		for i := 2; i < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return nil, fmt.Errorf("benchmark result %q: %w", strings.TrimSpace(line), err)
			}
			switch f[i+1] {
			case "ns/op":
				l.ns = v
			case "allocs/op":
				l.allocs = v
			case "B/op":
				l.b = v
			}
		}
		if l.ns <= 0 {
			return nil, fmt.Errorf("benchmark result %q has no time", strings.TrimSpace(line))
		}
		found = append(found, l)
	}
	return found, nil
}

// only returns the pattern that selects one benchmark by its name, without
// those that begin with it.
func only(name string) string {
	return "^Benchmark" + strings.ReplaceAll(name, "/", "$/^") + "$"
}

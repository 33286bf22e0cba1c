package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// hotPackage is where the hot path is. Its tests have benchmarks of it, from
// bytes to bytes, whose names begin with Hot; a benchmark named Reference, of
// work that no change of the hot path touches; and the test contentionTest.
const (
	hotPackage     = "./gateway/dnsserver"
	hotPrefix      = "Hot"
	reference      = "Reference"
	contentionTest = "TestHotPathHasNoMutex"
)

// How often the benchmarks run, alternated, and for how long each.
const (
	benchRuns = 10
	benchTime = "50ms"
	// stepIterations is how many operations are counted instruction by
	// instruction. Counts are exact; the median of a few is that of all.
	stepIterations = 25
	// stepSeeds is how many programs are counted, of which the least is taken. The
	// seeds of hashes are random in each: in one of ten, a name meets another in the
	// trie, and a look costs 5 to 10 % more.
	stepSeeds = 3
)

// A bench is what was seen of one benchmark of the hot path.
type bench struct {
	name           string
	ns, reference  []float64 // per operation, by run
	allocs         float64   // the most of any run
	counted        bool
	steps, atomics float64 // instructions per operation, and those that lock
}

// ratio is the least time in multiples of the reference's least: what disturbs a
// run only adds to it.
func (b *bench) ratio() float64 {
	if len(b.ns) == 0 || len(b.reference) == 0 {
		return 0
	}
	return slices.Min(b.ns) / slices.Min(b.reference)
}

// ratios are those of the single runs.
func (b *bench) ratios() spread {
	var v []float64
	for i := range min(len(b.ns), len(b.reference)) {
		v = append(v, b.ns[i]/b.reference[i])
	}
	return spreadOf(v)
}

func (b *bench) record() record {
	return record{b.ratio(), b.allocs, b.steps, b.atomics}
}

// code measures the hot path without sockets.
func (j *job) code(ctx context.Context) error {
	if !strings.HasPrefix("code/", j.opts.only) && !strings.HasPrefix(j.opts.only, "code/") {
		return nil
	}
	program := filepath.Join(j.dir, "hot.test")
	if _, err := goTool(ctx, j.root, "test", "-c", "-o", program, hotPackage); err != nil {
		return err
	}
	dir := filepath.Join(j.root, filepath.FromSlash(hotPackage))
	benches, err := runBenches(ctx, program, dir)
	if err != nil {
		return err
	}
	benches = slices.DeleteFunc(benches, func(b *bench) bool { return !j.opts.wants("code/" + b.name) })
	if err := j.count(ctx, program, dir, benches); err != nil {
		return err
	}
	if err := j.judgeCode(benches); err != nil {
		return err
	}
	if j.opts.wants(contentionRow) {
		j.rows = append(j.rows, contention(ctx, program, dir))
	}
	return nil
}

// judgeCode holds the benchmarks to the baseline, after it was rewritten if that
// is asked for.
func (j *job) judgeCode(benches []*bench) error {
	now := here()
	for _, b := range benches {
		now.Benchmarks[b.name] = b.record()
	}
	if j.opts.update {
		if err := now.write(j.root); err != nil {
			return err
		}
		j.note("%s is written: review it with the change that made it necessary.", baselineFile)
	}
	base, err := readBaseline(j.root)
	if err != nil {
		return err
	}
	noise := noiseOf(&base, &now)
	if noise != sameNoise {
		j.note("The baseline is of %s with %s, this is %s with %s: time and instructions have more noise.", base.Processor, base.Go, now.Processor, now.Go)
	}
	for _, b := range benches {
		j.rows = append(j.rows, benchRows(b, base.Benchmarks, noise)...)
	}
	for _, name := range slices.Sorted(maps.Keys(base.Benchmarks)) {
		if _, ok := now.Benchmarks[name]; !ok && j.opts.wants("code/"+name) {
			j.rows = append(j.rows, row{name: "code/" + name, verdict: verdict{failed: true, text: "FAIL: in the baseline, but gone"}})
		}
	}
	return nil
}

// count counts the instructions of each benchmark, where that is possible.
func (j *job) count(ctx context.Context, program, dir string, benches []*bench) error {
	if !canStep {
		j.note("Instructions are not counted: that needs Linux on amd64.")
		return nil
	}
	for _, b := range benches {
		for range stepSeeds {
			c, err := countSteps(ctx, program, dir, b.name, stepIterations)
			if errors.Is(err, errNotPermitted) {
				j.note("Instructions are not counted: %v.", err)
				return nil
			}
			if err != nil {
				return err
			}
			if steps := float64(c.instructions); !b.counted || steps < b.steps {
				b.counted, b.steps, b.atomics = true, steps, float64(c.locked)
			}
			j.opts.debugf("%-16s %d instructions, %d of them locked", b.name, c.instructions, c.locked)
		}
	}
	return nil
}

// runBenches runs all benchmarks in turn, again and again: one run of the
// program is a round, so a disturbance meets all of them.
func runBenches(ctx context.Context, program, dir string) ([]*bench, error) {
	var benches []*bench
	var refs []float64
	for range benchRuns {
		out, err := runTest(ctx, program, dir, "-test.run=^$", "-test.bench=^Benchmark("+hotPrefix+"|"+reference+"$)",
			"-test.benchtime="+benchTime, "-test.benchmem", "-test.cpu=1")
		if err != nil {
			return nil, err
		}
		lines, err := parseBench(out)
		if err != nil {
			return nil, err
		}
		for _, l := range lines {
			if l.name == reference {
				refs = append(refs, l.ns)
				continue
			}
			i := slices.IndexFunc(benches, func(b *bench) bool { return b.name == l.name })
			if i < 0 {
				i = len(benches)
				benches = append(benches, &bench{name: l.name})
			}
			benches[i].ns = append(benches[i].ns, l.ns)
			benches[i].allocs = max(benches[i].allocs, l.allocs)
		}
	}
	if len(benches) == 0 || len(refs) != benchRuns {
		return nil, fmt.Errorf("%s has no benchmarks Hot… and Reference: nothing tells whether the hot path got slower", hotPackage)
	}
	for _, b := range benches {
		if len(b.ns) != benchRuns {
			return nil, fmt.Errorf("%d results of benchmark %s in %d runs", len(b.ns), b.name, benchRuns)
		}
		b.reference = refs
	}
	return benches, nil
}

// contentionRow is the name of the line about contention.
const contentionRow = "code/contention"

// contention runs the test that hammers the hot path and looks into the mutex
// profile. That the test is gone is a failure too.
func contention(ctx context.Context, program, dir string) row {
	r := row{name: contentionRow, limit: "no event"}
	out, err := runTest(ctx, program, dir, "-test.run=^"+contentionTest+"$", "-test.v", "-test.count=1")
	switch {
	case err != nil:
		r.verdict = verdict{failed: true, text: "FAIL: " + firstFailure(err.Error())}
	case !strings.Contains(out, "--- PASS: "+contentionTest):
		r.verdict = verdict{failed: true, text: "FAIL: there is no " + contentionTest}
	default:
		r.verdict = verdict{text: "ok"}
	}
	return r
}

// firstFailure is the first line of a test's output that says what is wrong.
func firstFailure(out string) string {
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); strings.Contains(line, "_test.go:") {
			return line
		}
	}
	first, _, _ := strings.Cut(out, "\n")
	return first
}

func runTest(ctx context.Context, program, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.WaitDelay = waitDelay
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// errNotPermitted is a machine that does not let a process trace its child.
var errNotPermitted = errors.New("this machine lets no process trace its children")

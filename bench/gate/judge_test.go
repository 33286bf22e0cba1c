package main

import (
	"maps"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// rounds are made-up rounds with those ratios at a floor that drifts by half.
func rounds(ratios ...float64) []round {
	var out []round
	for i, r := range ratios {
		floor := 4 + 0.5*float64(i)
		out = append(out, round{floor, floor * r})
	}
	return out
}

func TestJudge(t *testing.T) {
	l := limit{ratio: 1.15, noise: 0.08, calls: 0.1}
	good := rounds(1.1, 1.12, 1.08, 1.5, 1.1)
	for _, tc := range []struct {
		label  string
		m      measurement
		failed bool
		again  bool
		text   string
	}{
		{"at the limit", measurement{rounds: good, ops: 1, calls: 0.07}, false, false, "ok"},
		{"one bad round", measurement{rounds: rounds(1.1, 9, 1.1, 1.1, 1.1), ops: 1}, false, false, "ok"},
		{"noise", measurement{rounds: rounds(1.2, 1.2, 1.2, 1.2, 1.2), ops: 1}, false, false, "ok, within noise"},
		{"a fifth more", measurement{rounds: rounds(1.32, 1.3, 1.34, 1.31, 1.1), ops: 1}, true, true, "FAIL: 14 % over"},
		{"wrong, however fast", measurement{rounds: good, ops: 1, wrong: 1, detail: "that"}, true, false, "FAIL: 1 wrong answers (that)"},
		{"lost", measurement{rounds: good, ops: 1, lost: 2}, true, false, "FAIL: 2 without an answer"},
		{"too few rounds", measurement{rounds: good[:4], ops: 1}, true, false, "FAIL: no verdict"},
		{"no operation", measurement{rounds: good}, true, false, "FAIL: no verdict"},
		{"a floor of nothing", measurement{rounds: make([]round, 5), ops: 1}, true, false, "FAIL: no verdict"},
		{"no batches", measurement{rounds: good, ops: 1, calls: 2}, true, true, "FAIL: 2.000 system calls"},
		{"calls not counted", measurement{rounds: good, ops: 1, calls: math.NaN()}, true, true, "FAIL: NaN system calls"},
	} {
		v := judge(&tc.m, l)
		if v.failed != tc.failed || v.again != tc.again || !strings.HasPrefix(v.text, tc.text) {
			t.Errorf("%s: %+v, want failed %v, again %v, %q", tc.label, v, tc.failed, tc.again, tc.text)
		}
	}
	if v := judge(&measurement{rounds: good, ops: 1}, limit{}); !v.failed {
		t.Errorf("the zero limit allows %+v", v)
	}
}

// More rounds outvote a disturbance, and not a regression.
func TestRoundsArePooled(t *testing.T) {
	l := limit{ratio: 1.15}
	m := measurement{rounds: rounds(1.3, 1.3, 1.3, 1.1, 1.1), ops: 1}
	if v := judge(&m, l); !v.again {
		t.Fatalf("%+v", v)
	}
	quiet := m
	quiet.rounds = append(quiet.rounds, rounds(1.1, 1.1, 1.1, 1.1, 1.1)...)
	if v := judge(&quiet, l); v.failed {
		t.Errorf("a disturbance fails: %+v", v)
	}
	m.rounds = append(m.rounds, rounds(1.3, 1.3, 1.3, 1.3, 1.3)...)
	if v := judge(&m, l); !v.failed {
		t.Errorf("a regression passes: %+v", v)
	}
}

func TestSpread(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   spread
	}{
		{nil, spread{}},
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{9, 1, 2}, spread{2, 1, 9}},
		{[]float64{4, 1, 2, 3}, spread{2.5, 1, 4}},
	} {
		if got := spreadOf(tc.values); got != tc.want {
			t.Errorf("spread of %v is %v, want %v", tc.values, got, tc.want)
		}
	}
}

// Each kind of regression of the code has a line that fails, and no other.
func TestBenchRows(t *testing.T) {
	base := map[string]record{"HotBlocked": {Ratio: 2, Allocs: 0, Instructions: 1000, Locked: 4}}
	same := bench{name: "HotBlocked", ns: []float64{210, 200, 260}, reference: []float64{100, 101, 100}, counted: true, steps: 1000, atomics: 4}
	for _, tc := range []struct {
		label  string
		change func(b *bench)
		fails  string
	}{
		{"the same", func(*bench) {}, ""},
		{"one slow run", func(b *bench) { b.ns = []float64{200, 900} }, ""},
		{"noise", func(b *bench) { b.ns, b.steps = []float64{220}, 1025 }, ""},
		{"an allocation", func(b *bench) { b.allocs = 1 }, "code/HotBlocked allocations"},
		{"a mutex", func(b *bench) { b.steps, b.atomics = 1020, 6 }, "code/HotBlocked locked"},
		{"a fifth more instructions", func(b *bench) { b.steps = 1200 }, "code/HotBlocked instructions"},
		{"half as much time again", func(b *bench) { b.ns = []float64{300} }, "code/HotBlocked time"},
		{"better", func(b *bench) { b.ns, b.steps, b.atomics = []float64{100}, 500, 2 }, ""},
		{"another name", func(b *bench) { b.name = "HotOther" }, "code/HotOther"},
	} {
		b := same
		tc.change(&b)
		var fails []string
		for _, r := range benchRows(&b, base, sameNoise) {
			if r.verdict.failed {
				fails = append(fails, r.name)
			}
		}
		if got := strings.Join(fails, ", "); got != tc.fails {
			t.Errorf("%s: %q fails, want %q", tc.label, got, tc.fails)
		}
	}
}

func TestNoiseOf(t *testing.T) {
	a := baseline{Processor: "P", Go: "go1.26/amd64"}
	for _, tc := range []struct {
		label string
		now   baseline
		want  codeNoise
	}{
		{"the same", a, sameNoise},
		{"another processor", baseline{Processor: "Q", Go: a.Go}, codeNoise{otherNoise.time, sameNoise.instructions}},
		{"another release", baseline{Processor: "P", Go: "go1.27/amd64"}, otherNoise},
	} {
		if got := noiseOf(&a, &tc.now); got != tc.want {
			t.Errorf("%s: %v, want %v", tc.label, got, tc.want)
		}
	}
}

func TestBaselineIsWhatWasWritten(t *testing.T) {
	dir := t.TempDir()
	if got, err := readBaseline(dir); err == nil {
		t.Errorf("no file is %+v", got)
	}
	file := filepath.Join(dir, baselineFile)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	want := here()
	want.Benchmarks["HotBlocked"] = record{1.5, 0, 1000.5, 4}
	if err := want.write(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := readBaseline(dir); err != nil || got.Go != want.Go || got.Processor != want.Processor || !maps.Equal(got.Benchmarks, want.Benchmarks) {
		t.Errorf("read %+v (%v), want %+v", got, err, want)
	}
	if err := os.WriteFile(file, []byte(`{"benchmarks": {"HotBlocked": {"rato": 1}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := readBaseline(dir); err == nil {
		t.Errorf("an unknown key is read as %+v", got)
	}
}

func TestParseBench(t *testing.T) {
	out := "goos: linux\nBenchmarkReference \t 1000\t 1980 ns/op\t 0 B/op\t 0 allocs/op\n" +
		"BenchmarkHot/blocked\t99\t12.5 ns/op\t7.00 extra/op\t16 B/op\t2 allocs/op\nPASS\n"
	got, err := parseBench(out)
	want := []benchLine{{"Reference", 1980, 0, 0}, {"Hot/blocked", 12.5, 2, 16}}
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%v %v, want %v", got, err, want)
	}
	for _, bad := range []string{"BenchmarkA 1 x ns/op", "BenchmarkA 10 5 B/op", "BenchmarkA x 5 ns/op", "BenchmarkA 1 5"} {
		if got, err := parseBench(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
	if got := only("Hot/blocked"); got != "^BenchmarkHot$/^blocked$" {
		t.Errorf("pattern %s", got)
	}
}

// Every measurement has a limit, and every limit leaves room for noise.
func TestLimits(t *testing.T) {
	for name, l := range limits {
		if l.ratio < 1 || l.noise <= 0 || l.noise > 0.2 || strings.HasPrefix(name, "udp/") != (l.calls > 0) {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

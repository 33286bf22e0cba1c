package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// A baseline is what the code took when it was last accepted. It is written by
// -update and reviewed like code: who makes the hot path dearer changes it and
// says why.
type baseline struct {
	Processor  string            `json:"processor"`
	Go         string            `json:"go"`
	Benchmarks map[string]record `json:"benchmarks"`
}

// A record is what one operation of a benchmark took.
type record struct {
	// Ratio is its time in multiples of the reference's.
	Ratio  float64 `json:"ratio"`
	Allocs float64 `json:"allocs"`
	// Instructions and Locked are zero where they could not be counted.
	Instructions float64 `json:"instructions"`
	Locked       float64 `json:"locked"`
}

// baselineFile is where the baseline is, from the module's root.
var baselineFile = filepath.Join("bench", "gate", "baseline.json")

func readBaseline(root string) (baseline, error) {
	b := baseline{}
	text, err := os.ReadFile(filepath.Join(root, baselineFile))
	if errors.Is(err, fs.ErrNotExist) {
		return b, fmt.Errorf("%w: make it with -update", err)
	}
	if err != nil {
		return b, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return b, fmt.Errorf("%s: %w", baselineFile, err)
	}
	return b, nil
}

func (b *baseline) write(root string) error {
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, baselineFile), append(text, '\n'), 0o600)
}

// here is an empty baseline of this machine.
func here() baseline {
	return baseline{processor(), goRelease(), make(map[string]record)}
}

// goRelease is the release of Go without its patch level, and the architecture:
// within one, the compiler makes the same code.
func goRelease() string {
	v := strings.Fields(runtime.Version())[0]
	if i := strings.LastIndexByte(v, '.'); strings.Count(v, ".") > 1 {
		v = v[:i]
	}
	return v + "/" + runtime.GOARCH
}

// processor is the name that the processor gives itself.
func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer func() { _ = f.Close() }()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if name, ok := strings.CutPrefix(s.Text(), "model name"); ok {
			return strings.Trim(name, " \t:")
		}
	}
	return "unknown"
}

package main

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
)

// A list is the names that a run asks for. Which are blocked and which allowed
// is known without asking anybody: no allowed name is under a blocked one.
type list struct {
	blocked, allowed []string
}

// How many names the synthetic list blocks, and how many are in the cache.
const (
	syntheticNames = 100_000
	allowedNames   = 10_000
)

// allowedLabel begins each allowed name and no blocked one.
const allowedLabel = "ok-"

// syntheticList makes a list that is the same in every run and on every
// machine. Its lengths, depths and number of top-level labels are about those
// of real lists; its letters are random, so nobody owns the names.
func syntheticList(n int) list {
	r := rand.New(rand.NewPCG(1, 2))
	tlds := make([]string, 40)
	for i := range tlds {
		tlds[i] = label(r, 2, 4)
	}
	l := list{}
	seen := make(map[string]bool, n)
	for len(l.blocked) < n {
		name := label(r, 5, 15) + "." + tlds[skewed(r, len(tlds))]
		if r.IntN(10) < 4 {
			name = label(r, 2, 9) + "." + name
		}
		if !seen[name] {
			seen[name] = true
			l.blocked = append(l.blocked, name)
		}
	}
	l.allow(r, func() string { return tlds[skewed(r, len(tlds))] })
	return l
}

// readList takes the blocked names from a file with one name in each line.
func readList(file string) (list, error) {
	f, err := os.Open(file)
	if err != nil {
		return list{}, err
	}
	defer func() { _ = f.Close() }()
	l := list{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		name := strings.ToLower(strings.TrimSpace(s.Text()))
		if name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		if _, err := question(nil, name); err != nil {
			return list{}, fmt.Errorf("%s: %w", file, err)
		}
		l.blocked = append(l.blocked, name)
	}
	if len(l.blocked) == 0 && s.Err() == nil {
		return list{}, fmt.Errorf("%s: no names", file)
	}
	// A top-level label that is in no list, so that nothing covers these.
	l.allow(rand.New(rand.NewPCG(1, 2)), func() string { return "weir-gate" })
	return l, s.Err()
}

func (l *list) allow(r *rand.Rand, tld func() string) {
	seen := make(map[string]bool, allowedNames)
	for len(l.allowed) < allowedNames {
		name := allowedLabel + label(r, 4, 12) + "." + tld()
		if !seen[name] {
			seen[name] = true
			l.allowed = append(l.allowed, name)
		}
	}
}

// skewed prefers small numbers, as names prefer a few top-level labels.
func skewed(r *rand.Rand, n int) int { return r.IntN(1 + r.IntN(n)) }

func label(r *rand.Rand, least, most int) string {
	b := make([]byte, least+r.IntN(most-least+1))
	for i := range b {
		b[i] = 'a' + byte(r.IntN(26))
	}
	return string(b)
}

// question appends a question for the name's A records, with ID 0 and RD set
// (RFC 1035, section 4.1).
func question(b []byte, name string) ([]byte, error) {
	b = append(b, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	if len(name) > 253 {
		return nil, fmt.Errorf("%q is not a name", name)
	}
	for l := range strings.SplitSeq(name, ".") {
		if len(l) == 0 || len(l) > 63 {
			return nil, fmt.Errorf("%q is not a name", name)
		}
		b = append(append(b, byte(len(l))), l...)
	}
	return append(b, 0, 0, 1, 0, 1), nil
}

// writeNames writes names to a file, one in each line.
func writeNames(file string, names ...[]string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for _, part := range names {
		for _, n := range part {
			_, _ = w.WriteString(n) // Flush reports the first error
			_ = w.WriteByte('\n')
		}
	}
	if err := w.Flush(); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

func readLines(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var out []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		if line := strings.TrimSpace(s.Text()); line != "" {
			out = append(out, line)
		}
	}
	return out, s.Err()
}

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
)

// maxNames bounds what is read of one list: about 250 MB of questions.
const maxNames = 5_000_000

// A list is the questions of one file, ready to be sent. It is read once and
// never changes but for the place of the ordered pass.
type list struct {
	file    string
	weight  int
	expect  expectation
	pool    []byte   // the questions, one after the other, ID 0
	offset  []uint32 // where each begins, and where the last one ends
	byLen   []uint32 // the questions ordered by length
	from    [512]uint32
	skipped int // lines that are no name
	next    int // the ordered pass has come this far
}

func (l *list) count() int            { return len(l.offset) - 1 }
func (l *list) query(i uint32) []byte { return l.pool[l.offset[i]:l.offset[i+1]] }

// alike draws a question of the given length.
func (l *list) alike(r *rand.PCG, length int) uint32 {
	from, to := l.from[length], l.from[length+1]
	return l.byLen[from+uint32(below(r, uint64(to-from)))]
}

// below draws a number in [0,n), n under 2³²; the bias is far below anything
// that a load shows.
func below(r *rand.PCG, n uint64) uint64 { return (r.Uint64() >> 32) * n >> 32 }

// lists are several of them, drawn from by weight.
type lists []*list

func (ls lists) draw(r *rand.PCG) int {
	if len(ls) == 1 {
		return 0
	}
	total := 0
	for _, l := range ls {
		total += l.weight
	}
	n := int(below(r, uint64(total)))
	for i, l := range ls {
		if n -= l.weight; n < 0 {
			return i
		}
	}
	return len(ls) - 1
}

// String is the list as the -names flag has it.
func (l *list) String() string {
	for name, e := range expectations {
		if e == l.expect {
			return fmt.Sprintf("%s:%d:%s", l.file, l.weight, name)
		}
	}
	return l.file
}

// parseSpec reads FILE[:WEIGHT[:CLASS]].
func parseSpec(spec string) (*list, error) {
	l := &list{file: spec, weight: 1}
	fields := strings.Split(spec, ":")
	if n := len(fields); n >= 3 {
		if e, ok := expectations[fields[n-1]]; ok {
			l.expect, fields = e, fields[:n-1]
		}
	}
	if n := len(fields); n >= 2 {
		w, err := strconv.Atoi(fields[n-1])
		if err != nil || w < 1 || w > 1_000_000 {
			return nil, fmt.Errorf("names %q: want FILE[:WEIGHT[:CLASS]], the class one of allow, block, any, nxdomain, nodata, null, refused", spec)
		}
		l.weight, fields = w, fields[:n-1]
	}
	l.file = strings.Join(fields, ":")
	return l, nil
}

// load reads the list's file: one name to a line, # begins a comment.
func (l *list) load(qtype uint16, edns bool) error {
	f, err := os.Open(l.file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := l.read(f, qtype, edns); err != nil {
		return fmt.Errorf("%s: %w", l.file, err)
	}
	return nil
}

func (l *list) read(r io.Reader, qtype uint16, edns bool) error {
	s := bufio.NewScanner(r)
	for s.Scan() {
		name, _, _ := strings.Cut(s.Text(), "#")
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if len(l.offset) == maxNames {
			return fmt.Errorf("more than %d names", maxNames)
		}
		at := len(l.pool)
		pool, err := appendQuestion(l.pool, name, qtype, edns)
		if err != nil {
			l.skipped++
			continue
		}
		l.pool, l.offset = pool, append(l.offset, uint32(at))
	}
	if err := s.Err(); err != nil {
		return err
	}
	if len(l.offset) == 0 {
		return errors.New("no names")
	}
	l.offset = append(l.offset, uint32(len(l.pool)))
	l.sortByLength()
	return nil
}

// sortByLength is a counting sort: segmentation sends questions of one length.
func (l *list) sortByLength() {
	var counts [512]uint32
	for i := range l.count() {
		counts[len(l.query(uint32(i)))]++
	}
	for i := 1; i < len(l.from); i++ {
		l.from[i] = l.from[i-1] + counts[i-1]
	}
	at := l.from
	l.byLen = make([]uint32, l.count())
	for i := range l.count() {
		n := len(l.query(uint32(i)))
		l.byLen[at[n]] = uint32(i)
		at[n]++
	}
}

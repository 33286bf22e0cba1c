package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func TestLocked(t *testing.T) {
	for _, tc := range []struct {
		code string
		want bool
	}{
		{"\xf0\x0f\xb1\x0e", true},     // LOCK CMPXCHG
		{"\x66\xf0\x48\x0f\xc1", true}, // a prefix before it
		{"\x87\x08", true},             // XCHG with memory
		{"\x48\x87\x08", true},         // the same, 64 bits
		{"\x48\x87\xc8", false},        // XCHG of registers
		{"\x48\x89\xf0", false},        // MOV with F0 as its operand
		{"\xf3\x0f\x6f\x06", false},    // MOVDQU
		{"\x90", false}, {"", false}, {"\x66", false},
	} {
		if got := locked([]byte(tc.code)); got != tc.want {
			t.Errorf("%x: %v", tc.code, got)
		}
	}
}

var (
	stepSink  uint64
	stepMutex sync.Mutex
)

//go:noinline
func work(n int) {
	for i := range n {
		stepSink += uint64(i) ^ stepSink>>3
	}
}

// These are what TestCountSteps counts.
func BenchmarkStepOnce(b *testing.B) {
	for b.Loop() {
		work(500)
	}
}

func BenchmarkStepTwice(b *testing.B) {
	for b.Loop() {
		work(1000)
	}
}

func BenchmarkStepMutex(b *testing.B) {
	for b.Loop() {
		stepMutex.Lock()
		work(500)
		stepMutex.Unlock()
	}
}

// BenchmarkStepInline has no call that tells its iterations apart.
func BenchmarkStepInline(b *testing.B) {
	for b.Loop() {
		for i := range 100 {
			stepSink += uint64(i) ^ stepSink>>3
		}
	}
}

// A count is the same each time, doubles with the work, and shows a mutex that
// nobody else wants.
func TestCountSteps(t *testing.T) {
	root, err := moduleRoot(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "steps.test")
	if _, err := goTool(context.Background(), root, "test", "-c", "-o", program, "./bench/gate"); err != nil {
		t.Fatal(err)
	}
	steps := func(bench string) count {
		t.Helper()
		c, err := countSteps(context.Background(), program, os.TempDir(), bench, 20)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	once, again, twice, mutex := steps("StepOnce"), steps("StepOnce"), steps("StepTwice"), steps("StepMutex")
	if once != again || once.instructions < 500 || once.locked != 0 {
		t.Errorf("counted %+v and then %+v", once, again)
	}
	if r := float64(twice.instructions) / float64(once.instructions); r < 1.9 || r > 2.1 {
		t.Errorf("twice the work is %.2f of the instructions", r)
	}
	if mutex.locked != 2 {
		t.Errorf("%d locked instructions in Lock and Unlock, want 2", mutex.locked)
	}
	for _, bench := range []string{"StepNowhere", "StepInline"} {
		if c, err := countSteps(context.Background(), program, os.TempDir(), bench, 20); err == nil {
			t.Errorf("%s has %+v", bench, c)
		}
	}
	// Killed in the middle of a loop that is stepped, it ends all the same.
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if c, err := countSteps(ctx, program, os.TempDir(), "StepTwice", 1_000_000); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("out of time: %+v, %v", c, err)
	}
}

//go:build !race

// The race detector changes what is allocated.

package main

import (
	"context"
	"runtime"
	"testing"
	"time"
)

// TestUDPAllocatesNothing: neither the generator nor the upstream, which run in
// this process, allocates for a question. What a run allocates at all is made
// good by 20,000 questions.
func TestUDPAllocatesNothing(t *testing.T) {
	fd, addr, err := listenUDP("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serveUpstream(ctx, fd) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	o, err := parseDNSOptions("udp", []string{"-server", addr, "-names", names(t, 1000) + ":1:allow", "-derived", "-time", "500ms", "-flows", "4"})
	if err != nil {
		t.Fatal(err)
	}
	o.length = 500 * time.Millisecond
	var before, after runtime.MemStats
	var r *report
	for range 5 { // until it had enough of the processors
		runtime.ReadMemStats(&before)
		r, err = runEngine(ctx, "udp", o, openUDP)
		runtime.ReadMemStats(&after)
		if err != nil || r.Answered >= 20_000 {
			break
		}
		o.length *= 2
	}
	if err != nil || r.Answered < 20_000 || r.Wrong > 0 {
		t.Fatalf("%v, %d answered, %d wrong", err, r.Answered, r.Wrong)
	}
	if got := float64(after.Mallocs-before.Mallocs) / float64(r.Answered); got > 0.02 {
		t.Errorf("%.4f allocations a question, %d in all", got, after.Mallocs-before.Mallocs)
	}
}

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// burn is a shell that works for some CPU time in a child that it waits for, or
// in itself, and then sleeps.
func burn(t *testing.T, script string) int {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

const loop = `i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done; `

// TestCPUOfChildrenCounts, while they live and when they have been waited for.
func TestCPUOfChildrenCounts(t *testing.T) {
	for about, script := range map[string]string{
		"itself":     "sleep 0.3; " + loop + "sleep 60",
		"a child":    "sleep 0.3; (" + loop + "sleep 60); true",
		"dead child": "sleep 0.3; (" + loop + "); sleep 60",
	} {
		pid := burn(t, script)
		before, err := measure([]int{pid})
		if err != nil {
			t.Fatal(err)
		}
		var got spent
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			after, err := measure([]int{pid})
			if err != nil {
				t.Fatal(err)
			}
			now := after.since(before)
			if now.time > 20*time.Millisecond && now == got {
				break // it sleeps again
			}
			got = now
		}
		own, reaped, err := processTicks(pid)
		if err != nil {
			t.Fatal(err)
		}
		if got.time < 20*time.Millisecond || got.time > 20*time.Second {
			t.Errorf("%s: %v by %s (ticks %d and %d)", about, got.time, got.source, own, reaped)
		}
	}
}

// TestThreadsThatEndAreNotForgotten: this process works in threads that end.
func TestThreadsThatEndAreNotForgotten(t *testing.T) {
	before, err := measure([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	own := ownTime()
	for range 20 {
		done := make(chan struct{})
		go func() {
			defer close(done)
			// A goroutine that ends while it is locked ends its thread, too.
			runtime.LockOSThread()
			for end := time.Now().Add(10 * time.Millisecond); time.Now().Before(end); {
			}
		}()
		<-done
	}
	after, err := measure([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	got, want := after.since(before), ownTime()-own
	if got.source != "process CPU clocks" || got.time < want/2 || got.time > want*2 {
		t.Errorf("%v by %s, want about %v", got.time, got.source, want)
	}
	if resident, peak := after.memory(); resident < 1<<20 || peak < resident {
		t.Errorf("resident %d, peak %d", resident, peak)
	}
}

func TestStatOfAStrangeName(t *testing.T) {
	dir := t.TempDir()
	name := dir + "/a) R (b 1 2"
	if err := os.Symlink("/bin/sleep", name); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	deadline := time.Now().Add(time.Minute)
	for {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
		if strings.Contains(string(comm), "R (b") || time.Now().After(deadline) {
			break
		}
	}
	all := descend([]int{os.Getpid()})
	found := false
	for _, pid := range all {
		found = found || pid == cmd.Process.Pid
	}
	if !found {
		t.Errorf("%d is not among the descendants %v", cmd.Process.Pid, all)
	}
	if _, err := measure([]int{1 << 22}); err == nil {
		t.Error("a process that is not there has a usage")
	}
}

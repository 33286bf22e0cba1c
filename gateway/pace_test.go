package gateway

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
)

// TestPacer pins when the processor is given away: not before begin, then at
// once and after each paceEvery, and no longer than the patience.
func TestPacer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pacer
		p.pause()
		if p.gave != 0 {
			t.Error("a pacer that has not begun gave the processor away")
		}
		p.begin()
		for range 10 {
			p.pause()
		}
		if p.gave != 1 {
			t.Errorf("given away %d times at one moment, want 1", p.gave)
		}
		time.Sleep(paceEvery)
		p.pause()
		if p.gave != 2 {
			t.Errorf("given away %d times after %v, want 2", p.gave, paceEvery)
		}
		time.Sleep(patience)
		p.pause()
		if p.gave != 2 {
			t.Error("the processor was given away after the patience had ended")
		}
		p = pacer{}
		p.begin()
		for range 2*paceSteps - 1 {
			p.step()
			time.Sleep(paceEvery)
		}
		if p.gave != 1 {
			t.Errorf("given away %d times in %d steps, want 1", p.gave, 2*paceSteps-1)
		}
	})
}

// paceConfig is a configuration with one long list.
func paceConfig(t *testing.T, names int) *config.Config {
	t.Helper()
	dir := t.TempDir()
	var b strings.Builder
	for i := range names {
		fmt.Fprintf(&b, "name-%d.example%d.org\n", i, i%977)
	}
	list, file := filepath.Join(dir, "list.txt"), filepath.Join(dir, "weir.yml")
	text := `bans: [{id: long, title: Long, authority: us, reference: "https://example.org/", effective: 2023-10-30, lists: [{name: long, source: "file:` +
		list + `", format: domains}]}]`
	for path, text := range map[string]string{list: b.String(), file: text} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(file, bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestCompileGivesWay pins that a compilation beside a policy in force never
// holds the processor for long, whatever it is at: reading and building.
func TestCompileGivesWay(t *testing.T) {
	cfg := paceConfig(t, 200_000)
	for _, beside := range []bool{false, true} {
		c := compiler{cfg: cfg, read: revisions{}, beside: beside}
		if beside {
			c.pace.begin()
		}
		if err := c.plan(); err != nil {
			t.Fatal(err)
		}
		began, used := time.Now(), processorTime(t)
		_, err := c.build()
		took := time.Since(began)
		used = processorTime(t) - used
		c.heap.lift()
		if err != nil {
			t.Fatal(err)
		}
		// A quarter of what would be right for the time that other programs left to
		// this one; under the race detector each step takes long.
		if took > patience {
			used = time.Duration(float64(used) * float64(patience) / float64(took))
		}
		least := int(used/paceEvery) / 4
		if underRace {
			least /= 4
		}
		if beside && c.pace.gave < least || !beside && c.pace.gave > 0 {
			t.Errorf("beside=%t: gave the processor away %d times in %v, want at least %d, and 0 for the first policy", beside, c.pace.gave, took, least)
		}
	}
}

// processorTime is what this process has had of the processors.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

package vpn

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// crashStates are the rulesets that the helper goes between.
func crashStates(t *testing.T) []Ruleset {
	big := testBans()
	big[0].Banned = manyRanges(3000)
	return []Ruleset{
		Rules("v1", parse(t, configs["default"]), testBans()),
		Rules("v1", parse(t, configs["tproxy"]), big),
		Rules("v1", parse(t, configs["tproxy"]), testBans()), // another by its elements only
	}
}

const crashHelper = "WEIR_TEST_CRASH_HELPER"

// TestCrashHelper is what TestCrash kills: it goes from ruleset to ruleset, and
// takes them away, until then.
func TestCrashHelper(t *testing.T) {
	if os.Getenv(crashHelper) == "" {
		return
	}
	states := crashStates(t)
	var k Kernel
	for i := 0; ; i++ {
		if _, err := k.Apply(states[i%len(states)]); err != nil {
			t.Fatal(err)
		}
		if i%7 == 6 {
			if _, err := k.Remove(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestCrash: a program that is killed at any instant leaves one ruleset or the
// other or none, whole; marked packets have their way whenever they are marked;
// and the next apply puts everything right.
func TestCrash(t *testing.T) {
	ownNetwork(t)
	states := crashStates(t)
	var k Kernel
	seen := make(map[int]int)
	d := rand.New(rand.NewPCG(1, 2))
	for n := 0; n < 60 || len(seen) < 3 && n < 600; n++ {
		cmd := exec.Command(os.Args[0], "-test.run=^TestCrashHelper$")
		cmd.Env = append(os.Environ(), crashHelper+"=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20*time.Millisecond + slower*time.Duration(d.IntN(80_000))*time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		which := -1
		for i, rs := range states {
			d, err := k.Compare(rs)
			if err != nil {
				t.Fatal(err)
			}
			if d.Missing {
				which = len(states)
			} else if len(d.Rules)+len(d.Sets) == 0 {
				which = i
				if slices.ContainsFunc(d.Routes, func(r string) bool { return r[0] == '+' }) {
					t.Errorf("ruleset %d is there without its routes: %v", i, d.Routes)
				}
			}
		}
		if which < 0 {
			d, _ := k.Compare(states[0])
			t.Fatalf("what is left is none of the rulesets; beside the first:\n%.2000s", d.String())
		}
		seen[which]++
	}
	t.Logf("left, by ruleset: %v", seen)
	if len(seen) < 3 {
		t.Errorf("only these were ever left: %v", seen)
	}
	if _, err := k.Apply(states[1]); err != nil {
		t.Fatal(err)
	}
	if d, err := k.Compare(states[1]); err != nil || !d.Empty() {
		t.Errorf("after all that: %v, %s", err, d.String())
	}
}

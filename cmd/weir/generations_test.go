package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/gateway"
)

// TestGenerationsByCommand changes a list, looks at what has changed, goes back
// and on again, all by commands.
func TestGenerationsByCommand(t *testing.T) {
	a := ports(t, 1)
	dir := t.TempDir()
	file, list := filepath.Join(dir, "weir.yml"), filepath.Join(dir, "list.txt")
	conf := fmt.Sprintf("dns: {listen: [], upstreams: [\"udp://127.0.0.1:9\"]}\nproxy: {listen: []}\nadmin: {listen: %q}\nstate: state\n", a[0]) +
		"bans:\n- id: test\n  title: {en: Test, fr: Essai}\n  authority: test\n  reference: \"https://ban.example/\"\n" +
		"  effective: 2023-10-30T00:00:00-04:00\n  lists: [{name: test, source: \"file:list.txt\", format: domains}]\ngroups: [{name: pilot, devices: [10.8.0.0/24]}]\n"
	put := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	put(file, conf)
	put(list, "a.example\nb.example\n")
	p := startWeir(t, a[0], "serve", "--config", file)
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	weir := func(ok bool, args ...string) string {
		t.Helper()
		out, err := exec.Command(path, append(args, "--config", file)...).CombinedOutput()
		if (err == nil) != ok {
			t.Fatalf("weir %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	has := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%q is missing in\n%s", w, out)
			}
		}
	}
	put(list, "b.example\nc.example\n")
	for end := time.Now().Add(time.Minute); p.status().Generation < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the changed list is not in force")
		}
	}
	// It is in force before it is on disk.
	for end := time.Now().Add(time.Minute); !strings.Contains(weir(true, "lists", "history"), "file changed") && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	has(weir(true, "lists", "history"), "2 in force", "file changed", "start")
	has(weir(true, "lists", "diff"), "from generation 1 to 2: 1 rules added, 1 removed", "+ test/test:2: c.example", "- test/test:1: a.example")
	has(weir(true, "lists", "diff", "--limit", "1", "--name", "x.a.example"), "and 1 more", "x.a.example: block by ban test", ", then allow")
	has(weir(true, "lists", "rollback", "--why", "too much"), "running: generation 3 since ", "held as generation 1 was")
	has(weir(false, "reload"), "held at generation 1")
	has(weir(true, "lists", "status"), "held as generation 1 was")
	has(weir(false, "lists", "rollback", "77"), "weir: generation 77: no such generation is kept")
	has(weir(false, "lists", "rollback", "first"), "is not the number of a generation")
	has(weir(true, "lists", "pin", "1"), "1 pinned")
	has(weir(false, "lists", "pin"), "takes one generation")
	has(weir(true, "lists", "diff", "--json", "1", "3"), `"added": 0`, `"removed": 0`)
	var gs gateway.Generations
	if err := json.Unmarshal([]byte(weir(true, "lists", "history", "--json")), &gs); err != nil {
		t.Fatal(err)
	}
	if h := gs.Generations[0]; gs.HeldAt != 1 || gs.InForce != 3 || h.Kind != "rollback" || h.Of != 1 || h.Why != "too much" {
		t.Errorf("%+v", gs)
	}
	has(weir(true, "lists", "update", "--why", "ticket 7"), "running: generation 4")
	has(weir(true, "lists", "history"), "4 in force", "update", "uid:", "ticket 7")
	has(weir(true, "lists", "unpin", "1"), "4 in force")
	has(weir(false, "lists", "update", "--canary", "nobody"), `there is no group "nobody" in force; there is: pilot`)
	has(weir(false, "lists", "update", "--canary", "pilot", "test"), "takes all lists")
	has(weir(false, "lists", "promote"), "no canary runs")
	has(weir(true, "lists", "update", "--canary", "pilot", "--why", "ticket 8"), "running: generation 5", "canary: group pilot goes ahead since")
	has(weir(true, "lists", "status"), "canary: group pilot goes ahead since", "all others keep those of generation 4")
	has(weir(true, "lists", "history"), "5 in force", "canary, group pilot ahead", "ticket 8")
	has(weir(false, "lists", "rollback"), "no rollback: a canary runs for group pilot")
	has(weir(true, "lists", "drop", "--why", "not yet"), "running: generation 6", "held as generation 4 was")
	has(weir(true, "lists", "update", "--canary", "pilot"), "running: generation 7")
	has(weir(true, "lists", "promote"), "running: generation 8")
}

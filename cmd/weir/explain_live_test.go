package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// A running gateway explains what it does, and what is kept explains it too when
// none runs.
func TestExplainLive(t *testing.T) {
	file, admin := served(t, "")
	dir := filepath.Dir(file)
	run := func(ok bool, args ...string) string {
		t.Helper()
		out, done := asWeir(t, args...)
		if done != ok {
			t.Fatalf("weir %q: %s", args, out)
		}
		return out
	}
	run(true, "rules", "add", "new.example", "--ban", "kaspersky", "--reason", "found", "--config", file)
	for _, how := range [][]string{
		{"--live", "--config", file},
		{"--admin", admin, "--token-file", filepath.Join(dir, "look")},
		{"--config", file},
	} {
		out := run(false, append([]string{"explain", "--offline", "--between", "1,2"}, append(how, "new.example")...)...)
		for _, want := range []string{"new.example: blocked", "kaspersky+rules:1", "generation  2", "in 1 ", "in 2 ", "added       new.example"} {
			if !strings.Contains(out, want) {
				t.Errorf("weir explain %q: %s, want %q", how, out, want)
			}
		}
		if live := how[0] != "--config"; strings.Contains(out, "cache       nothing") != live {
			t.Errorf("weir explain %q: %s", how, out)
		}
	}
	if out := run(false, "explain", "--between", "7", "--config", file, "new.example"); !strings.Contains(out, "--between: want two generations") {
		t.Errorf("one generation: %s", out)
	}
}

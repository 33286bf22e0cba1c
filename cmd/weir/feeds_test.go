package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// Lists that are fetched, by the real program: a version waits, is approved, is
// updated, is refused, and all of that is to be seen.
func TestListsUpdateCommand(t *testing.T) {
	var text atomic.Value
	text.Store("one.example\n")
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, text.Load().(string))
	}))
	t.Cleanup(origin.Close)
	file, admin := served(t, "")
	own := `bans:
- id: own
  title: Own
  authority: us
  reference: https://own.example/
  lists:
  - {name: feed, source: "` + origin.URL + `/list", format: domains, interval: 30d, hold: true}
`
	replaceIn(t, file, "bans: [kaspersky]\n", own)
	run := func(want string, ok bool, args ...string) {
		t.Helper()
		out, got := asWeir(t, append(args, "--config", file)...)
		if got != ok || !strings.Contains(out, want) {
			t.Errorf("%s: succeeded=%t, want %t and %q:\n%s", strings.Join(args, " "), got, ok, want, out)
		}
	}
	run("running: generation ", true, "reload") // the gateway may have seen the change before
	run("feed  held  1 rules", true, "lists", "update")
	run("waits for approval: 1 rules", true, "lists", "status")
	run("approved: feed, 1 rules", true, "lists", "approve", "feed")
	run("feed feed: ok, checked 20", true, "lists", "status")
	run("weir: feed: no update of the list waits for approval", false, "lists", "approve", "feed")
	text.Store("one.example\ntwo.example\n")
	run(`"outcome": "held"`, true, "lists", "update", "--json", "feed")
	run("discarded: feed, 2 rules", true, "lists", "discard", "feed")
	run("in quarantine: discarded", true, "lists", "status")
	text.Store("one.example\nwww.google.com\ngoogle.com\n")
	run("weir: list feed: line 3: the rule google.com would hold back google.com", false, "lists", "update")
	run("in quarantine: protected", true, "lists", "status")
	run("no list of that name is fetched", false, "lists", "update", "other")
	// A broken file keeps nobody from looking at what is fetched.
	text.Store("one.example\nthree.example\n")
	list := filepath.Join(filepath.Dir(file), "mine.txt")
	writeFile(t, list, "mine.example\n")
	replaceIn(t, file, own, own+"  - {name: mine, source: \"file:mine.txt\", format: domains}\n")
	run("running: ", true, "reload")
	writeFile(t, list, "<html>\n")
	out, ok := asWeir(t, "lists", "update", "--config", file)
	if ok || !strings.Contains(out, "list mine (") || !strings.Contains(out, "feed  held  2 rules") {
		t.Errorf("beside a broken file: %s", out)
	}
	run(" is in force, with the old rules of what cannot be taken: ", false, "reload")
	run("file mine: failing\n  1 failed", true, "lists", "status")
	run("takes the name of one list", false, "lists", "approve")
	if out, ok := asWeir(t, "lists", "update", "--admin", admin); ok || !strings.Contains(out, "credential") {
		t.Errorf("without a credential: %s", out)
	}
}

// A version of a fetched list that was dropped with its canary stays refused, which is
// to be seen, until it is approved.
func TestListsDropFetched(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "one.example\n")
	}))
	t.Cleanup(origin.Close)
	file, _ := served(t, "groups:\n- {name: pilot, devices: [127.0.0.2]}\n")
	replaceIn(t, file, "bans: [kaspersky]\n", `bans:
- id: own
  title: Own
  authority: us
  reference: https://own.example/
  lists:
  - {name: feed, source: "`+origin.URL+`/list", format: domains, interval: 30d, canary: pilot}
`)
	run := func(want string, ok bool, args ...string) {
		t.Helper()
		out, got := asWeir(t, append(args, "--config", file)...)
		if got != ok || !strings.Contains(out, want) {
			t.Errorf("%s: succeeded=%t, want %t and %q:\n%s", strings.Join(args, " "), got, ok, want, out)
		}
	}
	run("running: generation 2", true, "reload")
	run("canary: group pilot goes ahead", true, "lists", "update")
	run("held as generation 2 was", true, "lists", "drop", "--why", "too much")
	run("in quarantine: canary dropped by uid:", true, "lists", "status")
	run("held", false, "lists", "approve", "feed") // the hold of the drop is for all versions
	run("feed  refused  dropped", true, "lists", "update")
	run(": too much, sha256 ", true, "lists", "status")
	run("weir: feed: no update of the list waits for approval", false, "lists", "discard", "feed")
	run("approved: feed, 1 rules", true, "lists", "approve", "feed")
	run("canary: group pilot goes ahead", true, "lists", "status")
}

func replaceIn(t *testing.T, file, old, text string) {
	t.Helper()
	b := readFile(t, file)
	if !strings.Contains(b, old) {
		t.Fatal(fmt.Errorf("%s has no %q", file, old))
	}
	writeFile(t, file, strings.Replace(b, old, text, 1))
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// writeFile writes a file in one step: nobody may read half of it.
func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
		t.Fatal(err)
	}
}

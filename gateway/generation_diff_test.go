package gateway

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A difference counts all rules, shows some, and says what devices would notice.
func TestGenerationDiff(t *testing.T) {
	files := generationFiles("a.example\nb.example\nc.example")
	files["weir.yml"] += "audit: {file: audit.jsonl}\n"
	f := newFixture(t, files)
	for _, n := range []string{"x.a.example", "d.example", "d.example", "free.example"} {
		f.rcode(n)
	}
	for end := time.Now().Add(time.Minute); strings.Count(f.read("audit.jsonl"), "\n") < 4 && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
	}
	if err := f.rewrite("short.txt", "# a line more\nc.example\nb.example\nd.example\n"); err != nil {
		t.Fatal(err)
	}
	d, err := f.diff(diffQuery{limit: 10, seen: time.Hour, name: "x.d.example"})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(d.From, d.To, d.Added, d.Removed, d.Rules, d.More, d.Others)
	if want := "1 2 1 1 [{added big short d.example 4} {removed big short a.example 1}] 0 []"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if d.Verdict == nil || d.Verdict.From != "allow" || !strings.HasPrefix(d.Verdict.To, "block by ban big (short, line 4: d.example") {
		t.Errorf("verdict: %+v", d.Verdict)
	}
	s := d.Seen
	if s == nil || s.Names != 3 || s.Devices != 1 || s.Changed != 2 || s.Changes[0].Name != "d.example" || s.Changes[1].Name != "x.a.example" || s.Changes[0].Devices != 1 {
		t.Errorf("seen: %+v", s)
	}
	if d, err := f.diff(diffQuery{from: 2, to: 1, limit: 1}); err != nil || d.Added != 1 || d.Removed != 1 || len(d.Rules) != 1 || d.More != 1 {
		t.Errorf("backwards, one rule: %+v, %v", d, err)
	}
	if _, err := f.diff(diffQuery{from: 1, to: 9}); err == nil {
		t.Error("with a generation that never was")
	}
	if _, err := f.diff(diffQuery{to: 1}); err == nil {
		t.Error("with the one before the first")
	}
}

// What differs beside the rules is named.
func TestGenerationDiffOfTheRest(t *testing.T) {
	f := newFixture(t, generationFiles("a.example"))
	if err := f.rewrite("weir.yml", f.read("weir.yml")+"groups: [{name: executives, devices: [\"10.8.0.0/24\"], bans: [big]}]\n"); err != nil {
		t.Fatal(err)
	}
	d, err := f.diff(diffQuery{limit: 10, seen: 0})
	if err != nil || fmt.Sprint(d.Added, d.Removed, d.Others) != "0 0 [groups]" {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := f.diff(diffQuery{seen: time.Hour}); err == nil || !strings.Contains(err.Error(), "audit.file") {
		t.Errorf("without an audit record: %v", err)
	}
}

package main

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/bench/corpus"
)

func TestUsable(t *testing.T) {
	for name, want := range map[string]bool{
		"a.example.org": true, "_dmarc.example.org": true, "0--0.example.org": true,
		"org": false, "": false, "a..b": false, ".a.b": false, "a.b.": false, "-a.b": false, "a-.b": false, "a b.c": false, "é.org": false, "A.b": false, "c1.2.3.4": false, "a.0x7f": false, "1.2": false,
		strings.Repeat("a", 64) + ".org": false, strings.Repeat("abcdefgh.", 30) + "org": false,
	} {
		if got := usable(name); got != want {
			t.Errorf("usable(%q) is %v, want %v", name, got, want)
		}
	}
	for name, want := range map[string]bool{"printer.local": true, "local": true, "notlocal": false, "x.use-application-dns.net": true, "example.ca": false} {
		if got := special(name); got != want {
			t.Errorf("special(%q) is %v, want %v", name, got, want)
		}
	}
}

// TestAllowedIsCoveredByNothing, in the order of popularity, each once.
func TestAllowedIsCoveredByNothing(t *testing.T) {
	covered := map[string]struct{}{"bad.example.ca": {}, "worse.ca": {}}
	popular := []string{"good.ca", "www.bad.example.ca", "worse.ca", "example.ca", "good.ca", "notworse.ca", "com", "mine.local", "last.ca"}
	if got, want := drawAllowed(popular, covered, 4), []string{"good.ca", "example.ca", "notworse.ca", "last.ca"}; !slices.Equal(got, want) {
		t.Errorf("allowed %q, want %q", got, want)
	}
	if got := drawAllowed(popular, covered, 2); len(got) != 2 {
		t.Errorf("%q, want two", got)
	}
}

// TestDrawIsTheSameEveryTime, even and without doubles.
func TestDrawIsTheSameEveryTime(t *testing.T) {
	var all []string
	for i := range 5000 {
		all = append(all, fmt.Sprintf("n%d.example.ca", i))
	}
	protected := map[string]struct{}{"push.ca": {}}
	a := drawBlocked(slices.Concat(all, all[:100], []string{"bad name", "x.local", "push.ca", "1.push.ca"}), protected)
	slices.Reverse(all)
	b := drawBlocked(all, protected)
	if len(a) != 5000 || !slices.Equal(a, b) {
		t.Fatalf("%d and %d names, the same: %v", len(a), len(b), slices.Equal(a, b))
	}
	if slices.IsSorted(a) {
		t.Error("the draw is in order")
	}
	if a[0] != drawBlocked(slices.Clone(all), protected)[0] {
		t.Error("the first name differs")
	}
}

// TestRealNames draws from the real data: what is allowed must be so whatever
// the size of the list.
func TestRealNames(t *testing.T) {
	dir, data := t.TempDir(), corpus.Dir(t)
	t.Chdir(corpus.Module(t))
	var out bytes.Buffer
	if err := writeNames(dir, data, []int{1000, 100_000}, &out); err != nil {
		t.Fatal(err)
	}
	small, large := lines(t, blockedFile(dir, 1000)), lines(t, blockedFile(dir, 100_000))
	if len(small) != 1000 || len(large) != 100_000 || !slices.Equal(small, large[:1000]) {
		t.Fatalf("%d and %d names, want 1000 and 100000, the one a part of the other", len(small), len(large))
	}
	allowed := lines(t, filepath.Join(dir, "allowed.txt"))
	set := make(map[string]struct{})
	for _, n := range large {
		set[n] = struct{}{}
	}
	for _, n := range allowed {
		if covers(set, n) {
			t.Errorf("%s is covered", n)
		}
	}
	if len(allowed) != allowedCount {
		t.Errorf("%d allowed names, want %d", len(allowed), allowedCount)
	}
}

func TestProtected(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.txt")
	if err := os.WriteFile(file, []byte("# why\n@@a.ca\n@@*.b.ca\n@@=c.ca # exact\nd.ca\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readProtected(file)
	want := map[string]struct{}{"a.ca": {}, "b.ca": {}, "c.ca": {}}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

func lines(t *testing.T, file string) []string {
	t.Helper()
	names, err := readNames(file)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestEveryConfigurationIsComplete renders each of them.
func TestEveryConfigurationIsComplete(t *testing.T) {
	for _, p := range peers {
		s := &setting{
			Dir: filepath.Join(t.TempDir(), p.name), Proxy: "127.0.0.1:2", Upstream: "127.0.0.1:3", UpstreamHost: "127.0.0.1", UpstreamPort: "3",
			OriginPort: "4", DoT: "127.0.0.1:5", DoTPort: "5", DoH: "127.0.0.1:6", DoHPort: "6", Cert: "/cert", Key: "/key", List: "/list", Zone: "/zone", program: "/bin/" + p.program, names: []string{"a.example.ca", "b.a.example.ca"},
		}
		if err := s.setAddress("127.0.0.1:1"); err != nil {
			t.Fatal(err)
		}
		argv, err := p.configure(s)
		if err != nil {
			t.Errorf("%s: %v", p.name, err)
			continue
		}
		if argv[0] != "/bin/"+p.program || p.notes == "" || p.install == "" || p.plane == 0 {
			t.Errorf("%s: command %q, notes %q, install %q, plane %d", p.name, argv, p.notes, p.install, p.plane)
		}
		if p.config == "" {
			continue
		}
		text, err := os.ReadFile(s.Config)
		if err != nil || bytes.Contains(text, []byte("<no value>")) || !bytes.Contains(text, []byte("127.0.0.1")) {
			t.Errorf("%s: %v\n%s", p.name, err, text)
		}
	}
}

// TestSquidGetsNoNameTwice: it refuses a name beneath another one.
func TestSquidGetsNoNameTwice(t *testing.T) {
	keep := uncovered([]string{"example.ca", "www.example.ca", "a.b.other.ca"})
	for name, want := range map[string]bool{"example.ca": true, "www.example.ca": false, "a.b.other.ca": true} {
		if keep(name) != want {
			t.Errorf("keep(%s) is %v", name, !want)
		}
	}
}

func roundOf(us float64, wrong uint64) round {
	var r round
	r.CPU = &struct {
		Each     float64 `json:"us_per_operation"`
		Seconds  float64 `json:"seconds"`
		Cores    float64 `json:"cores"`
		Resident uint64  `json:"resident_bytes"`
		Peak     uint64  `json:"peak_bytes"`
	}{Each: us, Seconds: 1, Cores: 1}
	r.Wrong, r.Answered = wrong, 1000
	return r
}

// TestRatioIsOfNeighbours: the machine is twice as slow in half of the rounds,
// and the ratio does not care.
func TestRatioIsOfNeighbours(t *testing.T) {
	var a, b []round
	for i := range 6 {
		slow := float64(1 + i%2)
		a, b = append(a, roundOf(10*slow, 1)), append(b, roundOf(4*slow, 0))
	}
	if got := ratio("blocked", a, b); math.Abs(got-2.5) > 1e-9 {
		t.Errorf("ratio %v, want 2.5", got)
	}
	r := summarize("blocked", a)
	if r.Cost != 15 || r.Least != 10 || r.Most != 20 || r.Wrong != 6 || r.Rounds != 6 {
		t.Errorf("summary %+v", r)
	}
	if got := ratio("blocked", a, nil); got != 0 {
		t.Errorf("the ratio to nothing is %v", got)
	}
	bulk := roundOf(0, 0)
	bulk.Bytes = 3e9
	if got := bulk.cost("bulk"); got != 3 {
		t.Errorf("3 GB in a CPU second cost %v", got)
	}
}

// TestMergeAndRewrite: a second run replaces its own lines and nothing else,
// neither in the file nor in the report.
func TestMergeAndRewrite(t *testing.T) {
	dir := t.TempDir()
	file, page := filepath.Join(dir, "r.json"), filepath.Join(dir, "R.md")
	if err := os.WriteFile(page, []byte("before\n"+beginMark+"old\n"+endMark+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := &options{json: file, write: page}
	var out bytes.Buffer
	first := []result{{What: "mixed", Size: 1000, Peer: "unbound", Cost: 7, Version: "1.2"}, {What: "blocked", Size: 1000, Peer: "named", Missing: "not installed: a | b"}}
	second := []result{{What: "blocked", Size: 1000, Peer: "floor", Cost: 3}, {What: "mixed", Size: 1000, Peer: "unbound", Cost: 9, Version: "1.3"}}
	for _, r := range [][]result{first, second, second} {
		if err := publish(o, &out, r); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	got := string(text)
	for _, want := range []string{"before\n" + beginMark, endMark + "after\n", "| floor  | 3.00 ", "| unbound 1.3 | 9.00 ", "| named  | not installed: a / b |"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("%q stands %d times in\n%s", want, strings.Count(got, want), got)
		}
	}
	if strings.Contains(got, "old") || strings.Contains(got, "7.00") {
		t.Errorf("old lines in\n%s", got)
	}
	if strings.Index(got, "floor") > strings.Index(got, "named") || strings.Index(got, "named") > strings.Index(got, "unbound 1.3") {
		t.Errorf("out of order:\n%s", got)
	}
	if err := publish(o, &out, []result{{What: "blocked", Size: 1000, Peer: "weir", Wrong: 1}}); err == nil {
		t.Error("a wrong answer of weir is no error")
	}
}

func TestOptions(t *testing.T) {
	for _, bad := range []string{"-peers nobody", "-what nothing", "-sizes 5", "-sizes x", "-rounds 0", "-time 1h", "more"} {
		if _, err := parseOptions(strings.Fields(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	o, err := parseOptions([]string{"-what", "all", "-sizes", "1000,2000"})
	if err != nil || len(o.peers) != len(peers) || len(o.what) != len(measurements) || joinInts(o.sizes) != "1000,2000" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestExpand(t *testing.T) {
	for what, want := range map[string]string{
		"blocked": "blocked", "dot": "dot-blocked,dot-cached,dot-single", "cached,doh,bulk": "cached,doh-blocked,doh-cached,doh-single,bulk",
	} {
		if got := expand(what); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
		if _, err := choose("measurement", expand(what), whatNames()); err != nil {
			t.Error(err)
		}
	}
}

// TestContest runs two real peers of Debian on a small list of its own, with the
// program itself: as root it makes a network namespace.
func TestContest(t *testing.T) {
	corpus.Tool(t, "unbound")
	corpus.Tool(t, "named")
	corpus.Tool(t, "taskset")
	dir := t.TempDir()
	program := filepath.Join(dir, "peers")
	tool(t, "go", "build", "-o", program, "./bench/peers")
	var blocked, allowed []string
	for i := range 1000 {
		blocked, allowed = append(blocked, fmt.Sprintf("n%d.blocked.ca", i)), append(allowed, fmt.Sprintf("n%d.allowed.ca", i))
	}
	for file, names := range map[string][]string{blockedFile(dir, 1000): blocked, filepath.Join(dir, "allowed.txt"): allowed} {
		if err := writeLines(file, names); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "results.json")
	var bad string
	for _, turn := range []string{"600ms", "6s"} { // on a busy machine nobody answers for a second
		out := tool(t, program, "-work", dir, "-json", file, "-peers", "unbound,named,kresd", "-what", "mixed,dot-cached,doh-blocked", "-rounds", "2", "-time", turn, "-sizes", "1000")
		if bad = contested(file); bad == "" {
			return
		}
		t.Logf("turns of %s: %s\n%s", turn, bad, out)
	}
	t.Error(bad)
}

// contested says what is not as it should be with the results of TestContest.
func contested(file string) string {
	results, err := merge(file, nil)
	if err != nil || len(results) != 7 { // named has no part in two of them here
		return fmt.Sprintf("%d results, %v, want 7", len(results), err)
	}
	for _, r := range results {
		if r.Peer == "kresd" && r.Missing != "" {
			if !strings.Contains(r.Missing, "apt-get install") {
				return fmt.Sprintf("kresd is missing: %q", r.Missing)
			}
			continue
		}
		if r.Missing != "" || r.Wrong > 0 || r.Rounds != 2 || r.Cost <= 0 || r.Rate <= 0 || r.Resident == 0 || r.Load <= 0 || r.Version == "" {
			return fmt.Sprintf("%+v", r)
		}
	}
	return ""
}

// tool runs a program in the module's folder.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = corpus.Module(t)
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, text)
	}
	return string(text)
}

package gateway

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/blocklists/parse"
	"github.com/weir-gateway/weir/config"
)

const editConfig = `
dns: {listen: ["127.0.0.1:0"], upstreams: ["UPSTREAM"]}
proxy: {listen: ["127.0.0.1:0"]}
admin: {listen: "127.0.0.1:0"}
allow: [%s]
` + bigBan

// bigBan is a ban with a long list and a short one.
const bigBan = `bans:
  - id: big
    title: {en: "Big", fr: "Grand"}
    authority: "test"
    reference: "https://ban.example/"
    effective: 2023-10-30T00:00:00-04:00
    lists:
      - {name: big, source: "file:big.txt", format: domains}
      - {name: short, source: "file:short.txt", format: domains}
`

// bigList returns so many different names, a line each.
func bigList(n int) []string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf("n%d.x%d.example", i, i%97)
	}
	return lines
}

func text(lines []string) string { return strings.Join(lines, "\n") + "\n" }

// settled makes the files ones that were not changed shortly before they were
// read.
func (f *fixture) settled() {
	for i := range f.compiled.parts {
		f.compiled.parts[i].at = time.Now().Add(time.Hour)
	}
}

// What has changed is put in force without compiling what has not, and the
// result is that of compiling all of it.
func TestEdits(t *testing.T) {
	lines := bigList(20_000)
	f := newFixture(t, map[string]string{
		"weir.yml": fmt.Sprintf(editConfig, ""), "big.txt": text(lines), "short.txt": "short.example\n",
	})
	check := func(what string, built bool, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if f.compiled.built != built {
			t.Errorf("%s: built anew: %v, want %v", what, f.compiled.built, built)
		}
		f.same(what)
	}
	f.settled()
	check("nothing", false, f.Reload(t.Context()))

	check("the operator's rules", false,
		f.rewrite("weir.yml", strings.ReplaceAll(fmt.Sprintf(editConfig, `"n5.x5.example"`), "UPSTREAM", f.compiledUpstream())))
	if got := f.rcode("n5.x5.example"); got != "NOERROR" {
		t.Errorf("a name that the operator allows: %s", got)
	}

	check("a short list", false, f.rewrite("short.txt", "# none but\nother.example\n"))
	if a, b := f.rcode("other.example"), f.rcode("short.example"); a != "NXDOMAIN" || b != "NOERROR" {
		t.Errorf("the name that came: %s, the one that went: %s", a, b)
	}

	lines = slices.Insert(lines, 10_000, "inserted.example")
	check("a line of a long list", false, f.rewrite("big.txt", text(lines)))
	if got := f.rcode("inserted.example"); got != "NXDOMAIN" {
		t.Errorf("the name that was inserted: %s", got)
	}
	if sum := f.Status().Lists; sum[len(sum)-2].Digest == "" || sum[len(sum)-2].Rules != 20_001 {
		t.Errorf("status of the list: %+v", sum[len(sum)-2])
	}

	check("much of a long list", true, f.rewrite("big.txt", text(bigList(30_000)[5000:])))
}

// compiledUpstream is the upstream that the fixture's configuration names.
func (f *fixture) compiledUpstream() string { return f.cfg.DNS.Upstreams[0].String() }

// same holds the policy in force against one compiled from nothing.
func (f *fixture) same(what string) {
	f.t.Helper()
	fresh, err := compile(f.cfg, f.compiled.snapshot.Generation(), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	if a, b := f.compiled.set.Rules(), fresh.set.Rules(); a != b {
		f.t.Errorf("%s: %d rules, compiled anew %d", what, a, b)
	}
	names := []string{"short.example", "other.example", "inserted.example", "n5.x5.example", "www.wechat.com"}
	for _, l := range strings.Fields(f.read("big.txt")) {
		names = append(names, strings.TrimLeft(l, "=*.@"))
	}
	for _, n := range names {
		a, b := f.compiled.set.AppendName(nil, n), fresh.set.AppendName(nil, n)
		if !slices.Equal(a, b) && !sameMatches(a, b) {
			f.t.Fatalf("%s: %s: %v, compiled anew %v", what, n, a, b)
		}
	}
	for i, a := range f.Status().Lists {
		if b := fresh.lists[i]; a.Digest != b.Digest || a.Rules != b.Rules || !sameReport(a.Report, b.Report) {
			f.t.Errorf("%s: list %s: %+v %+v, compiled anew %+v %+v", what, a.Name, a, a.Report, b, b.Report)
		}
	}
}

func sameReport(a, b *parse.Report) bool {
	return a == b || a != nil && b != nil && fmt.Sprintf("%+v", *a) == fmt.Sprintf("%+v", *b)
}

func sameMatches(a, b []blocklists.Match) bool {
	order := func(x, y blocklists.Match) int { return x.List - y.List }
	a, b = slices.SortedFunc(slices.Values(a), order), slices.SortedFunc(slices.Values(b), order)
	return slices.Equal(a, b)
}

// Random edits of a long file, one after the other: whatever is taken over, the
// policy is that of the file.
func TestDiffOfRandomEdits(t *testing.T) {
	t.Parallel()
	t.Run("plain", func(t *testing.T) {
		t.Parallel()
		diffRandomEdits(t, bigList(15_000), changeLines, 60)
	})
	// As lists of hosts mostly are: with a head, names that are none, and names that
	// stand there twice.
	t.Run("odd", func(t *testing.T) {
		t.Parallel()
		lines := bigList(15_000)
		lines = slices.Insert(lines, 14_000, lines[1], lines[9000], "localhost", "", "# the end")
		lines = slices.Insert(lines, 7000, "0.0.0.0", lines[14_500])
		lines = slices.Concat([]string{"# Title: odd", "", "localhost", "broadcasthost"}, lines)
		diffRandomEdits(t, lines, func(rnd *rand.Rand, lines []string, round int) []string {
			if rnd.IntN(8) == 0 {
				return changeLines(rnd, lines, round)
			}
			name := fmt.Sprintf("r%d.new.example", round)
			if rnd.IntN(16) == 0 {
				name = lines[len(lines)/2] // once more
			}
			return slices.Insert(slices.Clone(lines), rnd.IntN(len(lines)), name)
		}, 60)
	})
}

// diffRandomEdits wants at least so many of 120 changes to be edits.
func diffRandomEdits(t *testing.T, lines []string, change func(*rand.Rand, []string, int) []string, least int) {
	dir := t.TempDir()
	file := filepath.Join(dir, "big.txt")
	rnd := rand.New(rand.NewPCG(3, 4))
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(text(lines))
	weir := filepath.Join(dir, "weir.yml")
	yml := strings.ReplaceAll(fmt.Sprintf(editConfig, ""), "UPSTREAM", "udp://127.0.0.1:9")
	yml = strings.Replace(yml, `      - {name: short, source: "file:short.txt", format: domains}`+"\n", "", 1)
	if err := os.WriteFile(weir, []byte(yml), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(weir, bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	now, err := compile(cfg, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	edited := 0
	for round := range 120 {
		lines = change(rnd, lines, round)
		s := text(lines)
		if rnd.IntN(8) == 0 {
			s = strings.TrimSuffix(s, "\n")
		}
		write(s)
		next, err := compile(cfg, uint64(round+2), now)
		if err != nil {
			t.Fatal(err)
		}
		next.finish()
		fresh, err := compile(cfg, uint64(round+2), nil)
		if err != nil {
			t.Fatal(err)
		}
		if !next.built {
			edited++
		}
		if a, b := next.set.Rules(), fresh.set.Rules(); a != b {
			t.Fatalf("round %d, built %v: %d rules, compiled anew %d", round, next.built, a, b)
		}
		for i := range next.lists {
			a, b := next.lists[i], fresh.lists[i]
			if a.Digest != b.Digest || a.Rules != b.Rules || !sameReport(a.Report, b.Report) {
				t.Fatalf("round %d, built %v: report %+v\ncompiled anew %+v", round, next.built, a.Report, b.Report)
			}
		}
		for _, l := range append(lines, "gone.example", "new1.example") {
			n := strings.TrimLeft(strings.TrimSpace(l), "=*.@")
			if strings.HasPrefix(n, "#") || n == "" {
				continue
			}
			if a, b := next.set.AppendName(nil, n), fresh.set.AppendName(nil, n); !sameMatches(a, b) {
				t.Fatalf("round %d, built %v: %s: %v, compiled anew %v", round, next.built, n, a, b)
			}
		}
		now = next
	}
	if edited < least {
		t.Errorf("only %d of 120 changes were edits", edited)
	}
	t.Logf("%d of 120 changes were edits", edited)
}

// changeLines inserts, removes, replaces or swaps some lines, mostly close to each
// other; now and then it repeats one or adds a comment.
func changeLines(rnd *rand.Rand, lines []string, round int) []string {
	lines = slices.Clone(lines)
	at := rnd.IntN(len(lines) - 20)
	if rnd.IntN(10) == 0 {
		at = []int{0, len(lines) - 20}[rnd.IntN(2)]
	}
	for i := range 1 + rnd.IntN(4) {
		name := fmt.Sprintf("r%d-%d.new.example", round, i)
		switch at := at + rnd.IntN(min(20, len(lines)-at-1)); rnd.IntN(14) {
		case 0, 1, 2, 3:
			lines = slices.Insert(lines, at, name)
		case 4, 5, 6:
			lines = slices.Delete(lines, at, at+1)
		case 7, 8:
			lines[at] = name
		case 9:
			lines[at], lines[at+1] = lines[at+1], lines[at]
		case 10:
			lines = slices.Insert(lines, at, "="+name, "*."+name)
		case 11:
			lines = slices.Insert(lines, at, "@@"+name)
		case 12:
			if round%10 == 9 {
				lines = slices.Insert(lines, at, lines[rnd.IntN(len(lines))]) // repeats
			}
		case 13:
			if round > 60 {
				lines = slices.Insert(lines, at, "# a comment", "")
			}
		}
	}
	return lines
}

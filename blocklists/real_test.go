package blocklists

import (
	"bufio"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/bench/corpus"
)

// names reads the first names of a file with one name at the beginning of each
// line; comments, tiers other than those given and what is no name are left out.
func names(tb testing.TB, file string, most int, tiers ...string) []string {
	tb.Helper()
	var out []string
	on := true
	lines := bufio.NewScanner(corpus.Open(tb, file))
	for lines.Scan() && len(out) < most {
		text := lines.Text()
		if tier, ok := strings.CutPrefix(text, "#@tier "); ok {
			on = len(tiers) == 0
			for _, t := range tiers {
				on = on || strings.Fields(tier)[0] == t
			}
		}
		text, _, _ = strings.Cut(text, "#")
		text, _, _ = strings.Cut(text, "\t")
		if name, err := CanonicalName(strings.TrimSpace(text)); err == nil && on {
			out = append(out, name)
		}
	}
	if err := lines.Err(); err != nil {
		tb.Fatal(err)
	}
	if len(out) == 0 {
		tb.Fatalf("%s has no names", file)
	}
	return out
}

const (
	umbrella = "big/popularity/umbrella-top100k-2026-07-24.txt.gz"
	union    = "big/permissive/union-domains-2M.txt.gz"
)

func suffixes(tb testing.TB, b *Builder, list int, names []string) {
	tb.Helper()
	for i, n := range names {
		if err := b.Add(list, Rule{Kind: Suffix, Action: Block, Name: n, Line: i + 1}); err != nil {
			tb.Fatalf("Add(%q): %v", n, err)
		}
	}
}

// TestRealListsAgainstMaps asks one Set of many real lists for the most popular
// names of the world, and a map for each list.
func TestRealListsAgainstMaps(t *testing.T) {
	lists := [][]string{
		names(t, "wechat.txt", 1e6, "exclusive"),
		names(t, "kaspersky.txt", 1e6, "exclusive"),
		names(t, "tiktok.txt", 1e6, "exclusive"),
		names(t, "bypass-hosts.txt", 1e6),
		names(t, "big/permissive/sw-tracking.domains.txt.gz", 1e6),
		names(t, "big/permissive/blp-phishing.domains.txt.gz", 1e6),
		names(t, "big/copyleft/ut1-games.domains.txt.gz", 1e6),
		names(t, "big/copyleft/ut1-redirector.domains.txt.gz", 1e6),
	}
	var b Builder
	maps := make([]map[string]int, len(lists))
	for i, list := range lists {
		suffixes(t, &b, i, list)
		maps[i] = make(map[string]int)
		for j, n := range list {
			if maps[i][n] == 0 {
				maps[i][n] = j + 1
			}
		}
	}
	s := b.Build()

	asked := names(t, umbrella, 1e6)
	for _, list := range lists { // and what stands just beside the rules
		for i := 0; i < len(list); i += 7 {
			n := list[i]
			_, parent, _ := strings.Cut(n, ".")
			asked = append(asked, n, "x."+n, "x"+n, n+".example", parent)
		}
	}
	var matches int
	buf := make([]Match, 0, 8)
	for _, name := range asked {
		var want []Match
		for i, m := range maps {
			for at := name; at != ""; _, at, _ = strings.Cut(at, ".") {
				if line := m[at]; line != 0 {
					want = append(want, Match{i, Rule{Kind: Suffix, Action: Block, Name: at, Line: line}})
					break
				}
			}
		}
		buf = s.AppendName(buf[:0], name)
		compare(t, &oracle{}, name, buf, want)
		matches += len(want)
	}
	t.Logf("%d rules, %d questions, %d matches", s.Rules(), len(asked), matches)
	if len(asked) < 100_000 || matches < 10_000 {
		t.Errorf("only %d questions with %d matches", len(asked), matches)
	}
}

// TestRealHitRates: what share of the most popular names the lists hold, counted
// before by other means and published with the data.
func TestRealHitRates(t *testing.T) {
	popular := names(t, umbrella, 1e6)
	hits := func(s *Set) int {
		n := 0
		for _, name := range popular {
			if len(s.AppendName(nil, name)) > 0 {
				n++
			}
		}
		return n
	}
	for _, tt := range []struct {
		tiers    []string
		min, max int
	}{
		{[]string{"exclusive"}, 1550, 1650},
		{[]string{"exclusive", "vendor"}, 2750, 2850},
	} {
		var b Builder
		for i, app := range []string{"wechat.txt", "kaspersky.txt", "tiktok.txt"} {
			suffixes(t, &b, i, names(t, app, 1e6, tt.tiers...))
		}
		if got := hits(b.Build()); got < tt.min || got > tt.max {
			t.Errorf("tiers %v hold %d of 100,000 popular names, want %d to %d", tt.tiers, got, tt.min, tt.max)
		}
	}
	var b Builder
	suffixes(t, &b, 0, names(t, union, 3e6))
	s := b.Build()
	if got := s.Rules(); got != 1_986_552 {
		t.Errorf("the union has %d rules, want 1986552", got)
	}
	if got := hits(s); got != 19_302 {
		t.Errorf("the union holds %d of 100,000 popular names, want 19302", got)
	}
}

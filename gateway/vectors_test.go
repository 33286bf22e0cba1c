package gateway

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
)

// TestVectorsAfterEdit pins of which bans the vectors are checked again when a
// set is edited: of all that say or are anything else than before.
func TestVectorsAfterEdit(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("weir.yml", strings.ReplaceAll(strings.Replace(ownBan, "format: domains}]", "format: domains}]\n  vectors: \"file:v.txt\"", 1), "UPSTREAM", "udp://127.0.0.1:9"))
	write("own.txt", "banned.example\n")
	write("v.txt", "block banned.example\n")
	cfg, err := config.Load(filepath.Join(dir, "weir.yml"), bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	old, err := compile(cfg, 1, nil)
	if err != nil {
		t.Fatal(err)
	}

	// The list of a ban is edited so that its vectors do not hold any more.
	write("own.txt", "other.example\n")
	if set, err := compile(cfg, 2, old); err != nil || len(set.refused) != 1 || set.refused[0].why.reason != reasonVectors || set.set != old.set {
		t.Errorf("a list edited against its vectors: %v", err)
	}
	// So are vectors in a file, while the list stays.
	write("own.txt", "banned.example\n")
	write("v.txt", "block other.example\n")
	if set, err := compile(cfg, 2, old); err != nil || len(set.refused) != 1 || set.refused[0].list != "vectors of own" {
		t.Errorf("vectors edited against their list: %v", err)
	}

	write("v.txt", "block banned.example\n")
	write("own.txt", "banned.example\nmore.example\n")
	c := compiler{cfg: cfg, read: revisions{}}
	if err := c.plan(); err != nil {
		t.Fatal(err)
	}
	if set, err := c.edit(old); err != nil || set == nil {
		t.Fatalf("the set was not edited: %v", err)
	}
	const builtIn, own = 0, 1
	if !c.sameVectors(builtIn, old) || c.sameVectors(own, old) {
		t.Error("checked again: want the ban whose list has changed, and not the other")
	}
	if _, ok := c.read[cfg.Bans[builtIn].Vectors]; !ok {
		t.Error("the vectors that were not read again are not watched")
	}
	for what, change := range map[string]func(b *blocklists.Ban, p *part){
		"id":      func(b *blocklists.Ban, _ *part) { b.ID = "another" },
		"tiers":   func(b *blocklists.Ban, _ *part) { b.Tiers = nil },
		"vectors": func(b *blocklists.Ban, _ *part) { b.Vectors = "embedded:tiktok/vectors.txt" },
		"list":    func(_ *blocklists.Ban, p *part) { p.same = false },
	} {
		at := slices.IndexFunc(c.parts, func(p part) bool { return p.status.Ban == cfg.Bans[builtIn].ID })
		ban, list := cfg.Bans[builtIn], c.parts[at]
		change(&cfg.Bans[builtIn], &c.parts[at])
		// What was checked is what the configuration said then.
		was := *old
		was.bans = []*blocklists.Ban{&ban, old.bans[own]}
		if c.sameVectors(builtIn, &was) {
			t.Errorf("another %s: not checked again", what)
		}
		cfg.Bans[builtIn], c.parts[at] = ban, list
	}
}

package gateway

import (
	"strings"
	"testing"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/config"
)

// TestNoShield: a configuration whose protected names cannot be told from others
// is refused, at the start and later: updates of lists would not be checked.
func TestNoShield(t *testing.T) {
	f := newFixture(t, generationFiles("one.example"))
	bad := func() (*config.Config, error) {
		cfg, err := f.load()
		if err == nil {
			cfg.Protected = append(cfg.Protected, blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Allow, Name: "Not.Canonical"})
		}
		return cfg, err
	}
	before, shield := f.Status().Generation, f.feeds.shield
	f.opts.Load = bad
	if err := f.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "protected: name of rule") {
		t.Errorf("reload: %v, want an error about protected", err)
	}
	if got := f.Status().Generation; got != before || f.feeds.shield != shield || shield == nil {
		t.Errorf("generation %d after a reload that was refused, want %d and the old shield", got, before)
	}
	if got := f.rcode("one.example"); got != "NXDOMAIN" {
		t.Errorf("after a reload that was refused: %s", got)
	}
	f.stop()
	cfg, err := bad()
	if err != nil {
		t.Fatal(err)
	}
	if g, err := New(cfg, f.opts); err == nil || !strings.Contains(err.Error(), "protected: name of rule") {
		if err == nil {
			g.close()
		}
		t.Errorf("start: %v, want an error about protected", err)
	}
}

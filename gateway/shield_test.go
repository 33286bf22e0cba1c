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

// TestShieldRegistries: no update of a list may take all names of a country's
// companies or authorities; what is small, or one name, may be meant.
func TestShieldRegistries(t *testing.T) {
	s, err := newShield(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"co.uk": true, "*.co.uk": true, "gov.au": true, "com.br": true, "ac.jp": true, "=co.uk": false, "shop.co.uk": false,
		"game.tw": false, "duckdns.org": false, "net.example": false, "org.company.test": false,
	} {
		r, err := config.ParseRule(name)
		if err != nil {
			t.Fatal(err)
		}
		r.Action = blocklists.Block
		if got, _ := s.holds(&r, nil); (got != "") != want {
			t.Errorf("%s: holds back %q, want something: %t", name, got, want)
		}
	}
}

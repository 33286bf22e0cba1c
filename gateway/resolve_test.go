package gateway

import (
	"net/url"
	"slices"
	"testing"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// What is asked at upstreams of its own may have private addresses, and a change
// of any of it puts another resolver in place.
func TestRoutesOfConfiguration(t *testing.T) {
	u := &url.URL{Scheme: "udp", Host: "10.0.0.53:53"}
	cfg := &config.Config{DNS: config.DNS{
		Rebinding: config.Rebinding{Block: true, Allow: []string{"intranet.example"}},
		Routes:    []config.Route{{Names: []string{"corp.example", "lab.example"}, Upstreams: []*url.URL{u}, Strategy: config.StrategyRandom}},
	}}
	if got, want := shape(cfg).PrivateNames, []string{"intranet.example", "corp.example", "lab.example"}; !slices.Equal(got, want) {
		t.Errorf("names that may have private addresses: %q, want %q", got, want)
	}
	r := resolverRoutes(cfg)
	if len(r) != 1 || len(r[0].Names) != 2 || r[0].Upstreams[0] != u || r[0].Strategy != resolver.Random {
		t.Errorf("%+v", r)
	}
	for what, change := range map[string]func(c *config.DNS){
		"nothing":  func(*config.DNS) {},
		"strategy": func(c *config.DNS) { c.Strategy = config.StrategyFastest },
		"routes":   func(c *config.DNS) { c.Routes = nil },
		"stale":    func(c *config.DNS) { c.Cache.Stale.Max++ },
		"persist":  func(c *config.DNS) { c.Cache.Persist = true },
		"TTLs":     func(c *config.DNS) { c.Cache.TTL.Min++ },
	} {
		next := cfg.DNS
		change(&next)
		if got := sameUpstreams(&cfg.DNS, &next); got != (what == "nothing" || what == "persist") {
			t.Errorf("%s changed: the same %v", what, got)
		}
	}
}

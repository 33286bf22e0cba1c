package gateway

import (
	"errors"
	"net"
	"time"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/vpn"
)

// ErrNoInterface says that a configuration has no packet filter.
var ErrNoInterface = errors.New("no vpn.interface is configured: name the interface that devices come through, such as wg0, in the section vpn")

// PacketFilter returns the ruleset of the configuration and of its policy as it
// holds now, for the command line.
func PacketFilter(version string, cfg *config.Config) (vpn.Ruleset, error) {
	if cfg.VPN.Interface == "" {
		return vpn.Ruleset{}, ErrNoInterface
	}
	set, err := compile(cfg, 1, nil)
	if err != nil {
		return vpn.Ruleset{}, err
	}
	return vpn.Rules(version, cfg, vpn.Bans(set.snapshot, time.Now())), nil
}

// keepFilter makes what keeps the packet filter equal to the policy, if there
// is an interface to filter.
func (g *Gateway) keepFilter() {
	name := g.cfg.VPN.Interface
	if name == "" {
		return
	}
	if _, err := net.InterfaceByName(name); err != nil {
		g.log.Warn("vpn.interface is not there yet; its packet filter is in place when it comes", "interface", name)
	}
	g.vpn = vpn.NewKeeper(vpn.Options{Version: g.opts.Version, Log: g.log, InForce: func() (*config.Config, *policy.Snapshot) {
		return g.state.Load().cfg, g.store.Load()
	}})
	if g.audit != nil {
		g.audit.Identify(g.vpn.Identity().Key)
	}
}

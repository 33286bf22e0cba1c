package gateway

import (
	"net/netip"
	"os"

	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/dnsserver"
	"github.com/weir-gateway/weir/gateway/tap"
)

// openTap begins to tell the dnstap collector of the configuration, if there is
// one. It is told no more of devices than the audit record.
func (g *Gateway) openTap() (dnsserver.Tap, error) {
	c := &g.cfg.DNS.Dnstap
	if c.To == "" {
		return nil, nil
	}
	network, address, err := tap.ParseAddress(c.To)
	if err != nil {
		return nil, err
	}
	identity := c.Identity
	if identity == "" {
		identity, _ = os.Hostname()
	}
	privacy := audit.Privacy(g.cfg.Audit.Privacy)
	g.tap = tap.Open(tap.Options{
		Network: network, Address: address, Identity: identity, Version: "weir " + g.opts.Version,
		Show: func(a netip.Addr) netip.Addr { return privacy.Address(a) }, Log: g.log,
	})
	return g.tap, nil
}

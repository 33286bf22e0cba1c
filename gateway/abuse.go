package gateway

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/dnsserver"
)

// newCookies makes the DNS cookies of the configuration, nil for none.
func newCookies(cfg *config.Config, log *slog.Logger) (*dnsserver.Cookies, error) {
	if cfg.DNS.Cookies.Mode == config.CookiesIgnore {
		return nil, nil
	}
	c, err := dnsserver.NewCookies(cfg.DNS.Cookies.Secrets, log)
	if err != nil {
		return nil, fmt.Errorf("dns.cookies: %w", err)
	}
	c.Require = cfg.DNS.Cookies.Mode == config.CookiesRequire
	return c, nil
}

// dnsLimits translates what a device and a network may ask.
func dnsLimits(cfg *config.Config) dnsserver.Limits {
	l := &cfg.DNS.Limits
	return dnsserver.Limits{
		Device: dnsserver.Rate(l.Device), Network: dnsserver.Rate(l.Network),
		Exempt: l.Exempt, Slip: l.Slip,
	}
}

// auditOptions translates what the audit record says of devices, and how long it
// is kept.
func auditOptions(c *config.Audit) audit.Options {
	return audit.Options{
		Privacy: audit.Privacy(c.Privacy),
		Rotate: audit.Rotate{
			Size: int64(c.Rotate.Megabytes) << 20, Age: time.Duration(c.Rotate.Hours) * time.Hour,
			Keep: c.Rotate.Keep, Stay: time.Duration(c.Rotate.Days) * 24 * time.Hour,
		},
	}
}

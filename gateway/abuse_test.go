package gateway

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/audit"
)

func TestNewCookies(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	file := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(file, []byte(strings.Repeat("0f", 16)), 0o600); err != nil {
		t.Fatal(err)
	}
	open := func(mode config.CookieMode, file string) (on, require bool, err error) {
		c, err := newCookies(&config.Config{DNS: config.DNS{Cookies: config.Cookies{Mode: mode, Secrets: file}}}, log)
		return c != nil, c != nil && c.Require, err
	}
	if on, _, err := open(config.CookiesIgnore, "/none"); on || err != nil {
		t.Errorf("ignore: %v, %v", on, err)
	}
	if on, require, err := open(config.CookiesAnswer, ""); !on || require || err != nil {
		t.Errorf("answer: %v, %v, %v", on, require, err)
	}
	if on, require, err := open(config.CookiesRequire, file); !on || !require || err != nil {
		t.Errorf("require: %v, %v, %v", on, require, err)
	}
	if on, _, err := open(config.CookiesAnswer, file+".none"); on || err == nil {
		t.Errorf("no such file: %v, %v", on, err)
	}
}

func TestDNSLimits(t *testing.T) {
	cfg := &config.Config{DNS: config.DNS{Limits: config.Limits{
		Device: config.Rate{PerSecond: 1, Burst: 2}, Network: config.Rate{PerSecond: 3, Burst: 4}, Slip: 5,
		Exempt: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
	}}}
	l := dnsLimits(cfg)
	if l.Device.PerSecond != 1 || l.Device.Burst != 2 || l.Network.PerSecond != 3 || l.Network.Burst != 4 || l.Slip != 5 || len(l.Exempt) != 1 {
		t.Errorf("got %+v", l)
	}
	next := *cfg
	next.DNS.Limits.Device.PerSecond = 2
	if err := sameListeners(cfg, &next); err == nil || !strings.Contains(err.Error(), "dns.limits") {
		t.Errorf("a reload with other limits: %v", err)
	}
}

func TestAuditOptions(t *testing.T) {
	o := auditOptions(&config.Audit{Privacy: config.PrivacyHashed, Rotate: config.Rotate{Megabytes: 2, Hours: 3, Keep: 4, Days: 5}})
	want := audit.Options{Privacy: audit.Hashed, Rotate: audit.Rotate{Size: 2 << 20, Age: 3 * time.Hour, Keep: 4, Stay: 120 * time.Hour}}
	if o != want {
		t.Errorf("got %+v, want %+v", o, want)
	}
}

package prove

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/blocklists/parse"
	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/config"
)

// Fixtures are names outside the bans that rows need. An empty one makes the
// rows that need it "not tried".
type Fixtures struct {
	Allowed string // a site over HTTP and TLS, HTTP/2 too
	Cloak   string // zone in which NAME.zone is a CNAME of NAME
	ECH     string // a name whose HTTPS record has keys for encrypted ClientHellos
	Mail    string // a mail server with submission and IMAP over TLS
	Push    string
	Time    string
	Echo    string // a WebSocket that echoes, NAME/PATH
	Big     string // an URL path on Allowed with many bytes and their number: /big/10000000

	Gateway6 string // the gateway's IPv6 address
}

func (f Fixtures) withDefaults() Fixtures {
	for _, d := range []struct {
		field *string
		value string
	}{
		{&f.Allowed, "www.example.com"}, {&f.ECH, "crypto.cloudflare.com"}, {&f.Mail, "outlook.office365.com"},
		{&f.Push, "courier.push.apple.com"}, {&f.Time, "time.nrc.ca"},
	} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	return f
}

// Set sets the fixture of that key, as the command line calls it.
func (f *Fixtures) Set(key, value string) error {
	fields := map[string]*string{"allowed": &f.Allowed, "cloak": &f.Cloak, "ech": &f.ECH, "mail": &f.Mail,
		"push": &f.Push, "time": &f.Time, "echo": &f.Echo, "big": &f.Big, "gateway6": &f.Gateway6}
	if fields[key] == nil {
		return fmt.Errorf("there is no fixture %q; there are allowed, big, cloak, ech, echo, gateway6, mail, push and time", key)
	}
	*fields[key] = value
	return nil
}

// How many examples of a ban are tried.
const (
	namesOfBan     = 3
	addressesOfBan = 2
)

// TargetsOf takes examples from the lists of the bans that are in force: names
// of as many lists as there are, and addresses of both families.
func TargetsOf(cfg *config.Config, now time.Time) ([]Target, error) {
	var out []Target
	for i := range cfg.Bans {
		b := &cfg.Bans[i]
		if !b.InForce(now) {
			continue
		}
		t := Target{Ban: b.ID, Title: b.Title}
		for _, l := range b.Lists {
			if l.Tier != "" && !b.Enabled(l.Tier) {
				continue
			}
			if err := t.add(l); err != nil {
				return nil, fmt.Errorf("list %s of ban %s: %w", l.Name, b.ID, err)
			}
		}
		out = append(out, t)
	}
	return out, nil
}

func (t *Target) add(l blocklists.List) error {
	r, err := source.Opener{Bundles: bans.FS}.Open(l.Source)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	names := 0
	for rule, err := range parse.Rules(parse.Format(l.Format), r, parse.Limits{}) {
		if err != nil || rule.Action != blocklists.Block {
			continue // a line that is not used says nothing here either
		}
		switch {
		case rule.Kind == blocklists.Prefix:
			t.addAddr(rule.Prefix)
		case rule.Path == "" && rule.Kind != blocklists.Under && rule.Name != "" && names == 0 && len(t.Names) < namesOfBan:
			t.Names, names = append(t.Names, rule.Name), 1
		}
	}
	return nil
}

func (t *Target) addAddr(p netip.Prefix) {
	a := p.Addr()
	if !p.IsSingleIP() {
		a = a.Next()
	}
	family := &t.V6
	if a.Is4() {
		family = &t.V4
	}
	if len(*family) < addressesOfBan {
		*family = append(*family, a)
	}
}

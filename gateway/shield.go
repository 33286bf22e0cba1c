package gateway

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/parse"
)

// wellKnown are names that carry half of what devices do. No list means them as
// a whole, however much it minds some of the names under them: a rule for one of
// these, or for what it lies under, is a mistake or an attack.
var wellKnown = []string{
	"akamai.net", "akamaiedge.net", "amazon.com", "amazonaws.com", "apple.com", "azure.com", "azureedge.net", "bing.com",
	"canada.ca", "cloudflare.com", "cloudfront.net", "edgekey.net", "fastly.net", "gc.ca", "github.com", "github.io",
	"githubusercontent.com", "gmail.com", "google.ca", "google.com", "googleapis.com", "googleusercontent.com", "gstatic.com",
	"icloud.com", "live.com", "microsoft.com", "microsoftonline.com", "mozilla.org", "mozilla.net", "msn.com", "office.com",
	"office.net", "office365.com", "outlook.com", "paypal.com", "sharepoint.com", "wikipedia.org", "windows.com",
	"windows.net", "windowsupdate.com", "youtube.com",
}

// A shield tells which rules no update of a list may bring: those that hold back
// a protected name or a well-known one. Policy would let protected names through
// anyway; a list that has one is not the list that it was.
type shield struct {
	protected *blocklists.Set // what lies under or is a protected name
	above     map[string]string
	prefixes  []netip.Prefix // of the configuration
}

// newShield makes the shield of the built-in protected names and of those of the
// configuration. Without one no list could be checked, so an error is one of the
// configuration. Beside the set there is a map of all names at which a rule would
// reach one of them from above, with the name that it would reach.
func newShield(own []blocklists.Rule) (*shield, error) {
	var b blocklists.Builder
	s := &shield{above: make(map[string]string)}
	add := func(r blocklists.Rule) error {
		if r.Kind == blocklists.Prefix {
			s.prefixes = append(s.prefixes, r.Prefix)
		}
		if r.Name == "" {
			return nil
		}
		s.cover(strings.Clone(r.Name))
		return b.Add(0, r)
	}
	r, err := opener.Open(protectedSource)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	if _, err := parse.Load(parse.Domains, r, parse.Limits{}, add); err != nil {
		return nil, fmt.Errorf("%s: %w", protectedSource, err)
	}
	for _, rule := range own {
		if err := add(rule); err != nil {
			return nil, fmt.Errorf("protected: %w", err)
		}
	}
	for _, name := range wellKnown {
		s.cover(name)
	}
	s.protected = b.Build()
	return s, nil
}

// cover remembers the name and all that it lies under.
func (s *shield) cover(name string) {
	for at := name; at != ""; {
		if _, known := s.above[at]; !known || at == name {
			s.above[at] = name
		}
		_, rest, _ := strings.Cut(at, ".")
		at = rest
	}
}

// registries are how the names begin under which a country's registry gives out
// those of everybody. Other public suffixes are small, and in lists that are in use.
var registries = map[string]bool{
	"ac": true, "co": true, "com": true, "edu": true, "gc": true, "go": true, "gob": true, "gouv": true, "gov": true,
	"govt": true, "gv": true, "mil": true, "ne": true, "net": true, "or": true, "org": true,
}

// isRegistry reports whether a rule for all under a name is one for a country's
// companies, authorities or universities (co.uk, gov.au).
func isRegistry(name string) bool {
	first, _, _ := strings.Cut(name, ".")
	if !registries[first] {
		return false
	}
	suffix, icann := publicsuffix.PublicSuffix(name)
	return icann && suffix == name
}

// holds returns the name that the rule would hold back and must not, or "".
func (s *shield) holds(r *blocklists.Rule, buf []blocklists.Match) (string, []blocklists.Match) {
	if r.Kind == blocklists.Prefix && r.Action != blocklists.Allow {
		for _, p := range s.prefixes {
			if p.Overlaps(r.Prefix) {
				return p.String(), buf
			}
		}
	}
	if r.Action == blocklists.Allow || r.Name == "" || r.Path != "" {
		return "", buf
	}
	if name, covered := s.above[r.Name]; covered {
		// A rule for a name alone does not reach what is under it.
		if r.Kind != blocklists.Exact || name == r.Name {
			return name, buf
		}
	}
	if r.Kind != blocklists.Exact && isRegistry(r.Name) {
		return "all names under " + r.Name, buf
	}
	if r.Kind == blocklists.Under {
		return "", buf
	}
	buf = s.protected.AppendName(buf[:0], r.Name)
	if len(buf) > 0 {
		return r.Name, buf
	}
	return "", buf
}

package config

import (
	"net/url"
	"slices"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// zoneURL returns the source of a list that is a response policy zone at its
// primary: rpz://HOST[:PORT]/ZONE, or rpzs:// over TLS.
func (v value) zoneURL(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		v.fail("%s is not a zone such as %s", quote(s), quote("rpz://192.0.2.1/policy.example"))
		return "", false
	}
	zone := strings.TrimSuffix(strings.TrimPrefix(u.Path, "/"), ".")
	name, err := blocklists.CanonicalName(zone)
	if err != nil {
		v.fail("%s names no zone: write it after the host, such as %s", quote(s), quote("rpz://192.0.2.1/policy.example"))
		return "", false
	}
	if !v.urlHost(u) {
		return "", false
	}
	s = u.Scheme + "://" + u.Host + "/" + name
	if _, named := v.d.sources[s]; named {
		v.fail("%s is the source of another list already; one list can be in several groups, but is fetched once", quote(s))
		return "", false
	}
	v.d.place(s, v)
	return s, true
}

// onlyURL are the keys of a list that mean something over HTTP only.
var onlyURL = []string{"proxy", "allow_networks", "sha256", "minisign"}

// checkZoneList reports what a list that is a zone cannot have, and what only
// such a list can.
func (v value) checkZoneList(l *blocklists.List) {
	if !blocklists.IsZone(l.Source) {
		if at, given := v.child("key"); given && l.Source != "" {
			at.fail("only a list that is a zone (rpz://…) has a key; leave this out")
		}
		return
	}
	for _, key := range onlyURL {
		if at, given := v.child(key); given {
			at.fail("a list that is a zone has no %s; leave this out", key)
		}
	}
	if at, given := v.child("format"); given && l.Format != "" && l.Format != "rpz" {
		at.fail("a zone that is transferred has the format rpz, not %s", l.Format)
	}
	if at, given := v.child("key"); given && l.Feed != nil && l.Feed.Key != "" {
		v.d.keys = append(v.d.keys, listAt{l.Feed.Key, at})
	}
}

// checkZoneKeys reports keys of lists that are not there.
func (d *decoder) checkZoneKeys(c *Config) {
	for _, k := range d.keys {
		if !slices.ContainsFunc(c.RPZ.Keys, func(t TSIGKey) bool { return t.Name == k.name }) {
			k.at.fail("there is no key %s in rpz.keys", quote(k.name))
		}
	}
}

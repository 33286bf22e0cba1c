package config

import (
	"net/netip"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/weir-gateway/weir/blocklists"
)

// RPZ configures the policy as a response policy zone that other resolvers
// follow, and the keys of transfers both ways.
type RPZ struct {
	Listen []netip.AddrPort // UDP and TCP; empty: off
	Zone   string           // canonical name
	Group  string           // whose policy it is; empty: of whoever is in no group
	Keys   []TSIGKey
	// AllowTransfer are the networks that may take the zone, with a key.
	AllowTransfer []netip.Prefix
	// UnsignedLoopback is whether this machine may do so without one.
	UnsignedLoopback bool
	Notify           []Secondary
}

// A TSIGKey is a secret shared with another server.
type TSIGKey struct {
	Name       string // canonical name
	Algorithm  string
	SecretFile string // base64, on one line
}

// A Secondary is a server that is told of changes.
type Secondary struct {
	Address netip.AddrPort
	Key     string // name of one of the keys; empty: none
}

// maxSecondaries bounds how many servers are told: each costs a goroutine.
const maxSecondaries = 64

func (v value) rpz(c *RPZ) {
	v.object(fields{
		"listen":            set(&c.Listen, listOf(value.listenAddr)),
		"zone":              set(&c.Zone, value.zoneName),
		"group":             set(&c.Group, value.groupOrNone),
		"keys":              set(&c.Keys, listOf(value.tsigKey)),
		"allow_transfer":    set(&c.AllowTransfer, listOf(value.prefix)),
		"unsigned_loopback": set(&c.UnsignedLoopback, value.boolean),
		"notify":            set(&c.Notify, listOf(value.secondary)),
	})
}

// groupOrNone is the name of a group, with the empty text for none.
func (v value) groupOrNone() (string, bool) {
	if s, ok := v.scalar(); !ok || s == "" {
		return "", ok
	}
	return groupName(v)
}

// zoneName returns the name of a zone, with the empty text for none.
func (v value) zoneName() (string, bool) {
	if s, ok := v.scalar(); !ok || s == "" {
		return "", ok
	}
	return v.keyName()
}

func (v value) tsigKey() (TSIGKey, bool) {
	var k TSIGKey
	ok := v.object(fields{
		"name":        set(&k.Name, value.keyName),
		"algorithm":   set(&k.Algorithm, word("hmac-sha256", "hmac-sha384", "hmac-sha512")),
		"secret_file": set(&k.SecretFile, value.secretFile),
	}, "name", "algorithm", "secret_file")
	return k, ok
}

// keyName returns the name of a key. One label will do.
func (v value) keyName() (string, bool) {
	s, ok := v.text()
	if !ok {
		return "", false
	}
	name, err := blocklists.CanonicalName(s)
	if err != nil {
		v.fail("%s: %v", quote(s), err)
		return "", false
	}
	return name, true
}

func (v value) secretFile() (string, bool) {
	s, ok := v.filePath()
	if ok && s == "" {
		v.fail("the text is empty")
		return "", false
	}
	return s, ok
}

// secondary returns a server that is told of changes: its address, or a mapping
// with the key that signs what it is told.
func (v value) secondary() (Secondary, bool) {
	var s Secondary
	if v.n.Kind != yaml.MappingNode {
		var ok bool
		s.Address, ok = v.serverAddr()
		return s, ok
	}
	ok := v.object(fields{"address": set(&s.Address, value.serverAddr), "key": set(&s.Key, value.keyName)}, "address")
	return s, ok
}

// checkRPZ reports a zone that nobody could take, and names of what is not there.
func (d *decoder) checkRPZ(c *Config) {
	z := &c.RPZ
	at, given := d.at("rpz")
	if !given {
		return
	}
	if v, ok := d.at("rpz", "keys"); ok {
		v.unique(len(z.Keys), func(i int) any { return z.Keys[i].Name })
	}
	if v, ok := d.at("rpz", "notify"); ok {
		v.unique(len(z.Notify), func(i int) any { return z.Notify[i].Address })
		if len(z.Notify) > maxSecondaries {
			v.fail("there are %d servers; at most %d can be told of changes", len(z.Notify), maxSecondaries)
		}
	}
	for i, s := range z.Notify {
		if s.Key != "" && !slices.ContainsFunc(z.Keys, func(k TSIGKey) bool { return k.Name == s.Key }) {
			v, _ := d.at("rpz", "notify", i, "key")
			v.fail("there is no key %s in rpz.keys", quote(s.Key))
		}
	}
	if v, ok := d.at("rpz", "group"); ok && z.Group != "" && !slices.ContainsFunc(c.Groups, func(g Group) bool { return g.Name == z.Group }) {
		v.fail("there is no group %s in groups", quote(z.Group))
	}
	if len(z.Listen) == 0 {
		return
	}
	v, ok := d.at("rpz", "zone")
	switch missing := z.Zone == "" && (!ok || v.n.Value == ""); {
	case missing && followsZone(c) && len(z.AllowTransfer)+len(z.Notify) == 0 && !z.UnsignedLoopback:
		return // it only hears of the zones that lists follow
	case missing:
		at.fail("zone is missing: the zone needs a name that its followers know it by, such as policy.example")
	}
	if !z.UnsignedLoopback && (len(z.Keys) == 0 || len(z.AllowTransfer) == 0) {
		at.fail("nobody may take the zone: give keys and allow_transfer, or unsigned_loopback: true for servers on this machine")
	}
}

// followsZone reports whether a list is a zone at its primary.
func followsZone(c *Config) bool {
	for _, b := range c.Bans {
		for _, l := range b.Lists {
			if blocklists.IsZone(l.Source) {
				return true
			}
		}
	}
	return false
}

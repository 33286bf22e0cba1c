package config

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/weir-gateway/weir/blocklists"
)

var (
	groupName = identifier(regexp.MustCompile(`^[\pL\pN][\pL\pM\pN ._-]{0,62}[\pL\pM\pN._-]?$`),
		"letters, digits, spaces, dots, hyphens and underscores, 64 at the most, a letter or digit first")
	exemptionID = identifier(regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$`),
		"letters, digits, dots, hyphens, underscores and slashes, 64 at the most, a letter or digit first")
)

func (v value) group() (Group, bool) {
	var g Group
	v.object(fields{
		"name":    set(&g.Name, groupName),
		"devices": set(&g.Devices, value.devices),
		"bans":    set(&g.Bans, value.banIDs),
		"sni":     func(v value) { v.sni(&g.SNI) },
	}, "name", "devices")
	return g, true
}

// devices returns the devices of a group, one at the least: a group that lost
// its devices would silently be judged as everybody else.
func (v value) devices() ([]netip.Prefix, bool) {
	list, ok := listOf(value.prefix)(v)
	if ok && len(list) == 0 {
		v.fail("there are no devices; a group needs one at the least")
	}
	return list, ok
}

// banIDs returns a list that is never nil: no bans is not all bans.
func (v value) banIDs() ([]string, bool) {
	list, ok := listOf(banID)(v)
	if ok {
		v.unique(len(list), func(i int) any { return list[i] })
	}
	return list, ok
}

func (v value) exemption() (Exemption, bool) {
	var e Exemption
	there := v.object(fields{
		"id":           set(&e.ID, exemptionID),
		"ban":          set(&e.Ban, banID),
		"name":         set(&e.Name, value.exemptName),
		"device":       set(&e.Device, value.exemptDevice),
		"group":        set(&e.Group, groupName),
		"from":         set(&e.From, value.begin),
		"until":        set(&e.Until, value.end),
		"ticket":       set(&e.Ticket, value.text),
		"requested_by": set(&e.RequestedBy, value.text),
		"approved_by":  set(&e.ApprovedBy, value.text),
		"reason":       set(&e.Reason, value.text),
	}, "id", "until", "ticket", "approved_by", "reason")
	if there {
		v.exemptionParts(&e)
	}
	return e, true
}

// exemptionParts checks the parts of an exemption against each other.
func (v value) exemptionParts(e *Exemption) {
	_, device := v.child("device")
	group, hasGroup := v.child("group")
	switch {
	case device && hasGroup:
		group.fail("an exemption is for a device or for a group, not for both")
	case !device && !hasGroup:
		v.fail("there is neither device nor group; an exemption is for one of them")
	}
	_, ban := v.child("ban")
	name, hasName := v.child("name")
	switch {
	case ban && hasName:
		name.fail("an exemption is from a ban or for a name, not both; for a name it is from whatever holds that back")
	case !ban && !hasName:
		v.fail("there is neither ban nor name; an exemption is from one of them")
	}
	if until, ok := v.child("until"); ok && !e.From.IsZero() && !e.Until.IsZero() && !e.Until.After(e.From) {
		until.fail("the exemption ends before it begins")
	}
	// Who asks may not be who approves.
	if by, ok := v.child("approved_by"); ok && e.ApprovedBy != "" && samePerson(e.ApprovedBy, e.RequestedBy) {
		by.fail("who approved is who requested; another person must approve")
	}
}

func samePerson(a, b string) bool {
	fold := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	return strings.EqualFold(fold(a), fold(b))
}

const (
	deviceBits4, deviceBits6   = 24, 64 // widest network that is still one device's
	blanketBits4, blanketBits6 = 16, 48 // widest network of an exempt group
)

func wider(p netip.Prefix, bits4, bits6 int) bool {
	if p.Addr().Is4() {
		return p.Bits() < bits4
	}
	return p.Bits() < bits6
}

// exemptDevice returns a device: one address, or a small network for a device
// that has several.
func (v value) exemptDevice() (netip.Prefix, bool) {
	p, ok := v.prefix()
	switch {
	case !ok:
	case wider(p, blanketBits4, blanketBits6):
		v.fail("%s is no device; blanket exemptions are not permitted", p)
	case wider(p, deviceBits4, deviceBits6):
		v.fail("%s is wider than a device: /%d or longer, /%d or longer for IPv6; for many devices make a group", p, deviceBits4, deviceBits6)
	default:
		return p, true
	}
	return netip.Prefix{}, false
}

// known are the names of things that other places of the file refer to.
type known struct {
	index map[string]int
	names []string
	// partial says that one of them, or all, have errors of their own. Then a
	// name that is not there may have been meant to be one of those.
	partial bool
}

// knownNames collects the names of n things that stand, if anywhere in the
// file, in the list at key.
func (d *decoder) knownNames(key string, n int, name func(int) string) known {
	at, given := d.at(key)
	k := known{index: make(map[string]int, n), partial: given && at.n.Kind != yaml.SequenceNode}
	for i := range n {
		s := name(i)
		if s == "" {
			k.partial = true
			continue
		}
		k.index[s] = i
		k.names = append(k.names, s)
	}
	return k
}

// checkGroups reports groups that are there twice, devices in two groups, and
// bans that are not configured.
func (d *decoder) checkGroups(c *Config, bans known) {
	at, _ := d.at("groups")
	at.unique(len(c.Groups), func(i int) any { return c.Groups[i].Name })
	owner := make(map[netip.Prefix]int)
	for i, g := range c.Groups {
		for j, p := range g.Devices {
			if !p.IsValid() {
				continue
			}
			v, _ := d.at("groups", i, "devices", j)
			if first, dup := owner[p]; dup && first == i {
				v.fail("%s is in this group twice", p)
			} else if dup {
				v.fail("%s is in group %s already; a device has one group", p, quote(c.Groups[first].Name))
			} else {
				owner[p] = i
			}
		}
		for j, id := range g.Bans {
			d.checkBan(bans, id, "groups", i, "bans", j)
		}
	}
}

// checkBan reports a ban that is not configured.
func (d *decoder) checkBan(bans known, id string, path ...any) {
	if _, ok := bans.index[id]; ok || id == "" || bans.partial {
		return
	}
	v, _ := d.at(path...)
	v.fail("no ban %s is configured%s", quote(id), suggest(id, bans.names, "there are "))
}

// checkExemptions reports exemptions that are there twice, and those from bans
// or for groups that are not configured or too wide.
func (d *decoder) checkExemptions(c *Config, bans known) {
	at, _ := d.at("exemptions")
	at.unique(len(c.Exemptions), func(i int) any { return c.Exemptions[i].ID })
	groups := d.knownNames("groups", len(c.Groups), func(i int) string { return c.Groups[i].Name })
	blanket := make([]netip.Prefix, len(c.Groups))
	for i, g := range c.Groups {
		if n := slices.IndexFunc(g.Devices, isBlanket); n >= 0 {
			blanket[i] = g.Devices[n]
		}
	}
	now := time.Now()
	for i, e := range c.Exemptions {
		d.checkBan(bans, e.Ban, "exemptions", i, "ban")
		d.checkTerm(c, i, now)
		if e.Group == "" {
			continue
		}
		v, _ := d.at("exemptions", i, "group")
		n, ok := groups.index[e.Group]
		switch {
		case !ok && groups.partial:
		case !ok:
			v.fail("there is no group %s%s", quote(e.Group), suggest(e.Group, groups.names, "there are "))
		case blanket[n].IsValid():
			v.fail("group %s holds %s; blanket exemptions are not permitted", quote(e.Group), blanket[n])
		}
	}
}

// checkTerm reports an exemption that lasts longer than it may. One without a
// beginning has begun by now: so a file does not become wrong as time goes on.
func (d *decoder) checkTerm(c *Config, i int, now time.Time) {
	e := &c.Exemptions[i]
	begin := e.From
	if _, given := d.at("exemptions", i, "from"); !given {
		begin = now
	}
	known := e.Name != "" && e.Ban == "" || slices.ContainsFunc(c.Bans, func(b blocklists.Ban) bool { return b.ID == e.Ban })
	if begin.IsZero() || e.Until.IsZero() || !known {
		return // reported elsewhere
	}
	if err := c.checkTerm(e, begin); err != nil {
		v, _ := d.at("exemptions", i, "until")
		v.fail("%v", err)
	}
}

func isBlanket(p netip.Prefix) bool { return p.IsValid() && wider(p, blanketBits4, blanketBits6) }

package gateway

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
)

// checkVectors checks the must-block and must-allow vectors of every ban
// against the compiled set. A ban's own lists must agree with them whoever
// asks and whenever, so exemptions, protected names and dates do not count. With
// a set that was taken over or edited, bans need not be checked again of which
// nothing has changed.
func (c *compiler) checkVectors(set *blocklists.Set, built bool, old *policySet) error {
	for i := range c.cfg.Bans {
		ban := &c.cfg.Bans[i]
		if ban.Vectors == "" || !built && c.sameVectors(i, old) {
			continue
		}
		if c.spared[ban.ID] {
			c.read[ban.Vectors] = look(ban.Vectors)
			continue
		}
		if err := c.checkBan(set, i, ban); err != nil {
			return &vectorError{ban.ID, c.cfg.At(ban.Vectors, fmt.Errorf("ban %s: vectors %s: %w", ban.ID, ban.Vectors, err))}
		}
	}
	return nil
}

// sameVectors reports whether the vectors of a ban are those that were checked
// against the old policy, and its lists what they were: each list is judged for
// itself, so the others do not matter. Vectors in a file are read each time.
func (c *compiler) sameVectors(index int, old *policySet) bool {
	ban := &c.cfg.Bans[index]
	if isFile(ban.Vectors) || index >= len(old.bans) {
		return false
	}
	was := old.bans[index]
	if was.ID != ban.ID || was.Vectors != ban.Vectors || !slices.Equal(was.Tiers, ban.Tiers) {
		return false
	}
	for i := range c.parts {
		if l := &c.parts[i].list; l.Role == policy.RoleBan && l.Ban == index && !c.parts[i].same {
			return false
		}
	}
	c.read[ban.Vectors] = look(ban.Vectors)
	return true
}

func (c *compiler) checkBan(set *blocklists.Set, index int, ban *blocklists.Ban) error {
	r, err := c.open(ban.Vectors)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	missing := slices.ContainsFunc(c.off, func(o offList) bool { return o.status.Missing && o.status.Ban == ban.ID })
	scan := bufio.NewScanner(r)
	for line := 1; scan.Scan(); line++ {
		c.pace.pause()
		v, err := parseVector(scan.Text())
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		if v.target == "" || v.tier != "" && ban.Enabled(v.tier) == v.unless {
			continue
		}
		ms, err := matches(set, v.target)
		if err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		// What only a list that is missing blocks is not blocked, and said elsewhere.
		if blocked := c.banBlocks(ms, index); blocked != v.block && !(v.block && missing) {
			return fmt.Errorf("line %d: %s: with the tiers %v, the ban's lists say blocked=%t", line, scan.Text(), ban.Tiers, blocked)
		}
	}
	return scan.Err()
}

// A vector is a line "block TARGET [if TIER]" or "allow TARGET [unless TIER]";
// if and unless go with either verb.
type vector struct {
	block  bool
	target string // empty for a line without a vector
	tier   blocklists.Tier
	unless bool
}

func parseVector(line string) (vector, error) {
	line, _, _ = strings.Cut(line, "#")
	f := strings.Fields(line)
	if len(f) == 0 {
		return vector{}, nil
	}
	v := vector{block: f[0] == "block"}
	if !v.block && f[0] != "allow" || len(f) != 2 && len(f) != 4 {
		return vector{}, fmt.Errorf("%q is not a vector: write block TARGET or allow TARGET, with [if TIER] or [unless TIER]", line)
	}
	v.target = f[1]
	if len(f) == 4 {
		v.tier, v.unless = blocklists.Tier(f[3]), f[2] == "unless"
		if !v.unless && f[2] != "if" {
			return vector{}, fmt.Errorf("%q: the third word must be if or unless", line)
		}
	}
	return v, nil
}

// banBlocks reports whether a list of the ban blocks.
func (c *compiler) banBlocks(ms []blocklists.Match, ban int) bool {
	for _, m := range ms {
		if l := &c.spec.Lists[m.List]; l.Role == policy.RoleBan && l.Ban == ban && !l.Embeds && m.Rule.Action == blocklists.Block {
			return true
		}
	}
	return false
}

// matches returns what the set says about a target of a vector: what an
// explanation can be about, or the beginning of a connection (bytes:16f104) or
// a field of a request (field:NAME=VALUE).
func matches(set *blocklists.Set, target string) ([]blocklists.Match, error) {
	if digits, ok := strings.CutPrefix(target, "bytes:"); ok {
		b, err := hex.DecodeString(digits)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", target, err)
		}
		ms, _ := set.AppendFlow(nil, b)
		return ms, nil
	}
	if field, ok := strings.CutPrefix(target, "field:"); ok {
		name, value, _ := strings.Cut(field, "=")
		return set.AppendFields(nil, "/", func(yield func(string, string) bool) { yield(name, value) }), nil
	}
	t, err := parseTarget(target)
	if err != nil {
		return nil, err
	}
	var ms []blocklists.Match
	switch {
	case t.addr.IsValid():
		ms = set.AppendAddr(nil, t.addr)
	case t.path != "":
		ms = set.AppendURL(nil, t.name, t.path)
	default:
		ms = set.AppendName(nil, t.name)
	}
	if t.path != "" {
		ms = append(ms, set.AppendFields(nil, t.path, nil)...)
	}
	return ms, nil
}

// A target is what a vector or an explanation is about.
type target struct {
	name string // canonical, empty for an address
	addr netip.Addr
	path string // canonical, of a plain HTTP URL only
	url  *url.URL
}

// parseTarget reads a name, an address, or a URL.
func parseTarget(s string) (target, error) {
	if !strings.Contains(s, "://") {
		h, err := blocklists.ParseHost(s)
		if err != nil {
			return target{}, fmt.Errorf("%q is no name and no address: %w", s, err)
		}
		return target{name: h.Name, addr: h.Addr}, nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return target{}, fmt.Errorf("%q is not a URL with a host", s)
	}
	h, err := blocklists.ParseHost(u.Hostname())
	if err != nil {
		return target{}, fmt.Errorf("%q: %w", s, err)
	}
	t := target{name: h.Name, addr: h.Addr, url: u}
	if u.Scheme == "http" {
		t.path = blocklists.CanonicalPath(u.RequestURI())
	}
	return t, nil
}

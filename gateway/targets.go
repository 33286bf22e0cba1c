package gateway

import (
	"bufio"
	"fmt"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/prove"
)

// ProveTargets returns what a proof tries of each ban of the configuration: the
// first name that its vectors say is blocked, and the first address of each
// family that it holds back. A ban without a name is left out.
func ProveTargets(cfg *config.Config) ([]prove.Target, error) {
	set, err := compile(cfg, 1, nil)
	if err != nil {
		return nil, err
	}
	banned := set.snapshot.Banned()
	var all []prove.Target
	for i := range cfg.Bans {
		ban := &cfg.Bans[i]
		t := prove.Target{Ban: ban.ID, Title: ban.Title.EN}
		if ban.Vectors != "" {
			c := compiler{cfg: cfg, read: revisions{}}
			if t.Name, err = c.firstName(ban.Vectors); err != nil {
				return nil, fmt.Errorf("ban %s: vectors %s: %w", ban.ID, ban.Vectors, err)
			}
		}
		if t.Name == "" {
			continue
		}
		families := make(map[bool]bool)
		for _, r := range banned[i] {
			if a := r.First; !families[a.Is4()] {
				families[a.Is4()] = true
				t.Addrs = append(t.Addrs, a)
			}
		}
		all = append(all, t)
	}
	return all, nil
}

// firstName returns the first name that must be blocked, empty for none.
func (c *compiler) firstName(vectors string) (string, error) {
	r, err := c.open(vectors)
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	scan := bufio.NewScanner(r)
	for scan.Scan() {
		v, err := parseVector(scan.Text())
		if err != nil {
			return "", err
		}
		if !v.block || v.tier != "" {
			continue
		}
		if t, err := parseTarget(v.target); err == nil && t.name != "" && t.url == nil {
			return t.name, nil
		}
	}
	return "", scan.Err()
}

package vpn

import "encoding/json"

type setJSON struct {
	Name     string   `json:"name"`
	Type     SetType  `json:"type"`
	Why      string   `json:"why"`
	Elements []string `json:"elements"`
	Ports    []uint16 `json:"ports,omitempty"`
}

type chainJSON struct {
	Name     string     `json:"name"`
	Type     string     `json:"type,omitempty"`
	Hook     string     `json:"hook,omitempty"`
	Priority int        `json:"priority,omitempty"`
	Rules    []ruleJSON `json:"rules"`
}

type ruleJSON struct {
	Name string `json:"name"`
	Why  string `json:"why,omitempty"`
	NFT  string `json:"nft"`
}

// MarshalJSON returns the ruleset with each rule in the language of nft. Its
// form is stable: fields are added, never renamed or removed.
func (rs Ruleset) MarshalJSON() ([]byte, error) {
	out := struct {
		Table   string      `json:"table"`
		Version string      `json:"version"`
		Digest  string      `json:"digest"`
		Mark    uint32      `json:"mark,omitempty"`
		Notes   []string    `json:"notes,omitempty"`
		Sets    []setJSON   `json:"sets"`
		Chains  []chainJSON `json:"chains"`
	}{Table: "inet " + Table, Version: rs.Version, Digest: rs.Digest(), Mark: rs.Mark, Notes: rs.Notes}
	for i := range rs.Sets {
		s := &rs.Sets[i]
		sj := setJSON{Name: s.Name, Type: s.Type, Why: s.Why, Ports: s.Ports, Elements: make([]string, 0, len(s.Ranges))}
		for _, r := range s.Ranges {
			sj.Elements = append(sj.Elements, spell(r))
		}
		out.Sets = append(out.Sets, sj)
	}
	for _, c := range rs.Chains {
		cj := chainJSON{Name: c.Name, Type: c.Type, Hook: c.Hook, Priority: c.Priority, Rules: []ruleJSON{}}
		for _, r := range c.Rules {
			cj.Rules = append(cj.Rules, ruleJSON{r.Name, r.Why, r.text()})
		}
		out.Chains = append(out.Chains, cj)
	}
	return json.Marshal(out)
}

package config

import (
	"errors"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// allowRule returns an allow rule for names, in the spelling of the domains
// dialect: a name covers itself and everything under it, =name only itself,
// *.name only what is under it.
func (v value) allowRule() (blocklists.Rule, bool) {
	s, ok := v.text()
	if !ok {
		return blocklists.Rule{}, false
	}
	r := blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Allow, Line: v.n.Line}
	name := s
	if rest, ok := strings.CutPrefix(s, "="); ok {
		r.Kind, name = blocklists.Exact, rest
	} else if rest, ok := strings.CutPrefix(s, "*."); ok {
		r.Kind, name = blocklists.Under, rest
	}
	h, err := blocklists.ParseHost(name)
	switch {
	case strings.Contains(s, "://"):
		v.fail("%s is a URL; write the name of its host", quote(s))
	case err == nil && h.Addr.IsValid():
		v.fail("%s is an address; only names can be allowed here", quote(s))
	case errors.Is(err, blocklists.ErrNameChar) || errors.Is(err, blocklists.ErrAddress):
		v.fail("%s is not a name; want name, =name or *.name", quote(s))
	case err != nil:
		v.fail("%s: %v", quote(s), err)
	case !strings.Contains(h.Name, "."):
		v.fail("%s would let a whole top-level domain through; want a name with a dot", quote(s))
	default:
		r.Name = h.Name
		return r, true
	}
	return blocklists.Rule{}, false
}

// checkRules reports rules that are there twice.
func (d *decoder) checkRules(key string, rules []blocklists.Rule) {
	at, given := d.at(key)
	if !given {
		return
	}
	at.unique(len(rules), func(i int) any {
		if rules[i].Name == "" {
			return ""
		}
		rule := rules[i]
		rule.Action = blocklists.Block // without the mark of an allow rule
		return rule.String()
	})
}

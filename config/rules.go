package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// allowRule returns an allow rule for names, in the spelling of ParseRule.
func (v value) allowRule() (blocklists.Rule, bool) { return v.rule(ParseRule) }

// protectedRule is allowRule, or one for an address or a network.
func (v value) protectedRule() (blocklists.Rule, bool) {
	_, err := netip.ParseAddr(v.n.Value)
	if err != nil && !looksLikeNetwork(v.n.Value) {
		return v.allowRule()
	}
	p, ok := v.prefix()
	if ok && p.Bits() == 0 {
		v.fail("%s is all addresses; name the networks that must be reached", quote(v.n.Value))
		ok = false
	}
	return blocklists.Rule{Kind: blocklists.Prefix, Action: blocklists.Allow, Prefix: p, Line: v.n.Line}, ok
}

// looksLikeNetwork reports whether an address stands before a slash.
func looksLikeNetwork(s string) bool {
	at, _, slash := strings.Cut(s, "/")
	_, err := netip.ParseAddr(at)
	return slash && err == nil
}

func (v value) rule(parse func(string) (blocklists.Rule, error)) (blocklists.Rule, bool) {
	s, ok := v.text()
	if !ok {
		return blocklists.Rule{}, false
	}
	r, err := parse(s)
	if err != nil {
		v.fail("%v", err)
		return blocklists.Rule{}, false
	}
	r.Action, r.Line = blocklists.Allow, v.n.Line
	return r, true
}

// ParseRule returns a rule for names, in the spelling of the domains dialect: a
// name covers itself and everything under it, =name only itself, *.name only
// what is under it.
func ParseRule(s string) (blocklists.Rule, error) {
	r, err := parseNames(s)
	if err == nil && !strings.Contains(r.Name, ".") {
		err = fmt.Errorf("%s covers a whole top-level domain; want a name with a dot", quote(s))
	}
	return r, err
}

// parseNames is ParseRule for what may hold of all names under a single label.
func parseNames(s string) (blocklists.Rule, error) {
	r := blocklists.Rule{Kind: blocklists.Suffix}
	name := s
	if rest, ok := strings.CutPrefix(s, "="); ok {
		r.Kind, name = blocklists.Exact, rest
	} else if rest, ok := strings.CutPrefix(s, "*."); ok {
		r.Kind, name = blocklists.Under, rest
	}
	h, err := blocklists.ParseHost(name)
	switch {
	case strings.Contains(s, "://"):
		err = fmt.Errorf("%s is a URL; write the name of its host", quote(s))
	case err == nil && h.Addr.IsValid():
		err = fmt.Errorf("%s is an address; only names can stand here", quote(s))
	case errors.Is(err, blocklists.ErrNameChar) || errors.Is(err, blocklists.ErrAddress):
		err = fmt.Errorf("%s is not a name; want name, =name or *.name", quote(s))
	case err != nil:
		err = fmt.Errorf("%s: %v", quote(s), err)
	}
	r.Name = h.Name
	return r, err
}

// checkRules reports rules that are there twice.
func (d *decoder) checkRules(key string, rules []blocklists.Rule) {
	at, given := d.at(key)
	if !given {
		return
	}
	at.unique(len(rules), func(i int) any {
		if rules[i].Prefix.IsValid() {
			return rules[i].Prefix.String()
		}
		if rules[i].Name == "" {
			return ""
		}
		rule := rules[i]
		rule.Action = blocklists.Block // without the mark of an allow rule
		return rule.String()
	})
}

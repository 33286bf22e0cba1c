package parse

import (
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// parseDomains reads a line of the domains dialect, which is Weir's own:
//
//	name      the name and everything under it
//	*.name    everything under the name, not the name itself
//	=name     the name only
//	@@…       before any of them: let it through, against block rules of this list
//	# …       a comment, alone or after a blank
//
// Plain lists of names are read alike elsewhere, some as exact names and some
// as suffixes; here a bare name is a suffix, because a ban is on an app and not
// on one host. What stands after a tab is a note.
func parseDomains(p *parser, text string) {
	entry, ok := p.column1(text)
	if !ok {
		return
	}
	rule := blocklists.Rule{Kind: blocklists.Suffix}
	action, name, offset := allow(entry)
	rule.Action = action
	switch {
	case strings.HasPrefix(name, "="):
		rule.Kind = blocklists.Exact
		name, offset = name[1:], offset+1
	case strings.HasPrefix(name, "*."):
		rule.Kind = blocklists.Under
		name, offset = name[2:], offset+2
	}
	p.nameRule(rule, name, offset)
}

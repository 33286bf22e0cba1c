package parse

import (
	"net/netip"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// parseDnsmasq reads a line of a dnsmasq configuration, as dnsmasq(8) defines
// it:
//
//	address=/name/…/            answered NXDOMAIN here: a block
//	address=/name/…/#           answered with the null address: a block
//	address=/name/…/0.0.0.0     the same, also with :: and loopback addresses
//	address=/name/…/192.0.2.1   local data, not a block
//	server=/name/…/             never forwarded, so answered NXDOMAIN: a block
//	local=/name/…/              another word for server
//	server=/name/…/#            forwarded as usual: against wider blocks of this list
//	server=/name/…/192.0.2.1    where to forward, not a block
//
// A name covers itself and everything under it, label-aligned, and "*.name"
// only what is under it; "*" before anything else is not aligned to labels and
// is skipped. The longest match decides, as between the rules of every list. A
// leading dot says nothing. "#" as a name and "*" mean all names, and no name
// means those without dots: both are refused. Other directives are skipped.
// How a block is answered is left to the configuration.
func parseDnsmasq(p *parser, text string) {
	option, value, found := strings.Cut(text, "=")
	option = strings.TrimSpace(option)
	if !isOption(option) {
		p.skip(0, SkipSyntax, text, nil)
		return
	}
	offset := len(text) - len(value)
	for offset < len(text) && isBlank(text[offset]) {
		offset++
	}
	value = text[offset:]
	switch {
	case !found:
		p.skip(0, SkipDirective, text, nil)
	case option == "address":
		p.dnsmasqNames(value, offset, addressTarget)
	case option == "server" || option == "local":
		if !strings.HasPrefix(value, "/") {
			p.skip(offset, SkipRouting, value, nil)
			return
		}
		p.dnsmasqNames(value, offset, serverTarget)
	default:
		p.skip(0, SkipDirective, text, nil)
	}
}

// isOption reports whether s is spelled like a directive.
func isOption(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != ""
}

// dnsmasqNames reads "/name/name/target". A line whose target is no block and
// no permission is skipped once, whatever its names.
func (p *parser) dnsmasqNames(value string, offset int, target func(string) (blocklists.Action, Skip)) {
	last := strings.LastIndexByte(value, '/')
	if last < 1 || value[0] != '/' || strings.ContainsAny(value, "\" \t") {
		p.skip(offset, SkipSyntax, value, nil)
		return
	}
	action, reason := target(value[last+1:])
	if action == blocklists.None {
		p.skip(offset+last+1, reason, value, nil)
		return
	}
	for i := 1; i <= last && !p.stopped; {
		n := strings.IndexByte(value[i:last+1], '/')
		p.dnsmasqName(action, value[i:i+n], offset+i)
		i += n + 1
	}
}

func (p *parser) dnsmasqName(action blocklists.Action, s string, offset int) {
	rule := blocklists.Rule{Kind: blocklists.Suffix, Action: action}
	name := strings.TrimLeft(s, ".")
	switch {
	case name == "" || name == "#" || name == "*":
		p.skip(offset, SkipEverything, s, nil)
		return
	case strings.HasPrefix(s, "*."):
		rule.Kind = blocklists.Under
		name = s[2:]
	}
	p.nameRule(rule, name, offset+len(s)-len(name))
}

// addressTarget says what the target of an address directive means.
func addressTarget(s string) (blocklists.Action, Skip) {
	if s == "" || s == "#" {
		return blocklists.Block, ""
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return blocklists.None, SkipSyntax
	case a.Unmap().IsUnspecified() || a.Unmap().IsLoopback():
		return blocklists.Block, ""
	}
	return blocklists.None, SkipLocalData
}

// serverTarget says what the target of a server directive means.
func serverTarget(s string) (blocklists.Action, Skip) {
	switch s {
	case "":
		return blocklists.Block, ""
	case "#":
		return blocklists.Allow, ""
	}
	return blocklists.None, SkipRouting
}

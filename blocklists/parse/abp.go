package parse

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// The ABP dialect is the filter syntax of Adblock Plus ("How to write
// filters") together with what the AdGuard DNS filtering syntax says about it
// for host names. They are one dialect because lists mix them:
//
//	||name^            the name and everything under it; also ||name|
//	||*.name^          everything under the name
//	|name^  |name|     the name only; also |https://name^
//	|http://name^      the name only, plain HTTP only: a URL rule
//	||192.0.2.1^       the address
//	||name/path        plain HTTP requests: URL rules, in which * and ^ and a
//	||name^*path       final | keep their meaning; also |http://name/path
//	name               the name only (AdGuard DNS, domains-only syntax)
//	0.0.0.0 name       the name only (AdGuard DNS, hosts syntax: see hosts.go)
//	@@…                let it through: wins over blocks, but not over $important
//	…$important        wins over every rule without it
//	! …  # …  […]      comments and headers
//
// What no rule can say exactly is skipped. "||name" without "^" matches the
// beginning of a host name and whatever follows: ||example.com also hits
// example.com.example.net. So do patterns that end in a dot, wildcards inside
// labels and generic patterns (/ads/*, &ad=); a bare address is one, because
// 192.0.2.1 also hits 192.0.2.10. Ports and paths of HTTPS are not visible.
//
// Of the modifiers, "$all" on a block names every kind of request, "$match-case"
// says nothing about host names and "_" says nothing at all: with them, a rule
// means what it means without. Every other one narrows the rule to requests,
// clients or question types that are not known here ($third-party, $document,
// $popup, $domain, $client, $dnstype), replaces the answer ($dnsrewrite) or turns
// another rule off ($badfilter). AdGuard DNS wants rules with modifiers that
// cannot be honoured ignored whole, and they are. Rules between !#if and !#endif
// hold under conditions that are not known here.

// Priorities between the rules of one list.
const (
	abpException = 1
	abpImportant = 2
)

var (
	errAnchor = errors.New("no end of the host name: longer names match too")
	errSecure = errors.New("the paths of HTTPS are not visible")
)

// abpState is what earlier lines say about the next.
type abpState struct {
	conditions int // !#if directives that are open
}

// abpComment finds comments, which are whole lines: "!", "#" unless it begins a
// cosmetic rule, and headers in brackets. Directives (!#) are not comments.
func abpComment(text []byte) int {
	switch text[0] {
	case '!':
		if !bytes.HasPrefix(text, []byte("!#")) {
			return 0
		}
	case '#':
		if !isCosmeticMark(string(text), 0) {
			return 0
		}
	case '[':
		if text[len(text)-1] == ']' && !isCosmetic(string(text)) {
			return 0
		}
	}
	return len(text)
}

func parseABP(p *parser, text string) {
	if strings.HasPrefix(text, "!#") {
		p.abpDirective(text)
		return
	}
	pattern, exception := strings.CutPrefix(text, "@@")
	switch {
	case p.abp.conditions > 0:
		p.skip(0, SkipConditional, text, nil)
	case isCosmetic(text):
		p.skip(0, SkipCosmetic, text, nil)
	case isRegex(pattern):
		p.skip(0, SkipRegex, text, nil)
	case strings.HasPrefix(pattern, "|"):
		p.abpAnchored(text, exception)
	case exception:
		p.skip(0, SkipPattern, text, nil)
	default:
		p.abpPlain(text)
	}
}

// abpDirective reads a preprocessor directive. Those that are not known here
// are hints to other programs and say nothing.
func (p *parser) abpDirective(text string) {
	word, _ := field(text[2:], 0)
	switch word {
	case "if":
		p.abp.conditions++
	case "endif":
		p.abp.conditions = max(0, p.abp.conditions-1)
	case "include":
		p.skip(0, SkipInclude, text, nil)
	}
}

// isCosmetic reports whether the line is about elements of pages: the marks of
// element hiding in all their spellings, and AdGuard's HTML filtering.
func isCosmetic(s string) bool {
	for i := strings.IndexByte(s, '#'); i >= 0; {
		if isCosmeticMark(s, i) {
			return true
		}
		n := strings.IndexByte(s[i+1:], '#')
		if n < 0 {
			break
		}
		i += n + 1
	}
	return strings.Contains(s, "$$") || strings.Contains(s, "$@$")
}

// isCosmeticMark reports whether ##, #@#, #?#, #$#, #%# or a mixture stands at i.
func isCosmeticMark(s string, i int) bool {
	rest := strings.TrimPrefix(s[i+1:], "@")
	for n := 0; n < 2 && rest != "" && strings.IndexByte("$?%", rest[0]) >= 0; n++ {
		rest = rest[1:]
	}
	return strings.HasPrefix(rest, "#")
}

// isRegex reports whether the pattern is a regular expression between slashes,
// perhaps with modifiers.
func isRegex(s string) bool {
	if len(s) < 2 || s[0] != '/' {
		return false
	}
	if i := strings.LastIndex(s, "/$"); i > 0 {
		return true
	}
	return s[len(s)-1] == '/'
}

// abpPlain reads a line without anchors: a hosts line, a name, or a generic
// pattern.
func (p *parser) abpPlain(text string) {
	entry := text[:len(trimRight([]byte(text[:blankHash([]byte(text))])))]
	first, _ := field(entry, 0)
	if first != entry {
		addr, ok := hostsAddr(first)
		if !ok {
			p.skip(0, SkipPattern, text, nil)
			return
		}
		p.hostsNames(addr, entry, len(first))
		return
	}
	name, reason, err := canonical(entry)
	switch {
	case reason == SkipAddress:
		p.skip(0, SkipAddress, entry, errAnchor)
	case err != nil || !isHostName(name):
		p.skip(0, SkipPattern, text, nil)
	default:
		p.rule(blocklists.Rule{Kind: blocklists.Exact, Action: blocklists.Block, Name: name})
	}
}

// isHostName reports whether no label begins or ends with a hyphen: otherwise
// the line is a pattern (-ad.example), not a name.
func isHostName(name string) bool {
	return name[0] != '-' && name[len(name)-1] != '-' && !strings.Contains(name, ".-") && !strings.Contains(name, "-.")
}

// abpAnchored reads a pattern that begins with "|" or "||".
func (p *parser) abpAnchored(text string, exception bool) {
	rule := blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Block}
	begin, end := 0, len(text)
	if exception {
		rule.Action, rule.Priority, begin = blocklists.Allow, abpException, len("@@")
	}
	var m modifiers
	if i := strings.LastIndexByte(text, '$'); i >= 0 {
		var ok bool
		if m, ok = readModifiers(text[i+1:], rule.Action); !ok {
			p.skip(i, SkipModifier, text, nil)
			return
		}
		end = i
	}
	if m.important {
		rule.Priority += abpImportant
	}
	pattern := text[begin:end]
	if strings.ContainsAny(pattern, " \t") {
		p.skip(0, SkipSyntax, text, errFields)
		return
	}
	a := cutAnchor(pattern)
	a.offset += begin
	a.matchCase = m.matchCase
	switch {
	case a.under:
		rule.Kind = blocklists.Under
	case a.exact:
		rule.Kind = blocklists.Exact
	}
	p.abpHost(rule, a, text)
}

// modifiers are those that can be honoured.
type modifiers struct {
	important, matchCase bool
}

// readModifiers reads the list after "$". It returns false where one cannot be
// honoured.
func readModifiers(s string, action blocklists.Action) (m modifiers, ok bool) {
	for word := range strings.SplitSeq(s, ",") {
		switch {
		case word == "important":
			m.important = true
		case word == "match-case":
			m.matchCase = true
		case word == "all" && action == blocklists.Block:
		case word != "" && strings.Trim(word, "_") == "":
		default:
			return m, false
		}
	}
	return m, true
}

// An anchored pattern is one whose beginning is that of a host name.
type anchored struct {
	scheme    string // http, https, or empty for any
	exact     bool   // anchored to the beginning of the name
	under     bool   // "*." stood before the host
	host      string
	tail      string // what follows the host
	offset    int    // of host
	matchCase bool
}

// cutAnchor cuts "||host…", "|host…" or "|scheme://host…" into its parts.
func cutAnchor(s string) anchored {
	var a anchored
	rest, ok := strings.CutPrefix(s, "||")
	if ok {
		rest, a.under = strings.CutPrefix(rest, "*.")
	} else {
		rest, a.exact = strings.TrimPrefix(s, "|"), true
		for _, scheme := range []string{"https", "http"} {
			if tail, ok := strings.CutPrefix(rest, scheme+"://"); ok {
				rest, a.scheme = tail, scheme
				break
			}
		}
	}
	a.offset = len(s) - len(rest)
	end := strings.IndexAny(rest, "^/|*?:&=,;%")
	// An IPv6 address has colons, in brackets or not.
	if i := strings.IndexAny(rest, "^/|"); i > 0 {
		if _, ok := literal(rest[:i]); ok {
			end = i
		}
	}
	if end < 0 {
		end = len(rest)
	}
	a.host, a.tail = rest[:end], rest[end:]
	return a
}

// abpHost gives out the rule for a host and what follows it.
func (p *parser) abpHost(rule blocklists.Rule, a anchored, text string) {
	tail := strings.TrimRight(a.tail, "*")
	switch {
	case a.host == "" || strings.HasSuffix(a.host, "."):
		reason := SkipPattern
		if strings.HasPrefix(a.tail, "*") {
			reason = SkipWildcard
		}
		p.skip(a.offset, reason, text, errAnchor)
	case a.tail == "":
		p.skip(a.offset, SkipNoSeparator, text, errAnchor)
	case a.tail[0] == '*':
		p.skip(a.offset+len(a.host), SkipWildcard, text, nil)
	case len(a.tail) > 1 && a.tail[0] == ':' && '0' <= a.tail[1] && a.tail[1] <= '9':
		p.skip(a.offset+len(a.host), SkipPort, text, nil)
	case a.tail[0] != '^' && a.tail[0] != '/' && a.tail[0] != '|':
		p.skip(a.offset, SkipPattern, text, nil)
	case tail == "^" || tail == "|":
		if a.scheme == "http" {
			rule.Path = "/"
		}
		p.abpRule(rule, a, text)
	default:
		p.abpPath(rule, a, tail, text)
	}
}

// abpPath reads what follows the host as a path. The separator after the host
// is the path's first slash.
func (p *parser) abpPath(rule blocklists.Rule, a anchored, tail, text string) {
	offset := a.offset + len(a.host)
	path := "/" + tail[1:]
	switch {
	case a.scheme == "https" && path == "/":
		// The whole host, over HTTPS: what the name says.
		p.abpRule(rule, a, text)
		return
	case a.scheme == "https":
		p.skip(offset, SkipPattern, text, errSecure)
		return
	case a.matchCase:
		p.skip(offset, SkipModifier, text, nil)
		return
	case tail[0] == '|' || a.exact && a.scheme == "" || strings.Contains(path, "//") && strings.Contains(path, "*"):
		// Nothing follows an end, and URLs begin with a scheme. Requests are
		// compared with runs of slashes made one, and what a wildcard takes
		// cannot tell how many there were.
		p.skip(offset, SkipPattern, text, nil)
		return
	}
	path, ok := canonicalPattern(path)
	if !ok {
		p.skip(offset, SkipPattern, text, errLiteral)
		return
	}
	rule.Path = path
	p.abpRule(rule, a, text)
}

// abpRule gives out the rule for the host, which is a name or an address.
func (p *parser) abpRule(rule blocklists.Rule, a anchored, text string) {
	addr, ok := literal(a.host)
	if !ok || a.under {
		p.nameRule(rule, a.host, a.offset)
		return
	}
	if rule.Path != "" || addr.Zone() != "" {
		p.skip(a.offset, SkipAddress, text, nil)
		return
	}
	addr = addr.Unmap()
	p.prefixRule(rule, netip.PrefixFrom(addr, addr.BitLen()), a.host, a.offset)
}

// literal returns the address that a host is, in brackets or not.
func literal(host string) (netip.Addr, bool) {
	if last := host[len(host)-1]; (last < '0' || last > '9') && !strings.Contains(host, ":") {
		return netip.Addr{}, false // most hosts: the parser is slow to say so
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return addr, err == nil
}

package parse

import (
	"errors"
	"net/netip"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

var (
	errLabels = errors.New("it would take a whole top-level domain")
	errNumber = errors.New("clients read it as an address")
)

// canonical returns the canonical form of a name with at least two labels, or
// the reason why s is none.
func canonical(s string) (string, Skip, error) {
	name, err := blocklists.CanonicalName(s)
	if err != nil {
		return "", notName(s), err
	}
	dot := strings.LastIndexByte(name, '.')
	switch c := name[dot+1]; {
	case '0' <= c && c <= '9' && isNumber(name):
		return "", SkipAddress, errNumber
	case dot < 0:
		return "", SkipSingleLabel, errLabels
	}
	return name, "", nil
}

// isNumber reports whether clients read a canonical name as an IPv4 address,
// in any of its spellings (WHATWG URL standard, section 3.5), or would if its
// numbers were in range.
func isNumber(name string) bool {
	if strings.Trim(name, "0123456789.") == "" {
		return true
	}
	h, err := blocklists.ParseHost(name)
	return err == nil && h.Addr.IsValid()
}

// notName classifies what CanonicalName refused.
func notName(s string) Skip {
	switch {
	case isAddress(s):
		return SkipAddress
	case strings.Contains(s, "/"):
		return SkipURL
	case hasPort(s):
		return SkipPort
	case strings.Contains(s, "*"):
		return SkipWildcard
	}
	return SkipName
}

// isAddress reports whether s is an address, alone or with a port or a prefix
// length, or would be one if its numbers were in range.
func isAddress(s string) bool {
	numeric, _, _ := strings.Cut(s, "%") // before the zone
	if strings.Trim(numeric, "0123456789abcdefABCDEF.:/[]") != "" {
		return false // the parsers below are slow to say so
	}
	if host, length, ok := strings.Cut(s, "/"); ok && isDigits(length) {
		s = host
	} else if i := strings.LastIndexByte(s, ':'); i > 0 && isDigits(s[i+1:]) && (s[i-1] == ']' || strings.Count(s, ":") == 1) {
		s = s[:i]
	}
	if strings.Trim(s, "0123456789.") == "" {
		return s != "" // in range or not
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		s = strings.TrimSuffix(inner, "]")
	}
	_, err := netip.ParseAddr(s)
	return err == nil
}

// hasPort reports whether s ends in a colon and a number.
func hasPort(s string) bool {
	i := strings.LastIndexByte(s, ':')
	return i > 0 && isDigits(s[i+1:])
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// nameRule gives out a rule for the name at that offset of the line, or skips it.
func (p *parser) nameRule(rule blocklists.Rule, s string, offset int) {
	name, reason, err := canonical(s)
	if err != nil {
		p.skip(offset, reason, s, err)
		return
	}
	rule.Name = name
	p.rule(rule)
}

// column1 returns the first column of a line of one entry. Further columns
// after a tab are notes, as lists with provenance have them; anything else
// after a blank makes the line none of its dialect.
func (p *parser) column1(text string) (string, bool) {
	entry, _ := field(text, 0)
	rest := text[len(entry):]
	if rest == "" {
		return entry, true
	}
	if rest[0] != '\t' {
		p.skip(0, SkipSyntax, text, errFields)
		return "", false
	}
	p.report.Noted++
	return entry, true
}

var errFields = errors.New("more than one entry on the line")

// allow cuts the mark of an allow rule.
func allow(entry string) (blocklists.Action, string, int) {
	if rest, ok := strings.CutPrefix(entry, "@@"); ok {
		return blocklists.Allow, rest, 2
	}
	return blocklists.Block, entry, 0
}

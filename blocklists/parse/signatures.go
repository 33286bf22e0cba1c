package parse

import (
	"errors"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// parseSignatures reads a line of the signatures dialect, which is Weir's own:
// how a protocol is told from others, wherever it goes.
//
//	bytes 1[679] f1 0[34]         how a connection begins: bytes in hexadecimal, a set
//	                              of digits in brackets, a dot for any digit
//	field upgrade = mmtls         a field of a plain HTTP request whose value, or one of
//	                              the members of it, is that
//	field user-agent ^ SomeApp    whose value begins so
//	field user-agent ~ SomeApp    whose value has it somewhere
//	path ^/some/[0-9a-f]{8}$      the path of a plain HTTP request, as a regular
//	                              expression (RE2) in lower case, without the query
//	# …                           a comment, alone or after a blank
//
// There are no exceptions: a protocol is what it is, and who may speak it all
// the same is a matter of exemptions. Patterns that would take TLS, HTTP or
// every path are skipped.
func parseSignatures(p *parser, text string) {
	word, _ := field(text, 0)
	rest := strings.TrimLeft(text[len(word):], " \t\v\f")
	offset := len(text) - len(rest)
	rule := blocklists.Rule{Action: blocklists.Block}
	switch {
	case word == "bytes":
		rule.Kind, rule.Path = blocklists.Bytes, strings.ToLower(strings.Join(strings.Fields(rest), " "))
	case word == "field":
		name, _ := field(rest, 0)
		rule.Kind, rule.Name = blocklists.Field, strings.ToLower(name)
		rule.Path = strings.Join(strings.Fields(rest[len(name):]), " ")
	case word == "path":
		rule.Kind, rule.Path = blocklists.Target, rest
	default:
		p.skip(0, SkipSyntax, text, errSignature)
		return
	}
	if err := blocklists.CheckSignature(rule); err != nil {
		reason := SkipPattern
		if errors.Is(err, blocklists.ErrTooWide) {
			reason = SkipEverything
		}
		p.skip(offset, reason, rest, err)
		return
	}
	p.rule(rule)
}

var errSignature = errors.New("want bytes, field or path first")

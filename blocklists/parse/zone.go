package parse

import (
	"errors"
	"slices"
	"strings"
)

// This file reads the records of a zone file; what they mean as a policy is in
// rpz.go. It is an own reader and not that of the DNS library because one bad
// line must not end the list.

// A record may have so many lines and bytes in parentheses. Where one has more,
// its first line is taken for the mistake, and the others are read again alone.
const (
	maxRecordLines = 100
	maxRecordBytes = 64 << 10
)

var (
	errNested = errors.New("a parenthesis inside parentheses")
	errOpen   = errors.New("the parenthesis or quote is not closed")
	errClosed = errors.New("the parenthesis was not opened")
	errOwner  = errors.New("no owner name before it")
	errRecord = errors.New("not a resource record")
)

// A zoneState is what earlier lines say about the next.
type zoneState struct {
	lines  []heldLine // of a record that is not complete
	size   int        // bytes of lines
	tokens []token    // of the same
	open   bool       // inside parentheses

	origin zoneName
	zone   zoneName // unknown until it is absolute
	ttl    string   // of the records that follow and have none
	soa    bool     // the zone was named by its SOA record
	owner  string   // of the last record, as it was spelled
}

type heldLine struct {
	line, column int
	text         string
}

type token struct {
	text   string
	offset int
	quoted bool
}

// A zoneName is a name without its final dot, absolute or relative to a zone
// of unknown name. The zero zoneName is that zone.
type zoneName struct {
	absolute bool
	name     string
}

// zoneComment finds a comment: ";" outside quotes and not escaped.
func zoneComment(text []byte) int {
	quoted := false
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			quoted = !quoted
		case ';':
			if !quoted {
				return i
			}
		}
	}
	return len(text)
}

// parseZone reads a line, which may begin, continue or end a record.
func parseZone(p *parser, text string) {
	z := &p.zone
	z.lines = append(z.lines, heldLine{p.line, p.column, text})
	z.size += len(text)
	err := z.tokenize(text)
	if err == nil && z.open {
		if len(z.lines) < maxRecordLines && z.size < maxRecordBytes {
			p.held = true
			return
		}
		err = errOpen
	}
	if err != nil {
		p.replay(err)
		return
	}
	p.report.Comments += len(z.lines) - 1
	p.at(z.lines[0])
	p.record(z.tokens, p.column > 1, text)
	z.reset()
}

// at makes that line the one that rules and skips are counted for.
func (p *parser) at(l heldLine) {
	p.begin(l.line)
	p.column = l.column
}

func (z *zoneState) reset() {
	z.lines, z.tokens, z.size, z.open = z.lines[:0], z.tokens[:0], 0, false
}

// replay skips the first of the lines that make no record and reads the others
// again, each on its own. All but the last are settled: that is the caller's.
func (p *parser) replay(err error) {
	lines := slices.Clone(p.zone.lines)
	p.zone.reset()
	p.at(lines[0])
	p.skip(0, SkipSyntax, lines[0].text, err)
	for _, l := range lines[1:] {
		if p.stopped {
			return
		}
		if !p.held {
			p.settle()
		}
		p.at(l)
		parseZone(p, l.text)
	}
}

// finishZone skips what is still open at the end of the file.
func finishZone(p *parser) {
	for len(p.zone.lines) > 0 && !p.stopped {
		p.replay(errOpen)
		if !p.held {
			p.settle()
		}
	}
}

// tokenize cuts a line into the tokens of the record (RFC 1035, section 5.1).
func (z *zoneState) tokenize(s string) error {
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case isBlank(c):
			i++
		case c == '(':
			if z.open {
				return errNested
			}
			z.open = true
			i++
		case c == ')':
			if !z.open {
				return errClosed
			}
			z.open = false
			i++
		case c == '"':
			end := quoteEnd(s, i+1)
			if end < 0 {
				return errOpen
			}
			z.tokens = append(z.tokens, token{s[i+1 : end], i, true})
			i = end + 1
		default:
			start := i
			i = tokenEnd(s, i)
			z.tokens = append(z.tokens, token{s[start:i], start, false})
		}
	}
	return nil
}

func quoteEnd(s string, i int) int {
	for ; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

func tokenEnd(s string, i int) int {
	for ; i < len(s); i++ {
		if c := s[i]; c == '\\' {
			i++
		} else if isBlank(c) || c == '(' || c == ')' || c == '"' {
			return i
		}
	}
	return min(i, len(s))
}

// record reads a complete record or directive. A line that begins with a blank
// has the owner of the record before it.
func (p *parser) record(tokens []token, indented bool, text string) {
	z := &p.zone
	switch {
	case len(tokens) == 0:
		return // only parentheses
	case !indented && strings.HasPrefix(tokens[0].text, "$"):
		p.zoneDirective(tokens, text)
		return
	case !indented:
		z.owner = tokens[0].text
		tokens = tokens[1:]
	case z.owner == "":
		p.skip(0, SkipSyntax, text, errOwner)
		return
	}
	ttl := z.ttl
	for n := 0; n < 2 && len(tokens) > 0 && (isTTL(tokens[0].text) || isClass(tokens[0].text)); n++ {
		if isTTL(tokens[0].text) {
			ttl = tokens[0].text
		}
		tokens = tokens[1:]
	}
	if len(tokens) < 2 || !isType(tokens[0].text) {
		p.skip(0, SkipSyntax, text, errRecord)
		return
	}
	p.policy(zoneRecord{z.owner, ttl, strings.ToUpper(tokens[0].text), tokens[1:], text})
}

// A zoneRecord is a record in parts.
type zoneRecord struct {
	owner, ttl, rrtype string
	data               []token
	text               string // the line that it begins on
}

func (p *parser) zoneDirective(tokens []token, text string) {
	z := &p.zone
	switch strings.ToUpper(tokens[0].text) {
	case "$TTL":
		if len(tokens) != 2 || !isTTL(tokens[1].text) {
			p.skip(0, SkipSyntax, text, nil)
			return
		}
		z.ttl = tokens[1].text
	case "$ORIGIN":
		if len(tokens) != 2 {
			p.skip(0, SkipSyntax, text, nil)
			return
		}
		z.origin = z.resolve(tokens[1].text)
		if z.origin.absolute && !z.zone.absolute {
			z.zone = z.origin
		}
	case "$INCLUDE":
		p.skip(0, SkipInclude, text, nil)
	default:
		p.skip(0, SkipDirective, text, nil)
	}
}

// resolve makes a name as it is spelled absolute, as far as the origin is known.
func (z *zoneState) resolve(s string) zoneName {
	if s == "@" {
		return z.origin
	}
	if s == "." {
		return zoneName{absolute: true}
	}
	if name, ok := strings.CutSuffix(s, "."); ok && !strings.HasSuffix(name, `\`) {
		return zoneName{true, name}
	}
	if z.origin.name != "" {
		s += "." + z.origin.name
	}
	return zoneName{z.origin.absolute, s}
}

// relative returns the part of a name before the zone's name; it is empty for
// the zone itself. It returns false for a name that is not known to be in the
// zone.
func (z *zoneState) relative(n zoneName) (string, bool) {
	switch {
	case !n.absolute || z.zone.absolute && z.zone.name == "":
		return n.name, true
	case !z.zone.absolute:
		return "", false
	case strings.EqualFold(n.name, z.zone.name):
		return "", true
	}
	cut := len(n.name) - len(z.zone.name)
	if cut < 2 || n.name[cut-1] != '.' || !strings.EqualFold(n.name[cut:], z.zone.name) {
		return "", false
	}
	return n.name[:cut-1], true
}

// isTTL reports whether s is a number of seconds, or of units as in 1h30m.
func isTTL(s string) bool {
	digit := false
	for i := 0; i < len(s); i++ {
		switch c := s[i] | 0x20; {
		case '0' <= s[i] && s[i] <= '9':
			digit = true
		case !digit || strings.IndexByte("smhdw", c) < 0:
			return false
		}
	}
	return digit
}

func isClass(s string) bool {
	switch strings.ToUpper(s) {
	case "IN", "CH", "HS", "CS", "ANY":
		return true
	}
	return false
}

// isType reports whether s is spelled like a record type: a letter, and then
// letters, digits and hyphens. Names have dots.
func isType(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i] | 0x20
		if (c < 'a' || c > 'z') && (i == 0 || (s[i] < '0' || s[i] > '9') && s[i] != '-') {
			return false
		}
	}
	return s != ""
}

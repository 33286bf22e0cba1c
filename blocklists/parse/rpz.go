package parse

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// The RPZ dialect is a response policy zone as a zone file: the syntax is that
// of RFC 1035, section 5.1, the meaning that of draft-vixie-dnsop-dns-rpz.
//
// Triggers are owner names relative to the zone: "name" is the name only,
// "*.name" everything under it and not the name itself, and
// "32.1.2.0.192.rpz-ip" an address prefix in the answer, an IPv6 one with "zz"
// for "::". Triggers on clients and name servers are not supported.
//
// Actions are records: "CNAME ." is NXDOMAIN, "CNAME *." NODATA,
// "CNAME rpz-drop." no answer, and "CNAME rpz-passthru." (or a CNAME to the
// trigger itself, its older spelling) lets it through. Other data is local data
// and not a block.
//
// The zone's name is the owner of its SOA record, or $ORIGIN where that says
// no more. In a file that has neither, owners without a final dot are relative to
// the zone whatever its name is, and those with one cannot be in it. SOA and NS
// records, DNSSEC records and what else stands at the zone's apex are its
// administration and count as comments. $INCLUDE is never followed.
//
// This is an own reader and not that of the DNS library because one bad line
// must not end the list.

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
			z.tokens = append(z.tokens, token{s[i+1 : end], i})
			i = end + 1
		default:
			start := i
			i = tokenEnd(s, i)
			z.tokens = append(z.tokens, token{s[start:i], start})
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
	for n := 0; n < 2 && len(tokens) > 0 && (isTTL(tokens[0].text) || isClass(tokens[0].text)); n++ {
		tokens = tokens[1:]
	}
	if len(tokens) < 2 || !isType(tokens[0].text) {
		p.skip(0, SkipSyntax, text, errRecord)
		return
	}
	p.policy(z.owner, strings.ToUpper(tokens[0].text), tokens[1:], text)
}

func (p *parser) zoneDirective(tokens []token, text string) {
	z := &p.zone
	switch strings.ToUpper(tokens[0].text) {
	case "$TTL":
		if len(tokens) != 2 || !isTTL(tokens[1].text) {
			p.skip(0, SkipSyntax, text, nil)
		}
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

// policy reads a record as a trigger and an action.
func (p *parser) policy(owner, rrtype string, data []token, text string) {
	z := &p.zone
	name := z.resolve(owner)
	if rrtype == "SOA" {
		if name.absolute && !z.soa {
			z.zone, z.soa = name, true
		}
		return
	}
	if administrative[rrtype] {
		return
	}
	trigger, ok := z.relative(name)
	switch {
	case !ok:
		p.skip(0, SkipOutOfZone, text, nil)
	case trigger == "" && rrtype != "CNAME":
		return
	case trigger == "" || trigger == "*":
		p.skip(0, SkipEverything, text, nil)
	case rrtype != "CNAME":
		p.skip(0, SkipLocalData, text, nil)
	case len(data) != 1:
		p.skip(0, SkipSyntax, text, errRecord)
	default:
		rule, reason := action(z.resolve(data[0].text), trigger)
		if reason != "" {
			p.skip(data[0].offset, reason, text, nil)
			return
		}
		p.trigger(rule, trigger, text)
	}
}

// administrative are the types that a signed zone has at every name.
var administrative = map[string]bool{
	"DNSKEY": true, "DS": true, "CDS": true, "CDNSKEY": true, "RRSIG": true,
	"NSEC": true, "NSEC3": true, "NSEC3PARAM": true, "ZONEMD": true,
}

// action says what a CNAME to that target means for the trigger.
func action(target zoneName, trigger string) (blocklists.Rule, Skip) {
	if !target.absolute {
		return blocklists.Rule{}, SkipLocalData
	}
	switch name := strings.ToLower(target.name); name {
	case "":
		return blocklists.Rule{Action: blocklists.Block, Mode: blocklists.NXDOMAIN}, ""
	case "*":
		return blocklists.Rule{Action: blocklists.Block, Mode: blocklists.NODATA}, ""
	case "rpz-drop":
		return blocklists.Rule{Action: blocklists.Block, Mode: blocklists.Drop}, ""
	case "rpz-passthru", strings.ToLower(trigger):
		return blocklists.Rule{Action: blocklists.Allow}, ""
	case "rpz-tcp-only":
		return blocklists.Rule{}, SkipAction
	}
	return blocklists.Rule{}, SkipLocalData
}

// trigger gives out the rule for what the trigger matches.
func (p *parser) trigger(rule blocklists.Rule, s, text string) {
	last := strings.ToLower(s[strings.LastIndexByte(s, '.')+1:])
	switch {
	case last == "rpz-ip":
		prefix, ok := triggerPrefix(strings.ToLower(s[:max(0, len(s)-len(".rpz-ip"))]))
		if !ok {
			p.skip(0, SkipNotAddress, text, nil)
			return
		}
		p.prefixRule(rule, prefix, text, 0)
		return
	case strings.HasPrefix(last, "rpz-"):
		p.skip(0, SkipTrigger, text, nil)
		return
	}
	rule.Kind = blocklists.Exact
	name, under := strings.CutPrefix(s, "*.")
	if under {
		rule.Kind = blocklists.Under
	}
	if strings.HasSuffix(name, ".") {
		p.skip(0, SkipName, text, nil)
		return
	}
	p.nameRule(rule, name, 0)
}

// triggerPrefix reads "length.reversed-address": decimal for IPv4, words for
// IPv6 with at most one "zz". Bits after the length are ignored.
func triggerPrefix(s string) (netip.Prefix, bool) {
	length, rest, _ := strings.Cut(s, ".")
	bits, err := strconv.Atoi(length)
	if err != nil {
		return netip.Prefix{}, false
	}
	words := strings.Split(rest, ".")
	slices.Reverse(words)
	text := strings.Join(words, ":")
	if zz := slices.Index(words, "zz"); zz >= 0 {
		text = strings.Join(words[:zz], ":") + "::" + strings.Join(words[zz+1:], ":")
	} else if len(words) == 4 {
		text = strings.Join(words, ".")
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, false
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}, false
	}
	if addr.Is4In6() && bits >= 96 {
		prefix = netip.PrefixFrom(addr.Unmap(), bits-96).Masked()
	}
	return prefix, true
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

package parse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
	"unsafe"

	"github.com/weir-gateway/weir/blocklists"
)

// A dialect reads the lines of one format. The two functions are methods of
// the parser because most dialects have no state of their own.
type dialect struct {
	// comment returns where the comment of a trimmed line begins, or its length.
	comment func(text []byte) int
	// parse reads a line that is neither blank nor a comment, without blanks
	// around it. It calls rule and skip.
	parse func(p *parser, text string)
	// keeps says that the dialect, or what it gives out, goes on using the text
	// after the line. The text of others is valid for the line only, which
	// spares an allocation each.
	keeps bool
	// finish ends what is still open after the last line; nil for nothing.
	finish func(p *parser)
}

var dialects = map[Format]*dialect{
	Domains:  {comment: blankHash, parse: parseDomains},
	Hosts:    {comment: anyHash, parse: parseHosts},
	ABP:      {comment: abpComment, parse: parseABP},
	Dnsmasq:  {comment: blankHash, parse: parseDnsmasq},
	RPZ:      {comment: zoneComment, parse: parseZone, keeps: true, finish: finishZone},
	Prefixes: {comment: blankHash, parse: parsePrefixes, keeps: true},
	URLs:     {comment: blankHash, parse: parseURLs},

	Signatures: {comment: blankHash, parse: parseSignatures},
}

// A parser reads one list. It owns the line it is at. Skips are copies; the
// strings of rules may be parts of the line, which the next one overwrites.
type parser struct {
	limits  Limits
	dialect *dialect
	report  Report
	onRule  func(blocklists.Rule) bool // returns false to stop
	onSkip  func(*SkipError) bool
	stopped bool

	line     int  // the line that rules and skips are counted for
	column   int  // where the text given to the dialect begins, counted from 1
	gave     bool // the line gave a rule
	missed   bool // a part of the line was skipped
	held     bool // the dialect waits for more lines before it says what this one is
	examples map[Skip]int
	abp      abpState
	zone     zoneState
}

func newParser(f Format, lim Limits) *parser {
	return &parser{
		limits:   lim.withDefaults(),
		dialect:  dialects[f],
		report:   Report{Format: f, Skips: map[Skip]int{}, Examples: []SkipError{}},
		examples: map[Skip]int{},
	}
}

// run reads the list to its end. It returns nil when the consumer stopped it.
func (p *parser) run(r io.Reader) error {
	if p.dialect == nil {
		_, err := ParseFormat(string(p.report.Format))
		return &InputError{What: InputFormat, Msg: err.Error()}
	}
	in, err := open(r, p.limits.Bytes)
	if err != nil {
		return readError(err, 0)
	}
	p.report.Gzip = in.gzip
	src := newLines(in.r, p.limits.Line)
	for !p.stopped {
		raw, long, err := src.next()
		p.report.Bytes = in.bytes.count()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return readError(err, p.report.Lines+1)
		}
		if src.nul {
			return binaryError(p.report.Lines + 1)
		}
		if err := p.next(raw, long); err != nil {
			return err
		}
	}
	if p.dialect.finish != nil && !p.stopped {
		p.dialect.finish(p)
	}
	return nil
}

// readError gives an error of the reader a position.
func readError(err error, line int) error {
	if in, ok := errors.AsType[*InputError](err); ok {
		at := *in
		at.Line = max(at.Line, line)
		return &at
	}
	if line == 0 {
		return fmt.Errorf("read list: %w", err)
	}
	return fmt.Errorf("read list: line %d: %w", line, err)
}

// next counts one line and hands it to the dialect.
func (p *parser) next(raw []byte, long bool) error {
	if p.report.Lines >= p.limits.Lines {
		return &InputError{What: InputLines, Line: p.report.Lines + 1,
			Msg: fmt.Sprintf("the list has more than %d lines: raise the limit if it is meant to have", p.limits.Lines)}
	}
	p.report.Lines++
	p.begin(p.report.Lines)
	// Lists are concatenated with the mark of the next file in the middle.
	raw = bytes.TrimPrefix(raw, utf8BOM)
	text, lead := trim(raw)
	p.column = lead + 1
	switch {
	case long:
		p.skip(0, SkipLongLine, string(raw[:min(len(raw), maxExcerpt+utf8.UTFMax)]), nil)
	case len(text) == 0:
		p.report.Blank++
		return nil
	default:
		if text = trimRight(text[:p.dialect.comment(text)]); len(text) == 0 {
			p.report.Comments++
			return nil
		}
		if err := p.content(text); err != nil {
			return err
		}
	}
	if !p.held {
		p.settle()
	}
	return nil
}

// content hands what a line says to the dialect, if it is text.
func (p *parser) content(text []byte) error {
	if err := markup(text, p.line); err != nil {
		if p.report.Rules == 0 {
			return err
		}
		p.skip(0, SkipHTML, string(text), nil)
		return nil
	}
	if !utf8.Valid(text) {
		p.skip(0, SkipEncoding, string(text), nil)
		return nil
	}
	if p.dialect.keeps {
		p.dialect.parse(p, string(text))
	} else {
		p.dialect.parse(p, unsafe.String(unsafe.SliceData(text), len(text)))
	}
	return nil
}

// begin makes that line the one that rules and skips are counted for.
func (p *parser) begin(line int) {
	p.line, p.gave, p.missed, p.held = line, false, false, false
}

// settle counts the current line as what it turned out to be.
func (p *parser) settle() {
	switch {
	case p.gave:
		p.report.RuleLines++
	case p.missed:
		p.report.SkippedLines++
	default:
		p.report.Comments++
	}
}

// rule gives out a rule of the current line.
func (p *parser) rule(r blocklists.Rule) {
	if p.stopped {
		return
	}
	r.Line = p.line
	p.gave = true
	n := &p.report
	n.Rules++
	if r.Action == blocklists.Allow {
		n.Allow++
	} else {
		n.Block++
	}
	switch {
	case r.Kind.IsSignature():
		n.Kinds.Signature++
	case r.Kind == blocklists.Client:
		n.Kinds.Client++
	case r.Path != "":
		n.Kinds.URL++
	case r.Kind == blocklists.Suffix:
		n.Kinds.Suffix++
	case r.Kind == blocklists.Exact:
		n.Kinds.Exact++
	case r.Kind == blocklists.Under:
		n.Kinds.Under++
	default:
		n.Kinds.Prefix++
	}
	if !p.onRule(r) {
		p.stopped = true
	}
}

// skip counts a part of the current line that gives no rule. It begins at that
// offset of the text that the dialect was given.
func (p *parser) skip(offset int, reason Skip, text string, err error) {
	if p.stopped {
		return
	}
	p.missed = true
	p.report.Skips[reason]++
	example := p.examples[reason] < examplesPerReason
	if !example && p.onSkip == nil {
		return
	}
	s := SkipError{Line: p.line, Column: p.column + offset, Reason: reason, Text: excerpt(text), Err: err}
	if example {
		p.examples[reason]++
		p.report.Examples = append(p.report.Examples, s)
	}
	if p.onSkip != nil && !p.onSkip(&s) {
		p.stopped = true
	}
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\v' || c == '\f' }

// trim removes blanks on both sides and says how many on the left.
func trim(b []byte) (text []byte, lead int) {
	for lead < len(b) && isBlank(b[lead]) {
		lead++
	}
	return trimRight(b[lead:]), lead
}

func trimRight(b []byte) []byte {
	for len(b) > 0 && isBlank(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// anyHash finds a comment that begins at any "#".
func anyHash(text []byte) int {
	if i := bytes.IndexByte(text, '#'); i >= 0 {
		return i
	}
	return len(text)
}

// blankHash finds a comment that begins at a "#" at the line's beginning or
// after a blank.
func blankHash(text []byte) int {
	for i := 0; ; i++ {
		n := bytes.IndexByte(text[i:], '#')
		if n < 0 {
			return len(text)
		}
		if i += n; i == 0 || isBlank(text[i-1]) {
			return i
		}
	}
}

// field returns the first field of s from offset on, and where it begins. It
// is empty after the last.
func field(s string, offset int) (string, int) {
	for offset < len(s) && isBlank(s[offset]) {
		offset++
	}
	end := offset
	for end < len(s) && !isBlank(s[end]) {
		end++
	}
	return s[offset:end], offset
}

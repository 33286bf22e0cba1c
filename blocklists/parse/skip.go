package parse

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// A Skip is the reason why a line, or a part of one, gave no rule. The words
// are stable: metrics and reports carry them.
type Skip string

// Reasons that any dialect may give.
const (
	SkipEncoding    Skip = "encoding"      // bytes that are not UTF-8
	SkipLongLine    Skip = "line-too-long" // longer than Limits.Line
	SkipSyntax      Skip = "syntax"        // not a line of this dialect
	SkipHTML        Skip = "html"          // markup after the first rule
	SkipAddress     Skip = "address"       // an address, in any spelling, where a name is expected
	SkipURL         Skip = "url"           // a URL or path where a name is expected
	SkipPort        Skip = "port"          // a name with a port
	SkipWildcard    Skip = "wildcard"      // a wildcard that no rule can say
	SkipName        Skip = "invalid-name"  // not a host name: see SkipError.Err
	SkipSingleLabel Skip = "single-label"  // would take a whole top-level domain
	SkipEverything  Skip = "everything"    // would take all names, or all of what everybody speaks
	SkipSpecial     Skip = "special"       // private, special or far too wide address space
	SkipInclude     Skip = "include"       // another file, which is not read
)

// Reasons of some dialects.
const (
	SkipLocalData   Skip = "local-data"   // hosts, abp, dnsmasq: an answer with own data, not a block; rpz: one that cannot be read
	SkipSelfName    Skip = "self-name"    // hosts, abp: localhost and its like
	SkipNoAddress   Skip = "no-address"   // hosts: a name without an address before it
	SkipNoName      Skip = "no-name"      // hosts, abp: an address without a name after it
	SkipNoSeparator Skip = "no-separator" // abp: ||name without ^ matches longer names too
	SkipModifier    Skip = "modifier"     // abp: $ with what a name or address rule cannot honour
	SkipRegex       Skip = "regex"        // abp: /regular expression/
	SkipCosmetic    Skip = "cosmetic"     // abp: rules about elements of pages
	SkipPattern     Skip = "url-pattern"  // abp, urls, signatures: a pattern that no rule can say
	SkipConditional Skip = "conditional"  // abp: between !#if and !#endif
	SkipRouting     Skip = "routing"      // dnsmasq: where to forward, not what to block
	SkipDirective   Skip = "directive"    // dnsmasq, rpz: another setting
	SkipAction      Skip = "action"       // rpz: an action that is not supported
	SkipTrigger     Skip = "trigger"      // rpz: a trigger that nobody knows
	SkipNSName      Skip = "nsdname"      // rpz: the name of a name server, which a forwarder never sees
	SkipNSAddress   Skip = "nsip"         // rpz: the address of one
	SkipOutOfZone   Skip = "out-of-zone"  // rpz: an owner that is not in the zone
	SkipNotAddress  Skip = "not-address"  // prefixes: no address or prefix
	SkipNoPath      Skip = "no-path"      // urls: a host without a path
	SkipScheme      Skip = "scheme"       // urls: a scheme other than http
)

// maxExcerpt bounds SkipError.Text.
const maxExcerpt = 100

// A SkipError is a line, or a part of one, that gave no rule.
type SkipError struct {
	Line   int    `json:"line"`   // counted from 1
	Column int    `json:"column"` // in bytes, counted from 1, a byte order mark not counted
	Reason Skip   `json:"reason"`
	Text   string `json:"text"` // the part that was not used, cut to a readable length
	Err    error  `json:"-"`    // what exactly is wrong, where there is more to say
}

// Error names position, reason and text. Control characters are escaped, so
// that it is safe to print whatever the list holds.
func (e *SkipError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("line %d, column %d: %s: %q: %v", e.Line, e.Column, e.Reason, e.Text, e.Err)
	}
	return fmt.Sprintf("line %d, column %d: %s: %q", e.Line, e.Column, e.Reason, e.Text)
}

// Unwrap returns what exactly is wrong.
func (e *SkipError) Unwrap() error { return e.Err }

// excerpt returns a copy of the text's beginning, so that an error that is
// kept does not keep the line.
func excerpt(s string) string {
	if len(s) > maxExcerpt {
		cut := maxExcerpt
		for cut > maxExcerpt-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	if !utf8.ValidString(s) {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	return strings.Clone(s)
}

// An InputError is why an input as a whole is not a list that can be read.
type InputError struct {
	What string // what it is, in one stable word: see the constants
	Line int    // where it was found, 0 where lines do not matter
	Msg  string // what is wrong and what to do
	Err  error  // the error below, or nil
}

// What an InputError may name.
const (
	InputHTML     = "html"
	InputXML      = "xml"
	InputArchive  = "archive"
	InputGzip     = "gzip" // truncated or corrupt
	InputEncoding = "utf-16"
	InputBinary   = "binary"
	InputBytes    = "too-large"
	InputLines    = "too-many-lines"
	InputFormat   = "format" // the dialect is unknown
)

// Error says what is wrong and what to do.
func (e *InputError) Error() string {
	s := e.Msg
	if e.Line > 0 {
		s = fmt.Sprintf("line %d: %s", e.Line, s)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the error below.
func (e *InputError) Unwrap() error { return e.Err }

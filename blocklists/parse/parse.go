// Package parse reads list files: bytes in one of eight dialects become
// blocklists.Rule values, one line after the other.
//
// Each dialect keeps its own published meaning; it is described, with its
// source, at the file that reads it (domains.go, hosts.go, abp.go, dnsmasq.go,
// rpz.go, prefixes.go, urls.go, signatures.go). What a rule model of names, address prefixes
// and plain HTTP paths cannot say exactly is skipped, counted under a reason
// and never half-applied. In every dialect a single label (com, localhost) is
// refused, because it would take a whole top-level domain, and so are prefixes
// of private and other special address space.
//
// Input may be packed with gzip. Bytes, lines and the length of a line are
// bounded, and nothing but the current line is kept. What is not a list at all,
// such as an HTML page, an archive or binary data, is a fatal error that names
// it; a bad line never is.
//
// The package does not fetch, decide, merge or compile: bytes come from package
// source, and rules go to a blocklists.Builder. It guesses no format: Detect
// exists for people who lint a file of unknown origin.
package parse

import (
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// A Format is a dialect of list files.
type Format string

// The dialects.
const (
	Domains  Format = "domains"
	Hosts    Format = "hosts"
	ABP      Format = "abp"
	Dnsmasq  Format = "dnsmasq"
	RPZ      Format = "rpz"
	Prefixes Format = "prefixes"
	URLs     Format = "urls"

	Signatures Format = "signatures"
)

var formats = []Format{Domains, Hosts, ABP, Dnsmasq, RPZ, Prefixes, URLs, Signatures}

// Formats returns all dialects.
func Formats() []Format { return slices.Clone(formats) }

// ParseFormat returns the dialect of that name.
func ParseFormat(s string) (Format, error) {
	if f := Format(s); slices.Contains(formats, f) {
		return f, nil
	}
	words := make([]string, len(formats))
	for i, f := range formats {
		words[i] = string(f)
	}
	return "", fmt.Errorf("unknown list format %q: it must be one of %s", s, strings.Join(words, ", "))
}

// Limits bound the input. A field that is zero or negative means its default.
type Limits struct {
	Bytes int64 // of the file, and of what it unpacks to; default 512 MiB
	Lines int   // default 20,000,000
	Line  int   // bytes of one line without its end; default 64 KiB
}

// Defaults of Limits.
const (
	DefaultBytes = 512 << 20
	DefaultLines = 20_000_000
	DefaultLine  = 64 << 10
)

func (l Limits) withDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = DefaultBytes
	}
	if l.Lines <= 0 {
		l.Lines = DefaultLines
	}
	if l.Line <= 0 {
		l.Line = DefaultLine
	}
	return l
}

// Rules returns the rules of a list, in order. A *SkipError stands for a line
// or a part of one that was not used, and the iteration goes on. Any other
// error is fatal and the last thing yielded: an *InputError for what is not a
// list or passes the limits, or a wrapped error of the reader. After a fatal
// error the rules that came before it are a part of a list and must not be put
// to use.
//
// The sequence reads r as it goes and can be used once.
func Rules(f Format, r io.Reader, lim Limits) iter.Seq2[blocklists.Rule, error] {
	return func(yield func(blocklists.Rule, error) bool) {
		p := newParser(f, lim)
		p.onRule = func(rule blocklists.Rule) bool {
			rule.Name, rule.Path = strings.Clone(rule.Name), strings.Clone(rule.Path)
			return yield(rule, nil)
		}
		p.onSkip = func(s *SkipError) bool { return yield(blocklists.Rule{}, s) }
		if err := p.run(r); err != nil {
			yield(blocklists.Rule{}, err)
		}
	}
}

package parse

import (
	"fmt"
	"io"

	"github.com/weir-gateway/weir/blocklists"
)

// examplesPerReason bounds Report.Examples.
const examplesPerReason = 5

// A Report counts what a list gave. Every line is counted once:
//
//	Lines == Blank + Comments + RuleLines + SkippedLines
//
// A line that gave at least one rule is a rule line, even where other parts of
// it were skipped (hosts and dnsmasq lines carry several names); so the sum of
// Skips is at least SkippedLines, and Rules at least RuleLines. Headers and
// zone data that say nothing about names or addresses (the ABP header, $TTL,
// SOA and NS records) are comments, and so are the further lines of a zone
// record over several.
type Report struct {
	Format       Format       `json:"format"`
	Gzip         bool         `json:"gzip"`  // the input was packed
	Bytes        int64        `json:"bytes"` // unpacked
	Lines        int          `json:"lines"`
	Blank        int          `json:"blank"`
	Comments     int          `json:"comments"`
	RuleLines    int          `json:"rule_lines"`
	SkippedLines int          `json:"skipped_lines"`
	Noted        int          `json:"noted"` // lines with columns after a tab, which are notes
	Rules        int          `json:"rules"` // duplicates included
	Block        int          `json:"block"`
	Allow        int          `json:"allow"`
	Kinds        Kinds        `json:"kinds"`
	Skips        map[Skip]int `json:"skips"`
	// Examples are the first skips of each reason, in the order of the list.
	Examples []SkipError `json:"examples"`
}

// Kinds counts rules by what they match. URL rules count as that only.
type Kinds struct {
	Suffix int `json:"suffix"`
	Exact  int `json:"exact"`
	Under  int `json:"under"`
	Prefix int `json:"prefix"`
	URL    int `json:"url"`

	Signature int `json:"signature"`
	Client    int `json:"client,omitempty"` // rules about who asks
}

// Skipped returns how many skips there were in all.
func (r *Report) Skipped() int {
	n := 0
	for _, c := range r.Skips {
		n += c
	}
	return n
}

// Load gives the rules of a list to add, in order, and counts what it sees. An
// error of add ends it. With any error the Report holds what was counted until
// then, and the rules that were added are a part of a list and must not be put
// to use.
//
// The strings of a rule are valid until add returns, because they may be parts
// of the line that is being read: add clones what it keeps, as a
// blocklists.Builder does. That is what lets a list of a million names be read
// without a million allocations; Rules gives rules to keep.
func Load(f Format, r io.Reader, lim Limits, add func(blocklists.Rule) error) (Report, error) {
	p := newParser(f, lim)
	var failed error
	p.onRule = func(rule blocklists.Rule) bool {
		if err := add(rule); err != nil {
			failed = fmt.Errorf("line %d: rule %s: %w", rule.Line, rule, err)
		}
		return failed == nil
	}
	err := p.run(r)
	if err == nil {
		err = failed
	}
	return p.report, err
}

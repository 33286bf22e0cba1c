package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// An Error is one thing that is wrong, and where it stands.
type Error struct {
	// File is the configuration file as it was named, "built-in/ID/ban.yml" for
	// a built-in ban, or "default.yml" for the built-in default.
	File string
	// Line and Column count from 1; columns count characters. What YAML itself
	// does not accept has only a line, and column 1.
	Line, Column int
	// Key is the path of the key, such as dns.listen[0], or "file" for what is
	// wrong with the file as a whole.
	Key string
	// Msg says what is wrong, and what to write instead where that is known.
	Msg string
	// Err is the error of whoever found it, for At; nil where Msg says it all.
	Err error
}

// Unwrap returns what was found.
func (e *Error) Unwrap() error { return e.Err }

// Error returns FILE:LINE:COLUMN: key: what is wrong.
func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s: %s", e.File, e.Line, e.Column, e.Key, e.Msg)
}

// Errors is everything that is wrong with a configuration, in the order of
// position, the configuration file before the built-in bans. Its length is
// bounded: past maxErrors the last one only counts the others.
type Errors []*Error

// Error returns the errors, one a line.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find an *Error.
func (es Errors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}

const (
	// maxErrors is how many errors are told, each on its line.
	maxErrors = 50
	// maxCollected bounds what is kept before sorting; further errors are only
	// counted. A file that gets here is not a configuration.
	maxCollected = 10_000
	// wholeFile is the key of an error about no key in particular.
	wholeFile = "file"
)

// A collector gathers errors while decoding goes on, so that one run tells all
// of them.
type collector struct {
	errs    Errors
	dropped int // errors that were not kept
}

func (c *collector) add(e *Error) {
	if len(c.errs) >= maxCollected {
		c.dropped++
		return
	}
	c.errs = append(c.errs, e)
}

// result returns the errors of all files, those of file first, or nil.
func (c *collector) result(file string) error {
	if len(c.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(c.errs, func(a, b *Error) int {
		if a.File != b.File {
			return cmp.Or(cmp.Compare(btoi(a.File != file), btoi(b.File != file)), cmp.Compare(a.File, b.File))
		}
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if len(c.errs) <= maxErrors {
		return c.errs
	}
	first := c.errs[maxErrors]
	more := len(c.errs) - maxErrors + c.dropped
	msg := fmt.Sprintf("and %d more errors from here on", more)
	if more == 1 {
		msg = "and 1 more error here"
	}
	return append(c.errs[:maxErrors:maxErrors], &Error{File: first.File, Line: first.Line, Column: first.Column, Key: wholeFile, Msg: msg})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

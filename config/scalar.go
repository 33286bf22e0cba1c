package config

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/weir-gateway/weir/blocklists"
)

// maxText bounds a text, in bytes. The longest that is of use is a paragraph
// for a person who is blocked.
const maxText = 4096

// scalar returns a value that is a text. Plain words, numbers and dates are
// texts as they are written (ticket: 4711); true, false and nothing are not,
// because more often than not they are something else gone wrong. Spaces
// around it are not part of it.
func (v value) scalar() (string, bool) {
	if v.n.Kind != yaml.ScalarNode || isNull(v.n) || v.n.Tag == "!!bool" {
		v.wrongType("a text")
		return "", false
	}
	s := strings.TrimSpace(v.n.Value)
	if len(s) > maxText {
		v.fail("the text is longer than %d bytes", maxText)
		return "", false
	}
	for _, r := range s {
		switch {
		case r == '\n' || r == '\r' || r == 0x85 || r == 0x2028 || r == 0x2029:
			v.fail("the text has more than one line; > in place of | makes it one")
			return "", false
		case unicode.IsControl(r) || isBidi(r) || r == unicode.ReplacementChar:
			v.fail("the text has the character U+%04X, which cannot be shown", r)
			return "", false
		}
	}
	return s, true
}

// text returns a value that is a text of at least one character.
func (v value) text() (string, bool) {
	s, ok := v.scalar()
	if ok && s == "" {
		v.fail("the text is empty")
		return "", false
	}
	return s, ok
}

// bilingual returns a text in both languages: a mapping of en and fr, or one
// text that serves both.
func (v value) bilingual() (blocklists.Text, bool) {
	if v.n.Kind != yaml.MappingNode {
		s, ok := v.text()
		return blocklists.Text{EN: s, FR: s}, ok
	}
	var t blocklists.Text
	v.object(fields{"en": set(&t.EN, value.text), "fr": set(&t.FR, value.text)}, "en", "fr")
	return t, true
}

// word returns the decoder of a value that is one of the words.
func word[T ~string](words ...T) func(value) (T, bool) {
	known := make([]string, len(words))
	for i, w := range words {
		known[i] = string(w)
	}
	return func(v value) (T, bool) {
		if v.n.Kind != yaml.ScalarNode || v.n.Tag != "!!str" {
			v.wrongType("one of " + strings.Join(known, ", "))
			return "", false
		}
		s, ok := v.text()
		if ok && !slices.Contains(known, s) {
			v.fail("unknown word %s%s", quote(s), suggest(s, known, "the words here are "))
			return "", false
		}
		return T(s), ok
	}
}

// identifier returns the decoder of a value of that form; form says it.
func identifier(re *regexp.Regexp, form string) func(value) (string, bool) {
	return func(v value) (string, bool) {
		s, ok := v.text()
		if ok && !re.MatchString(s) {
			v.fail("%s is not of the form that it must have: %s", quote(s), form)
			return "", false
		}
		return s, ok
	}
}

var decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

// number returns the decoder of a whole number from low to high. It must be
// written in decimal digits alone: 010, 0x1F and 1_000 are different numbers
// to different readers, and a number in quotes is a text.
func number(low, high int) func(value) (int, bool) {
	want := fmt.Sprintf("a whole number from %d to %d", low, high)
	return func(v value) (int, bool) {
		if v.n.Kind != yaml.ScalarNode || v.n.Tag != "!!int" && v.n.Tag != "!!float" {
			v.wrongType(want)
			return 0, false
		}
		if !decimal.MatchString(v.n.Value) {
			v.fail("want %s, got %s; write decimal digits only, with no zero before them", want, quote(v.n.Value))
			return 0, false
		}
		n, err := strconv.Atoi(v.n.Value)
		if err != nil || n < low || n > high {
			v.fail("want %s, got %s", want, clip(v.n.Value))
			return 0, false
		}
		return n, true
	}
}

// boolean returns true or false. The other words that YAML 1.1 had for them
// are errors.
func (v value) boolean() (bool, bool) {
	if v.n.Kind == yaml.ScalarNode && v.n.Tag == "!!bool" && (v.n.Value == "true" || v.n.Value == "false") {
		return v.n.Value == "true", true
	}
	v.wrongType("true or false")
	return false, false
}

// path returns the path of a file, absolute; relative ones are relative to the
// folder of the configuration file. The empty text is no path.
func (v value) path() (string, bool) {
	s, ok := v.scalar()
	if !ok || s == "" {
		return "", ok
	}
	return v.absolute(s)
}

// filePath is path for what cannot be a folder.
func (v value) filePath() (string, bool) {
	s, ok := v.path()
	if ok && s != "" && os.IsPathSeparator(v.n.Value[len(v.n.Value)-1]) {
		v.fail("%s is a folder; write the name of a file", quote(v.n.Value))
		return "", false
	}
	return s, ok
}

func (v value) absolute(s string) (string, bool) {
	if s == "~" || strings.HasPrefix(s, "~/") {
		v.fail("~ is not expanded here; write the folder's full path")
		return "", false
	}
	if filepath.IsAbs(s) {
		return filepath.Clean(s), true
	}
	return filepath.Join(v.d.dir, s), true
}

// Times lie in these years. What lies outside is a slip of the pen, or a
// "never" that a dated decision cannot have.
const firstYear, lastYear = 1900, 2199

// begin returns a time. A date alone is the beginning of that day in UTC.
func (v value) begin() (time.Time, bool) { return v.time(0) }

// end returns a time. A date alone includes that day: it is the beginning of
// the next one in UTC.
func (v value) end() (time.Time, bool) { return v.time(1) }

var (
	dateForm   = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}$`)
	noZoneForm = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]+$`)
)

func (v value) time(days int) (time.Time, bool) {
	s, ok := v.text()
	if !ok {
		return time.Time{}, false
	}
	var t time.Time
	var err error
	if dateForm.MatchString(s) {
		t, err = time.Parse(time.DateOnly, s)
	} else if noZoneForm.MatchString(s) {
		v.fail("the time %s has no zone; end it with Z or with an offset such as -05:00", quote(s))
		return time.Time{}, false
	} else if err = t.UnmarshalText([]byte(s)); err == nil {
		// The zone stays as it was written, not as this machine calls it.
		_, offset := t.Zone()
		t = t.In(time.FixedZone("", offset))
		if offset == 0 {
			t = t.UTC()
		}
	}
	if err != nil {
		v.fail("%s is not a time; want a date (2026-12-31) or RFC 3339 (2026-12-31T17:00:00-05:00)", quote(s))
		return time.Time{}, false
	}
	if t.Year() < firstYear || t.Year() > lastYear {
		v.fail("the year must lie from %d to %d, got %s", firstYear, lastYear, quote(s))
		return time.Time{}, false
	}
	if dateForm.MatchString(s) {
		t = t.AddDate(0, 0, days)
	}
	return t, true
}

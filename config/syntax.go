package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxDepth is how deep values may be nested. The deepest key there is has 7.
const maxDepth = 16

// parse returns the root of the text. It accepts the part of YAML that reads
// the same to everybody: one document of mappings, lists and plain values, in
// UTF-8, without anchors, aliases, merge keys and tags. What is wrong is
// reported, and the node marked as such.
func (d *decoder) parse(text []byte) *yaml.Node {
	broken := &yaml.Node{Kind: reported, Line: 1, Column: 1}
	fail := func(line, column int, format string, args ...any) *yaml.Node {
		at := &yaml.Node{Line: line, Column: column}
		value{d: d}.failAt(at, format, args...)
		return broken
	}
	if len(text) > maxFile {
		return fail(1, 1, "the file is larger than %d MiB", maxFile>>20)
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if line, column, msg := badCharacter(text); msg != "" {
		return fail(line, column, "%s", msg)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return &yaml.Node{Kind: yaml.MappingNode, Line: 1, Column: 1}
	case err != nil:
		line, msg := explain(text, err)
		return fail(line, 1, "%s", msg)
	}
	switch err := dec.Decode(&second); {
	case err == nil:
		fail(second.Line, second.Column, "a second document begins here; the file must be one")
	case !errors.Is(err, io.EOF):
		line, msg := explain(text, err)
		return fail(line, 1, "%s", msg)
	}
	root := doc.Content[0]
	if isNull(root) && root.Value == "" && root.Style == 0 && root.Anchor == "" {
		// Nothing but comments, or a document marker alone.
		return &yaml.Node{Kind: yaml.MappingNode, Line: root.Line, Column: root.Column}
	}
	value{d: d, n: root}.vet(1)
	return root
}

// vet reports what the file may not use and marks it.
func (v value) vet(depth int) {
	n := v.n
	switch {
	case n.Kind == yaml.AliasNode:
		v.fail("aliases (*%s) are not accepted: a value must stand where it is used", clip(n.Value))
	case n.Anchor != "":
		v.fail("anchors (&%s) are not accepted: there are no aliases that could use them", clip(n.Anchor))
	case n.Style&yaml.TaggedStyle != 0:
		v.fail("tags (%s) are not accepted: the key says what its value is", clip(n.Tag))
	case depth > maxDepth:
		v.fail("values are nested more than %d deep", maxDepth)
	default:
		v.vetContent(depth)
		return
	}
	n.Kind = reported
}

func (v value) vetContent(depth int) {
	switch v.n.Kind {
	case yaml.SequenceNode:
		for i := range v.n.Content {
			v.element(i).vet(depth + 1)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(v.n.Content); i += 2 {
			k := v.n.Content[i]
			v.field(k.Value, v.n.Content[i+1]).vet(depth + 1)
			v.vetKey(k)
		}
	}
}

func (v value) vetKey(k *yaml.Node) {
	switch {
	case k.Kind == yaml.AliasNode || k.Anchor != "":
		v.failAt(k, "anchors and aliases are not accepted, in keys neither")
	case k.Kind != yaml.ScalarNode || isNull(k):
		v.failAt(k, "a key must be a word")
	case k.Tag == "!!merge":
		v.failAt(k, "merge keys (<<) are not accepted: a value must stand where it is used")
	case k.Style&yaml.TaggedStyle != 0:
		v.failAt(k, "tags (%s) are not accepted", clip(k.Tag))
	default:
		return
	}
	k.Kind = reported
}

// badCharacter finds the first character that text may not have: what is not
// UTF-8, control characters, and everything but LF and CRLF that some reader
// takes for the end of a line (YAML 1.1, section 4.2), because behind one of
// those an editor shows a comment where YAML reads a key.
func badCharacter(text []byte) (line, column int, msg string) {
	line, column = 1, 1
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		switch {
		case r == '\n':
			line, column = line+1, 0
		case r == '\r' && (i+1 == len(text) || text[i+1] != '\n'):
			msg = "a carriage return without a line feed; lines end with LF or CRLF"
		case r == utf8.RuneError && size == 1:
			msg = "the text is not UTF-8"
			if i == 0 && len(text) > 1 && (text[0] == 0xff && text[1] == 0xfe || text[0] == 0xfe && text[1] == 0xff) {
				msg = "the text is UTF-16; save it as UTF-8"
			}
		case r == 0:
			msg = "a NUL byte; this is not a text"
		case r < ' ' && r != '\t' && r != '\r' || 0x7f <= r && r < 0xa0 && r != 0x85:
			msg = fmt.Sprintf("the control character U+%04X", r)
		case r == 0x85 || r == 0x2028 || r == 0x2029:
			msg = fmt.Sprintf("the character U+%04X, which some programs read as the end of a line", r)
		case r == 0xfeff:
			msg = "a byte order mark in the middle of the text"
		case r == 0xfffe || r == 0xffff:
			msg = fmt.Sprintf("U+%04X, which is no character", r)
		case isBidi(r):
			msg = fmt.Sprintf("the character U+%04X, which shows text in another order than it has", r)
		}
		if msg != "" {
			return line, column, msg
		}
		i += size
		column++
	}
	return 0, 0, ""
}

// isBidi reports whether r overrides or isolates the direction of text. The
// marks that French and Arabic texts need are not among them.
func isBidi(r rune) bool {
	return 0x202a <= r && r <= 0x202e || 0x2066 <= r && r <= 0x2069
}

// syntaxErrors say in our words what the library says in its own, by a part of
// its message.
var syntaxErrors = []struct{ part, msg string }{
	{"found a tab character", "a tab in the indentation; indent with spaces"},
	{"scan alias or anchor", "a value that begins with * or & must be in quotes"},
	{"expected alphabetic or numeric character", "a value that begins with * or & must be in quotes"},
	{"found character that cannot start any token", "a value that begins with @, `, % or a tab must be in quotes"},
	{"mapping values are not allowed", "a second colon, wrong indentation, or no colon after the key above; a value with a colon and a space in it must be in quotes"},
	{"could not find expected ':'", "there is no colon after the key"},
	{"expected key", "the indentation does not fit, or text follows a value that has ended"},
	{"expected '-' indicator", "the indentation does not fit the list, or a dash is missing"},
	{"expected ',' or ']'", "a list that begins here or above has no ], or a comma is missing"},
	{"expected ',' or '}'", "a mapping that begins here or above has no }, or a comma is missing"},
	{"unexpected end of stream", "a quotation mark that opens here or below is never closed"},
	{"unexpected document indicator", "a quotation mark is not closed before the end of the document"},
	{"escape", "a backslash in double quotes begins an escape that does not exist; write \\\\ or use single quotes"},
	{"block sequence entries are not allowed", "a list item (- ) cannot begin here"},
	{"mapping keys are not allowed", "a key cannot begin here"},
	{"expected node content", "a value is missing here; an IPv6 address in [ ] must be in quotes"},
	{"expected <document start>", "text follows the end of the document"},
	{"unknown anchor", "aliases (*name) are not accepted; a value that begins with * must be in quotes"},
	{"expected hexdecimal number", "a backslash in double quotes begins an escape that is not complete"},
	{"exceeded max depth", "values are nested too deep"},
	{"comment or line break", "text follows | or > on its line"},
	{"indentation indicator", "the indentation indicator after | or > is wrong"},
	{"incompatible YAML document", "the %YAML line asks for another version than 1.1 or 1.2"},
	{"directive", "a line cannot begin with %, except for %YAML"},
	{"expected whitespace", "a space is missing after a tag or an anchor"},
	{"tag", "tags (!name) are not accepted"},
}

// explain returns the line and the meaning of an error of the YAML library.
func explain(text []byte, err error) (line int, msg string) {
	msg = "this is not YAML"
	for _, s := range syntaxErrors {
		if strings.Contains(err.Error(), s.part) {
			msg = s.msg
			break
		}
	}
	ends := lineEnds(text)
	n := failingLine(text, ends, err)
	last := text[:ends[n]]
	last = last[bytes.LastIndexByte(bytes.TrimSuffix(last, []byte("\n")), '\n')+1:]
	if indent := last[:len(last)-len(bytes.TrimLeft(last, " \t"))]; bytes.ContainsRune(indent, '\t') {
		msg = "a tab in the indentation; indent with spaces"
	}
	return n + 1, msg
}

// lineEnds returns the offset behind each line, of one line at the least.
func lineEnds(text []byte) []int {
	var ends []int
	for i, c := range text {
		if c == '\n' {
			ends = append(ends, i+1)
		}
	}
	if len(ends) == 0 || ends[len(ends)-1] < len(text) {
		ends = append(ends, len(text))
	}
	return ends
}

// failingLine returns the index of the line that first makes the text fail as
// it does. The library names the line where the context began, sometimes less
// one; what the operator must look at is where reading stops, and that is the
// shortest beginning of the text that fails alike. Where the end of the text
// is what is wrong, the line where the open part begins is found the same way.
func failingLine(text []byte, ends []int, err error) int {
	want, line := complaint(err)
	if len(text) > maxSearched {
		return max(0, min(line, len(ends))-1)
	}
	n := sort.Search(len(ends), func(n int) bool {
		got, _ := complaint(syntaxError(text[:ends[n]]))
		return got == want
	})
	return min(n, len(ends)-1)
}

// maxSearched bounds the text in which the line is searched for: the search
// reads it some fifteen times. In a larger one the library's line must do.
const maxSearched = 256 << 10

// complaint returns the message of the library without the position, and the
// line of the position, 1 if there is none.
func complaint(err error) (msg string, line int) {
	if err == nil {
		return "", 1
	}
	msg = strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(msg, "line "); ok {
		number, rest, _ := strings.Cut(rest, ": ")
		if n, err := strconv.Atoi(number); err == nil {
			return rest, n
		}
	}
	return msg, 1
}

func syntaxError(text []byte) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var n yaml.Node
		if err := dec.Decode(&n); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

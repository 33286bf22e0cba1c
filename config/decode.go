package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// A decoder turns one YAML text into values.
type decoder struct {
	*run
	file   string // as errors name it
	dir    string // folder of relative paths
	bundle string // id of the built-in ban that the text describes, or empty
	root   *yaml.Node
}

// A value is a node of the text and the path of keys that leads to it. Its
// methods return what the node says, or report an error and return false.
type value struct {
	d   *decoder
	n   *yaml.Node
	key string
}

// reported is the kind of a node about which an error was reported already:
// nothing more is said about it.
const reported yaml.Kind = 0

func (v value) fail(format string, args ...any) {
	v.failAt(v.n, format, args...)
}

func (v value) failAt(n *yaml.Node, format string, args ...any) {
	key := v.key
	if key == "" {
		key = wholeFile
	}
	v.d.errs.add(&Error{File: v.d.file, Line: n.Line, Column: n.Column, Key: key, Msg: fmt.Sprintf(format, args...)})
}

func (d *decoder) top() value { return value{d: d, n: d.root} }

// at returns the value at a path of keys and indexes, or its nearest ancestor
// and false. It is how checks across the file find where to report.
func (d *decoder) at(path ...any) (value, bool) {
	v := d.top()
	for _, step := range path {
		next, ok := v.child(step)
		if !ok {
			return v, false
		}
		v = next
	}
	return v, true
}

func (v value) child(step any) (value, bool) {
	switch step := step.(type) {
	case string:
		for i := 0; v.n.Kind == yaml.MappingNode && i+1 < len(v.n.Content); i += 2 {
			if k := v.n.Content[i]; k.Kind == yaml.ScalarNode && k.Value == step {
				return v.field(step, v.n.Content[i+1]), true
			}
		}
	case int:
		if v.n.Kind == yaml.SequenceNode && step < len(v.n.Content) {
			return v.element(step), true
		}
	}
	return value{}, false
}

func (v value) field(key string, n *yaml.Node) value {
	key = printableKey(key)
	if v.key != "" {
		key = v.key + "." + key
	}
	return value{v.d, n, key}
}

func (v value) element(i int) value {
	return value{v.d, v.n.Content[i], fmt.Sprintf("%s[%d]", v.key, i)}
}

// fields are the keys of a mapping and what decodes their values.
type fields map[string]func(value)

// set decodes a value into p. On an error p keeps what it has.
func set[T any](p *T, decode func(value) (T, bool)) func(value) {
	return func(v value) {
		if x, ok := decode(v); ok {
			*p = x
		}
	}
}

// listOf decodes a list. An element that is wrong keeps its place as a zero
// value, so that the others keep theirs for the checks across the file.
func listOf[T any](decode func(value) (T, bool)) func(value) ([]T, bool) {
	return func(v value) ([]T, bool) {
		if !v.is(yaml.SequenceNode, "a list ([a, b])") {
			return nil, false
		}
		list := make([]T, len(v.n.Content))
		for i := range v.n.Content {
			list[i], _ = decode(v.element(i))
		}
		return list, true
	}
}

// object decodes a mapping: each key by its field, in the order of the text.
// It reports unknown keys, keys given twice and required keys left out, and
// returns whether there was a mapping at all.
func (v value) object(fs fields, required ...string) bool {
	if !v.is(yaml.MappingNode, "a mapping (key: value)") {
		return false
	}
	first := make(map[string]int, len(v.n.Content)/2)
	for i := 0; i+1 < len(v.n.Content); i += 2 {
		k := v.n.Content[i]
		if k.Kind == reported {
			continue
		}
		f := v.field(k.Value, v.n.Content[i+1])
		if line, dup := first[k.Value]; dup {
			f.failAt(k, "the key is there twice, first on line %d", line)
			continue
		}
		first[k.Value] = k.Line
		decode, known := fs[k.Value]
		if !known {
			f.failAt(k, "unknown key%s", suggest(k.Value, slices.Sorted(maps.Keys(fs)), "the keys here are "))
			continue
		}
		if f.n.Kind != reported {
			decode(f)
		}
	}
	for _, key := range required {
		if _, there := first[key]; !there {
			v.field(key, v.n).fail("the key is missing, and it is required")
		}
	}
	return true
}

// is reports whether the value has that kind, with an error if not.
func (v value) is(kind yaml.Kind, want string) bool {
	if v.n.Kind == kind {
		return true
	}
	v.wrongType(want)
	return false
}

func (v value) wrongType(want string) {
	switch {
	case v.n.Kind == reported:
	case isNull(v.n):
		v.fail("there is no value, want %s", want)
	case want == "a text" && v.n.Kind != yaml.ScalarNode:
		v.fail("want %s, got %s; a text that begins with [ or { must be in quotes", want, describe(v.n))
	default:
		v.fail("want %s, got %s", want, describe(v.n))
	}
}

// isNull reports whether nothing is written where a value should be.
func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}

// describe says what a node is, in the words that errors use.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.Tag {
	case "!!null":
		return "nothing"
	case "!!bool":
		return n.Value
	case "!!int", "!!float":
		return "the number " + clip(n.Value)
	case "!!timestamp":
		return "the time " + clip(n.Value)
	}
	return "the text " + quote(n.Value)
}

// quote returns the text as errors show it: in quotes, escaped, bounded.
func quote(s string) string { return fmt.Sprintf("%q", clip(s)) }

const maxShown = 60

// clip bounds what an error repeats.
func clip(s string) string {
	if len(s) <= maxShown {
		return s
	}
	r := []rune(s)
	if len(r) <= maxShown {
		return s
	}
	return string(r[:maxShown]) + "…"
}

// printableKey returns the key as it stands in a key path, quoted if need be.
func printableKey(key string) string {
	odd := func(r rune) bool {
		return r != '_' && r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}
	if key == "" || strings.ContainsFunc(key, odd) {
		return quote(key)
	}
	return clip(key)
}

func isMapping(n *yaml.Node) bool { return n.Kind == yaml.MappingNode }

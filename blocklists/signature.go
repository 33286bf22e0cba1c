package blocklists

import (
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"
)

// Signatures recognise a protocol by how it speaks and not by where it goes:
// by the first bytes of a connection, or by a field or the path of a plain HTTP
// request. A signature is a Rule without a name of a host: Path is the pattern,
// and Name the field's, in lower case.

const (
	minBytes   = 3    // of a Bytes pattern: fewer are soon somebody else's, too
	maxBytes   = 64   // of a Bytes pattern: nothing more of a connection is ever looked at
	maxPattern = 256  // of the text of a pattern
	maxSigns   = 4096 // signatures of one Set, which are tried one after the other
)

// MaxFlow is how many bytes of a connection signatures look at.
const MaxFlow = maxBytes

// A signature is a compiled rule.
type signature struct {
	list  int
	rule  Rule
	bytes []nibbles         // for Bytes
	value func(string) bool // for Field
	path  *regexp.Regexp    // for Target
}

// nibbles are the values that the two halves of a byte may have, as bits.
type nibbles struct{ high, low uint16 }

func (n nibbles) match(b byte) bool { return n.high>>(b>>4)&1 != 0 && n.low>>(b&15)&1 != 0 }

// CheckSignature says what is wrong with a rule that is a signature.
func CheckSignature(r Rule) error {
	_, err := newSignature(0, r)
	return err
}

// IsSignature reports whether rules of that kind are signatures.
func (k Kind) IsSignature() bool { return k == Bytes || k == Field || k == Target }

func newSignature(list int, r Rule) (*signature, error) {
	s := &signature{list: list, rule: r}
	s.rule.Name, s.rule.Path = strings.Clone(r.Name), strings.Clone(r.Path)
	var err error
	switch {
	case len(r.Path) > maxPattern:
		err = fmt.Errorf("the pattern is longer than %d bytes", maxPattern)
	case r.Kind == Bytes:
		s.bytes, err = parseBytes(r.Path)
	case r.Kind == Field:
		s.value, err = parseFieldPattern(r.Name, s.rule.Path)
	default:
		s.path, err = parseTarget(r.Path)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// ErrTooWide is in errors about patterns that would take half the world.
var ErrTooWide = errors.New("it would take what everybody speaks")

// parseBytes reads one byte after the other, in hexadecimal. For a digit there
// may be a set of digits, [679], or a dot for any.
func parseBytes(s string) ([]nibbles, error) {
	var out []nibbles
	for word := range strings.FieldsSeq(s) {
		high, rest, ok := parseDigit(word)
		low, rest, ok2 := parseDigit(rest)
		if !ok || !ok2 || rest != "" {
			return nil, fmt.Errorf("%q is not a byte: want two hexadecimal digits, a set such as [679] or a dot for each", word)
		}
		out = append(out, nibbles{high, low})
	}
	if len(out) < minBytes || len(out) > maxBytes {
		return nil, fmt.Errorf("there are %d bytes; want %d to %d", len(out), minBytes, maxBytes)
	}
	for _, known := range everybody {
		n := min(len(known), len(out))
		if matchBytes(out[:n], []byte(known[:n])) {
			return nil, fmt.Errorf("%w: what begins with %q", ErrTooWide, known)
		}
	}
	return out, nil
}

// everybody are beginnings that no list may take away: TLS (RFC 8446, section
// 5.1), and HTTP requests.
var everybody = []string{"\x16\x03\x00", "\x16\x03\x01", "\x16\x03\x02", "\x16\x03\x03", "\x16\x03\x04", "GET /", "POST /", "HEAD /", "PUT /", "OPTIONS ", "CONNECT ", "PRI * HTTP/2"}

func parseDigit(s string) (set uint16, rest string, ok bool) {
	if s == "" {
		return 0, "", false
	}
	if s[0] == '.' {
		return 0xffff, s[1:], true
	}
	if s[0] != '[' {
		d := unhex(s[0])
		return 1 << (d & 15), s[1:], d < 16
	}
	end := strings.IndexByte(s, ']')
	if end < 2 {
		return 0, "", false
	}
	for i := 1; i < end; i++ {
		d := unhex(s[i])
		if d > 15 {
			return 0, "", false
		}
		set |= 1 << d
	}
	return set, s[end+1:], true
}

func matchBytes(pattern []nibbles, b []byte) bool {
	for i, n := range pattern {
		if !n.match(b[i]) {
			return false
		}
	}
	return true
}

// parseFieldPattern reads what is asked of a field's value: "= value" is the
// whole of one of its members, "^ text" how it begins, "~ text" what is in it,
// none of them sensitive to case.
func parseFieldPattern(name, s string) (func(string) bool, error) {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return nil, fmt.Errorf("%q is not the name of a field in lower case", name)
	}
	op, want, _ := strings.Cut(s, " ")
	want = strings.TrimSpace(want)
	if len(want) < minBytes {
		return nil, fmt.Errorf("%q: the text is shorter than %d bytes", s, minBytes)
	}
	for i := range len(want) {
		if want[i] < ' ' || want[i] > '~' {
			return nil, errors.New("the text is not printable ASCII")
		}
	}
	want = lowerASCII(want)
	switch op {
	case "=":
		return func(v string) bool { return hasMember(v, want) }, nil
	case "^":
		return func(v string) bool { return len(v) >= len(want) && strings.EqualFold(v[:len(want)], want) }, nil
	case "~":
		return func(v string) bool { return containsFold(v, want) }, nil
	}
	return nil, fmt.Errorf("%q: want = (is), ^ (begins with) or ~ (contains) before the text", s)
}

// containsFold reports whether the text is in the value, in whatever case.
func containsFold(value, want string) bool {
	for i := 0; i+len(want) <= len(value); i++ {
		if value[i]|0x20 == want[0]|0x20 && strings.EqualFold(value[i:i+len(want)], want) {
			return true
		}
	}
	return false
}

// hasMember reports whether the value or a member of the list that it is (RFC
// 9110, section 5.6.1) is the text.
func hasMember(value, want string) bool {
	if strings.EqualFold(value, want) {
		return true
	}
	for m := range strings.SplitSeq(value, ",") {
		if strings.EqualFold(strings.Trim(m, " \t"), want) {
			return true
		}
	}
	return false
}

// parseTarget reads a regular expression in the syntax of RE2, which needs time
// in proportion to the path whatever it says. It is compared with canonical
// paths, so that a capital letter could never match.
func parseTarget(s string) (*regexp.Regexp, error) {
	if strings.IndexFunc(s, func(c rune) bool { return 'A' <= c && c <= 'Z' || c > '~' || c < ' ' }) >= 0 {
		return nil, errors.New("paths are compared in lower case and ASCII; write the pattern so")
	}
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "error parsing regexp: ", "not a regular expression: "))
	}
	for _, p := range []string{"/", "/a", "/index.html", "/0/0"} {
		if re.MatchString(p) {
			return nil, fmt.Errorf("%w: the path %s", ErrTooWide, p)
		}
	}
	return re, nil
}

// addSignature keeps a rule of the list, once.
func (b *Builder) addSignature(list int, r Rule) error {
	if slices.ContainsFunc(b.signs, func(s *signature) bool { return s.says(list, &r) }) {
		return nil
	}
	if len(b.signs) == maxSigns {
		return ErrSetFull
	}
	s, err := newSignature(list, r)
	if err != nil {
		return fmt.Errorf("rule %q: %w", r, err)
	}
	b.signs = append(b.signs, s)
	return nil
}

// says reports whether the signature is that rule, whatever its line.
func (s *signature) says(list int, r *Rule) bool {
	return s.list == list && s.rule.Kind == r.Kind && s.rule.Action == r.Action && s.rule.Name == r.Name && s.rule.Path == r.Path
}

// editSignatures returns what the signatures are after the edit; they are few,
// so they are in no overlay.
func editSignatures(signs []*signature, e *Edit) ([]*signature, error) {
	b := Builder{}
	for _, s := range signs {
		if slices.Contains(e.Drop, s.list) {
			continue
		}
		if slices.ContainsFunc(e.Remove, func(c Change) bool { return s.says(c.List, &c.Rule) }) {
			continue
		}
		b.signs = append(b.signs, s)
	}
	for _, c := range e.Add {
		if !c.Rule.Kind.IsSignature() {
			continue
		}
		if err := b.addSignature(c.List, c.Rule); err != nil {
			return nil, err
		}
	}
	return b.signs, nil
}

// withoutSignatures returns the changes of rules that are neither signatures nor
// about who asks.
func withoutSignatures(changes []Change) []Change {
	apart := func(c Change) bool { return c.Rule.Kind.isApart() }
	if !slices.ContainsFunc(changes, apart) {
		return changes
	}
	return slices.DeleteFunc(slices.Clone(changes), apart)
}

// AppendFlow appends, for each list that knows how the connection begins, the
// rule that decides for that list. more says that further bytes might tell
// more.
func (s *Set) AppendFlow(dst []Match, first []byte) (ms []Match, more bool) {
	base := len(dst)
	for _, sig := range s.signs {
		if sig.rule.Kind != Bytes {
			continue
		}
		n := min(len(sig.bytes), len(first))
		switch {
		case !matchBytes(sig.bytes[:n], first):
		case n < len(sig.bytes):
			more = true
		default:
			dst = keep(dst, base, &Match{List: sig.list, Rule: sig.rule})
		}
	}
	return dst, more
}

// Fields are the fields of a request, name and value, in order.
type Fields = iter.Seq2[string, string]

// AppendFields is AppendFlow for a plain HTTP request: the canonical path, of
// which the query does not count, and its fields, nil for none.
func (s *Set) AppendFields(dst []Match, path string, fields Fields) []Match {
	if len(s.signs) == 0 {
		return dst
	}
	base := len(dst)
	path, _, _ = strings.Cut(path, "?")
	for _, sig := range s.signs {
		if sig.rule.Kind == Target && sig.path.MatchString(path) {
			dst = keep(dst, base, &Match{List: sig.list, Rule: sig.rule})
		}
	}
	if fields == nil {
		return dst
	}
	for name, value := range fields {
		for _, sig := range s.signs {
			if sig.rule.Kind == Field && strings.EqualFold(sig.rule.Name, name) && sig.value(value) {
				dst = keep(dst, base, &Match{List: sig.list, Rule: sig.rule})
			}
		}
	}
	return dst
}

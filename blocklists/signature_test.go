package blocklists

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

func sign(kind Kind, name, pattern string, line int) Rule {
	return Rule{Kind: kind, Action: Block, Name: name, Path: pattern, Line: line}
}

// signed returns a set with the rules in list 0.
func signed(t *testing.T, rules ...Rule) *Set {
	t.Helper()
	var b Builder
	for _, r := range rules {
		if err := b.Add(0, r); err != nil {
			t.Fatal(err)
		}
	}
	return b.Build()
}

func TestAppendFlow(t *testing.T) {
	s := signed(t, sign(Bytes, "", "1[679] f1 0[34]", 7), sign(Bytes, "", "05 .. 0. [ab]1", 8))
	for _, c := range []struct {
		first string
		line  int // 0 for none
		more  bool
	}{
		{"", 0, true},
		{"\x16", 0, true},
		{"\x16\xf1", 0, true},
		{"\x16\xf1\x04", 7, false},
		{"\x17\xf1\x03\x00\x20", 7, false},
		{"\x19\xf1\x04rest", 7, false},
		{"\x18\xf1\x04", 0, false},
		{"\x16\xf1\x05", 0, false},
		{"\x16\x03\x01", 0, false},
		{"\x05\xff", 0, true},
		{"\x05\xff\x0f", 0, true},
		{"\x05\xff\x0f\xb1", 8, false},
		{"\x05\xff\x0f\xc1", 0, false},
		{"\x05\xff\x1f", 0, false},
		{"GET / HTTP/1.1\r\n", 0, false},
	} {
		ms, more := s.AppendFlow(nil, []byte(c.first))
		line := 0
		if len(ms) > 0 {
			line = ms[0].Rule.Line
		}
		if line != c.line || more != c.more {
			t.Errorf("%q: line %d, more %t; want %d, %t", c.first, line, more, c.line, c.more)
		}
	}
}

func TestAppendFields(t *testing.T) {
	s := signed(t,
		sign(Field, "upgrade", "= mmtls", 1), sign(Field, "user-agent", "^ Some App", 2), sign(Field, "user-agent", "~ Micro", 3),
		sign(Target, "", "^/mmtls/[0-9a-f]{8}$", 4), sign(Target, "", "/micromsg-bin/", 5))
	for _, c := range []struct {
		path   string
		fields []string
		line   int
	}{
		{"/", nil, 0},
		{"/mmtls/2a9b1264", nil, 4},
		{"/mmtls/2a9b1264?x", nil, 4},
		{"/mmtls/2a9b126", nil, 0},
		{"/x?/mmtls/2a9b1264", nil, 0},
		{"/a/micromsg-bin/x", nil, 5},
		{"/", []string{"Host", "x", "Upgrade", "mmtls"}, 1},
		{"/", []string{"UPGRADE", "websocket, MMTLS"}, 1},
		{"/", []string{"upgrade", "mmtls2"}, 0},
		{"/", []string{"x-upgrade", "mmtls"}, 0},
		{"/", []string{"User-Agent", "some app/2"}, 2},
		{"/", []string{"User-Agent", "not some app/2"}, 0},
		{"/", []string{"user-agent", "Mozilla/5.0 mICRo/8"}, 3},
		{"/", []string{"referer", "Micro"}, 0},
	} {
		ms := s.AppendFields(nil, c.path, func(yield func(string, string) bool) {
			for p := range slices.Chunk(c.fields, 2) {
				if !yield(p[0], p[1]) {
					return
				}
			}
		})
		line := 0
		if len(ms) > 0 {
			line = ms[0].Rule.Line
		}
		if line != c.line || len(ms) > 1 {
			t.Errorf("%s %q: %v, want line %d", c.path, c.fields, ms, c.line)
		}
	}
	if ms := s.AppendFields(nil, "/mmtls/2a9b1264", nil); len(ms) != 1 {
		t.Errorf("no fields: %v", ms)
	}
}

// Names, addresses and URLs are none of a signature's business, and the other
// way round.
func TestSignaturesStandApart(t *testing.T) {
	s := signed(t, sign(Field, "upgrade", "= mmtls", 1), Rule{Kind: Suffix, Action: Block, Name: "upgrade.example", Line: 2})
	if ms := s.AppendName(nil, "upgrade"); len(ms) != 0 {
		t.Error(ms)
	}
	if ms, more := s.AppendFlow(nil, []byte("upgrade")); len(ms) != 0 || more {
		t.Error(ms, more)
	}
	if s.Rules() != 2 || s.Lists() != 1 || s.RulesOf(0) != 2 {
		t.Errorf("%d rules, %d lists, %d of the list", s.Rules(), s.Lists(), s.RulesOf(0))
	}
}

func TestBadSignatures(t *testing.T) {
	long := strings.Repeat("ab ", 65)
	for _, c := range []struct {
		rule Rule
		want string
	}{
		{sign(Bytes, "", "", 1), "there are 0 bytes; want 3 to 64"},
		{sign(Bytes, "", "16 f1", 1), "there are 2 bytes; want 3 to 64"},
		{sign(Bytes, "", long, 1), "there are 65 bytes; want 3 to 64"},
		{sign(Bytes, "", "16 f1 0", 1), `"0" is not a byte: want two hexadecimal digits, a set such as [679] or a dot for each`},
		{sign(Bytes, "", "16 f1 0[", 1), `"0[" is not a byte: want two hexadecimal digits, a set such as [679] or a dot for each`},
		{sign(Bytes, "", "16 f1 0[]", 1), `"0[]" is not a byte: want two hexadecimal digits, a set such as [679] or a dot for each`},
		{sign(Bytes, "", "16 f1 0[g]", 1), `"0[g]" is not a byte: want two hexadecimal digits, a set such as [679] or a dot for each`},
		{sign(Bytes, "", "16 f1 042", 1), `"042" is not a byte: want two hexadecimal digits, a set such as [679] or a dot for each`},
		{sign(Bytes, "", "16 03 0[0123]", 1), `it would take what everybody speaks: what begins with "\x16\x03\x00"`},
		{sign(Bytes, "", ".. .. ..", 1), `it would take what everybody speaks: what begins with "\x16\x03\x00"`},
		{sign(Bytes, "", "47 45 54", 1), `it would take what everybody speaks: what begins with "GET /"`},
		{sign(Bytes, "", "50 4f 53 54 20 2f", 1), `it would take what everybody speaks: what begins with "POST /"`},
		{sign(Field, "", "= mmtls", 1), `"" is not the name of a field in lower case`},
		{sign(Field, "Upgrade", "= mmtls", 1), `"Upgrade" is not the name of a field in lower case`},
		{sign(Field, "upgrade", "mmtls", 1), `"mmtls": the text is shorter than 3 bytes`},
		{sign(Field, "upgrade", "? mmtls", 1), `"? mmtls": want = (is), ^ (begins with) or ~ (contains) before the text`},
		{sign(Field, "upgrade", "~ ab", 1), `"~ ab": the text is shorter than 3 bytes`},
		{sign(Field, "upgrade", "~ abcé", 1), "the text is not printable ASCII"},
		{sign(Target, "", "/A", 1), "paths are compared in lower case and ASCII; write the pattern so"},
		{sign(Target, "", "/(", 1), "not a regular expression: missing closing ): `/(`"},
		{sign(Target, "", "", 1), "it would take what everybody speaks: the path /"},
		{sign(Target, "", "^/[a-z]", 1), "it would take what everybody speaks: the path /a"},
		{sign(Target, "", "^/"+strings.Repeat("a", 256), 1), "the pattern is longer than 256 bytes"},
	} {
		err := CheckSignature(c.rule)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v\nwant %s", c.rule, err, c.want)
		}
		var b Builder
		if err := b.Add(0, c.rule); err == nil {
			t.Errorf("%s: the builder takes it", c.rule)
		}
	}
	if err := CheckSignature(sign(Bytes, "", ".. .. ..", 1)); !errors.Is(err, ErrTooWide) {
		t.Error(err)
	}
}

func TestSignatureSpelling(t *testing.T) {
	for want, r := range map[string]Rule{
		"bytes 16 f1 04":        sign(Bytes, "", "16 f1 04", 1),
		"field upgrade = mmtls": sign(Field, "upgrade", "= mmtls", 1),
		"path ^/mmtls/":         sign(Target, "", "^/mmtls/", 1),
	} {
		if got := r.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// An edit brings and takes signatures as it does other rules, and leaves the
// set that it edits as it was.
func TestEditSignatures(t *testing.T) {
	a, b, c := sign(Bytes, "", "aa aa aa", 1), sign(Bytes, "", "bb bb bb", 2), sign(Bytes, "", "cc cc cc", 3)
	name := Rule{Kind: Suffix, Action: Block, Name: "a.example", Line: 4}
	s := signed(t, a, a, b, name)
	says := func(s *Set) string {
		found := map[string]bool{}
		for _, first := range []string{"\xaa\xaa\xaa", "\xbb\xbb\xbb", "\xcc\xcc\xcc"} {
			ms, _ := s.AppendFlow(nil, []byte(first))
			for _, m := range ms {
				found[fmt.Sprint(m.List, " ", m.Rule)] = true
			}
		}
		for _, m := range s.AppendName(nil, "a.example") {
			found[fmt.Sprint(m.List, " ", m.Rule)] = true
		}
		return strings.Join(slices.Sorted(maps.Keys(found)), ", ")
	}
	before := says(s)
	for _, e := range []struct {
		edit  Edit
		want  string
		rules int
	}{
		{Edit{Add: []Change{{1, c}}}, "0 a.example, 0 bytes aa aa aa, 0 bytes bb bb bb, 1 bytes cc cc cc", 4},
		{Edit{Remove: []Change{{0, a}}}, "0 a.example, 0 bytes bb bb bb", 2},
		{Edit{Drop: []int{0}, Add: []Change{{0, c}, {0, name}}}, "0 a.example, 0 bytes cc cc cc", 2},
		{Edit{Drop: []int{0}}, "", 0},
	} {
		n, err := s.Edit(e.edit)
		if err != nil {
			t.Fatal(err)
		}
		if got := says(n); got != e.want || n.Rules() != e.rules {
			t.Errorf("%v: %q with %d rules, want %q with %d", e.edit, got, n.Rules(), e.want, e.rules)
		}
	}
	if got := says(s); got != before {
		t.Errorf("the edited set says %q, said %q", got, before)
	}
	if _, err := s.Edit(Edit{Add: []Change{{0, sign(Bytes, "", "16", 9)}}}); err == nil {
		t.Error("a bad signature is added")
	}
}

func TestSignaturesAreBounded(t *testing.T) {
	var b Builder
	for i := range maxSigns {
		if err := b.Add(0, sign(Bytes, "", fmt.Sprintf("ff %02x %02x", i>>8, i&255), i+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Add(0, sign(Bytes, "", "fe fe fe", 1)); !errors.Is(err, ErrSetFull) {
		t.Errorf("one too many: %v", err)
	}
}

func BenchmarkAppendFields(b *testing.B) {
	var bl Builder
	for _, r := range []Rule{sign(Field, "upgrade", "= mmtls", 1), sign(Field, "user-agent", "~ MicroMessenger", 2), sign(Target, "", "^/mmtls/[0-9a-f]{8}$", 3), sign(Target, "", "^/cgi-bin/micromsg-bin/", 4)} {
		if err := bl.Add(0, r); err != nil {
			b.Fatal(err)
		}
	}
	s := bl.Build()
	fields := func(yield func(string, string) bool) {
		_ = yield("Accept", "*/*") && yield("User-Agent", "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Mobile Safari/537.36") &&
			yield("Accept-Encoding", "gzip, deflate") && yield("Connection", "keep-alive") && yield("Cookie", "a=b")
	}
	b.ReportAllocs()
	for b.Loop() {
		if ms := s.AppendFields(nil, "/index.html", fields); len(ms) > 0 {
			b.Fatal(ms)
		}
	}
}

package blocklists

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// rule reads the spelling of Rule.String, which no list is written in: "!"
// before a rule raises its priority, "%nodata " sets its mode.
func rule(t testing.TB, line int, s string) Rule {
	t.Helper()
	r := Rule{Kind: Suffix, Action: Block, Line: line}
	if mode, rest, ok := strings.Cut(s, " "); ok {
		r.Mode, ok = ParseMode(mode[1:])
		if !ok {
			t.Fatalf("no mode: %q", s)
		}
		s = rest
	}
	var ok bool
	for s, ok = strings.CutPrefix(s, "!"); ok; s, ok = strings.CutPrefix(s, "!") {
		r.Priority++
	}
	if s, ok = strings.CutPrefix(s, "@@"); ok {
		r.Action = Allow
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		r.Kind, r.Prefix = Prefix, p
		return r
	}
	if s, ok = strings.CutPrefix(s, "="); ok {
		r.Kind = Exact
	} else if s, ok = strings.CutPrefix(s, "*."); ok {
		r.Kind = Under
	}
	r.Name = s
	if i := strings.IndexByte(s, '/'); i >= 0 {
		r.Name, r.Path = s[:i], s[i:]
	}
	return r
}

// compile makes a Set of lists, given as lines.
func compile(t testing.TB, lists ...string) *Set {
	t.Helper()
	var b Builder
	for i, list := range lists {
		for line, text := range strings.Split(list, "\n") {
			if text == "" {
				continue
			}
			if err := b.Add(i, rule(t, line+1, text)); err != nil {
				t.Fatalf("Add(%q): %v", text, err)
			}
		}
	}
	return b.Build()
}

// said spells matches as list:line:action, in the order of the lists.
func said(ms []Match) string {
	var words []string
	for _, m := range byList(ms) {
		words = append(words, fmt.Sprintf("%d:%d:%s", m.List, m.Rule.Line, m.Rule.Action))
	}
	return strings.Join(words, " ")
}

func TestAppendName(t *testing.T) {
	tests := []struct {
		about string
		lists []string
		want  map[string]string
	}{
		{"suffix", []string{"wechat.com"}, map[string]string{
			"wechat.com": "0:1:block", "a.wechat.com": "0:1:block", "a.b.wechat.com": "0:1:block",
			"notwechat.com": "", "wechat.com.example": "", "com": "", "wechat": "", "echat.com": "", "": "",
		}},
		{"exact", []string{"=wechat.com"}, map[string]string{
			"wechat.com": "0:1:block", "a.wechat.com": "", "com": "",
		}},
		{"under", []string{"*.wechat.com"}, map[string]string{
			"wechat.com": "", "a.wechat.com": "0:1:block", "a.b.wechat.com": "0:1:block",
		}},
		{"top level", []string{"test"}, map[string]string{"test": "0:1:block", "a.test": "0:1:block", "atest": ""}},
		{"escaped dot", []string{"tiktok.com"}, map[string]string{
			`a\.tiktok.com`:     "", // one label, "a.tiktok", under com
			`x.tiktok.com`:      "0:1:block",
			`a\\.tiktok.com`:    "0:1:block", // the label "a\"
			`a\\\.tiktok.com`:   "",
			`a\.b.tiktok.com`:   "0:1:block",
			`\.tiktok.com`:      "",
			`a\046.tiktok.com`:  "0:1:block",
			`tiktok\.com`:       "",
			`\\\\.tiktok.com`:   "0:1:block",
			`b.a\.tiktok.com`:   "",
			`tiktok.com\.x.com`: "",
		}},
		{"the longer name decides", []string{"example\n@@a.example\nb.a.example"}, map[string]string{
			"example": "0:1:block", "x.example": "0:1:block", "a.example": "0:2:allow",
			"x.a.example": "0:2:allow", "b.a.example": "0:3:block", "x.b.a.example": "0:3:block",
		}},
		{"exact over wide", []string{"@@a.example\n=a.example"}, map[string]string{
			"a.example": "0:2:block", "x.a.example": "0:1:allow",
		}},
		{"under is no more specific than suffix", []string{"a.example\n@@*.a.example"}, map[string]string{
			"a.example": "0:1:block", "x.a.example": "0:2:allow",
		}},
		{"allow wins a tie", []string{"a.example\n@@a.example", "@@a.example\na.example"}, map[string]string{
			"a.example": "0:2:allow 1:1:allow",
		}},
		{"priority before specificity", []string{"!!a.example\n!@@x.a.example\n@@=x.a.example"}, map[string]string{
			"x.a.example": "0:1:block", "a.example": "0:1:block",
		}},
		{"raised exception", []string{"!@@a.example\nx.a.example"}, map[string]string{"y.x.a.example": "0:1:allow"}},
		{"each list for itself", []string{"example", "@@a.example", "=b.a.example", "other.example"}, map[string]string{
			"b.a.example": "0:1:block 1:1:allow 2:1:block", "c.a.example": "0:1:block 1:1:allow",
			"other.example": "0:1:block 3:1:block", "none": "",
		}},
		{"repeated", []string{"a.example\na.example\n=a.example\n=a.example"}, map[string]string{
			"a.example": "0:3:block", "x.a.example": "0:1:block",
		}},
		{"the first line of equals", []string{"%nodata a.example\n%null a.example\n*.a.example\n%refused b.a.example"}, map[string]string{
			"a.example": "0:1:block", "x.a.example": "0:1:block", "b.a.example": "0:4:block",
		}},
		{"paths say nothing about names", []string{"a.example/x\n@@example/\nb.example/x\nb.example"}, map[string]string{
			"a.example": "", "example": "", "b.example": "0:4:block",
		}},
	}
	for _, tt := range tests {
		s := compile(t, tt.lists...)
		for name, want := range tt.want {
			if got := said(s.AppendName(nil, name)); got != want {
				t.Errorf("%s: %s: got %q, want %q", tt.about, name, got, want)
			}
		}
	}
}

func TestAppendURL(t *testing.T) {
	tests := []struct {
		about string
		lists []string
		want  map[string]string // host and path
	}{
		{"path", []string{"a.example/app"}, map[string]string{
			"a.example/app": "0:1:block", "x.a.example/application": "0:1:block", "a.example/": "", "b.example/app": "", "a.example/x/app": "",
		}},
		{"exact and under with a path", []string{"=a.example/x\n*.b.example/x"}, map[string]string{
			"a.example/x": "0:1:block", "x.a.example/x": "", "b.example/x": "", "x.b.example/x": "0:2:block",
		}},
		{"names speak about requests", []string{"a.example"}, map[string]string{"a.example/x": "0:1:block"}},
		{"the longer path", []string{"a.example/x\n@@a.example/x/y\na.example/x/y/z\n@@a.example"}, map[string]string{
			"a.example/": "0:4:allow", "a.example/x": "0:1:block", "a.example/x/y": "0:2:allow", "a.example/x/y/z": "0:3:block",
		}},
		{"the longer name before the longer path", []string{"a.example/long/path\n@@x.a.example"}, map[string]string{
			"x.a.example/long/path": "0:2:allow", "y.a.example/long/path": "0:1:block",
		}},
		{"many on a host", []string{"a.example/1\na.example/2\n@@=a.example\na.example/3\na.example", "a.example/2"}, map[string]string{
			"a.example/1": "0:3:allow", "x.a.example/1": "0:1:block", "x.a.example/2": "0:2:block 1:1:block", "x.a.example/3": "0:4:block", "x.a.example/4": "0:5:block",
		}},
	}
	for _, tt := range tests {
		s := compile(t, tt.lists...)
		for url, want := range tt.want {
			i := strings.IndexByte(url, '/')
			if got := said(s.AppendURL(nil, url[:i], url[i:])); got != want {
				t.Errorf("%s: %s: got %q, want %q", tt.about, url, got, want)
			}
		}
	}
}

func TestAppendAddr(t *testing.T) {
	s := compile(t,
		"192.0.2.0/24\n@@192.0.2.128/25\n192.0.2.200/32\n2001:db8::/32\n@@2001:db8:1::/48",
		"::ffff:192.0.2.0/120\n0.0.0.0/0",
		"!192.0.2.0/28\n@@192.0.2.1/32\n198.51.100.7/24\n@@198.51.100.0/24",
		"::/0\n::ffff:0:0/80",
	)
	tests := map[string]string{
		"192.0.2.1":          "0:1:block 1:1:block 2:1:block",
		"192.0.2.129":        "0:2:allow 1:1:block",
		"192.0.2.200":        "0:3:block 1:1:block",
		"::ffff:192.0.2.200": "0:3:block 1:1:block",
		"192.0.3.1":          "1:2:block",
		"198.51.100.99":      "1:2:block 2:4:allow",
		"2001:db8::1":        "0:4:block 3:1:block",
		"2001:db8::1%eth0":   "0:4:block 3:1:block",
		"2001:db8:1::1":      "0:5:allow 3:1:block",
		"::1":                "3:2:block",
		"64:ff9b::192.0.2.1": "3:1:block", // what is embedded is for policy to ask
		"ffff::":             "3:1:block",
	}
	for addr, want := range tests {
		ms := s.AppendAddr(nil, netip.MustParseAddr(addr))
		if got := said(ms); got != want {
			t.Errorf("%s: got %q, want %q", addr, got, want)
		}
	}
	if got := s.AppendAddr(nil, netip.Addr{}); got != nil {
		t.Errorf("no address: got %v", got)
	}
}

func TestMatchCarriesItsRule(t *testing.T) {
	s := compile(t, "x", "\n\n%nodata !=a.example", "198.51.100.7/24\n*.b.example/x^")
	tests := []struct {
		got  []Match
		want Match
	}{
		{s.AppendName(nil, "a.example"), Match{1, Rule{Kind: Exact, Action: Block, Mode: NODATA, Priority: 1, Name: "a.example", Line: 3}}},
		{s.AppendAddr(nil, netip.MustParseAddr("198.51.100.1")), Match{2, Rule{Kind: Prefix, Action: Block, Prefix: netip.MustParsePrefix("198.51.100.0/24"), Line: 1}}},
		{s.AppendURL(nil, "y.b.example", "/x"), Match{2, Rule{Kind: Under, Action: Block, Name: "b.example", Path: "/x^", Line: 2}}},
	}
	for _, tt := range tests {
		if len(tt.got) != 1 || tt.got[0] != tt.want {
			t.Errorf("got %+v, want %+v", tt.got, tt.want)
		} else if ref := tt.got[0].Ref(); ref != (Ref{tt.want.List, tt.want.Rule.Line}) {
			t.Errorf("Ref() = %v of %+v", ref, tt.want)
		}
	}
	if s.Lists() != 3 || s.Rules() != 4 {
		t.Errorf("Lists, Rules = %d, %d; want 3, 4", s.Lists(), s.Rules())
	}
}

// TestAppendKeepsWhatIsThere: matches of an earlier question are neither
// replaced nor taken for those of this one.
func TestAppendKeepsWhatIsThere(t *testing.T) {
	s := compile(t, "a.example\n192.0.2.0/24")
	ms := s.AppendName(nil, "a.example")
	ms = s.AppendAddr(ms, netip.MustParseAddr("192.0.2.1"))
	ms = s.AppendName(ms, "x.a.example")
	if len(ms) != 3 || ms[0].Rule.Line != 1 || ms[1].Rule.Line != 2 || ms[2].Rule.Line != 1 {
		t.Errorf("got %+v", ms)
	}
}

func TestRulesAreCountedOnce(t *testing.T) {
	tests := []struct {
		list string
		want int
	}{
		{"a.example\na.example", 1},
		{"a.example\n@@a.example", 2},
		{"a.example\n=a.example\n*.a.example", 3},
		{"a.example\n!a.example\n%nodata a.example", 3},
		{"a.example/x\na.example/x\na.example/y\na.example", 3},
		{"a.example/x\na.example\na.example/x\na.example", 2},
		{"192.0.2.0/24\n192.0.2.7/24\n::ffff:192.0.2.0/120\n192.0.2.0/25", 2},
	}
	for _, tt := range tests {
		if got := compile(t, tt.list).Rules(); got != tt.want {
			t.Errorf("%q: %d rules, want %d", tt.list, got, tt.want)
		}
		if got := compile(t, tt.list, tt.list).Rules(); got != 2*tt.want {
			t.Errorf("%q in two lists: %d rules, want %d", tt.list, got, 2*tt.want)
		}
	}
}

func TestBuilderRefuses(t *testing.T) {
	good := Rule{Kind: Suffix, Action: Block, Name: "a.example"}
	with := func(change func(*Rule)) Rule {
		r := good
		change(&r)
		return r
	}
	tests := []struct {
		about string
		list  int
		rule  Rule
		err   error // nil: any
	}{
		{"zero rule", 0, Rule{}, nil},
		{"no action", 0, with(func(r *Rule) { r.Action = None }), nil},
		{"unknown action", 0, with(func(r *Rule) { r.Action = 9 }), nil},
		{"no kind", 0, with(func(r *Rule) { r.Kind = 0 }), nil},
		{"unknown kind", 0, with(func(r *Rule) { r.Kind = 9 }), nil},
		{"no name", 0, with(func(r *Rule) { r.Name = "" }), ErrNameEmpty},
		{"capitals", 0, with(func(r *Rule) { r.Name = "A.example" }), nil},
		{"final dot", 0, with(func(r *Rule) { r.Name = "a.example." }), nil},
		{"empty label", 0, with(func(r *Rule) { r.Name = "a..example" }), ErrLabel},
		{"long label", 0, with(func(r *Rule) { r.Name = strings.Repeat("a", 300) }), ErrNameLong},
		{"U-label", 0, with(func(r *Rule) { r.Name = "é.example" }), nil},
		{"no prefix", 0, Rule{Kind: Prefix, Action: Block}, nil},
		{"prefix with a path", 0, Rule{Kind: Prefix, Action: Block, Prefix: netip.MustParsePrefix("::/0"), Path: "/x"}, nil},
		{"negative list", -1, good, ErrSetFull},
		{"list too high", MaxLists, good, ErrSetFull},
	}
	var b Builder
	for _, tt := range tests {
		if err := b.Add(tt.list, tt.rule); err == nil || tt.err != nil && !errors.Is(err, tt.err) {
			t.Errorf("%s: error %v, want %v", tt.about, err, tt.err)
		}
	}
	if s := b.Build(); s.Rules() != 0 || s.Lists() != 0 {
		t.Errorf("%d rules in %d lists came from what was refused", s.Rules(), s.Lists())
	}
	for _, list := range []int{0, MaxLists - 1} {
		if err := b.Add(list, good); err != nil {
			t.Errorf("list %d: %v", list, err)
		}
	}
	s := b.Build()
	if got := said(s.AppendName(nil, "a.example")); got != "0:0:block 65534:0:block" {
		t.Errorf("lists at both ends: got %q", got)
	}
	if err := b.Add(0, good); err != nil || s.Rules() != 2 {
		t.Errorf("a builder after Build: %v, and its Set has %d rules", err, s.Rules())
	}
}

func TestZeroSetMatchesNothing(t *testing.T) {
	for about, s := range map[string]*Set{"zero": new(Set), "of no rules": new(Builder).Build()} {
		ms := s.AppendName(nil, "a.example")
		ms = s.AppendURL(ms, "a.example", "/")
		ms = s.AppendAddr(ms, netip.MustParseAddr("192.0.2.1"))
		if len(ms) != 0 || s.Rules() != 0 || s.Lists() != 0 {
			t.Errorf("%s: got %v", about, ms)
		}
	}
}

func TestCanonicalPrefix(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7/24":         "192.0.2.0/24",
		"::ffff:192.0.2.7/128": "192.0.2.7/32",
		"::ffff:192.0.2.7/96":  "0.0.0.0/0",
		"::ffff:192.0.2.7/80":  "::/80",
		"2001:db8::1/64":       "2001:db8::/64",
	} {
		if got := CanonicalPrefix(netip.MustParsePrefix(in)).String(); got != want {
			t.Errorf("CanonicalPrefix(%s) = %s, want %s", in, got, want)
		}
	}
	if p := CanonicalPrefix(netip.Prefix{}); p.IsValid() {
		t.Errorf("CanonicalPrefix of none = %v", p)
	}
}

// TestManyPathsOnOneHost: a list made to have long chains costs neither those
// who ask for names nor those who compile it.
func TestManyPathsOnOneHost(t *testing.T) {
	const n = 200_000
	var b Builder
	start := time.Now()
	for i := range n {
		for _, r := range []Rule{
			{Kind: Suffix, Action: Block, Name: "a.example", Path: fmt.Sprintf("/%d|", i), Line: 2 * i},
			{Kind: Suffix, Action: Block, Name: "a.example", Line: 2*i + 1},
		} {
			if err := b.Add(0, r); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := b.Build()
	if s.Rules() != n+1 {
		t.Fatalf("%d rules, want %d", s.Rules(), n+1)
	}
	for range n {
		if got := s.AppendName(nil, "a.example"); len(got) != 1 || got[0].Rule.Line != 1 {
			t.Fatalf("got %+v", got)
		}
	}
	if d := time.Since(start); d > 2*time.Minute {
		t.Errorf("took %v: it grows with the square", d)
	}
}

// TestSetIsConcurrent has a meaning under the race detector only.
func TestSetIsConcurrent(t *testing.T) {
	s := compile(t, "a.example\na.example/x\n192.0.2.0/24")
	done := make(chan string)
	for range 4 {
		go func() {
			var got []string
			for range 1000 {
				got = append(got[:0], said(s.AppendName(nil, "x.a.example")), said(s.AppendURL(nil, "a.example", "/x")), said(s.AppendAddr(nil, netip.MustParseAddr("192.0.2.1"))))
			}
			done <- strings.Join(got, " ")
		}()
	}
	var all []string
	for range 4 {
		all = append(all, <-done)
	}
	if slices.Sort(all); all[0] != "0:1:block 0:2:block 0:3:block" || all[0] != all[3] {
		t.Errorf("got %q", all)
	}
}

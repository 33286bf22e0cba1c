package bans_test

import (
	"io/fs"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/weir-gateway/weir/blocklists/bans"
)

// This file is a second reading of the bundles, by string operations alone and
// with nothing of package parse, Set or config: what the two readings agree on
// is not one author's mistake.

// A slowList is a list of a bundle as its ban.yml names it.
type slowList struct {
	Name   string
	Source string
	Format string
	Tier   string
	Signal string
	Answer string
	Embeds bool
	rules  []slowRule // none of mirrors, which hold nothing back by themselves
}

// A slowRule is one line: a name in one of three forms, a prefix, or a name
// with a path.
type slowRule struct {
	line  int
	text  string // as written, without its comment
	allow bool
	form  byte // '=' exact, '*' under, 's' suffix, 'p' prefix
	name  string
	addr  netip.Prefix
	path  *regexp.Regexp
	sig   func(slowTarget) bool // of a signature
}

// A slowBan is what the slow reader takes from ban.yml.
type slowBan struct {
	ID      string
	Tiers   []string
	Lists   []slowList
	Vectors string
}

func readBan(t *testing.T, id string) slowBan {
	t.Helper()
	var b slowBan
	if err := yaml.Unmarshal([]byte(readFile(t, id+"/ban.yml")), &b); err != nil {
		t.Fatalf("%s: %v", id, err)
	}
	for i := range b.Lists {
		l := &b.Lists[i]
		file, ok := strings.CutPrefix(l.Source, "embedded:")
		if !ok {
			t.Fatalf("%s: source %q is not embedded", l.Name, l.Source)
		}
		if l.rules = readRules(t, file, l.Format); l.Embeds {
			l.rules = nil
		}
	}
	return b
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := fs.ReadFile(bans.FS, name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func readRules(t *testing.T, file, format string) []slowRule {
	t.Helper()
	var rules []slowRule
	for i, line := range strings.Split(readFile(t, file), "\n") {
		if format == "abp" && strings.HasPrefix(line, "!") {
			continue
		}
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		r := slowRule{line: i + 1, text: line}
		r.text, r.allow = strings.CutPrefix(line, "@@")
		switch format {
		case "domains":
			r.form, r.name = slowName(r.text)
		case "prefixes":
			p, err := netip.ParsePrefix(r.text)
			if err != nil {
				t.Fatalf("%s:%d: %v", file, r.line, err)
			}
			r.form, r.addr = 'p', p
		case "urls", "abp":
			host, tail, ok := strings.Cut(strings.TrimPrefix(r.text, "||"), "/")
			if !ok || format == "abp" != strings.HasPrefix(r.text, "||") {
				t.Fatalf("%s:%d: %q has no path or the other dialect's form", file, r.line, r.text)
			}
			r.form, r.name, r.path = 's', host, slowPattern("/"+tail)
		case "signatures":
			r.form, r.sig = '~', slowSignature(t, r.text)
		default:
			t.Fatalf("%s: format %q is not read here", file, format)
		}
		rules = append(rules, r)
	}
	return rules
}

// slowSignature turns a signature into a question, by regular expressions over
// hexadecimal text and over lines.
func slowSignature(t *testing.T, s string) func(slowTarget) bool {
	t.Helper()
	kind, rest, _ := strings.Cut(s, " ")
	if kind == "bytes" {
		re := regexp.MustCompile("^" + strings.ReplaceAll(rest, " ", ""))
		return func(t slowTarget) bool { return t.bytes != "" && re.MatchString(t.bytes) }
	}
	if kind == "path" {
		re := regexp.MustCompile(rest)
		return func(t slowTarget) bool { p, _, _ := strings.Cut(t.path, "?"); return p != "" && re.MatchString(p) }
	}
	f := strings.Fields(rest)
	forms := map[string]string{"=": "^%s$", "~": "%s", "^": "^%s"}
	if kind != "field" || len(f) != 3 || forms[f[1]] == "" {
		t.Fatalf("%q is no signature", s)
	}
	re := regexp.MustCompile("(?i)" + strings.ReplaceAll(forms[f[1]], "%s", regexp.QuoteMeta(f[2])))
	return func(t slowTarget) bool { return strings.EqualFold(t.field, f[0]) && re.MatchString(t.value) }
}

func slowName(s string) (byte, string) {
	if n, ok := strings.CutPrefix(s, "="); ok {
		return '=', n
	}
	if n, ok := strings.CutPrefix(s, "*."); ok {
		return '*', n
	}
	return 's', s
}

// slowPattern turns a path pattern into a regular expression.
func slowPattern(p string) *regexp.Regexp {
	e := regexp.QuoteMeta(strings.ToLower(p))
	e = strings.ReplaceAll(e, `\*`, `.*`)
	e = strings.ReplaceAll(e, `\^`, `(?:[^a-z0-9_.%-]|$)`)
	return regexp.MustCompile("^" + e)
}

// A slowTarget is what a vector is about.
type slowTarget struct {
	name string
	addr netip.Addr
	path string

	bytes        string // in hexadecimal
	field, value string
}

func slowParse(t *testing.T, s string) slowTarget {
	t.Helper()
	if b, ok := strings.CutPrefix(s, "bytes:"); ok {
		return slowTarget{bytes: strings.ToLower(b)}
	}
	if f, ok := strings.CutPrefix(s, "field:"); ok {
		name, value, _ := strings.Cut(f, "=")
		return slowTarget{field: name, value: value}
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return slowTarget{addr: a.Unmap()}
	}
	if strings.HasPrefix(s, "http://") {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		p := strings.ToLower(path.Join("/", u.Path))
		if strings.HasSuffix(u.Path, "/") && p != "/" {
			p += "/"
		}
		if u.RawQuery != "" {
			p += "?" + strings.ToLower(u.RawQuery)
		}
		return slowTarget{name: strings.ToLower(u.Hostname()), path: p}
	}
	return slowTarget{name: strings.TrimSuffix(strings.ToLower(s), ".")}
}

// matches reports whether the rule speaks about the target.
func (r *slowRule) matches(t slowTarget) bool {
	if r.sig != nil {
		return r.sig(t)
	}
	if r.form == 'p' {
		return t.addr.IsValid() && r.addr.Contains(t.addr)
	}
	if t.name == "" || r.path != nil && (t.path == "" || !r.path.MatchString(t.path)) {
		return false
	}
	same, under := t.name == r.name, strings.HasSuffix(t.name, "."+r.name)
	switch r.form {
	case '=':
		return same
	case '*':
		return under
	}
	return same || under
}

// decide returns the rule of the list that decides: the one with the longest
// name, exact before wide, allow before block.
func (l *slowList) decide(t slowTarget) *slowRule {
	var best *slowRule
	for i := range l.rules {
		r := &l.rules[i]
		if !r.matches(t) {
			continue
		}
		if best == nil || len(r.name) > len(best.name) ||
			len(r.name) == len(best.name) && (r.form == '=' && best.form != '=' || r.form == best.form && r.allow) {
			best = r
		}
	}
	return best
}

// blocks reports whether a list of the ban whose tier is on blocks the target.
func (b *slowBan) blocks(t slowTarget, tiers map[string]bool) bool {
	for i := range b.Lists {
		l := &b.Lists[i]
		if r := l.decide(t); tiers[l.Tier] && r != nil && !r.allow {
			return true
		}
	}
	return false
}

// A slowVector is a line of vectors.txt.
type slowVector struct {
	line   int
	block  bool
	target string
	tier   string // with unless, the line holds only while the tier is off
	unless bool
}

func readVectors(t *testing.T, id string) []slowVector {
	t.Helper()
	var vs []slowVector
	for i, line := range strings.Split(readFile(t, id+"/vectors.txt"), "\n") {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if f[0] != "block" && f[0] != "allow" || len(f) != 2 && len(f) != 4 || len(f) == 4 && f[2] != "if" && f[2] != "unless" {
			t.Fatalf("%s/vectors.txt:%d: %q is not a vector", id, i+1, line)
		}
		v := slowVector{line: i + 1, block: f[0] == "block", target: f[1]}
		if len(f) == 4 {
			v.tier, v.unless = f[3], f[2] == "unless"
		}
		vs = append(vs, v)
	}
	return vs
}

// holds reports whether the vector says something while these tiers are on.
func (v *slowVector) holds(tiers map[string]bool) bool {
	return v.tier == "" || tiers[v.tier] != v.unless
}

var (
	exclusiveOnly = map[string]bool{"exclusive": true}
	bothTiers     = map[string]bool{"exclusive": true, "vendor": true}
)

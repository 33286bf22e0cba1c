package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

func loadGood(t *testing.T, name string) *Config {
	t.Helper()
	c, err := Load(filepath.Join("testdata/good", name), bundles)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestGoodFilesAreTested(t *testing.T) {
	files, err := filepath.Glob("testdata/good/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "files", files, []string{"testdata/good/bom-crlf.yml", "testdata/good/overlay.yml", "testdata/good/spellings.yml"})
}

func TestOverlay(t *testing.T) {
	c := loadGood(t, "overlay.yml")
	def, err := Default(bundles)
	if err != nil {
		t.Fatal(err)
	}
	wechat, tiktok := def.Bans[0], def.Bans[2]
	wechat.Tiers = []blocklists.Tier{blocklists.TierExclusive, blocklists.TierVendor}
	wechat.EDE = 0
	wechat.Answer.Mode = blocklists.Null
	wechat.Contact = blocklists.Text{EN: "Desk", FR: "Desk"}
	tiktok.Tiers = []blocklists.Tier{blocklists.TierVendor, blocklists.TierExclusive}
	own := blocklists.Ban{
		ID: "own", Title: blocklists.Text{EN: "A title over two lines", FR: "A title over two lines"},
		Authority: blocklists.Text{EN: "163", FR: "163"}, Reference: "Directive 2026-07, not public",
		EDE: 15, Tiers: []blocklists.Tier{blocklists.TierExclusive},
		Lists: []blocklists.List{{Name: "own", Source: "embedded:wechat/domains.txt", Format: "domains", Tier: blocklists.TierExclusive}},
	}
	equal(t, "bans", c.Bans, []blocklists.Ban{wechat, tiktok, def.Bans[3], own})
}

// TestH3FollowsQUIC: what is said wins, and what is not follows quic.mode.
func TestH3FollowsQUIC(t *testing.T) {
	for text, want := range map[string]Stripping{
		"":                                      Strip,
		"quic: {mode: refuse}":                  Strip,
		"quic: {mode: allow}":                   Keep,
		"quic: {mode: inspect}":                 Keep,
		"quic: {mode: allow}\ndns: {h3: strip}": Strip,
		"dns: {h3: keep}":                       Keep,
	} {
		if got := mustParse(t, "weir.yml", text, bundles).DNS.H3; got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// TestOverlayLeavesTheBuiltInAlone proves that a changed ban is a copy.
func TestOverlayLeavesTheBuiltInAlone(t *testing.T) {
	before, err := Default(bundles)
	if err != nil {
		t.Fatal(err)
	}
	loadGood(t, "overlay.yml")
	after, err := Default(bundles)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "default", after, before)
}

func TestBOMAndCRLF(t *testing.T) {
	c := loadGood(t, "bom-crlf.yml")
	equal(t, "listen", c.DNS.Listen, addrs("0.0.0.0:53"))
	equal(t, "allow", c.Allow, []blocklists.Rule{{Kind: blocklists.Suffix, Action: blocklists.Allow, Name: "example.org", Line: 5}})
}

func TestSpellings(t *testing.T) {
	c := loadGood(t, "spellings.yml")
	equal(t, "listen", c.DNS.Listen, addrs("127.0.0.1:5300", "[::1]:5300", "[fe80::1%lo]:53", "127.0.0.1:0", "127.0.0.1:0"))
	var got []string
	for _, u := range c.DNS.Upstreams {
		got = append(got, u.String())
	}
	equal(t, "upstreams", got, []string{
		"udp://192.0.2.1:53", "udp://[2001:db8::1]:53", "tcp://192.0.2.2:5301", "tls://dns.example:853", "tls://192.0.2.3:8853",
		"https://xn--bcher-kva.example:443/dns-query", "https://dns.example:8443/dns-query", "https://[2001:db8::2]:443/resolve/%2Fx",
		"udp://127.0.0.1:5301", "udp://[fe80::1%25eth0]:53",
	})
	equal(t, "bootstrap", c.DNS.Bootstrap, addrs("192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.1:5300"))
	if a := c.DNS.Blocked; a.Mode != blocklists.Addresses || a.IPv4.IsValid() || a.IPv6.String() != "2001:db8::80" {
		t.Errorf("blocked: %+v", a)
	}
	equal(t, "networks", c.Proxy.AllowNetworks, prefixes("10.8.0.7/32", "::1/128", "10.0.0.0/8", "2001:db8::/32"))
	equal(t, "transparent", c.Transparent, Transparent{addrs("0.0.0.0:3129", "[::]:3129"), UnknownAllow, UnseenBlock})
	var rules []string
	for _, r := range c.Allow {
		rules = append(rules, r.String())
	}
	equal(t, "allow", rules, []string{"@@example.org", "@@=www.example.org", "@@*.xn--bcher-kva.example", "@@xn--bcher-kva.example"})
	if c.Groups[0].Bans == nil || len(c.Groups[0].Bans) != 0 || c.Groups[1].Bans != nil {
		t.Errorf("no bans and all bans are not told apart: %#v", c.Groups)
	}
	e := c.Exemptions[0]
	if e.ID != "17" || e.Ticket != "0017" || !e.Until.Equal(time.Date(2026, 1, 3, 0, 0, 0, 0, time.UTC)) || e.From.Nanosecond() != 5e8 {
		t.Errorf("exemption: %+v", e)
	}
	dir, err := filepath.Abs("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "state", c.State, filepath.Join(dir, "state"))
	equal(t, "audit", c.Audit.File, "/var/log/audit.jsonl")
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "none.yml"), bundles); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := Load(dir, bundles); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a folder: %v", err)
	}
	big := filepath.Join(dir, "big.yml")
	if err := os.WriteFile(big, []byte(strings.Repeat("#\n", maxFile/2)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(big, bundles); err != nil {
		t.Errorf("the largest file there may be: %v", err)
	}
	if err := os.WriteFile(big, []byte(strings.Repeat("#\n", maxFile/2+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(big, bundles)
	if err == nil || err.Error() != big+":1:1: file: the file is larger than 4 MiB" {
		t.Errorf("a file that is too large: %v", err)
	}
}

// TestErrorsAs pins how callers reach the parts of an error.
func TestErrorsAs(t *testing.T) {
	_, err := Parse("x.yml", []byte("dns: {lisen: []}\nstate: ~\n"), bundles)
	var first *Error
	if !errors.As(err, &first) {
		t.Fatalf("%T", err)
	}
	equal(t, "first", *first, Error{File: "x.yml", Line: 1, Column: 7, Key: "dns.lisen", Msg: `unknown key, did you mean "listen"?`})
	var all Errors
	if !errors.As(fmt.Errorf("check: %w", err), &all) || len(all) != 2 {
		t.Errorf("%d errors: %v", len(all), all)
	}
}

// TestManyErrors proves that there is a bound, and that nothing is left out
// of the count.
func TestManyErrors(t *testing.T) {
	for n, want := range map[int]string{
		maxErrors:           "unknown key",
		maxErrors + 1:       "and 1 more error here",
		maxErrors + 2:       "and 2 more errors from here on",
		maxCollected + 1000: fmt.Sprintf("and %d more errors from here on", maxCollected+1000-maxErrors),
	} {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "k%d: 1\n", i)
		}
		_, err := Parse("x.yml", []byte(b.String()), bundles)
		var all Errors
		if !errors.As(err, &all) {
			t.Fatal(err)
		}
		last := all[len(all)-1]
		if len(all) != min(n, maxErrors+1) || !strings.HasPrefix(last.Msg, want) || last.Line != len(all) {
			t.Errorf("%d: %d errors, the last is %v", n, len(all), last)
		}
	}
}

// TestBundlesDoNotFit covers what the operator cannot have done.
func TestBundlesDoNotFit(t *testing.T) {
	at := fmt.Sprintf("default.yml:%d:8: bans[0]: ", lineOf(t, "default.yml", "bans: "))
	for name, test := range map[string]struct {
		fsys fs.FS
		want string
	}{
		"none":  {nil, at + `there is no built-in ban "wechat"`},
		"empty": {fstest.MapFS{}, at + `there is no built-in ban "wechat"`},
		"not YAML": {fstest.MapFS{"wechat/ban.yml": {Data: []byte("a: [b")}},
			"built-in/wechat/ban.yml:1:1: file: a list that begins here or above"},
		"nothing":  {fstest.MapFS{"wechat/ban.yml": {}}, "built-in/wechat/ban.yml:1:1: id: the key is missing"},
		"a folder": {fstest.MapFS{"wechat/ban.yml/x": {}}, at + `the built-in ban "wechat" cannot be read`},
	} {
		_, err := Default(test.fsys)
		if err == nil || !strings.Contains("\n"+err.Error(), "\n"+test.want) {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
	// What is not used is not in the way.
	if c, err := Parse("x.yml", []byte("bans: []"), fstest.MapFS{"wechat/ban.yml": {}}); err != nil || len(c.Bans) != 0 {
		t.Errorf("%v", err)
	}
}

// TestTooManyLists is a test of its own because its file is large.
func TestTooManyLists(t *testing.T) {
	var b strings.Builder
	b.WriteString("bans: [{id: o, title: o, authority: o, reference: o, lists: [\n")
	for i := range blocklists.MaxLists {
		fmt.Fprintf(&b, "{name: l%d, source: 'file:x', format: urls},\n", i)
	}
	b.WriteString("]}]\n")
	_, err := Parse("x.yml", []byte(b.String()), nil)
	want := fmt.Sprintf("x.yml:1:7: bans: the bans have %d lists, and there is room for %d", blocklists.MaxLists, blocklists.MaxLists-3)
	if err == nil || err.Error() != want {
		t.Errorf("got %.300v, want %s", err, want)
	}
}

// TestFullUsesEveryKey proves that the example of every key has every key: no
// field of what it decodes to is empty everywhere.
func TestFullUsesEveryKey(t *testing.T) {
	c, err := Load("examples/full.yml", bundles)
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	use("Config", reflect.ValueOf(*c), used)
	if len(used) < 60 {
		t.Errorf("only %d fields were looked at", len(used))
	}
	for field, is := range used {
		switch field {
		case "Config.VPN.TCP.Inspect[]": // all is port 0
		case "Config.Allow[].Prefix", "Config.Allow[].Path", "Config.Allow[].Priority", "Config.Allow[].Mode", "Config.Allow[].Data.text",
			"Config.Protected[].Prefix", "Config.Protected[].Path", "Config.Protected[].Priority", "Config.Protected[].Mode", "Config.Protected[].Data.text",
			"Config.DNS.Blocked.IPv4", "Config.DNS.Blocked.IPv6", "Config.Bans[].Answer.IPv4", "Config.Bans[].Answer.IPv6":
		default:
			if !is {
				t.Errorf("%s is set nowhere in examples/full.yml", field)
			}
		}
	}
}

// use notes which fields of our own types have a value.
func use(name string, v reflect.Value, used map[string]bool) {
	switch {
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			use(name+"[]", v.Index(i), used)
		}
		used[name] = used[name] || v.Len() > 0
	case v.Kind() == reflect.Struct && strings.Contains(v.Type().PkgPath(), "weir"):
		for i := range v.NumField() {
			use(name+"."+v.Type().Field(i).Name, v.Field(i), used)
		}
	default:
		used[name] = used[name] || !v.IsZero()
	}
}

func TestSuggest(t *testing.T) {
	for _, test := range []struct {
		got, known, want string
	}{
		{"lisen", "listen", ", did you mean \"listen\"?"},
		{"LISTEN", "listen", ", did you mean \"listen\"?"},
		{"litsen", "listen", ", did you mean \"listen\"?"},
		{"x", "ede", "; there are ede"},
		{"listeners", "listen", "; there are listen"},
		{strings.Repeat("a", 1<<20), "listen", "; there are listen"},
		{"", "listen", "; there are listen"},
	} {
		if got := suggest(test.got, []string{test.known}, "there are "); got != test.want {
			t.Errorf("%.20s: got %q, want %q", test.got, got, test.want)
		}
	}
	if got := suggest("x", nil, "there are "); got != "" {
		t.Errorf("nothing known: %q", got)
	}
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("group-%d", i)
	}
	if got := suggest("other", many, "there are "); len(got) > 1000 || !strings.HasSuffix(got, ", …") {
		t.Errorf("many known: %q", got)
	}
}

// TestShownTextIsBounded proves that a hostile file cannot write what it wants
// on the operator's terminal, nor as much as it wants.
func TestShownTextIsBounded(t *testing.T) {
	long := strings.Repeat("é", 3000)
	for _, text := range []string{
		long + ": 1", "log: {level: " + long + "}", "log: {level: \"\\e[31m\\x7f\\u009b\"}", "\"\\e[31m\\n\": 1",
		"dns: {listen: [" + long + "]}", "dns: {upstreams: [" + long + "]}", "dns: {upstreams: ['udp://" + long + "']}",
		"allow: [" + long + "]", "dns: {cache: {entries: " + strings.Repeat("9", 3000) + "}}", "bans: [" + long + "]",
		"dns: {upstreams: ['udp://192.0.2.1:" + strings.Repeat("9", 3000) + "']}", "state: !" + strings.Repeat("t", 3000) + " x",
		"dns: &" + strings.Repeat("a", 3000) + " x", "groups: [{name: " + long + "}]", "protected: ['" + strings.Repeat("a.", 126) + "b', '" + strings.Repeat("a.", 126) + "b']",
		"dns: {upstreams: ['https://dns.example/" + long + "', 'https://dns.example/" + long + "']}", "state: \"" + strings.Repeat("x", maxText+1) + "\"",
	} {
		_, err := Parse("x.yml", []byte(text), bundles)
		if err == nil {
			t.Errorf("%.40q: accepted", text)
			continue
		}
		var all Errors
		if !errors.As(err, &all) {
			t.Fatal(err)
		}
		for _, e := range all {
			if len(e.Error()) > 700 || strings.ContainsFunc(e.Error(), func(r rune) bool { return r < ' ' || 0x7f <= r && r < 0xa0 }) {
				t.Errorf("%.40q: %d bytes: %q", text, len(e.Error()), e.Error())
			}
		}
	}
}

package bans_test

import (
	"io/fs"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/weir-gateway/weir/blocklists/bans"
)

// ids are the bundles in the order in which the default configuration cites them.
var ids = []string{"wechat", "kaspersky", "tiktok", "bypass"}

// TestFolders checks that each bundle has a folder, and each folder a bundle.
func TestFolders(t *testing.T) {
	entries, err := fs.ReadDir(bans.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	var folders []string
	for _, e := range entries {
		if e.IsDir() {
			folders = append(folders, e.Name())
		}
	}
	if want := slices.Sorted(slices.Values(ids)); !slices.Equal(folders, want) {
		t.Errorf("folders are %v, want %v", folders, want)
	}
}

// TestVectors checks every vector with the slow reader, with the vendor tier
// off and on.
func TestVectors(t *testing.T) {
	for _, id := range ids {
		b := readBan(t, id)
		var blocks, allows int
		for _, v := range readVectors(t, id) {
			if v.block {
				blocks++
			} else {
				allows++
			}
			target := slowParse(t, v.target)
			for _, tiers := range []map[string]bool{exclusiveOnly, bothTiers} {
				if !v.holds(tiers) {
					continue
				}
				if got := b.blocks(target, tiers); got != v.block {
					t.Errorf("%s/vectors.txt:%d: %s: blocked=%t with tiers %v, want %t", id, v.line, v.target, got, tiers, v.block)
				}
			}
		}
		if blocks < 100 || allows < 50 {
			t.Errorf("%s has %d must-block and %d must-allow vectors, want more", id, blocks, allows)
		}
	}
}

// TestVectorsWitnessRules checks that no rule about names or URLs could be
// lost unseen: for each there is a must-block vector that it matches.
func TestVectorsWitnessRules(t *testing.T) {
	for _, id := range ids {
		b := readBan(t, id)
		var targets []slowTarget
		for _, v := range readVectors(t, id) {
			if v.block {
				targets = append(targets, slowParse(t, v.target))
			}
		}
		for _, l := range b.Lists {
			if l.Format == "prefixes" {
				continue
			}
			for i := range l.rules {
				r := &l.rules[i]
				if !r.allow && !slices.ContainsFunc(targets, r.matches) {
					t.Errorf("%s:%d: no must-block vector for %s", l.Source, r.line, r.text)
				}
			}
		}
	}
}

// TestVectorsAcrossBans checks that no bundle blocks what another one promises
// to let through, because all of them are in force together.
func TestVectorsAcrossBans(t *testing.T) {
	all := map[string]slowBan{}
	for _, id := range ids {
		all[id] = readBan(t, id)
	}
	for _, id := range ids {
		for _, v := range readVectors(t, id) {
			if v.block || !v.holds(exclusiveOnly) {
				continue
			}
			for other, b := range all {
				if other != id && b.blocks(slowParse(t, v.target), exclusiveOnly) {
					t.Errorf("%s/vectors.txt:%d: %s must pass, %s blocks it", id, v.line, v.target, other)
				}
			}
		}
	}
}

// listFiles returns the list files of all bundles and protected.txt.
func listFiles(t *testing.T) []string {
	t.Helper()
	files := []string{"protected.txt"}
	for _, id := range ids {
		for _, l := range readBan(t, id).Lists {
			files = append(files, strings.TrimPrefix(l.Source, "embedded:"))
		}
	}
	return files
}

// TestEveryFileIsUsed checks that a bundle's folder holds its ban.yml, its
// vectors and its lists, and nothing that no ban.yml names.
func TestEveryFileIsUsed(t *testing.T) {
	used := map[string]bool{"protected.txt": true}
	for _, f := range listFiles(t) {
		used[f] = true
	}
	for _, id := range ids {
		used[id+"/ban.yml"] = true
		b := readBan(t, id)
		if want := "embedded:" + id + "/vectors.txt"; b.Vectors != want {
			t.Errorf("%s: vectors are %q, want %q", id, b.Vectors, want)
		}
		used[id+"/vectors.txt"] = true
	}
	err := fs.WalkDir(bans.FS, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.IsDir() && !used[name] {
			t.Errorf("%s is embedded and nothing names it", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A source is a repository with path and commit, or says in words where the
// facts are published.
var (
	sourceForm = regexp.MustCompile(`^\S+/\S+:\S+@[0-9a-f]{8}([0-9a-f]{32})?$`)
	wordsForm  = regexp.MustCompile(`^(general knowledge|published by |\S+/\S+:\S+, commit not recorded)`)
)

// TestProvenance checks that each block of rules says where it is from and
// under which licence, and that each file says what it is and of what date.
func TestProvenance(t *testing.T) {
	for _, file := range listFiles(t) {
		text := readFile(t, file)
		header, _, _ := strings.Cut(text, "\n\n")
		for _, want := range []string{"Dialect ", "20"} {
			if !strings.Contains(header, want) {
				t.Errorf("%s: the header does not have %q", file, want)
			}
		}
		if file != "protected.txt" && !strings.Contains(header, "Tier ") {
			t.Errorf("%s: the header does not say the tier", file)
		}
		blocks := 0
		for _, block := range strings.Split(text, "\n\n") {
			if checkBlock(t, file, block) {
				blocks++
			}
		}
		if blocks == 0 {
			t.Errorf("%s has no rules", file)
		}
	}
}

// checkBlock reports whether the block has rules.
func checkBlock(t *testing.T, file, block string) bool {
	t.Helper()
	var sources, licences, rules int
	for _, line := range strings.Split(strings.TrimSpace(block), "\n") {
		comment := strings.TrimLeft(line, "#! ")
		switch {
		case line == "":
		case !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "!"):
			rules++
			if sources == 0 || sources != licences {
				t.Errorf("%s: %q stands before the source and licence of its block", file, line)
			}
		case strings.HasPrefix(comment, "source:"):
			s := strings.TrimSpace(strings.TrimPrefix(comment, "source:"))
			if !sourceForm.MatchString(s) && !wordsForm.MatchString(s) {
				t.Errorf("%s: source %q is neither repository:path@commit nor words", file, s)
			}
			if strings.Contains(s, "copyleft") || strings.Contains(s, "big/") {
				t.Errorf("%s: source %q may not be used", file, s)
			}
			sources++
		case strings.HasPrefix(comment, "licence:"):
			if strings.TrimSpace(strings.TrimPrefix(comment, "licence:")) == "" {
				t.Errorf("%s: an empty licence", file)
			}
			licences++
		}
	}
	return rules > 0
}

// TestNoDuplicates checks that a list says nothing twice and that the tiers of
// a bundle do not share a name.
func TestNoDuplicates(t *testing.T) {
	for _, id := range ids {
		tierOf := map[string]string{}
		for _, l := range readBan(t, id).Lists {
			seen := map[string]int{}
			for _, r := range l.rules {
				if first, dup := seen[r.text]; dup {
					t.Errorf("%s:%d: %s stands in line %d already", l.Source, r.line, r.text, first)
				}
				seen[r.text] = r.line
				// The one name that is a signal of the app and the vendor's both.
				if other, there := tierOf[r.text]; there && other != l.Tier && r.text != "dig.bdurl.net" {
					t.Errorf("%s:%d: %s is in tier %s too", l.Source, r.line, r.text, other)
				}
				tierOf[r.text] = l.Tier
			}
		}
	}
}

// TestPrefixes checks that every prefix is one that may be blocked: masked,
// global unicast, and no wider than what was looked at.
func TestPrefixes(t *testing.T) {
	for _, id := range ids {
		for _, l := range readBan(t, id).Lists {
			var before []netip.Prefix
			for _, r := range l.rules {
				if r.form != 'p' {
					continue
				}
				p := r.addr
				a := p.Addr()
				switch {
				case p != p.Masked():
					t.Errorf("%s:%d: %s has bits beyond its length", l.Source, r.line, p)
				case !a.IsGlobalUnicast() || a.IsPrivate() || a.Is4In6():
					t.Errorf("%s:%d: %s is not global", l.Source, r.line, p)
				case a.Is4() && p.Bits() < 20 || a.Is6() && p.Bits() < 44:
					t.Errorf("%s:%d: %s is wider than any network that was looked at", l.Source, r.line, p)
				}
				for _, o := range before {
					if o.Overlaps(p) {
						t.Errorf("%s:%d: %s overlaps %s", l.Source, r.line, p, o)
					}
				}
				before = append(before, p)
			}
		}
	}
}

// TestNamesAreCanonical checks that names are in the form in which they are
// compared, with more than one label.
func TestNamesAreCanonical(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$`)
	for _, id := range ids {
		for _, l := range readBan(t, id).Lists {
			for _, r := range l.rules {
				if r.form != 'p' && r.form != '~' && !form.MatchString(r.name) {
					t.Errorf("%s:%d: %q is not a canonical name of two labels or more", l.Source, r.line, r.name)
				}
			}
		}
	}
}

// TestSignals checks that names that signal an app are blocked by the names of
// the app or as a bypass, and that what pages embed is no signal.
func TestSignals(t *testing.T) {
	bypass := readBan(t, "bypass")
	embedded := []string{
		"tiktok.com", "www.tiktok.com", "analytics.tiktok.com", "mon.tiktokv.com", "mcs-va.tiktokv.com", "tiktokv.com",
		"wechat.com", "weixin.qq.com", "open.weixin.qq.com", "mp.weixin.qq.com", "api.weixin.qq.com", "res.wx.qq.com", "wx.qlogo.cn", "mmbiz.qpic.cn",
		"kaspersky.com", "www.kaspersky.ca", "my.kaspersky.com", "crl.kaspersky.com", "products.s.kaspersky-labs.com", "opentip.kaspersky.com",
	}
	present := map[string]string{
		"long.weixin.qq.com": "wechat", "short.weixin.qq.com": "wechat", "sglong.wechat.com": "wechat", "sgshort.wechat.com": "wechat", "dns.weixin.qq.com": "wechat",
		"gc.kis.v2.scr.kaspersky-labs.com": "kaspersky", "s17.upd.kaspersky.com": "kaspersky", "touch.kaspersky.com": "kaspersky", "x.ksn.kaspersky-labs.com": "kaspersky",
		"api16-normal-c-useast1a.tiktokv.com": "tiktok", "log-va.tiktokv.com": "tiktok", "api16-normal-useast5.tiktokv.us": "tiktok", "dig.bdurl.net": "tiktok",
	}
	for _, id := range ids {
		b := readBan(t, id)
		domains := slowBan{Lists: slices.DeleteFunc(slices.Clone(b.Lists), func(l slowList) bool { return l.Signal != "" })}
		for _, l := range b.Lists {
			if l.Signal == "" {
				continue
			}
			if l.Signal != "app" || l.Tier != "exclusive" || l.Format != "domains" && l.Format != "signatures" {
				t.Errorf("%s: signal %q, tier %q, format %q", l.Name, l.Signal, l.Tier, l.Format)
			}
			for _, r := range l.rules {
				if r.allow {
					t.Errorf("%s:%d: an allow rule is no signal", l.Source, r.line)
				}
				target := slowTarget{name: r.name}
				if r.sig == nil && !domains.blocks(target, exclusiveOnly) && !bypass.blocks(target, exclusiveOnly) {
					t.Errorf("%s:%d: %s is under no exclusive name", l.Source, r.line, r.name)
				}
			}
			for _, n := range embedded {
				if r := l.decide(slowTarget{name: n}); r != nil {
					t.Errorf("%s:%d: %s signals the app, and %s is in web pages", l.Source, r.line, r.text, n)
				}
			}
			for n, of := range present {
				if of == id && l.Format == "domains" && l.decide(slowTarget{name: n}) == nil {
					t.Errorf("%s: %s does not signal the app", l.Name, n)
				}
			}
		}
	}
}

// TestProtected checks that protected.txt only allows, and that it and the
// bundles do not speak about the same names: a protected name beats every ban.
func TestProtected(t *testing.T) {
	protected := slowList{rules: readRules(t, "protected.txt", "domains")}
	for _, r := range protected.rules {
		if !r.allow {
			t.Errorf("protected.txt:%d: %s is not an allow rule", r.line, r.text)
		}
	}
	for _, id := range ids {
		b := readBan(t, id)
		for _, v := range readVectors(t, id) {
			if r := protected.decide(slowParse(t, v.target)); v.block && r != nil && !strings.HasPrefix(v.target, "http:") {
				t.Errorf("%s/vectors.txt:%d: %s must be blocked and is protected by line %d", id, v.line, v.target, r.line)
			}
		}
		for _, l := range b.Lists {
			for _, r := range l.rules {
				if p := protected.decide(slowTarget{name: r.name}); p != nil && r.form != 'p' {
					t.Errorf("%s:%d: %s is protected by line %d", l.Source, r.line, r.text, p.line)
				}
			}
		}
		for _, r := range protected.rules {
			if b.blocks(slowTarget{name: r.name}, bothTiers) {
				t.Errorf("protected.txt:%d: %s is blocked by %s", r.line, r.name, id)
			}
		}
	}
	for _, n := range []string{
		"1-courier.push.apple.com", "mtalk.google.com", "alt3-mtalk.google.com", "fcm.googleapis.com", "client.wns.windows.com",
		"ocsp.apple.com", "ocsp2.apple.com", "crl.apple.com", "ocsp.digicert.com", "r3.o.lencr.org",
		"time.apple.com", "time.google.com", "time.windows.com", "time.nrc.ca", "2.android.pool.ntp.org",
		"deviceenrollment.apple.com", "mdmenrollment.apple.com", "iprofiles.apple.com", "gdmf.apple.com", "enrollment.manage.microsoft.com",
		"captive.apple.com", "connectivitycheck.gstatic.com", "www.msftconnecttest.com", "safebrowsing.googleapis.com",
		"www.canada.ca", "canada.ca", "tbs-sct.gc.ca", "gc.ca",
	} {
		if protected.decide(slowTarget{name: n}) == nil {
			t.Errorf("%s is not protected", n)
		}
	}
	for _, n := range []string{"icloud.com", "apple.com", "google.com", "googleapis.com", "microsoft.com", "play.google.com", "itunes.apple.com", "notcanada.ca", "xgc.ca", "ca"} {
		if r := protected.decide(slowTarget{name: n}); r != nil {
			t.Errorf("%s is protected by line %d", n, r.line)
		}
	}
}

// TestTextsInBothLanguages walks every ban.yml: a text in one official
// language has the other beside it, and no text in one language only is left.
func TestTextsInBothLanguages(t *testing.T) {
	bilingual := []string{"title", "authority", "instrument", "reason", "contact", "office", "what"}
	for _, id := range ids {
		var doc yaml.Node
		if err := yaml.Unmarshal([]byte(readFile(t, id+"/ban.yml")), &doc); err != nil {
			t.Fatal(err)
		}
		texts := 0
		var walk func(key string, n *yaml.Node)
		walk = func(key string, n *yaml.Node) {
			if n.Kind == yaml.ScalarNode && slices.Contains(bilingual, key) {
				t.Errorf("%s/ban.yml:%d: %s is in one language", id, n.Line, key)
			}
			if n.Kind != yaml.MappingNode {
				for _, c := range n.Content {
					walk("", c)
				}
				return
			}
			values := map[string]string{}
			for i := 0; i < len(n.Content); i += 2 {
				values[n.Content[i].Value] = n.Content[i+1].Value
				walk(n.Content[i].Value, n.Content[i+1])
			}
			en, hasEN := values["en"]
			fr, hasFR := values["fr"]
			if !hasEN && !hasFR {
				return
			}
			texts++
			if en == "" || fr == "" || en == fr || len(values) != 2 {
				t.Errorf("%s/ban.yml:%d: en %q, fr %q", id, n.Line, en, fr)
			}
		}
		walk("", &doc)
		if texts < 4 {
			t.Errorf("%s has %d bilingual texts, want title, authority, reason and contact at the least", id, texts)
		}
	}
}

// TestFacts pins the official facts, which nobody should change by accident.
func TestFacts(t *testing.T) {
	type official struct {
		Office struct{ EN, FR string }
		Holder string
	}
	type facts struct {
		Jurisdiction, Reference, Strength, Implementer, Coverage string
		Announced, Effective, Review                             time.Time
		Office                                                   official
		Decider                                                  official `yaml:"decided_by"`
		Announcer                                                official `yaml:"announced_by"`
		Devices, Tiers                                           []string
		Successors                                               bool
		EmbeddedCode                                             bool `yaml:"embedded_code"`
		EDE                                                      int
	}
	for _, c := range []struct {
		id, strength, announced, effective, decider, announcer string
	}{
		{"wechat", "ordered", "2023-10-30T04:00:00Z", "2023-10-30T04:00:00Z", "Catherine Luelo", "Anita Anand"},
		{"kaspersky", "ordered", "2023-10-30T04:00:00Z", "2023-10-30T04:00:00Z", "Catherine Luelo", "Anita Anand"},
		{"tiktok", "ordered", "2023-02-27T05:00:00Z", "2023-02-28T05:00:00Z", "Catherine Luelo", "Mona Fortier"},
		{"bypass", "", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "", ""},
	} {
		var f facts
		if err := yaml.Unmarshal([]byte(readFile(t, path.Join(c.id, "ban.yml"))), &f); err != nil {
			t.Fatal(err)
		}
		got := []string{f.Strength, f.Announced.UTC().Format(time.RFC3339), f.Effective.UTC().Format(time.RFC3339), f.Decider.Holder, f.Announcer.Holder}
		if want := []string{c.strength, c.announced, c.effective, c.decider, c.announcer}; !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", c.id, got, want)
		}
		if !f.Review.IsZero() || f.Successors || f.EmbeddedCode {
			t.Errorf("%s claims a review date, successors or embedded code, which no source has", c.id)
		}
		if f.Jurisdiction != "CA" || f.Implementer != "enterprise" || !slices.Equal(f.Devices, []string{"issued-mobile"}) {
			t.Errorf("%s: jurisdiction %q, implementer %q, devices %v", c.id, f.Jurisdiction, f.Implementer, f.Devices)
		}
		if !slices.Equal(f.Tiers, []string{"exclusive"}) || f.EDE != 15 {
			t.Errorf("%s: tiers %v, EDE %d; want exclusive alone, and 15", c.id, f.Tiers, f.EDE)
		}
		if !strings.HasPrefix(f.Reference, "https://www.canada.ca/") {
			t.Errorf("%s: reference %q", c.id, f.Reference)
		}
	}
}

// TestAnswers checks the lists whose names need one kind of answer.
func TestAnswers(t *testing.T) {
	want := map[string]string{"bypass-canaries": "nxdomain", "bypass-relays": "nxdomain", "bypass-ddr": "nodata", "bypass-ech": "nodata"}
	for _, l := range readBan(t, "bypass").Lists {
		if l.Answer != want[l.Name] {
			t.Errorf("%s answers %q, want %q", l.Name, l.Answer, want[l.Name])
		}
		delete(want, l.Name)
	}
	if len(want) > 0 {
		t.Errorf("lists are missing: %v", want)
	}
}

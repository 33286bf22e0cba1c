package parse

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/idna"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/blocklists"
)

// A tally is what a reading of a real file finds.
type tally struct {
	lines, blank, comments int
	rules                  int
	skips                  map[Skip]int
}

// The real files, each with its proper dialect and another reading of it,
// written in another style: by regular expressions and string functions over
// whole lines.
var realFiles = []struct {
	name   string
	format Format
	tally  func(*tally, string)
}{
	{"wechat.txt", Domains, tallyDomains},
	{"kaspersky.txt", Domains, tallyDomains},
	{"tiktok.txt", Domains, tallyDomains},
	{"bypass-hosts.txt", Domains, tallyDomains},
	{"bypass-hosts-copyleft.txt", Domains, tallyDomains},
	{"ips.txt", Prefixes, tallyPrefixes},
	{"bypass-ips-copyleft.txt", Prefixes, tallyPrefixes},
	{"big/permissive/union-domains-2M.txt.gz", Domains, tallyDomains},
	{"big/permissive/maltrail-static-raw.txt.gz", Domains, tallyDomains},
	{"big/permissive/blp-phishing.domains.txt.gz", Domains, tallyDomains},
	{"big/permissive/blp-tracking.abp.txt.gz", ABP, tallyABP},
	{"big/permissive/blp-redirect.dnsmasq.conf.gz", Dnsmasq, tallyDnsmasq},
	{"big/permissive/blp-basic.hosts.txt.gz", Hosts, tallyHosts},
	{"big/permissive/blp-tiktok.hosts.txt.gz", Hosts, tallyHosts},
	{"big/permissive/sw-tracking.domains.txt.gz", Domains, tallyDomains},
	{"big/permissive/sw-wild-tracking.txt.gz", Domains, tallyDomains},
	{"big/permissive/sw-tunnels.txt.gz", Domains, tallyDomains},
	{"big/permissive/sw-CRLF.txt.gz", Domains, tallyDomains},
	{"big/permissive/anudeep-adservers.hosts.txt.gz", Hosts, tallyHosts},
	{"big/permissive/anudeep-adservers-CRLF.hosts.txt.gz", Hosts, tallyHosts},
	{"big/permissive/lightswitch-facebook.hosts.txt.gz", Hosts, tallyHosts},
	{"big/permissive/hostsVN.hosts.txt.gz", Hosts, tallyHosts},
	{"big/permissive/danhorton-tiktok.hosts.txt.gz", Hosts, tallyHosts},
	{"big/permissive/danhorton-tiktok.adguard.txt.gz", ABP, tallyABP},
	{"big/permissive/felixonmars-china.dnsmasq.conf.gz", Dnsmasq, tallyDnsmasq},
	{"big/permissive/public_suffix_list.dat.gz", Domains, tallyDomains},
	{"big/copyleft/mullvad-privacy.rpz.zone.gz", RPZ, tallyRPZ},
	{"big/copyleft/hagezi2022-personal.unbound.conf.gz", Domains, tallyDomains},
	{"big/copyleft/tpw-regexdnsf-privacy.adguard.txt.gz", ABP, tallyABP},
	{"big/copyleft/easylist-debian-ublock.txt.gz", ABP, tallyABP},
	{"big/copyleft/urlhaus-online-debian-ublock.txt.gz", ABP, tallyABP},
	{"big/copyleft/ut1-redirector.domains.txt.gz", Domains, tallyDomains},
	{"big/copyleft/ut1-games.domains.txt.gz", Domains, tallyDomains},
	{"big/copyleft/ut1-phishing.urls.txt.gz", URLs, tallyURLs},
	{"big/copyleft/acl4ssr-baneasylist.clash.yaml.gz", Domains, tallyDomains},
	{"big/copyleft/acl4ssr-crypto-CRLF.list.gz", Domains, tallyDomains},
	{"big/copyleft/acl4ssr-regex-GBK.conf.gz", Domains, tallyDomains},
	{"big/copyleft/jarelllama-phishing-BOM.csv.gz", Domains, tallyDomains},
	{"big/copyleft/citizenlab-it-aams-CRLF.csv.gz", Domains, tallyDomains},
	{"big/copyleft/citizenlab-ca.csv.gz", Domains, tallyDomains},
	{"big/popularity/umbrella-top100k-2026-07-24.txt.gz", Domains, tallyDomains},
	{"big/popularity/umbrella-19days-bestrank.csv.gz", Domains, tallyDomains},
	{"big/popularity/alexa2016-top100k.txt.gz", Domains, tallyDomains},
	{"big/popularity/opendns2014-top10k.txt.gz", Domains, tallyDomains},
	{"big/popularity/opendns2014-random10k.txt.gz", Domains, tallyDomains},
}

func TestRealFiles(t *testing.T) {
	corpus.Dir(t)
	for _, tt := range realFiles {
		t.Run(filepath.Base(tt.name), func(t *testing.T) {
			data := realFile(t, tt.name)
			want := tallyLines(data, tt.tally)
			got, err := Load(tt.format, bytes.NewReader(data), Limits{}, func(r blocklists.Rule) error {
				if len(r.Name) > 0 && !isNameText(r.Name) {
					t.Errorf("line %d: name %q", r.Line, r.Name)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			checkReport(t, got)
			if got.Lines != want.lines || got.Blank != want.blank || got.Comments != want.comments || got.Rules != want.rules {
				t.Errorf("got %d lines, %d blank, %d comments, %d rules; want %d, %d, %d, %d",
					got.Lines, got.Blank, got.Comments, got.Rules, want.lines, want.blank, want.comments, want.rules)
			}
			for reason := range got.Skips {
				if want.skips[reason] == 0 {
					want.skips[reason] = 0
				}
			}
			for reason, n := range want.skips {
				if got.Skips[reason] != n {
					t.Errorf("%s: got %d, want %d", reason, got.Skips[reason], n)
				}
			}
		})
	}
}

// realFile returns a real file, unpacked, cut after realBytes.
func realFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := io.ReadAll(io.LimitReader(corpus.Open(t, name), realBytes))
	if err != nil {
		t.Fatal(err)
	}
	if len(data) == realBytes {
		data = data[:bytes.LastIndexByte(data, '\n')+1]
	}
	return data
}

func tallyLines(data []byte, line func(*tally, string)) tally {
	n := tally{skips: map[Skip]int{}}
	text := strings.ReplaceAll(strings.TrimPrefix(string(data), "\ufeff"), "\r\n", "\n")
	for s := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		n.lines++
		if s = strings.TrimSpace(s); s == "" {
			n.blank++
		} else {
			line(&n, s)
		}
	}
	return n
}

// isNameText reports whether s is a canonical name, label by label.
func isNameText(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if len(label) < 1 || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return len(s) <= 253
}

// text2name returns the name that a text stands for, or "".
func text2name(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r > 127 }) {
		if a, err := idna.Punycode.ToASCII(strings.ToLower(s)); err == nil {
			s = a
		}
	}
	if s = strings.TrimSuffix(strings.ToLower(s), "."); isNameText(s) {
		return s
	}
	return ""
}

var (
	reNumbers = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*$`)
	reAddress = regexp.MustCompile(`^[0-9]+(\.[0-9]+){2,}(:[0-9]+|/[0-9]{1,2})?$|^\[[0-9a-f:]+\](:[0-9]+)?$|^[0-9a-f]*:[0-9a-f:]*:[0-9a-f]*$`)
	rePort    = regexp.MustCompile(`^.+:[0-9]{1,5}$`)
)

// classify returns why a text is no name, or "".
func classify(s string) Skip {
	name := text2name(s)
	// Most names have a letter beyond f, which no address has.
	numeric := strings.Trim(strings.ToLower(s), "0123456789abcdef.:/[]") == ""
	switch {
	case numeric && (name != "" && reNumbers.MatchString(name) || reAddress.MatchString(strings.ToLower(s))):
		return SkipAddress
	case name != "" && strings.Contains(name, "."):
		return ""
	case name != "":
		return SkipSingleLabel
	case strings.Contains(s, "/"):
		return SkipURL
	case rePort.MatchString(s):
		return SkipPort
	case strings.Contains(s, "*"):
		return SkipWildcard
	}
	return SkipName
}

func (n *tally) name(s string) {
	if reason := classify(s); reason != "" {
		n.skips[reason]++
	} else {
		n.rules++
	}
}

func tallyDomains(n *tally, s string) {
	if s[0] == '#' {
		n.comments++
		return
	}
	for _, mark := range []string{" #", "\t#"} {
		s, _, _ = strings.Cut(s, mark)
	}
	s = strings.TrimSpace(s)
	before, _, _ := strings.Cut(s, "\t")
	switch {
	case s != strings.ToValidUTF8(s, "?"):
		n.skips[SkipEncoding]++
	case strings.Contains(before, " "):
		n.skips[SkipSyntax]++
	default:
		before = strings.TrimPrefix(before, "@@")
		if before = strings.TrimPrefix(before, "="); strings.HasPrefix(before, "*.") {
			before = before[2:]
		}
		n.name(before)
	}
}

var rePrefix = regexp.MustCompile(`^(@@)?[0-9a-fA-F:.]+/[0-9]+(\t|$)`)

// The two files of prefixes are known to hold global ones only.
func tallyPrefixes(n *tally, s string) {
	switch {
	case s[0] == '#':
		n.comments++
	case rePrefix.MatchString(s):
		n.rules++
	default:
		n.skips[SkipNotAddress]++
	}
}

func tallyHosts(n *tally, s string) {
	s, _, _ = strings.Cut(s, "#")
	fields := strings.Fields(s)
	if len(fields) == 0 {
		n.comments++
		return
	}
	for _, name := range fields[1:] {
		switch {
		case name == "localhost" || name == "0.0.0.0" || name == "local" || name == "broadcasthost":
			n.skips[SkipSelfName]++
		case fields[0] != "0.0.0.0" && fields[0] != "127.0.0.1" && fields[0] != "::1":
			n.skips[SkipLocalData]++
		default:
			n.name(name)
		}
	}
}

var (
	reDnsmasqBlock   = regexp.MustCompile(`^(server|local|address)=/([^/]+)/(0\.0\.0\.0|#|::)?$`)
	reDnsmasqRouting = regexp.MustCompile(`^server=/[^/]+/[0-9]`)
)

func tallyDnsmasq(n *tally, s string) {
	switch m := reDnsmasqBlock.FindStringSubmatch(s); {
	case s[0] == '#':
		n.comments++
	case m != nil:
		n.name(m[2])
	case reDnsmasqRouting.MatchString(s):
		n.skips[SkipRouting]++
	default:
		n.skips[SkipDirective]++
	}
}

var reRecord = regexp.MustCompile(`^(\S+) IN CNAME \.$`)

// The file has nothing but NXDOMAIN records between its administration.
func tallyRPZ(n *tally, s string) {
	if m := reRecord.FindStringSubmatch(s); m != nil {
		n.name(m[1])
		return
	}
	n.comments++
}

var (
	reURL      = regexp.MustCompile(`^(?:[hH][tT][tT][pP]://)?([^/:?#]+)(/[^*^|#]*)$`)
	reURLScrap = regexp.MustCompile(`^[^/]+/.*[*^|#]`)
)

func tallyURLs(n *tally, s string) {
	m := reURL.FindStringSubmatch(s)
	path, _, _ := strings.Cut(s, "?")
	switch {
	case s[0] == '#':
		n.comments++
	case reURLScrap.MatchString(s), reDots.MatchString(path):
		n.skips[SkipPattern]++
	case m != nil:
		n.name(m[1])
	default:
		n.skips[SkipNoPath]++
	}
}

var (
	reHyphen      = regexp.MustCompile(`-\.|\.-|-$`)
	reABPComment  = regexp.MustCompile(`^(!|\[.*\]$|#($|[^#@?$%]))`)
	reABPCosmetic = regexp.MustCompile(`#@?[$?%]{0,2}#|\$\$`)
	reABPRegex    = regexp.MustCompile(`^(@@)?/.+/(\$[^/]*)?$|^(@@)?/.*/\$`)
	reABPModified = regexp.MustCompile(`^(@@)?\|.*\$[^$]*$`)
	reABPHonoured = regexp.MustCompile(`^(@@)?\|[^$]*\$(important|all|match-case)(,(important|all|match-case))*$`)
	reABPHost     = regexp.MustCompile(`^(@@)?\|\|(\*\.)?([^/^*|:?]+)(\^\**|\|)$`)
	reABPAddress  = regexp.MustCompile(`^(@@)?\|\|?[0-9]{1,3}(\.[0-9]{1,3}){3}\^\**$`)
	reABPURL      = regexp.MustCompile(`^(@@)?\|\|(\*\.)?([^/^*|:?]+)([/^].*)$`)
	reABPOpen     = regexp.MustCompile(`^(@@)?\|\|?(https?://)?[^/^*|:?]*[^/^*|:?.]$`)
	reABPPort     = regexp.MustCompile(`^(@@)?\|\|[^/^*|:?]+:[0-9]`)
	reABPWild     = regexp.MustCompile(`^(@@)?\|\|?(https?://)?[^/^|:?*]*\*`)
	reDots        = regexp.MustCompile(`/\.\.?/|^[^/]*//+$`)
	reABPScheme   = regexp.MustCompile(`^(@@)?\|(https?)://([^/^*|:?]+)([/^].*)$`)
)

func tallyABP(n *tally, s string) {
	pattern := s
	switch {
	case reABPCosmetic.MatchString(s) && !strings.HasPrefix(s, "!"):
		n.skips[SkipCosmetic]++
		return
	case reABPComment.MatchString(s):
		n.comments++
		return
	case reABPRegex.MatchString(s):
		n.skips[SkipRegex]++
		return
	case s[0] != '|' && !strings.HasPrefix(s, "@@|"):
		n.abpPlain(s)
		return
	case reABPHonoured.MatchString(s):
		pattern = s[:strings.LastIndexByte(s, '$')]
	case reABPModified.MatchString(s):
		n.skips[SkipModifier]++
		return
	}
	n.abpAnchored(pattern)
}

func (n *tally) abpPlain(s string) {
	s = strings.TrimPrefix(s, "0.0.0.0 ")
	name := text2name(s)
	switch {
	case reNumbers.MatchString(name) && name != "", reAddress.MatchString(s):
		n.skips[SkipAddress]++
	case name == "" || !strings.Contains(name, ".") || strings.HasPrefix(s, "-") || reHyphen.MatchString(s):
		n.skips[SkipPattern]++
	default:
		n.rules++
	}
}

func (n *tally) abpAnchored(s string) {
	host := reABPHost.FindStringSubmatch(s)
	url := reABPURL.FindStringSubmatch(s)
	schemed := reABPScheme.FindStringSubmatch(s)
	switch {
	case reABPAddress.MatchString(s):
		n.rules++
	case host != nil && !strings.HasSuffix(host[3], "."):
		n.name(host[3])
	case url != nil && url[4] != "" && !strings.HasSuffix(url[3], "."):
		path := "/" + strings.TrimRight(url[4][1:], "*")
		if reDots.MatchString(path) || strings.Contains(path, "//") && strings.Contains(path, "*") {
			n.skips[SkipPattern]++
		} else {
			n.name(url[3])
		}
	case schemed != nil && (schemed[2] == "http" || len(schemed[4]) == 1):
		n.name(schemed[3])
	case reABPWild.MatchString(s):
		n.skips[SkipWildcard]++
	case reABPPort.MatchString(s):
		n.skips[SkipPort]++
	case reABPOpen.MatchString(s):
		n.skips[SkipNoSeparator]++
	default:
		n.skips[SkipPattern]++
	}
}

// The facts that the data's manifest states.
func TestManifestFacts(t *testing.T) {
	corpus.Dir(t)
	tests := []struct {
		name   string
		format Format
		fact   string
		want   int
		got    func(Report) int
	}{
		{"big/permissive/union-domains-2M.txt.gz", Domains, "names", 1_986_552, func(r Report) int { return r.Kinds.Suffix }},
		{"big/copyleft/ut1-redirector.domains.txt.gz", Domains, "bare addresses", 22_530, func(r Report) int { return r.Skips[SkipAddress] }},
		{"big/copyleft/ut1-games.domains.txt.gz", Domains, "bare addresses", 26, func(r Report) int { return r.Skips[SkipAddress] }},
		{"big/copyleft/urlhaus-online-debian-ublock.txt.gz", ABP, "bare addresses", 2_307, func(r Report) int { return r.Skips[SkipAddress] }},
		{"big/permissive/danhorton-tiktok.hosts.txt.gz", Hosts, "bare addresses", 16, func(r Report) int { return r.Skips[SkipAddress] }},
		{"big/permissive/hostsVN.hosts.txt.gz", Hosts, "comments", 1_768, func(r Report) int { return r.Comments }},
		{"big/permissive/blp-tiktok.hosts.txt.gz", Hosts, "exact names", 3_725, func(r Report) int { return r.Kinds.Exact }},
		{"big/copyleft/tpw-regexdnsf-privacy.adguard.txt.gz", ABP, "regular expressions", 17, func(r Report) int { return r.Skips[SkipRegex] }},
		{"big/permissive/lightswitch-facebook.hosts.txt.gz", Hosts, "exact names", 29_731, func(r Report) int { return r.Kinds.Exact }},
		{"wechat.txt", Domains, "suffixes", 107, func(r Report) int { return r.Kinds.Suffix }},
		{"kaspersky.txt", Domains, "suffixes", 43, func(r Report) int { return r.Kinds.Suffix }},
		{"tiktok.txt", Domains, "suffixes", 170, func(r Report) int { return r.Kinds.Suffix }},
		{"bypass-hosts.txt", Domains, "hosts", 592, func(r Report) int { return r.Kinds.Suffix }},
		{"ips.txt", Prefixes, "prefixes", 2_121, func(r Report) int { return r.Kinds.Prefix }},
	}
	for _, tt := range tests {
		rep, err := Load(tt.format, corpus.Open(t, tt.name), Limits{}, func(blocklists.Rule) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if got := tt.got(rep); got != tt.want {
			t.Errorf("%s: %d %s, want %d", tt.name, got, tt.fact, tt.want)
		}
	}
}

// Of the exceptions, those that are host rules are there, and all are counted.
func TestManifestExceptions(t *testing.T) {
	const name = "big/copyleft/tpw-regexdnsf-privacy.adguard.txt.gz"
	all, skipped := 0, 0
	lines := map[int]bool{}
	in := bufio.NewScanner(corpus.Open(t, name))
	for n := 1; in.Scan(); n++ {
		if strings.HasPrefix(in.Text(), "@@") {
			all++
			lines[n] = true
		}
	}
	allowed := 0
	for r, err := range Rules(ABP, corpus.Open(t, name), Limits{}) {
		if err == nil && r.Action == blocklists.Allow {
			allowed++
			if !lines[r.Line] || r.Priority&abpException == 0 {
				t.Errorf("line %d is no exception: %v", r.Line, r)
			}
			delete(lines, r.Line)
		}
		if s, ok := err.(*SkipError); ok && lines[s.Line] {
			skipped++
		}
	}
	if all != 174 || allowed+skipped != all || len(lines) != skipped {
		t.Errorf("%d exceptions: %d allowed, %d skipped, %d neither", all, allowed, skipped, len(lines)-skipped)
	}
}

// A packed file reads as what it unpacks to.
func TestRealFilePacked(t *testing.T) {
	const name = "big/copyleft/ut1-games.domains.txt.gz"
	f, err := os.Open(filepath.Join(corpus.Dir(t), name))
	if err != nil {
		corpus.Missing(t, err.Error())
	}
	defer func() { _ = f.Close() }()
	add := func(blocklists.Rule) error { return nil }
	packed, err := Load(Domains, f, Limits{}, add)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := Load(Domains, corpus.Open(t, name), Limits{}, add)
	if err != nil {
		t.Fatal(err)
	}
	if !packed.Gzip || plain.Gzip {
		t.Error("the report does not say what was packed")
	}
	packed.Gzip = false
	if got, want := fmt.Sprintf("%+v", packed), fmt.Sprintf("%+v", plain); got != want {
		t.Errorf("packed %s\nplain %s", got, want)
	}
}

// The zone has 42 rules twice: the Builder keeps them once.
func TestManifestDuplicates(t *testing.T) {
	var b blocklists.Builder
	rep, err := Load(RPZ, corpus.Open(t, "big/copyleft/mullvad-privacy.rpz.zone.gz"), Limits{}, func(r blocklists.Rule) error { return b.Add(0, r) })
	if err != nil {
		t.Fatal(err)
	}
	if got := rep.Rules - b.Build().Rules(); got != 42 {
		t.Errorf("%d duplicates of %d rules", got, rep.Rules)
	}
}

// Whatever dialect a real file is read in, nothing breaks and lines add up.
func TestRealFilesInEveryDialect(t *testing.T) {
	corpus.Dir(t)
	for _, tt := range realFiles {
		data := realFile(t, tt.name)
		data = data[:min(len(data), 1<<20)]
		for _, f := range Formats() {
			rep, err := Load(f, bytes.NewReader(data), Limits{}, func(r blocklists.Rule) error {
				if len(r.Name) > 253 || r.Name == "" && !r.Prefix.IsValid() {
					t.Errorf("%s as %s: line %d: %+v", tt.name, f, r.Line, r)
				}
				return nil
			})
			if err != nil {
				t.Errorf("%s as %s: %v", tt.name, f, err)
			}
			checkReport(t, rep)
		}
	}
}

// No file is missing from the table.
func TestRealFilesAreAllThere(t *testing.T) {
	dir := corpus.Dir(t)
	known := map[string]bool{}
	for _, tt := range realFiles {
		known[tt.name] = true
	}
	for _, glob := range []string{"*.txt", "big/*/*.gz"} {
		paths, err := filepath.Glob(filepath.Join(dir, glob))
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v", glob, err)
		}
		for _, p := range paths {
			if rel, err := filepath.Rel(dir, p); err != nil || !known[filepath.ToSlash(rel)] {
				t.Errorf("%s is not tested", rel)
			}
		}
	}
}

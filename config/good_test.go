package config

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/bans"
)

func mustParse(t *testing.T, file, text string, bundles fs.FS) *Config {
	t.Helper()
	c, err := Parse(file, []byte(text), bundles)
	if err != nil {
		t.Fatalf("%s:\n%v", file, err)
	}
	return c
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\ngot  %+v\nwant %+v", what, got, want)
	}
}

func addrs(s ...string) []netip.AddrPort {
	list := []netip.AddrPort{}
	for _, a := range s {
		list = append(list, netip.MustParseAddrPort(a))
	}
	return list
}

func prefixes(s ...string) []netip.Prefix {
	list := []netip.Prefix{}
	for _, p := range s {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

var defaultCache = Cache{Entries: 100_000, Stale: Stale{24 * time.Hour, 1800 * time.Millisecond}, TTL: TTL{Max: 24 * time.Hour}}

var defaultStructured = StructuredErrors{Contact: []string{}, Language: English}

// withoutBans is the default as the contract has it, but for the bans.
func withoutBans() Config {
	return Config{
		DNS: DNS{
			Listen: addrs("127.0.0.1:5353"), Upstreams: []*url.URL{}, Bootstrap: addrs(),
			Blocked: blocklists.Answer{Mode: blocklists.NXDOMAIN}, Cache: defaultCache, Structured: defaultStructured, Cookies: Cookies{Mode: CookiesAnswer},
			Records: []string{}, Special: specialNames,
			Limits: Limits{Exempt: prefixes(), Slip: 2}, Subnet: ClientSubnet{Mode: SubnetStrip}, Strategy: StrategyOrdered, Routes: []Route{},
			ECH: Strip, H3: Strip, Rebinding: Rebinding{Allow: []string{}},
			DoT: Encrypted{addrs()}, DoH: DoH{addrs(), true}, DoQ: Encrypted{addrs()}, Identities: []Identity{}, Proxies: prefixes(),
		},
		Proxy: Proxy{
			Listen: addrs("127.0.0.1:3128"), ConnectPorts: []uint16{443}, HTTPPorts: []uint16{80, 8080},
			AllowNetworks: prefixes(),
			SNI:           SNI{SNIBlock, SNIBlock, SNIBlock, SNIBlock, SNIBlock, SNIBlock},
		},
		Transparent: Transparent{Listen: addrs(), Unknown: UnknownBlock, Unseen: UnseenResolve},
		QUIC:        QUIC{Mode: QUICRefuse, Listen: addrs()},
		VPN: VPN{
			Divert: DivertRedirect, Management: prefixes(), Internal: prefixes(),
			TCP: VPNTCP{Inspect: Ports{0}, Direct: Ports{}}, UDP: VPNUDP{Direct: Ports{123}}, Peers: "block",
		},
		RPZ:   RPZ{Listen: addrs(), Keys: []TSIGKey{}, AllowTransfer: prefixes(), Notify: []Secondary{}},
		Allow: []blocklists.Rule{}, Protected: []blocklists.Rule{},
		Groups: []Group{}, Exemptions: []Exemption{}, MaxExemption: 366 * 24 * time.Hour,
		Admin: Admin{Listen: netip.MustParseAddrPort("127.0.0.1:8053"), Tokens: []AdminToken{}, Approvers: []uint32{}, TLS: AdminTLS{Clients: []AdminClient{}}},
		Audit: Audit{Privacy: PrivacyFull},
		Log:   Log{"text", "info"},
	}
}

func banIDs(c *Config) []string {
	var ids []string
	for _, b := range c.Bans {
		ids = append(ids, b.ID)
	}
	return ids
}

func TestDefault(t *testing.T) {
	for name, fsys := range map[string]fs.FS{"real bans": bans.FS, "test bans": bundles} {
		c, err := Default(fsys)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		equal(t, name, banIDs(c), []string{"wechat", "kaspersky", "tiktok", "bypass"})
		for _, b := range c.Bans {
			equal(t, b.ID+" tiers", b.Tiers, []blocklists.Tier{blocklists.TierExclusive})
			if len(b.Lists) == 0 || b.Title.EN == "" || b.Title.FR == "" || b.Authority.FR == "" || b.Reference == "" {
				t.Errorf("%s: incomplete: %+v", name, b)
			}
		}
		c.Bans = nil
		equal(t, name, *c, withoutBans())
	}
}

// TestAbsentIsDefault proves that a file says only what differs.
func TestAbsentIsDefault(t *testing.T) {
	def, err := Default(bundles)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "\ufeff", "\ufeff# nothing\r\n", "{}", "---\n...\n", "dns: {}\nproxy: {sni: {}}\nlog: {}\n", defaultText} {
		c := mustParse(t, "", text, bundles)
		equal(t, text, c, def)
	}
}

func TestExplicitNone(t *testing.T) {
	c := mustParse(t, "off.yml", `
dns: {listen: [], blocked: null, cache: {entries: 0}}
proxy: {listen: [], connect_ports: [], http_ports: []}
bans: []
admin: {listen: ""}
`, nil)
	want := withoutBans()
	want.File = "off.yml"
	want.DNS.Listen, want.DNS.Blocked, want.DNS.Cache = addrs(), blocklists.Answer{Mode: blocklists.Null}, defaultCache
	want.DNS.Cache.Entries = 0
	want.Proxy.Listen, want.Proxy.ConnectPorts, want.Proxy.HTTPPorts = addrs(), []uint16{}, []uint16{}
	want.Admin.Listen = netip.AddrPort{}
	want.Bans = []blocklists.Ban{}
	equal(t, "off", *c, want)
}

// TestFull compares the decoded examples/full.yml with what it says.
func TestFull(t *testing.T) {
	c, err := Load("examples/full.yml", bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs("examples")
	if err != nil {
		t.Fatal(err)
	}
	def, err := Default(bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	eastern := time.FixedZone("", -4*3600)
	tiktok := def.Bans[2]
	tiktok.EDE = 16
	lists := "file:" + filepath.Join(dir, "lists") + "/"
	want := &Config{
		File: "examples/full.yml",
		DNS: DNS{
			Listen: addrs("0.0.0.0:5353", "[::]:5353"),
			Upstreams: []*url.URL{
				mustURL(t, "tls://dns.example.org:853"),
				mustURL(t, "https://192.0.2.53:443/dns-query"),
				mustURL(t, "udp://192.0.2.54:5300"),
			},
			Strategy: StrategyFastest,
			Routes: []Route{
				{Names: []string{"corp.example.org", "10.in-addr.arpa"}, Upstreams: []*url.URL{mustURL(t, "udp://10.0.0.53:53"), mustURL(t, "udp://10.0.0.54:53")}, Strategy: StrategyOrdered},
				{Names: []string{"lab.example.org", "internal"}, Upstreams: []*url.URL{mustURL(t, "quic://dns.lab.example.org:853")}, Strategy: StrategyRandom},
			},
			Bootstrap:  addrs("192.0.2.54:53", "[2001:db8::54]:53"),
			Blocked:    blocklists.Answer{Mode: blocklists.NXDOMAIN},
			Cache:      Cache{Entries: 200_000, Bytes: 128 << 20, Stale: Stale{12 * time.Hour, 1500 * time.Millisecond}, TTL: TTL{5 * time.Second, 12 * time.Hour, 10}, Persist: true},
			Structured: StructuredErrors{Enabled: true, Option: 65001, Contact: []string{"mailto:desk@example.org", "tel:+1-613-555-0100"}, Organization: "Example Network Operations", Language: English},
			Hosts:      filepath.Join(dir, "lists", "hosts"),
			Records: []string{
				"printer.example.org.\t300\tIN\tA\t10.20.0.5",
				"print.example.org.\t3600\tIN\tCNAME\tprinter.example.org.",
				"*.apps.example.org.\t300\tIN\tA\t10.20.0.7",
			},
			Special: []string{"localhost", "invalid", "test", "onion", "home.arpa"},
			Dnstap:  Dnstap{"unix:/run/dnstap.sock", "gateway-1"},
			Limits: Limits{
				Device: Rate{500, 1000}, Network: Rate{20_000, 40_000},
				Exempt: prefixes("192.0.2.53/32", "2001:db8:53::/64"), Slip: 2,
			},
			Subnet:  ClientSubnet{SubnetFixed, netip.MustParsePrefix("192.0.2.0/24")},
			Cookies: Cookies{CookiesAnswer, filepath.Join(dir, "cookie-secrets")},
			ECH:     Strip, H3: Keep,
			Rebinding: Rebinding{true, []string{"intranet.example.org"}},
			TLS:       TLS{filepath.Join(dir, "tls/dns.pem"), filepath.Join(dir, "tls/dns.key"), filepath.Join(dir, "tls/devices.pem"), "dns.example.org"},
			DoT:       Encrypted{addrs("0.0.0.0:853", "[::]:853")},
			DoH:       DoH{addrs("0.0.0.0:443", "[::]:443"), true},
			DoQ:       Encrypted{addrs("0.0.0.0:853", "[::]:853")},
			Proxies:   prefixes("192.0.2.20/32", "2001:db8:20::20/128"),
			Identities: []Identity{
				{Certificate: "laptop-7.devices.example.org", Device: netip.MustParseAddr("10.8.0.7")},
				{Token: "5f2e8c1a9b7d4e60", Device: netip.MustParseAddr("2001:db8:8::9")},
			},
		},
		Proxy: Proxy{
			Listen:        addrs("127.0.0.1:3128"),
			ConnectPorts:  []uint16{443, 8443},
			HTTPPorts:     []uint16{80, 8080},
			AllowNetworks: prefixes("10.20.0.0/16", "2001:db8:20::/48", "192.0.2.10/32"),
			SNI:           SNI{Missing: SNIBlock, Mismatch: SNIBlock, ECH: SNIBlock, NotTLS: SNIReport, Malformed: SNIBlock, Timeout: SNIBlock},
		},
		Transparent: Transparent{
			Listen:  addrs("0.0.0.0:3129", "[::]:3129"),
			Unknown: UnknownReport, Unseen: UnseenResolve,
		},
		QUIC: QUIC{Mode: QUICRefuse, Listen: addrs("0.0.0.0:3130", "[::]:3130")},
		VPN: VPN{
			Interface: "wg0", Divert: DivertRedirect,
			Management: prefixes("192.0.2.0/28"), Internal: prefixes("10.30.0.0/16"),
			TCP: VPNTCP{Inspect: Ports{0}, Direct: Ports{22, 25, 587, 993}}, UDP: VPNUDP{Direct: Ports{123, 3478, 3479}},
			Peers: "block", WireGuard: true,
		},
		RPZ: RPZ{
			Listen: addrs("192.0.2.1:5354"), Zone: "policy.example.org", Group: "lab",
			Keys:          []TSIGKey{{"xfr.example.org", "hmac-sha256", filepath.Join(dir, "keys", "xfr.key")}},
			AllowTransfer: prefixes("192.0.2.0/28"), UnsignedLoopback: true,
			Notify: []Secondary{
				{Address: netip.MustParseAddrPort("192.0.2.2:53")},
				{netip.MustParseAddrPort("192.0.2.3:5300"), "xfr.example.org"},
			},
		},
		Bans: []blocklists.Ban{def.Bans[0], def.Bans[1], tiktok, def.Bans[3], {
			ID:           "example",
			Title:        blocklists.Text{EN: "Ban of Example", FR: "Interdiction d'Example"},
			Jurisdiction: "CA",
			Authority:    blocklists.Text{EN: "Chief Information Officer", FR: "Dirigeant principal de l'information"},
			Reference:    "https://intranet.example/directives/2026-07",
			Instrument:   blocklists.Text{EN: "Directive on Example", FR: "Directive sur Example"},
			Citation:     "2026-07",
			Office:       blocklists.Official{Office: blocklists.Text{EN: "Information Office", FR: "Bureau de l'information"}, Holder: "A. Holder"},
			Decider:      blocklists.Official{Office: blocklists.Text{EN: "Chief Information Officer", FR: "Dirigeant principal de l'information"}, Holder: "B. Holder"},
			Announcer:    blocklists.Official{Office: blocklists.Text{EN: "Minister", FR: "Ministre"}, Holder: "C. Holder"},
			Reason:       blocklists.Text{EN: "It collects more than the department can accept.", FR: "Elle recueille plus que le ministère ne peut accepter."},
			Strength:     blocklists.Ordered,
			Implementer:  "enterprise",
			Announced:    time.Date(2026, 8, 15, 0, 0, 0, 0, time.UTC),
			Effective:    time.Date(2026, 9, 1, 0, 0, 0, 0, eastern),
			Review:       time.Date(2027, 9, 1, 0, 0, 0, 0, time.UTC),
			Deadlines: []blocklists.Deadline{{
				What: blocklists.Text{EN: "Removal from all devices", FR: "Retrait de tous les appareils"},
				When: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC),
			}},
			SupersededBy: "example-2",
			Devices:      []string{"issued-mobile", "enrolled-personal"},
			Coverage:     blocklists.CoverAppWeb,
			Successors:   true,
			EmbeddedCode: true, MaxExemption: 90 * 24 * time.Hour,
			Contact: blocklists.Text{EN: "IT service desk, 555-0100", FR: "Centre de services de TI, 555-0100"},
			Answer:  blocklists.Answer{Mode: blocklists.NODATA},
			EDE:     17,
			Tiers:   []blocklists.Tier{blocklists.TierExclusive, blocklists.TierVendor},
			Lists: []blocklists.List{
				{Name: "example", Source: lists + "chat-example.txt", Format: "domains", Tier: blocklists.TierExclusive},
				{
					Name: "example-app", Source: lists + "chat-example-app.txt", Format: "hosts",
					Tier: blocklists.TierVendor, Signal: blocklists.SignalApp,
					Answer: blocklists.Answer{Mode: blocklists.Addresses, IPv4: netip.MustParseAddr("192.0.2.80"), IPv6: netip.MustParseAddr("2001:db8::80")},
				},
				{Name: "example-mirrors", Source: lists + "chat-example-mirrors.txt", Format: "domains", Tier: blocklists.TierExclusive, Embeds: true},
				{
					Name: "example-feed", Source: "https://lists.example.org/chat.txt", Format: "domains", Tier: blocklists.TierExclusive,
					Feed: &blocklists.Feed{
						Interval: 30 * time.Minute, Timeout: time.Minute, StaleAfter: 12 * time.Hour, MaxSize: 16 << 20,
						Proxy:    &url.URL{Scheme: "http", Host: "192.0.2.8:3128"},
						Networks: []netip.Prefix{netip.MustParsePrefix("10.40.0.0/24")},
						Minisign: "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3",
						Growth:   blocklists.Drift{Percent: 100, Rules: 1000}, Shrink: blocklists.Drift{Percent: 30, Rules: 100},
						Hold: true, Canary: "executives",
					},
				},
				{
					Name: "example-pinned", Source: "https://lists.example.org/chat-2026.txt", Format: "domains", Tier: blocklists.TierExclusive,
					Feed: &blocklists.Feed{ // with all defaults
						Interval: time.Hour, Timeout: 2 * time.Minute, StaleAfter: 24 * time.Hour, MaxSize: 64 << 20,
						SHA256: "6a2da20943931e9834fc12cfe5bb47bbd9ae43489a30726962b576f4e3993e50",
						Growth: blocklists.Drift{Percent: 100, Rules: 1000}, Shrink: blocklists.Drift{Percent: 30, Rules: 100},
					},
				},
				{
					Name: "example-zone", Source: "rpz://192.0.2.9/policy.example.net", Format: "rpz", Tier: blocklists.TierExclusive,
					Feed: &blocklists.Feed{
						Interval: time.Hour, Timeout: 2 * time.Minute, StaleAfter: 24 * time.Hour, MaxSize: 64 << 20,
						Growth: blocklists.Drift{Percent: 100, Rules: 1000}, Shrink: blocklists.Drift{Percent: 30, Rules: 100},
						Key: "xfr.example.org",
					},
				},
			},
			Vectors: lists + "chat-example-vectors.txt",
		}},
		Allow: []blocklists.Rule{
			{Kind: blocklists.Suffix, Action: blocklists.Allow, Name: "intranet.example.org", Line: lineOf(t, "examples/full.yml", "allow: ")},
			{Kind: blocklists.Exact, Action: blocklists.Allow, Name: "partner.example.net", Line: lineOf(t, "examples/full.yml", "allow: ")},
		},
		Protected: []blocklists.Rule{
			{Kind: blocklists.Under, Action: blocklists.Allow, Name: "emergency.example.org", Line: lineOf(t, "examples/full.yml", "protected: ")},
			{Kind: blocklists.Prefix, Action: blocklists.Allow, Prefix: netip.MustParsePrefix("198.51.100.0/28"), Line: lineOf(t, "examples/full.yml", "protected: ")},
		},
		Groups: []Group{
			{Name: "executives", Devices: prefixes("10.8.0.0/24", "2001:db8:8::/64")},
			{Name: "lab", Devices: prefixes("10.8.40.0/28"), Bans: []string{"wechat", "kaspersky"}, SNI: SNI{SNIReport, SNIReport, SNIReport, SNIAllow, SNIReport, SNIAllow}},
		},
		Exemptions: []Exemption{
			{
				ID: "EX-1", Ban: "wechat", Device: netip.MustParsePrefix("10.8.0.7/32"),
				From: time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC), Until: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
				Ticket: "T-1", RequestedBy: "Head of the section", ApprovedBy: "Chief Security Officer",
				Reason: "Liaison with partners who have nothing else",
			},
			{
				ID: "EX-2", Ban: "tiktok", Group: "executives", Until: time.Date(2026, 6, 30, 17, 0, 0, 0, eastern),
				Ticket: "T-2", ApprovedBy: "Chief Security Officer", Reason: "Public campaign",
			},
			{
				ID: "EX-3", Name: "press.example.org", Device: netip.MustParsePrefix("10.8.0.9/32"), Until: time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC),
				Ticket: "T-3", ApprovedBy: "Chief Security Officer", Reason: "Media monitoring",
			},
		},
		MaxExemption: 180 * 24 * time.Hour,
		Audit:        Audit{filepath.Join(dir, "audit.jsonl"), PrivacyTruncated, Rotate{Megabytes: 512, Hours: 24, Keep: 400, Days: 365}},
		Admin: Admin{
			Listen: netip.MustParseAddrPort("192.0.2.1:8053"),
			Tokens: []AdminToken{
				{Name: "monitoring", Roles: []Role{RoleViewer}, SHA256: sha256.Sum256([]byte("secret of monitoring"))},
				{Name: "a.holder", Roles: []Role{RoleOperator, RoleApprover}, SHA256: sha256.Sum256([]byte("secret of a.holder")),
					Until: time.Date(2027, 7, 1, 0, 0, 0, 0, time.UTC)},
			},
			Approvers: []uint32{1000},
			TLS: AdminTLS{
				Cert: filepath.Join(dir, "admin.pem"), Key: filepath.Join(dir, "admin.key"), ClientCA: filepath.Join(dir, "admin-clients.pem"),
				Clients: []AdminClient{{Subject: "CN=b.holder,O=Example", Roles: []Role{RoleApprover}}},
			},
		},
		Log:   Log{Format: "json", Level: "info"},
		State: filepath.Join(dir, "state"),
	}
	got, expect := reflect.ValueOf(*c), reflect.ValueOf(*want)
	for i := range got.NumField() {
		if !got.Type().Field(i).IsExported() {
			continue
		}
		equal(t, got.Type().Field(i).Name, got.Field(i).Interface(), expect.Field(i).Interface())
	}
}

// Whoever reads a source says where the file names it; the first place counts.
func TestAt(t *testing.T) {
	const text = `bans:
- tiktok
- id: own
  title: Own
  authority: us
  reference: none
  vectors: "file:vectors.txt"
  lists:
  - {name: one, source: "file:a/../own.txt", format: hosts}
  - {name: two, source: "file:own.txt", format: domains}
`
	c := mustParse(t, "/etc/weir/weir.yml", text, bundles)
	broken := errors.New("it is broken")
	for source, want := range map[string]string{
		"file:/etc/weir/own.txt":      "/etc/weir/weir.yml:9:25: bans[1].lists[0].source: it is broken",
		"file:/etc/weir/vectors.txt":  "/etc/weir/weir.yml:7:12: bans[1].vectors: it is broken",
		"file:/etc/weir/other.txt":    "it is broken",
		"embedded:tiktok/domains.txt": "it is broken",
	} {
		if err := c.At(source, broken); err.Error() != want {
			t.Errorf("%s: got %v, want %s", source, err, want)
		}
	}
	if err := new(Config).At("file:/x", broken); err != broken {
		t.Errorf("the zero Config: %v", err)
	}
}

// A configuration that can be read only once would be another one on reload,
// and opening a FIFO would wait for ever.
func TestLoadRegularFile(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "weir.yml")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{fifo, filepath.Dir(fifo), os.DevNull} {
		if _, err := Load(file, bundles); err == nil || !strings.Contains(err.Error(), file+" is not a regular file") {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// An empty file is more likely an accident than a configuration.
func TestLoadEmpty(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weir.yml")
	for text, want := range map[string]string{
		"":       ":1:1: file: the file is empty",
		" \n\n":  ":1:1: file: the file is empty",
		"{}\n":   "",
		"# none": "",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(file, bundles)
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), file+want)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// lineOf returns the line, from 1, that begins so.
func lineOf(t *testing.T, file, begin string) int {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(data), "\n") {
		if strings.HasPrefix(line, begin) {
			return i + 1
		}
	}
	t.Fatalf("%s has no line that begins with %q", file, begin)
	return 0
}

// TestExamples loads each example, and sees that the files it names are there.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("examples/*.yml")
	if err != nil || len(files) < 4 {
		t.Fatalf("%d examples: %v", len(files), err)
	}
	for _, file := range files {
		c, err := Load(file, bans.FS)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		for _, b := range c.Bans {
			sources := []string{b.Vectors}
			for _, l := range b.Lists {
				sources = append(sources, l.Source)
			}
			for _, s := range sources {
				name, isFile := strings.CutPrefix(s, "file:")
				if _, err := os.Stat(name); isFile && err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
	}
}

// A file that says what it said is the same configuration; one that says anything
// else is another, and what is wrong of it is said every time.
func TestLoaderAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weir.yml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l := Loader{File: file, Bundles: bundles}
	load := func() *Config {
		t.Helper()
		c, err := l.Load()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	write("log: {level: warn}\n")
	first := load()
	write("log: {level: warn}\n") // anew, with another time
	if load() != first {
		t.Error("the same text is another configuration")
	}
	for range 2 {
		write("log: {level: none}\n")
		if _, err := l.Load(); err == nil || !strings.Contains(err.Error(), "log.level") {
			t.Errorf("a level that does not exist: %v", err)
		}
	}
	write("log: {level: info}\n")
	if c := load(); c == first || c.Log.Level != "info" {
		t.Errorf("level %q, want info", c.Log.Level)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is gone: %v", err)
	}
	if c, err := (&Loader{Bundles: bundles}).Load(); err != nil || c.File != "" {
		t.Errorf("no file: %v, want the built-in default", err)
	}
}

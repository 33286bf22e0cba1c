package bans_test

import (
	"encoding/hex"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/blocklists/parse"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/policy"
)

// This file takes the bundles through the code that runs: config decodes the
// bans, parse reads the lists, blocklists compiles them and policy judges.

// now is a time at which all bans are in force.
var now = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// builtIn returns the bans as config decodes them.
func builtIn(t *testing.T) []blocklists.Ban {
	t.Helper()
	c, err := config.Default(bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	return c.Bans
}

// A loader makes a snapshot of bans with their tiers and the protected names.
type loader struct {
	builder blocklists.Builder
	spec    policy.Spec
}

func (l *loader) add(t *testing.T, list policy.List, format, source string) {
	t.Helper()
	f, err := bans.FS.Open(strings.TrimPrefix(source, "embedded:"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	index := len(l.spec.Lists)
	report, err := parse.Load(parse.Format(format), f, parse.Limits{}, func(r blocklists.Rule) error {
		return l.builder.Add(index, r)
	})
	if err != nil {
		t.Fatalf("%s: %v", source, err)
	}
	for _, s := range report.Examples {
		t.Errorf("%s: %s", source, s.Error())
	}
	if report.Rules == 0 || report.Rules != report.RuleLines {
		t.Errorf("%s: %d rules of %d lines", source, report.Rules, report.RuleLines)
	}
	l.spec.Lists = append(l.spec.Lists, list)
}

func snapshot(t *testing.T, bs []blocklists.Ban, tiers ...blocklists.Tier) *policy.Snapshot {
	t.Helper()
	var l loader
	l.add(t, policy.List{Name: "protected", Role: policy.RoleProtected}, "domains", "embedded:protected.txt")
	for i := range bs {
		b := bs[i]
		b.Tiers = tiers
		l.spec.Bans = append(l.spec.Bans, &b)
		for _, list := range b.Lists {
			if b.Enabled(list.Tier) {
				l.add(t, policy.List{Name: list.Name, Ban: i, Signal: list.Signal, Answer: list.Answer}, list.Format, list.Source)
			}
		}
	}
	l.spec.Set = l.builder.Build()
	s, err := policy.NewSnapshot(l.spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// judge judges the target of a vector.
func judge(t *testing.T, s *policy.Snapshot, target string) policy.Verdict {
	t.Helper()
	if digits, ok := strings.CutPrefix(target, "bytes:"); ok {
		b, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatal(err)
		}
		return s.FlowEnd(policy.Subject{}, b, now)
	}
	if field, ok := strings.CutPrefix(target, "field:"); ok {
		name, value, _ := strings.Cut(field, "=")
		return s.Fields(policy.Subject{}, blocklists.Host{Name: "innocent.example"}, "/",
			func(yield func(string, string) bool) { yield(name, value) }, now)
	}
	host, path, isURL := strings.Cut(strings.TrimPrefix(target, "http://"), "/")
	if isURL {
		host = strings.TrimSuffix(host, ":80")
	}
	h, err := blocklists.ParseHost(host)
	if err != nil {
		t.Fatalf("%s: %v", target, err)
	}
	switch {
	case isURL:
		return s.Fields(policy.Subject{}, h, blocklists.CanonicalPath("/"+path), nil, now)
	case h.Addr.IsValid():
		return s.Addr(policy.Subject{}, h.Addr, now)
	}
	return s.Name(policy.Subject{}, h.Name, now)
}

// TestLoadedVectors checks the vectors of each ban alone, with the vendor tier
// off and on.
func TestLoadedVectors(t *testing.T) {
	bs := builtIn(t)
	var configured []string
	for i := range bs {
		configured = append(configured, bs[i].ID)
		for _, tiers := range [][]blocklists.Tier{{blocklists.TierExclusive}, {blocklists.TierExclusive, blocklists.TierVendor}} {
			on := map[string]bool{}
			for _, tier := range tiers {
				on[string(tier)] = true
			}
			s := snapshot(t, bs[i:i+1], tiers...)
			for _, v := range readVectors(t, bs[i].ID) {
				if !v.holds(on) {
					continue
				}
				got := judge(t, s, v.target)
				if got.Blocked() != v.block || got.Allowed() == v.block {
					t.Errorf("%s/vectors.txt:%d: %s: %s (%s, rule %s) with tiers %v", bs[i].ID, v.line, v.target, got.Action, got.Reason, got.RuleID(), tiers)
				}
			}
		}
	}
	if !slices.Equal(configured, ids) {
		t.Errorf("config has the bans %v, want %v", configured, ids)
	}
}

// TestLoadedTogether checks the default policy: all bans, exclusive tier.
func TestLoadedTogether(t *testing.T) {
	s := snapshot(t, builtIn(t), blocklists.TierExclusive)
	for _, id := range ids {
		for _, v := range readVectors(t, id) {
			if !v.holds(exclusiveOnly) {
				continue
			}
			if got := judge(t, s, v.target); got.Blocked() != v.block {
				t.Errorf("%s/vectors.txt:%d: %s: %s, rule %s", id, v.line, v.target, got.Action, got.RuleID())
			}
		}
	}
	for _, c := range []struct {
		target, ban, list string
		mode              blocklists.Mode
		signal            blocklists.Signal
	}{
		{"WeChat.COM.", "wechat", "wechat", blocklists.NXDOMAIN, blocklists.SignalNone},
		{"long.weixin.qq.com", "wechat", "wechat-signals", blocklists.NXDOMAIN, blocklists.SignalApp},
		{"open.weixin.qq.com", "wechat", "wechat", blocklists.NXDOMAIN, blocklists.SignalNone},
		{"dns.weixin.qq.com", "wechat", "", blocklists.NXDOMAIN, blocklists.SignalApp},
		{"43.130.30.240", "wechat", "wechat-prefixes", blocklists.NXDOMAIN, blocklists.SignalNone},
		{"64:ff9b::2b82:1ef0", "wechat", "wechat-prefixes", blocklists.NXDOMAIN, blocklists.SignalNone},
		{"http://dldir1.qq.com/weixin/android/a.apk", "wechat", "wechat-urls", blocklists.NXDOMAIN, blocklists.SignalNone},
		{"touch.kaspersky.com", "kaspersky", "kaspersky-signals", blocklists.NXDOMAIN, blocklists.SignalApp},
		{"www.kaspersky.ca", "kaspersky", "kaspersky", blocklists.NXDOMAIN, blocklists.SignalNone},
		{"api16-normal-c-useast1a.tiktokv.com", "tiktok", "tiktok-signals", blocklists.NXDOMAIN, blocklists.SignalApp},
		{"analytics.tiktok.com", "tiktok", "tiktok", blocklists.NXDOMAIN, blocklists.SignalNone},
		{"dig.bdurl.net", "tiktok", "tiktok-signals", blocklists.NXDOMAIN, blocklists.SignalApp},
		{"mask.icloud.com", "bypass", "bypass-canaries", blocklists.NXDOMAIN, blocklists.SignalNone},
		{"_dns.resolver.arpa", "bypass", "bypass-ddr", blocklists.NODATA, blocklists.SignalNone},
		{"dns.google", "bypass", "bypass-doh", blocklists.NXDOMAIN, blocklists.SignalNone},
		{"8.8.8.8", "bypass", "bypass-prefixes", blocklists.NXDOMAIN, blocklists.SignalNone},
	} {
		v := judge(t, s, c.target)
		if !v.Blocked() || v.Ban.ID != c.ban || c.list != "" && v.List != c.list || v.Answer.Mode != c.mode || v.Signal != c.signal {
			t.Errorf("%s: %+v; want ban %s, list %q, answer %s, signal %q", c.target, v, c.ban, c.list, c.mode, c.signal)
		}
	}
}

// TestLoadedProtected checks that an imported list which holds protected names
// cannot hold them back, and that no built-in name slips through with them.
func TestLoadedProtected(t *testing.T) {
	var l loader
	l.add(t, policy.List{Name: "protected", Role: policy.RoleProtected}, "domains", "embedded:protected.txt")
	l.spec.Bans = []*blocklists.Ban{{ID: "imported"}}
	l.spec.Lists = append(l.spec.Lists, policy.List{Name: "imported"})
	for _, n := range []string{"apple.com", "google.com", "googleapis.com", "windows.com", "microsoft.com", "digicert.com", "msftconnecttest.com", "gc.ca", "canada.ca"} {
		if err := l.builder.Add(1, blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Block, Name: n, Line: 1}); err != nil {
			t.Fatal(err)
		}
	}
	l.spec.Set = l.builder.Build()
	s, err := policy.NewSnapshot(l.spec)
	if err != nil {
		t.Fatal(err)
	}
	for target, protected := range map[string]bool{
		"1-courier.push.apple.com": true, "mtalk.google.com": true, "safebrowsing.googleapis.com": true, "client.wns.windows.com": true,
		"ocsp.digicert.com": true, "www.msftconnecttest.com": true, "tbs-sct.gc.ca": true, "www.canada.ca": true, "time.windows.com": true,
		"www.apple.com": false, "www.google.com": false, "x.mtalk.google.com": false, "storage.googleapis.com": false, "www.microsoft.com": false, "www.digicert.com": false,
	} {
		v := judge(t, s, target)
		if v.Blocked() == protected || protected && v.Reason != policy.ReasonProtected {
			t.Errorf("%s: %s (%s), protected %t", target, v.Action, v.Reason, protected)
		}
	}
}

// TestLoadedBans checks what config made of the facts.
func TestLoadedBans(t *testing.T) {
	for _, b := range builtIn(t) {
		if b.Title.EN == "" || b.Title.FR == "" || b.Authority.EN == "" || b.Authority.FR == "" || b.Reference == "" || b.Contact.EN == "" || b.Contact.FR == "" {
			t.Errorf("%s: a text is missing: %+v", b.ID, b)
		}
		if !b.InForce(now) || !b.Enabled(blocklists.TierExclusive) || b.Enabled(blocklists.TierVendor) || b.EDE != 15 {
			t.Errorf("%s: in force %t, tiers %v, EDE %d", b.ID, b.InForce(now), b.Tiers, b.EDE)
		}
		if _, err := fs.Stat(bans.FS, strings.TrimPrefix(b.Vectors, "embedded:")); err != nil {
			t.Errorf("%s: %v", b.ID, err)
		}
		// Ordered bans have a first day; the operator's own has none.
		dated := !b.Effective.IsZero()
		if dated != (b.Strength == blocklists.Ordered) || dated && b.InForce(b.Effective.Add(-time.Second)) {
			t.Errorf("%s: strength %q, effective %s", b.ID, b.Strength, b.Effective)
		}
	}
}

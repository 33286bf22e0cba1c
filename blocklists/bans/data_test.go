package bans_test

import (
	"bufio"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/bench/corpus"
)

// This file compares the bundles with the facts that they were made from.

// facts returns the names of a file of facts by tier, in its order.
func facts(t *testing.T, file string) map[string][]string {
	t.Helper()
	tiers := map[string][]string{}
	tier := ""
	for _, line := range lines(t, file) {
		if rest, ok := strings.CutPrefix(line, "#@tier "); ok {
			tier = strings.Fields(rest)[0]
		}
		line, _, _ = strings.Cut(line, "#")
		if name := strings.TrimSpace(line); name != "" {
			tiers[tier] = append(tiers[tier], name)
		}
	}
	if len(tiers["exclusive"]) == 0 || len(tiers["vendor"]) == 0 {
		t.Fatalf("%s has no names", file)
	}
	return tiers
}

func lines(t *testing.T, file string) []string {
	t.Helper()
	var out []string
	scan := bufio.NewScanner(corpus.Open(t, file))
	for scan.Scan() {
		out = append(out, scan.Text())
	}
	if err := scan.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// names returns the rules of a file of a bundle as written.
func names(t *testing.T, file string) []string {
	t.Helper()
	var out []string
	for _, r := range readRules(t, file, "domains") {
		out = append(out, r.text)
	}
	return out
}

// TestTiersOfTheFacts checks that the lists of names hold the facts, all of
// them and nothing else, each in its tier; and that names of shared
// infrastructure are in no list and have a must-allow vector.
func TestTiersOfTheFacts(t *testing.T) {
	for _, id := range []string{"wechat", "kaspersky", "tiktok"} {
		tiers := facts(t, id+".txt")
		for tier, file := range map[string]string{"exclusive": "domains.txt", "vendor": "vendor.txt"} {
			want, got := slices.Sorted(slices.Values(tiers[tier])), slices.Sorted(slices.Values(names(t, id+"/"+file)))
			for _, n := range want {
				if !slices.Contains(got, n) {
					t.Errorf("%s/%s lacks %s", id, file, n)
				}
			}
			for _, n := range got {
				if !slices.Contains(want, n) {
					t.Errorf("%s/%s has %s, which is not a fact of tier %s", id, file, n, tier)
				}
			}
		}
		b := readBan(t, id)
		for _, n := range tiers["infra"] {
			if b.blocks(slowTarget{name: n}, bothTiers) {
				t.Errorf("%s blocks %s, the infrastructure of others", id, n)
			}
			if !slices.ContainsFunc(readVectors(t, id), func(v slowVector) bool { return !v.block && v.target == n && v.tier == "" }) {
				t.Errorf("%s has no must-allow vector for %s", id, n)
			}
		}
	}
}

// leftOut are hosts of the public lists that lead to strangers too; doh.txt
// says so.
var leftOut = map[string]bool{"opencdn.jomodns.com": true}

// TestBypassHosts checks that every host of the facts is blocked, and that
// every rule comes from one of them.
func TestBypassHosts(t *testing.T) {
	b := readBan(t, "bypass")
	hosts := names(t, "bypass/ech.txt") // no resolvers, so none of the facts
	for _, line := range lines(t, "bypass-hosts.txt") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		host, _, _ := strings.Cut(line, "\t")
		hosts = append(hosts, host)
		if got := b.blocks(slowTarget{name: host}, exclusiveOnly); got == leftOut[host] {
			t.Errorf("%s: blocked=%t, want %t", host, got, !leftOut[host])
		}
	}
	if len(hosts) < 501 {
		t.Fatalf("only %d hosts", len(hosts))
	}
	for _, l := range b.Lists {
		for i := range l.rules {
			r := &l.rules[i]
			if r.form == 'p' || r.allow {
				continue
			}
			if !slices.ContainsFunc(hosts, func(h string) bool { return r.matches(slowTarget{name: h}) }) {
				t.Errorf("%s:%d: %s is none of the hosts", l.Source, r.line, r.text)
			}
		}
	}
}

// sharedFronts are addresses that the facts call resolvers and that serve
// ordinary sites too; bypass/prefixes.txt says so.
var sharedFronts = []string{"104.16.132.229/32", "104.16.133.229/32", "104.28.0.106/32", "104.28.1.106/32", "104.28.12.215/32", "104.28.13.215/32"}

// TestAddressesOfTheFacts checks that each prefix is in the list of its app and
// confidence: high where it may be blocked, medium of one dated measurement or
// of a whole vendor only behind the vendor tier, low nowhere; and that no list
// has a prefix that is not a fact.
func TestAddressesOfTheFacts(t *testing.T) {
	lists := map[string]map[string][]netip.Prefix{} // by ban and tier
	for _, id := range ids {
		lists[id] = map[string][]netip.Prefix{}
		for _, l := range readBan(t, id).Lists {
			for _, r := range l.rules {
				if r.form == 'p' {
					lists[id][l.Tier] = append(lists[id][l.Tier], r.addr)
				}
			}
		}
	}
	facts := map[string][]netip.Prefix{}
	for _, line := range lines(t, "ips.txt") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, "\t")
		p, app, confidence := netip.MustParsePrefix(f[0]), f[1], f[3]
		want := tierOf(f[0], app, confidence)
		for _, tier := range []string{"exclusive", "vendor"} {
			in := func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) }
			// A wide prefix of low confidence may hold an address of its own
			// standing, but must not be blocked as a whole.
			if got := slices.ContainsFunc(lists[app][tier], in); got != (tier == want) {
				t.Errorf("%s (%s, %s, %s): in tier %s is %t", p, app, f[2], confidence, tier, got)
			}
		}
		if want != "" {
			facts[app] = append(facts[app], p)
		}
	}
	for id, tiers := range lists {
		for tier, prefixes := range tiers {
			for _, p := range prefixes {
				if !covers(facts[id], p) {
					t.Errorf("%s, tier %s: %s is not made of facts", id, tier, p)
				}
			}
		}
	}
}

func tierOf(prefix, app, confidence string) string {
	switch {
	case confidence == "low" || slices.Contains(sharedFronts, prefix):
		return ""
	case app == "wechat" && confidence == "medium", app == "tiktok":
		return "vendor"
	}
	return "exclusive"
}

// covers reports whether every address of p is in one of the facts, which are
// single addresses where p was written together from several.
func covers(facts []netip.Prefix, p netip.Prefix) bool {
	if slices.Contains(facts, p) {
		return true
	}
	n := 0
	for _, f := range slices.Compact(slices.SortedFunc(slices.Values(facts), netip.Prefix.Compare)) {
		if f.IsSingleIP() && p.Contains(f.Addr()) {
			n++
		}
	}
	return n == 1<<(p.Addr().BitLen()-p.Bits())
}

package policy

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// block and allow make rules, in the spelling of blocklists.Rule.String.
func block(line int, s string) blocklists.Rule { return rule(blocklists.Block, line, s) }
func allow(line int, s string) blocklists.Rule { return rule(blocklists.Allow, line, s) }

func rule(action blocklists.Action, line int, s string) blocklists.Rule {
	r := blocklists.Rule{Kind: blocklists.Suffix, Action: action, Line: line}
	if p, err := netip.ParsePrefix(s); err == nil {
		r.Kind, r.Prefix = blocklists.Prefix, p
		return r
	}
	if rest, ok := strings.CutPrefix(s, "="); ok {
		r.Kind, s = blocklists.Exact, rest
	}
	r.Name = s
	if i := strings.IndexByte(s, '/'); i >= 0 {
		r.Name, r.Path = s[:i], s[i:]
	}
	return r
}

func build(t testing.TB, lists [][]blocklists.Rule) *blocklists.Set {
	t.Helper()
	var b blocklists.Builder
	for i, rules := range lists {
		for _, r := range rules {
			if err := b.Add(i, r); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b.Build()
}

func snapshot(t testing.TB, spec Spec) *Snapshot {
	t.Helper()
	s, err := NewSnapshot(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func device(s string) Subject {
	if s == "" {
		return Subject{}
	}
	return Subject{netip.MustParseAddr(s)}
}

func prefixes(ss ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// house is the policy of most tests here: two bans in force, one to come, an
// operator's and a protected list.
func house(t testing.TB) Spec {
	return Spec{
		Generation: 7,
		Bans: []*blocklists.Ban{
			{ID: "wechat"},
			{ID: "tiktok", Answer: blocklists.Answer{Mode: blocklists.Refused}},
			{ID: "later", Effective: noon.Add(time.Hour)},
		},
		Lists: []List{
			{Name: "wechat-app", Ban: 0, Signal: blocklists.SignalApp},
			{Name: "wechat-web", Ban: 0},
			{Name: "tiktok", Ban: 1},
			{Name: "later", Ban: 2},
			{Name: "operator", Role: RoleOperator},
			{Name: "protected", Role: RoleProtected},
		},
		Set: build(t, [][]blocklists.Rule{
			{block(1, "wechat.example"), allow(2, "mail.wechat.example"), block(3, "both.example"), block(4, "op.example"), block(5, "prot.example"), block(6, "opprot.example"), block(7, "192.0.2.0/24"), block(8, "soon.both.example")},
			{block(1, "web.example"), block(2, "deep.wechat.example"), allow(3, "192.0.2.128/25")},
			{block(1, "tiktok.example"), block(2, "x.both.example"), block(3, "host.example/app^"), allow(4, "only.example")},
			{block(1, "later.example"), block(2, "soon.both.example"), block(3, "soon.op.example")},
			{allow(1, "op.example"), allow(2, "opprot.example"), block(3, "innocent.example"), allow(4, "soon.op.example")},
			{allow(1, "prot.example"), allow(2, "opprot.example"), allow(3, "mail.wechat.example")},
		}),
		Groups: []Group{
			{Name: "staff", Devices: prefixes("10.8.0.0/16")},
			{Name: "executives", Devices: prefixes("10.8.1.0/24", "2001:db8:1::/48"), Bans: []string{"tiktok", "later"}},
			{Name: "lab", Devices: prefixes("10.8.1.64/26"), Bans: []string{}},
		},
		Exemptions: []Exemption{
			{ID: "EX-1", Device: netip.MustParsePrefix("10.8.0.7/32"), Ban: "wechat", Until: noon.Add(time.Minute)},
			{ID: "EX-2", Group: "executives", Ban: "tiktok", From: noon, Until: noon.Add(time.Hour)},
			{ID: "EX-3", Device: netip.MustParsePrefix("10.8.0.8/32"), Ban: "later", Until: noon.Add(2 * time.Hour)},
		},
	}
}

// spell is what of a verdict the tables name: action, reason, rule, and beside
// it the exemption, the group and the signal.
func spell(v Verdict) string {
	words := []string{v.Action.String(), "(" + v.Reason.String() + ")", v.RuleID()}
	if v.Ban != nil {
		words = append(words, "ban="+v.Ban.ID)
	}
	if v.Exemption != nil {
		words = append(words, v.Exemption.ID)
	}
	if v.Signal != "" {
		words = append(words, "signal="+string(v.Signal))
	}
	if v.Group != "" {
		words = append(words, "group="+v.Group)
	}
	return strings.Join(strings.Fields(strings.Join(words, " ")), " ")
}

func TestName(t *testing.T) {
	s := snapshot(t, house(t))
	tests := []struct {
		about, device, name string
		after               time.Duration // after noon
		want                string
	}{
		{"nobody's name", "192.168.0.1", "free.example", 0, "allow (no rule)"},
		{"a ban in force", "192.168.0.1", "a.wechat.example", 0, "block (ban) wechat-app:1 ban=wechat signal=app"},
		{"a name that pages embed", "192.168.0.1", "web.example", 0, "block (ban) wechat-web:1 ban=wechat"},
		{"unknown device", "", "tiktok.example", 0, "block (ban) tiktok:1 ban=tiktok"},
		{"allow rule of the same list", "192.168.0.1", "mail.wechat.example", 0, "allow (protected) protected:3"},
		{"the more specific list of one ban is cited", "192.168.0.1", "deep.wechat.example", 0, "block (ban) wechat-web:2 ban=wechat signal=app"},
		{"the first ban is cited, whatever is more specific", "192.168.0.1", "x.both.example", 0, "block (ban) wechat-app:3 ban=wechat signal=app"},
		{"a list that only allows", "192.168.0.1", "only.example", 0, "allow (list allows) tiktok:4 ban=tiktok"},
		{"a rule with a path is not about names", "192.168.0.1", "host.example", 0, "allow (no rule)"},

		{"operator over ban", "192.168.0.1", "op.example", 0, "allow (operator allows) operator:1 signal=app"},
		{"protected over ban", "192.168.0.1", "prot.example", 0, "allow (protected) protected:1 signal=app"},
		{"operator is cited before protected", "192.168.0.1", "opprot.example", 0, "allow (operator allows) operator:2 signal=app"},
		{"an operator's list blocks nothing", "192.168.0.1", "innocent.example", 0, "allow (no rule)"},
		{"operator over ban to come", "192.168.0.1", "soon.op.example", 0, "allow (operator allows) operator:4 signal=app"},

		{"to come: reports", "192.168.0.1", "later.example", 0, "report (not yet effective) later:1 ban=later"},
		{"to come: a nanosecond before", "192.168.0.1", "later.example", time.Hour - 1, "report (not yet effective) later:1 ban=later"},
		{"effective to the second", "192.168.0.1", "later.example", time.Hour, "block (ban) later:1 ban=later"},
		{"a ban in force beside one to come", "192.168.0.1", "soon.both.example", 0, "block (ban) wechat-app:8 ban=wechat signal=app"},

		{"exempt device", "10.8.0.7", "wechat.example", 0, "allow (exemption) wechat-app:1 ban=wechat EX-1 group=staff"},
		{"exempt device, mapped", "::ffff:10.8.0.7", "wechat.example", 0, "allow (exemption) wechat-app:1 ban=wechat EX-1 group=staff"},
		{"its neighbour", "10.8.0.6", "wechat.example", 0, "block (ban) wechat-app:1 ban=wechat signal=app group=staff"},
		{"exemption over operator", "10.8.0.7", "op.example", 0, "allow (exemption) wechat-app:4 ban=wechat EX-1 group=staff"},
		{"exempt from one ban, not from the other", "10.8.0.7", "x.both.example", 0, "block (ban) tiktok:2 ban=tiktok group=staff"},
		{"exempt from one ban, the other to come", "10.8.0.7", "soon.both.example", 0, "report (not yet effective) later:2 ban=later group=staff"},
		{"exempt, where the list allows anyway", "10.8.0.7", "deep.wechat.example", 0, "allow (exemption) wechat-web:2 ban=wechat EX-1 group=staff"},
		{"exempt, of a name in no ban", "10.8.0.7", "free.example", 0, "allow (no rule) group=staff"},
		{"exemption: the last moment", "10.8.0.7", "wechat.example", time.Minute - 1, "allow (exemption) wechat-app:1 ban=wechat EX-1 group=staff"},
		{"exemption: over", "10.8.0.7", "wechat.example", time.Minute, "block (ban) wechat-app:1 ban=wechat signal=app group=staff"},
		{"exempt from a ban to come", "10.8.0.8", "later.example", 0, "allow (exemption) later:1 ban=later EX-3 group=staff"},
		{"exempt from a ban to come, once it is in force", "10.8.0.8", "later.example", time.Hour, "allow (exemption) later:1 ban=later EX-3 group=staff"},
		{"exempt group: before", "10.8.1.1", "tiktok.example", -1, "block (ban) tiktok:1 ban=tiktok group=executives"},
		{"exempt group: from its first moment", "10.8.1.1", "tiktok.example", 0, "allow (exemption) tiktok:1 ban=tiktok EX-2 group=executives"},
		{"exempt group: over", "10.8.1.1", "tiktok.example", time.Hour, "block (ban) tiktok:1 ban=tiktok group=executives"},

		{"a group's bans", "10.8.1.1", "wechat.example", 0, "allow (no rule) group=executives"},
		{"a group's bans, by IPv6", "2001:db8:1::5", "wechat.example", 0, "allow (no rule) group=executives"},
		{"a group's bans, with a zone", "2001:db8:1::5%wg0", "wechat.example", 0, "allow (no rule) group=executives"},
		{"a group without the first of two bans", "10.8.1.1", "x.both.example", -1, "block (ban) tiktok:2 ban=tiktok group=executives"},
		{"no bans at all", "10.8.1.65", "tiktok.example", 0, "allow (no rule) group=lab"},
		{"no bans at all, of a list that only allows", "10.8.1.65", "only.example", 0, "allow (no rule) group=lab"},
		{"no bans at all, operator", "10.8.1.65", "op.example", 0, "allow (operator allows) operator:1 group=lab"},
		{"the longest prefix is the group", "::ffff:10.8.1.130", "tiktok.example", time.Hour, "block (ban) tiktok:1 ban=tiktok group=executives"},
		{"outside all groups", "10.9.0.1", "later.example", time.Hour, "block (ban) later:1 ban=later"},
	}
	for _, tt := range tests {
		v := s.Name(device(tt.device), tt.name, noon.Add(tt.after))
		if got := spell(v); got != tt.want {
			t.Errorf("%s: %s asks for %s:\n got %s\nwant %s", tt.about, tt.device, tt.name, got, tt.want)
		}
		if v.Generation != 7 {
			t.Errorf("%s: generation %d", tt.about, v.Generation)
		}
		if v.Blocked() == v.Allowed() {
			t.Errorf("%s: blocked %v, allowed %v", tt.about, v.Blocked(), v.Allowed())
		}
		if (v.Answer.Mode != blocklists.ModeDefault) != v.Blocked() {
			t.Errorf("%s: answer mode %v of %v", tt.about, v.Answer.Mode, v.Action)
		}
		if got := s.Group(device(tt.device)); got != v.Group {
			t.Errorf("%s: Group = %q, in the verdict %q", tt.about, got, v.Group)
		}
	}
}

func TestURL(t *testing.T) {
	s := snapshot(t, house(t))
	for url, want := range map[string]string{
		"host.example/app":     "block (ban) tiktok:3 ban=tiktok",
		"x.host.example/app/1": "block (ban) tiktok:3 ban=tiktok",
		"host.example/apple":   "allow (no rule)",
		"host.example/":        "allow (no rule)",
		"wechat.example/any":   "block (ban) wechat-app:1 ban=wechat signal=app",
		"op.example/any":       "allow (operator allows) operator:1 signal=app",
	} {
		i := strings.IndexByte(url, '/')
		if got := spell(s.URL(Subject{}, url[:i], url[i:], noon)); got != want {
			t.Errorf("%s:\n got %s\nwant %s", url, got, want)
		}
	}
}

func TestAddr(t *testing.T) {
	s := snapshot(t, house(t))
	banned, freed := "block (ban) wechat-app:7 ban=wechat signal=app", "allow (no rule)"
	for addr, want := range map[string]string{
		"192.0.2.1":               banned,
		"::ffff:192.0.2.1":        banned,
		"64:ff9b::192.0.2.1":      banned,
		"2002:c000:201::1":        banned, // 6to4
		"2001::3fff:fdfe":         banned, // Teredo: inverted
		"fe80::5efe:192.0.2.1":    banned, // ISATAP
		"::192.0.2.1":             banned,
		"64:ff9b::192.0.2.1%eth0": banned,
		"192.0.2.200":             banned, // the other list's allow rule frees that list only
		"192.0.3.1":               freed,
		"64:ff9b::192.0.3.1":      freed,
		"2001:db8::192.0.2.1":     freed, // no form that embeds an address
	} {
		if got := spell(s.Addr(Subject{}, netip.MustParseAddr(addr), noon)); got != want {
			t.Errorf("%s:\n got %s\nwant %s", addr, got, want)
		}
	}
	if got := spell(s.Addr(Subject{}, netip.Addr{}, noon)); got != freed {
		t.Errorf("no address: %s", got)
	}
}

// TestListsOfOneBan: an allow rule frees what its own list blocks, and nothing
// that another list blocks, in whatever order the lists stand.
func TestListsOfOneBan(t *testing.T) {
	frees := []blocklists.Rule{block(1, "a.example"), allow(2, "x.a.example")}
	blocks := []blocklists.Rule{block(1, "a.example")}
	tests := []struct {
		about string
		lists [][]blocklists.Rule
		bans  []int
		want  string
	}{
		{"one list", [][]blocklists.Rule{frees}, []int{0}, "allow (list allows) l0:2 ban=b0"},
		{"the other list of the ban blocks", [][]blocklists.Rule{frees, blocks}, []int{0, 0}, "block (ban) l1:1 ban=b0"},
		{"and before it", [][]blocklists.Rule{blocks, frees}, []int{0, 0}, "block (ban) l0:1 ban=b0"},
		{"the list of another ban blocks", [][]blocklists.Rule{frees, blocks}, []int{0, 1}, "block (ban) l1:1 ban=b1"},
		{"of equals the first list is cited", [][]blocklists.Rule{blocks, blocks}, []int{0, 0}, "block (ban) l0:1 ban=b0"},
		{"the first ban, not the first list", [][]blocklists.Rule{blocks, blocks}, []int{1, 0}, "block (ban) l1:1 ban=b0"},
	}
	for _, tt := range tests {
		spec := Spec{Set: build(t, tt.lists), Bans: []*blocklists.Ban{{ID: "b0"}, {ID: "b1"}}}
		for i, ban := range tt.bans {
			spec.Lists = append(spec.Lists, List{Name: "l" + string(rune('0'+i)), Ban: ban})
		}
		if got := spell(snapshot(t, spec).Name(Subject{}, "x.a.example", noon)); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.about, got, tt.want)
		}
	}
}

func TestAnswer(t *testing.T) {
	addresses := blocklists.Answer{Mode: blocklists.Addresses, IPv4: netip.MustParseAddr("192.0.2.1")}
	mode := func(m blocklists.Mode) blocklists.Answer { return blocklists.Answer{Mode: m} }
	none := blocklists.Answer{}
	tests := []struct {
		about                  string
		rule                   blocklists.Mode
		list, ban, all, answer blocklists.Answer
	}{
		{"nobody says", 0, none, none, none, mode(blocklists.NXDOMAIN)},
		{"the configuration", 0, none, none, addresses, addresses},
		{"the ban", 0, none, mode(blocklists.Refused), addresses, mode(blocklists.Refused)},
		{"the ban's addresses", 0, none, addresses, mode(blocklists.Drop), addresses},
		{"the list", 0, mode(blocklists.NODATA), addresses, addresses, mode(blocklists.NODATA)},
		{"the list's addresses", 0, addresses, mode(blocklists.Drop), none, addresses},
		{"the rule", blocklists.Null, addresses, addresses, addresses, mode(blocklists.Null)},
	}
	for _, tt := range tests {
		r := block(1, "a.example")
		r.Mode = tt.rule
		s := snapshot(t, Spec{
			Set:    build(t, [][]blocklists.Rule{{r}}),
			Lists:  []List{{Name: "l", Answer: tt.list}},
			Bans:   []*blocklists.Ban{{ID: "b", Answer: tt.ban}},
			Answer: tt.all,
		})
		if v := s.Name(Subject{}, "a.example", noon); v.Answer != tt.answer {
			t.Errorf("%s: got %+v, want %+v", tt.about, v.Answer, tt.answer)
		}
	}
}

func TestNewSnapshotRefuses(t *testing.T) {
	tests := []struct {
		about  string
		change func(*Spec)
		want   string
	}{
		{"a list of the set is not described", func(s *Spec) { s.Lists = s.Lists[:3] }, "set has 6 lists, only 3 are described"},
		{"a list of no ban", func(s *Spec) { s.Lists[2].Ban = 3 }, "list tiktok belongs to no ban"},
		{"a list of a negative ban", func(s *Spec) { s.Lists[2].Ban = -1 }, "list tiktok belongs to no ban"},
		{"a ban twice", func(s *Spec) { s.Bans = append(s.Bans, s.Bans[0]) }, "ban wechat is there twice"},
		{"a group's unknown ban", func(s *Spec) { s.Groups[0].Bans = []string{"x"} }, "group staff has ban x, which is not there"},
		{"devices of two groups", func(s *Spec) { s.Groups[0].Devices = prefixes("10.8.1.9/24") }, "devices 10.8.1.0/24 are in group staff and in group executives"},
		{"devices of two groups, mapped", func(s *Spec) { s.Groups[0].Devices = prefixes("::ffff:10.8.1.0/120") }, "devices 10.8.1.0/24 are in group staff and in group executives"},
		{"an exemption from a ban and for a name", func(s *Spec) { s.Exemptions[0].Name = "a.example" }, "exemption EX-1 is from a ban and for a name; it is for one of them"},
		{"an exemption's unknown ban", func(s *Spec) { s.Exemptions[0].Ban = "x" }, "exemption EX-1 is from ban x, which is not there"},
	}
	for _, tt := range tests {
		spec := house(t)
		tt.change(&spec)
		s, err := NewSnapshot(spec)
		if err == nil || err.Error() != tt.want || s != nil {
			t.Errorf("%s: %v, %v; want error %q", tt.about, s, err, tt.want)
		}
	}
}

func TestMappedDevices(t *testing.T) {
	spec := house(t)
	spec.Groups[1].Devices = prefixes("::ffff:10.8.1.0/120")
	spec.Exemptions[0].Device = netip.MustParsePrefix("::ffff:10.8.0.7/128")
	s := snapshot(t, spec)
	for _, d := range []string{"10.8.0.7", "::ffff:10.8.0.7"} {
		if v := s.Name(device(d), "wechat.example", noon); v.Reason != ReasonExemption {
			t.Errorf("%s: %s", d, spell(v))
		}
	}
	if got := s.Group(device("10.8.1.1")); got != "executives" {
		t.Errorf("group %q", got)
	}
}

// TestManyBans: the masks of groups are more than one word.
func TestManyBans(t *testing.T) {
	const n = 200
	spec := Spec{Groups: []Group{{Name: "g", Devices: prefixes("10.0.0.0/8")}}}
	var lists [][]blocklists.Rule
	for i := range n {
		id := "b" + strings.Repeat("x", i)
		spec.Bans = append(spec.Bans, &blocklists.Ban{ID: id})
		spec.Lists = append(spec.Lists, List{Name: id, Ban: i})
		lists = append(lists, []blocklists.Rule{block(1, "a.example")})
		if i == 63 || i == 64 || i == n-1 {
			spec.Groups = append(spec.Groups, Group{Name: id, Devices: prefixes("10.0.0." + map[int]string{63: "63", 64: "64", n - 1: "199"}[i] + "/32"), Bans: []string{id}})
		}
	}
	spec.Set = build(t, lists)
	s := snapshot(t, spec)
	for addr, ban := range map[string]int{"10.0.0.1": 0, "10.0.0.63": 63, "10.0.0.64": 64, "10.0.0.199": n - 1} {
		if v := s.Name(device(addr), "a.example", noon); !v.Blocked() || v.Ban != spec.Bans[ban] {
			t.Errorf("%s: %s", addr, spell(v))
		}
	}
}

func TestZeroVerdictDecidesNothing(t *testing.T) {
	var v Verdict
	if v.Allowed() || v.Blocked() || v.RuleID() != "" || v.Action.String() != "undecided" || v.Reason.String() != "none" {
		t.Errorf("the zero verdict is %s, allowed %v, blocked %v", spell(v), v.Allowed(), v.Blocked())
	}
	covers := func(e Exemption, sub Subject) bool {
		e.Until = noon.Add(time.Hour)
		var x exemptions
		x.add(&e)
		return x.live(sub, "", noon) != nil
	}
	if e := new(Exemption); e.Live(noon) || e.Live(time.Time{}) || covers(*e, Subject{}) || covers(*e, device("::")) {
		t.Error("the zero exemption permits something")
	}
	if e := (Exemption{Group: "g", Device: netip.MustParsePrefix("0.0.0.0/0")}); covers(e, device("10.0.0.1")) {
		t.Error("an exemption of a group covers a device outside")
	}
}

func TestEmptySpec(t *testing.T) {
	s := snapshot(t, Spec{})
	for _, v := range []Verdict{s.Name(Subject{}, "a.example", noon), s.URL(Subject{}, "a.example", "/", noon), s.Addr(Subject{}, netip.MustParseAddr("::1"), noon)} {
		if v.Action != Allow || v.Reason != ReasonNoRule {
			t.Errorf("got %s", spell(v))
		}
	}
	if s.Rules() != 0 || s.Generation() != 0 || s.Bans() != nil || s.Exemptions() != nil {
		t.Error("an empty policy has something")
	}
}

func TestStore(t *testing.T) {
	var store Store
	if store.Load() != nil {
		t.Fatal("the zero Store has a policy")
	}
	for i := range 3 {
		spec := house(t)
		spec.Generation = uint64(i)
		store.Swap(snapshot(t, spec))
		s := store.Load()
		if s.Generation() != uint64(i) || s.Rules() != 25 || len(s.Bans()) != 3 || len(s.Exemptions()) != 3 {
			t.Errorf("generation %d has %d rules, %d bans, %d exemptions", s.Generation(), s.Rules(), len(s.Bans()), len(s.Exemptions()))
		}
	}
}

package rpz

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/parse"
	"github.com/weir-gateway/weir/gateway/policy"
)

var testTime = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

// A rule of a test: the index of its list, and the rule in short.
type testRule struct {
	list int
	text string
}

// parseRule reads "name", "=name", "*.name" or a prefix, with "@@" before it for
// an allow rule.
func parseRule(text string) blocklists.Rule {
	r := blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Block, Line: 1}
	if rest, ok := strings.CutPrefix(text, "@@"); ok {
		r.Action, text = blocklists.Allow, rest
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		r.Kind, r.Prefix = blocklists.Prefix, p
		return r
	}
	r.Name = text
	if rest, ok := strings.CutPrefix(text, "="); ok {
		r.Kind, r.Name = blocklists.Exact, rest
	} else if rest, ok := strings.CutPrefix(text, "*."); ok {
		r.Kind, r.Name = blocklists.Under, rest
	}
	return r
}

// The lists of test policies: the operator's, and one for each of four bans, the
// third of which is not yet in force.
const (
	operator = iota
	banA
	banNodata
	banLater
	banAddresses
)

// build makes the snapshot of such rules.
func build(t testing.TB, rules ...testRule) *policy.Snapshot {
	t.Helper()
	var b blocklists.Builder
	for _, r := range rules {
		if err := b.Add(r.list, parseRule(r.text)); err != nil {
			t.Fatal(err)
		}
	}
	spec := policy.Spec{Generation: 1, Set: b.Build(), Lists: []policy.List{{Name: "operator", Role: policy.RoleOperator}}}
	for i, answer := range []blocklists.Answer{
		{}, {Mode: blocklists.NODATA}, {Mode: blocklists.Drop}, {Mode: blocklists.Addresses, IPv4: netip.MustParseAddr("192.0.2.80")},
	} {
		ban := &blocklists.Ban{ID: fmt.Sprintf("ban-%d", i), Answer: answer}
		if i+1 == banLater {
			ban.Effective = testTime.Add(time.Hour)
		}
		spec.Bans = append(spec.Bans, ban)
		spec.Lists = append(spec.Lists, policy.List{Name: ban.ID, Role: policy.RoleBan, Ban: i})
	}
	spec.Groups = []policy.Group{{Name: "few", Devices: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Bans: []string{"ban-0", "ban-1"}}}
	spec.Exemptions = []policy.Exemption{{ID: "E", Ban: "ban-1", Group: "few", From: testTime.Add(time.Hour), Until: testTime.Add(2 * time.Hour)},
		{ID: "N", Name: "deep.one.a.example", Group: "few", From: testTime.Add(time.Hour), Until: testTime.Add(2 * time.Hour)},
		{ID: "D", Name: "a.example", Device: netip.MustParsePrefix("10.0.0.1/32"), Until: testTime.Add(9 * time.Hour)}}
	s, err := policy.NewSnapshot(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// owners is the zone of a policy, as a map.
func owners(t *testing.T, s *policy.Snapshot, at time.Time) map[string]action {
	t.Helper()
	out := make(map[string]action)
	z := view{policy: s, at: at, room: 200}
	z.walk(func(owner string, a action) bool {
		if _, twice := out[owner]; twice {
			t.Errorf("owner %s is there twice", owner)
		}
		out[strings.Clone(owner)] = a
		return true
	})
	return out
}

func TestZone(t *testing.T) {
	s := build(t,
		testRule{banA, "a.example"}, testRule{banA, "x.y.a.example"}, testRule{banA, "@@=ok.a.example"},
		testRule{banNodata, "=exact.example"}, testRule{banNodata, "*.under.example"},
		testRule{banLater, "later.example"}, testRule{banAddresses, "addr.example"},
		testRule{operator, "@@free.a.example"}, testRule{operator, "@@more.free.a.example"}, testRule{operator, "@@alone.example"},
		testRule{banA, "192.0.2.0/24"}, testRule{banA, "@@192.0.2.0/28"}, testRule{banA, "@@192.0.2.1/32"}, testRule{banA, "@@198.51.100.0/24"}, testRule{banNodata, "2001:db8::/32"},
	)
	nx, pass := action{mode: blocklists.NXDOMAIN}, action{pass: true}
	nodata := action{mode: blocklists.NODATA}
	addr := action{mode: blocklists.Addresses, ipv4: netip.MustParseAddr("192.0.2.80")}
	want := map[string]action{
		"a.example": nx, "*.a.example": nx, "x.y.a.example": nx, "*.x.y.a.example": nx,
		"y.a.example": nx, "*.y.a.example": nx, // nothing stands there
		"ok.a.example": pass, "*.ok.a.example": nx,
		"exact.example": nodata, "*.under.example": nodata,
		"addr.example": addr, "*.addr.example": addr,
		"free.a.example": pass, "*.free.a.example": pass, "more.free.a.example": pass, "*.more.free.a.example": pass, // alone.example is not held back anyway
		"24.0.2.0.192.rpz-ip": nx, "28.0.2.0.192.rpz-ip": pass, "32.1.2.0.192.rpz-ip": pass, "32.zz.db8.2001.rpz-ip": nodata,
	}
	got := owners(t, s, testTime)
	for owner, a := range want {
		if got[owner] != a {
			t.Errorf("%s: got %v, want %v", owner, got[owner], a)
		}
	}
	for owner, a := range got {
		if want[owner] == (action{}) {
			t.Errorf("%s: %v, want nothing", owner, a)
		}
	}
	// When the third ban takes effect, the zone has it.
	if got := owners(t, s, testTime.Add(time.Hour))["later.example"]; got.mode != blocklists.Drop {
		t.Errorf("once it is in force, later.example: got %v", got)
	}
}

func TestZoneOfAGroup(t *testing.T) {
	s := build(t, testRule{banA, "a.example"}, testRule{banNodata, "b.example"}, testRule{banAddresses, "c.example"})
	for _, tc := range []struct {
		after time.Duration
		want  string
	}{{0, "a b"}, {time.Hour, "a"}, {2 * time.Hour, "a b"}} {
		at := testTime.Add(tc.after)
		of, ok := s.ForGroup("few", at)
		if !ok {
			t.Fatal("there is no such group")
		}
		got := owners(t, of, at)
		var names []string
		for _, name := range []string{"a", "b", "c"} {
			if got[name+".example"] != (action{}) {
				names = append(names, name)
			}
		}
		if s := strings.Join(names, " "); s != tc.want {
			t.Errorf("after %v: got %q, want %q", tc.after, s, tc.want)
		}
		// A name that the group is exempt for is let through, as long as it is.
		for _, name := range []string{"deep.one.a.example", "under.deep.one.a.example", "one.a.example"} {
			pass := tc.after == time.Hour && name != "one.a.example"
			if a := nearest(got, name); a.pass != pass || !pass && a.mode != blocklists.NXDOMAIN {
				t.Errorf("after %v, %s: %+v, want it to pass: %v", tc.after, name, a, pass)
			}
		}
	}
	if _, ok := s.ForGroup("nobody", testTime); ok {
		t.Error("a group that is not there has a policy")
	}
}

// nearest is how a server may look a name up that takes the longest wildcard
// that there is.
func nearest(zone map[string]action, name string) action {
	if a, ok := zone[name]; ok {
		return a
	}
	for {
		_, rest, more := strings.Cut(name, ".")
		if a, ok := zone["*."+rest]; ok {
			return a
		}
		if !more {
			return action{}
		}
		name = rest
	}
}

// strict is how one does that follows RFC 4592: the wildcard is that of the
// closest name that exists, if only because others lie under it.
func strict(zone map[string]action, name string) action {
	if a, ok := zone[name]; ok {
		return a
	}
	for first := true; ; first = false {
		exists := false
		for owner := range zone {
			exists = exists || owner == name || strings.HasSuffix(owner, "."+name)
		}
		if exists && first {
			return action{}
		}
		if exists {
			return zone["*."+name]
		}
		_, rest, more := strings.Cut(name, ".")
		if !more {
			return action{}
		}
		name = rest
	}
}

// TestZoneAgainstPolicy: whoever follows the zone, by either reading of
// wildcards, decides each name as the policy does.
func TestZoneAgainstPolicy(t *testing.T) {
	d := rand.New(rand.NewPCG(1, 2))
	name := func() string {
		labels := []string{"a", "b", "c"}
		s := labels[d.IntN(3)]
		for range d.IntN(4) {
			s = labels[d.IntN(3)] + "." + s
		}
		return s
	}
	said := 0
	for range 300 {
		var rules []testRule
		for range d.IntN(8) {
			text := []string{"", "=", "*."}[d.IntN(3)] + name()
			list := d.IntN(5)
			if list == operator || d.IntN(4) == 0 {
				text = "@@" + text
			}
			rules = append(rules, testRule{list, text})
		}
		s := build(t, rules...)
		zone := owners(t, s, testTime)
		for range 40 {
			n := name()
			v := s.Name(policy.Subject{}, n, testTime)
			want := action{}
			if v.Blocked() {
				want = blocked(v.Answer)
				said++
			}
			for how, look := range map[string]func(map[string]action, string) action{"nearest": nearest, "strict": strict} {
				got := look(zone, n)
				if got.pass {
					got = action{}
				}
				if got != want {
					t.Fatalf("%v: %s: %s: got %v, want %v (%v)\n%v", rules, n, how, got, want, v.Reason, zone)
				}
			}
		}
	}
	if said < 1000 {
		t.Errorf("only %d blocks: the dice test nothing", said)
	}
}

// TestZoneOfAZone: what came from a response policy zone is said as it was.
func TestZoneOfAZone(t *testing.T) {
	var b blocklists.Builder
	report, err := parse.Load(parse.RPZ, strings.NewReader(`$TTL 60
@ SOA ns.example. root.example. 1 1 1 1 1
tcp.example CNAME rpz-tcp-only.
pass.example CNAME rpz-passthru.
drop.example CNAME rpz-drop.
data.example A 192.0.2.1
data.example TXT "a b" "c"
*.data.example CNAME garden.example.
32.9.2.0.192.rpz-client-ip CNAME .
`), parse.Limits{}, func(r blocklists.Rule) error { return b.Add(0, r) })
	if err != nil || report.SkippedLines > 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	p, err := policy.NewSnapshot(policy.Spec{
		Set: b.Build(), Bans: []*blocklists.Ban{{ID: "a"}}, Lists: []policy.List{{Name: "a", Role: policy.RoleBan}},
	})
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(o *Options) { o.UnsignedLoopback = true })
	s.Publish(p)
	eventually(t, "a version", func() bool { return s.Counts().Serial != 0 })
	got, err := ask(t, s, nil, question(dns.TypeAXFR, 0))
	if err != nil {
		t.Fatal(err)
	}
	got = got[2 : len(got)-1]
	slices.Sort(got)
	want := []string{
		"*.data.example.$ CNAME garden.example.", "data.example.$ A 192.0.2.1", `data.example.$ TXT "a b" "c"`,
		"drop.example.$ CNAME rpz-drop.", "tcp.example.$ CNAME rpz-tcp-only.",
	}
	// Who asks is not said: it would come before protected names.
	if !slices.Equal(got, want) || s.Counts().Records != len(want) || s.Counts().LeftOut != 1 {
		t.Errorf("got %q, want %q; %d left out", got, want, s.Counts().LeftOut)
	}
}

// TestZoneLeavesOut: what has no room in the zone, or would say something else
// there, is counted.
func TestZoneLeavesOut(t *testing.T) {
	long := strings.Repeat("a23456789.", 19) + "example"
	s := build(t, testRule{banA, long}, testRule{banA, "a.rpz-ip"}, testRule{banA, "b.example"})
	z := view{policy: s, at: testTime, room: len(long)}
	n := 0
	if unfit := z.walk(func(string, action) bool { n++; return true }); unfit != 4 || n != 2 {
		t.Errorf("%d owners and %d left out, want 2 and 4", n, unfit)
	}
	z.room += len(anyUnder)
	if unfit := z.walk(func(string, action) bool { return true }); unfit != 2 {
		t.Errorf("%d left out, want 2", unfit)
	}
}

func TestPrefixOwner(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.0/24":                       "24.0.2.0.192.rpz-ip",
		"0.0.0.0/0":                          "0.0.0.0.0.rpz-ip",
		"2001:db8::/32":                      "32.zz.db8.2001.rpz-ip",
		"2001:db8::1/128":                    "128.1.zz.db8.2001.rpz-ip",
		"::1/128":                            "128.1.zz.rpz-ip",
		"2001:db8:1:2:3:4:5:6/128":           "128.6.5.4.3.2.1.db8.2001.rpz-ip",
		"2001:db8:0:1:1:1:1:0/127":           "127.0.1.1.1.1.0.db8.2001.rpz-ip",
		"::/1":                               "1.zz.rpz-ip",
		"fe80:0:0:1::/64":                    "64.zz.1.0.0.fe80.rpz-ip",
		"2001:db8:85a3::8a2e:370:7334/128":   "128.7334.370.8a2e.zz.85a3.db8.2001.rpz-ip",
		"ffff:ffff:ffff:ffff:ffff:ffff::/96": "96.zz.ffff.ffff.ffff.ffff.ffff.ffff.rpz-ip",
	} {
		if got := prefixOwner(netip.MustParsePrefix(in)); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

func TestSerials(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := uint32(now.Unix())
	for _, tc := range []struct {
		last  uint32
		first bool
		want  uint32
	}{{0, true, s}, {s - 5, false, s}, {s, false, s + 1}, {s + 9, false, s + 10}, {^uint32(0), false, 0}} {
		if tc.last == ^uint32(0) {
			now = time.Unix(1<<32-5, 0) // the clock is behind the serial, which wraps
		}
		if got := serialAfter(tc.last, tc.first, now); got != tc.want {
			t.Errorf("after %d: got %d, want %d", tc.last, got, tc.want)
		}
	}
	for _, tc := range []struct {
		a, b uint32
		want bool
	}{{1, 0, true}, {0, 1, false}, {0, 0, false}, {0, ^uint32(0), true}, {1 << 31, 0, false}, {1<<31 - 1, 0, true}} {
		if got := newer(tc.a, tc.b); got != tc.want {
			t.Errorf("newer(%d, %d) = %v", tc.a, tc.b, got)
		}
	}
}

// apply changes a zone as a delta says, and fails where they do not fit.
func apply(t *testing.T, zone map[string]action, d *delta) {
	t.Helper()
	for _, e := range d.removed {
		if zone[e.owner] != e.action {
			t.Errorf("removed %s %v, but there is %v", e.owner, e.action, zone[e.owner])
		}
		delete(zone, e.owner)
	}
	for _, e := range d.added {
		if zone[e.owner] != (action{}) {
			t.Errorf("added %s, which is there", e.owner)
		}
		zone[e.owner] = e.action
	}
}

func TestDeltas(t *testing.T) {
	d := rand.New(rand.NewPCG(3, 4))
	var rules []testRule
	v, _ := (*version)(nil).next(view{policy: build(t), at: testTime, room: 200}, 1)
	zone := owners(t, v.policy, testTime)
	var log journal
	for i := uint32(2); i < 100; i++ {
		if len(rules) > 20 || len(rules) > 0 && d.IntN(3) == 0 {
			rules = rules[1:]
		} else {
			rules = append(rules, testRule{1 + d.IntN(4), fmt.Sprintf("%d.%d.example", d.IntN(5), d.IntN(5))})
		}
		next, delta := v.next(view{policy: build(t, rules...), at: testTime, room: 200}, i)
		want := owners(t, next.policy, testTime)
		if next.serial == v.serial {
			if delta != nil || fmt.Sprint(want) != fmt.Sprint(zone) {
				t.Fatalf("%v: the serial stays and the zone does not", rules)
			}
			continue
		}
		log = log.with(delta)
		apply(t, zone, delta)
		if fmt.Sprint(zone) != fmt.Sprint(want) {
			t.Fatalf("%v: got %v, want %v", rules, zone, want)
		}
		if since := log.since(v.serial); len(since) != 1 {
			t.Fatalf("%d deltas since the version before", len(since))
		}
		v = next
	}
	if len(log) < 40 {
		t.Errorf("only %d changes: the dice test nothing", len(log))
	}
	if log.since(0) != nil {
		t.Error("changes since a serial that never was")
	}
}

func TestJournalIsBounded(t *testing.T) {
	var log journal
	for i := range uint32(3 * maxDeltas) {
		log = log.with(&delta{from: i, to: i + 1, added: make([]entry, 1)})
	}
	if len(log) != maxDeltas || log.since(0) != nil || len(log.since(3*maxDeltas-2)) != 2 {
		t.Errorf("%d deltas, want the last %d", len(log), maxDeltas)
	}
	big := &delta{from: 3 * maxDeltas, to: 3*maxDeltas + 1, removed: make([]entry, maxSum-2)}
	if log = log.with(big); len(log) != 3 {
		t.Errorf("%d deltas beside a big one, want 2", len(log)-1)
	}
	// What changes too much is no delta.
	var rules []testRule
	for i := range maxDelta/2 + 1 {
		rules = append(rules, testRule{banA, fmt.Sprintf("n%d.example", i)})
	}
	v, _ := (*version)(nil).next(view{policy: build(t), at: testTime, room: 200}, 1)
	next, d := v.next(view{policy: build(t, rules...), at: testTime, room: 200}, 2)
	if d != nil || next.serial != 2 || next.records != maxDelta+2 {
		t.Errorf("delta %v, serial %d, %d records", d != nil, next.serial, next.records)
	}
}

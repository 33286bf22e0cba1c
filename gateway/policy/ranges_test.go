package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

func (r Range) String() string { return fmt.Sprintf("%v-%v", r.First, r.Last) }

func TestBannedAndSpared(t *testing.T) {
	spec := Spec{
		Bans:  []*blocklists.Ban{{ID: "a"}, {ID: "b", Effective: noon.Add(time.Hour)}},
		Lists: []List{{Name: "a1", Ban: 0}, {Name: "a2", Ban: 0}, {Name: "b1", Ban: 1}},
		Set: build(t, [][]blocklists.Rule{
			{block(1, "192.0.2.0/24"), allow(2, "192.0.2.64/26"), block(3, "192.0.2.80/32"), block(4, "2001:db8::/32"), block(5, "255.255.255.255/32")},
			{block(1, "192.0.3.0/24"), block(2, "0.0.0.0/32")},
			{block(1, "::/0")},
		}),
		Groups: []Group{
			{Name: "lab", Devices: prefixes("10.8.0.0/24", "2001:db8:8::/64"), Bans: []string{"b"}},
			{Name: "strict", Devices: prefixes("10.8.0.8/29")},
			{Name: "campaign", Devices: prefixes("10.9.0.0/24")},
		},
		Exemptions: []Exemption{
			{ID: "EX-1", Ban: "a", Device: netip.MustParsePrefix("10.8.0.9/32"), Until: noon.Add(time.Minute)},
			{ID: "EX-2", Ban: "a", Group: "campaign", From: noon.Add(-time.Minute), Until: noon.Add(2 * time.Hour)},
		},
	}
	s := snapshot(t, spec)
	if got, want := fmt.Sprint(s.Banned()), "[["+strings.Join([]string{
		"0.0.0.0-0.0.0.0", "192.0.2.0-192.0.2.63", "192.0.2.80-192.0.2.80", "192.0.2.128-192.0.3.255", "255.255.255.255-255.255.255.255",
		"2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"}, " ")+"] [::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]]"; got != want {
		t.Errorf("banned\n got %s\nwant %s", got, want)
	}
	all := "[0.0.0.0-255.255.255.255 ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]"
	six := "2001:db8:8::-2001:db8:8:0:ffff:ffff:ffff:ffff"
	for _, tt := range []struct {
		at   time.Time
		want string
	}{
		{noon.Add(-time.Hour), "[[10.8.0.0-10.8.0.7 10.8.0.9-10.8.0.9 10.8.0.16-10.8.0.255 " + six + "] " + all + "]"},
		{noon, "[[10.8.0.0-10.8.0.7 10.8.0.9-10.8.0.9 10.8.0.16-10.8.0.255 10.9.0.0-10.9.0.255 " + six + "] " + all + "]"},
		{noon.Add(time.Hour), "[[10.8.0.0-10.8.0.7 10.8.0.16-10.8.0.255 10.9.0.0-10.9.0.255 " + six + "] []]"},
	} {
		if got := fmt.Sprint(s.Spared(tt.at)); got != tt.want {
			t.Errorf("spared at %v\n got %s\nwant %s", tt.at, got, tt.want)
		}
	}
	at := noon.Add(-time.Hour)
	for _, want := range []time.Duration{-time.Minute, time.Minute, time.Hour, 2 * time.Hour} {
		if at = s.NextChange(at); !at.Equal(noon.Add(want)) {
			t.Errorf("next change at %v, want %v", at, noon.Add(want))
		}
	}
	if at = s.NextChange(at); !at.IsZero() {
		t.Errorf("a change at %v, want none any more", at)
	}
}

// TestRangesAgainstAddr: what the ranges say together is what Addr says.
func TestRangesAgainstAddr(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(7, 8))}
	seen := make(map[bool]int)
	for range 2000 {
		spec, _ := d.spec(t)
		s := snapshot(t, spec)
		banned := s.Banned()
		for _, rs := range banned {
			checkRanges(t, rs)
		}
		for range 40 {
			q := d.question()
			q.addr = d.addr().Unmap()
			v := q.ask(s)
			if !q.sub.Addr.IsValid() {
				continue // a packet has a source
			}
			if (v.Reason == ReasonOperator || v.Reason == ReasonProtected) && blocklists.EmbeddedIPv4(q.addr).IsValid() {
				continue // what another address lets through is not looked for
			}
			spared := s.Spared(q.now)
			got := false
			for i := range spec.Bans {
				checkRanges(t, spared[i])
				hit := within(banned[i], q.addr) || within(banned[i], blocklists.EmbeddedIPv4(q.addr))
				got = got || hit && !within(spared[i], deviceAddr(q.sub))
			}
			if got != v.Blocked() {
				t.Fatalf("%+v: by ranges %v, by Addr %+v\nspec %+v\nbanned %v\nspared %v", q, got, v, spec, banned, spared)
			}
			seen[got]++
		}
	}
	if seen[true] < 1000 || seen[false] < 1000 {
		t.Errorf("verdicts %v, want many of both", seen)
	}
}

func within(rs []Range, a netip.Addr) bool {
	return slices.ContainsFunc(rs, func(r Range) bool { return a.IsValid() && holds(r, a) })
}

// checkRanges wants them in order, apart from each other.
func checkRanges(t *testing.T, rs []Range) {
	t.Helper()
	for i, r := range rs {
		if r.First.Compare(r.Last) > 0 || i > 0 && (rs[i-1].Last.Compare(r.First) >= 0 || rs[i-1].Last.Next() == r.First) {
			t.Fatalf("ranges %v", rs)
		}
	}
}

func BenchmarkBanned(b *testing.B) {
	var rules []blocklists.Rule
	for i := range 100_000 {
		rules = append(rules, block(i+1, fmt.Sprintf("%d.%d.%d.0/25", 11+i>>16, i>>8&255, i&255)))
	}
	s := snapshot(b, Spec{Set: build(b, [][]blocklists.Rule{rules}), Lists: []List{{Name: "l"}}, Bans: []*blocklists.Ban{{ID: "a"}}})
	b.ReportAllocs()
	for b.Loop() {
		if len(s.Banned()[0]) != len(rules) {
			b.Fatal("ranges are missing")
		}
	}
}

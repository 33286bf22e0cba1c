package policy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// manyOfAll is a policy of 100 lists that all speak about one name and one
// network, with as many bans, 10,000 groups and 10,000 exemptions.
func manyOfAll(t testing.TB) Spec {
	var spec Spec
	var lists [][]blocklists.Rule
	for i := range 100 {
		id := fmt.Sprint(i)
		spec.Bans = append(spec.Bans, &blocklists.Ban{ID: id})
		spec.Lists = append(spec.Lists, List{Name: id, Ban: i})
		lists = append(lists, []blocklists.Rule{block(1, "everywhere.example"), block(2, id+".example"), block(3, "192.0.2.0/24")})
		// One device is exempt from everything.
		spec.Exemptions = append(spec.Exemptions, Exemption{ID: id, Ban: id, Device: netip.MustParsePrefix("10.0.0.1/32"), Until: noon.AddDate(1, 0, 0)})
	}
	for i := range 10_000 {
		a := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
		p := netip.PrefixFrom(a, 32)
		spec.Groups = append(spec.Groups, Group{Name: fmt.Sprint("group", i), Devices: []netip.Prefix{p}})
		e := Exemption{ID: fmt.Sprint("EX-", i), Ban: fmt.Sprint(i % 100), Device: p, Until: noon.AddDate(1, 0, 0)}
		if i%2 == 0 {
			e.Device, e.Group = netip.Prefix{}, fmt.Sprint("group", i)
		}
		spec.Exemptions = append(spec.Exemptions, e)
	}
	spec.Set = build(t, lists)
	return spec
}

// An exemption for a name lifts it and what is under it for whom it is, at its
// time, whatever speaks against it; and only that.
func TestExemptionForName(t *testing.T) {
	exempt := func(id, name, device, group string) Exemption {
		e := Exemption{ID: id, Name: name, Group: group, From: noon, Until: noon.Add(time.Hour)}
		if device != "" {
			e.Device = netip.MustParsePrefix(device)
		}
		return e
	}
	s := snapshot(t, Spec{
		Bans:   []*blocklists.Ban{{ID: "a"}, {ID: "b"}},
		Lists:  []List{{Name: "a", Signal: blocklists.SignalApp}, {Name: "b", Ban: 1}},
		Set:    build(t, [][]blocklists.Rule{{block(1, "bad.example"), block(2, "192.0.2.0/24")}, {block(1, "x.bad.example"), {Kind: blocklists.Suffix, Action: blocklists.Block, Name: "x.bad.example", Path: "/p", Line: 2}}}),
		Groups: []Group{{Name: "g", Devices: prefixes("10.0.1.0/24")}},
		Exemptions: []Exemption{
			exempt("device", "x.bad.example", "10.0.0.1/32", ""),
			exempt("deeper", "y.x.bad.example", "10.0.0.1/32", ""),
			exempt("group", "x.bad.example", "", "g"),
		},
	})
	for _, tt := range []struct{ device, name, want string }{
		{"10.0.0.1", "x.bad.example", "device"}, {"10.0.0.1", "z.x.bad.example", "device"}, {"10.0.0.1", "a.y.x.bad.example", "deeper"},
		{"::ffff:10.0.0.1", "x.bad.example", "device"}, {"10.0.1.9", "z.x.bad.example", "group"},
		{"10.0.0.1", "bad.example", ""}, {"10.0.0.1", "xx.bad.example", ""}, {"10.0.0.2", "x.bad.example", ""}, {"", "x.bad.example", ""},
	} {
		for _, v := range []Verdict{s.Name(device(tt.device), tt.name, noon), s.URL(device(tt.device), tt.name, "/p", noon)} {
			got := ""
			if v.Exemption != nil {
				got = v.Exemption.ID
			}
			if got != tt.want || v.Blocked() != (tt.want == "") || v.Ban == nil || v.RuleID() == "" {
				t.Errorf("%s for %s: %s by %q, want %q; evidence %v %s", tt.name, tt.device, v.Action, got, tt.want, v.Ban, v.RuleID())
			}
			if got != "" && (v.Signal != "" || v.Answer != (blocklists.Answer{}) || !v.Ends().Equal(noon.Add(time.Hour))) {
				t.Errorf("%s for %s: %+v", tt.name, tt.device, v)
			}
		}
	}
	for _, at := range []time.Duration{-1, time.Hour} {
		if v := s.Name(device("10.0.0.1"), "x.bad.example", noon.Add(at)); !v.Blocked() {
			t.Errorf("at %v: %s", at, v.Action)
		}
	}
	if v := s.Addr(device("10.0.0.1"), netip.MustParseAddr("192.0.2.1"), noon); !v.Blocked() {
		t.Errorf("an address: %s", v.Action)
	}
	if v := s.Name(device("10.0.0.1"), "fine.example", noon); v.Reason != ReasonNoRule {
		t.Errorf("what nothing speaks against: %s", v.Reason)
	}
	if got := s.NextChange(noon); !got.Equal(noon.Add(time.Hour)) {
		t.Errorf("next change %v", got)
	}
}

// TestFirstExemptionIsCited: of those that cover a subject now, by device,
// network or group, the first counts, as they stand in the configuration.
func TestFirstExemptionIsCited(t *testing.T) {
	exempt := func(id, device, group string, from, until int) Exemption {
		e := Exemption{ID: id, Ban: "b", Group: group, From: noon.Add(time.Duration(from) * time.Hour), Until: noon.Add(time.Duration(until) * time.Hour)}
		if device != "" {
			e.Device = netip.MustParsePrefix(device)
		}
		return e
	}
	s := snapshot(t, Spec{
		Bans:   []*blocklists.Ban{{ID: "b"}},
		Lists:  []List{{Name: "l"}},
		Set:    build(t, [][]blocklists.Rule{{block(1, "a.example")}}),
		Groups: []Group{{Name: "g", Devices: prefixes("10.0.0.0/8")}},
		Exemptions: []Exemption{
			exempt("nobody", "", "", 0, 9),
			exempt("over", "10.0.0.1/32", "", -2, 0),
			exempt("network", "10.0.0.0/24", "", 1, 3),
			exempt("other group", "", "h", 0, 9),
			exempt("mapped", "::ffff:10.0.0.1/128", "", 2, 4),
			exempt("group", "", "g", 0, 5),
			exempt("device", "10.0.0.1/32", "", 0, 9),
			exempt("everybody", "0.0.0.0/0", "", 6, 9),
			exempt("six", "::/0", "", 0, 1),
		},
	})
	for _, tt := range []struct {
		device string
		hour   int
		want   string
	}{
		{"10.0.0.1", 0, "group"}, {"10.0.0.1", 1, "network"}, {"10.0.0.1", 2, "network"}, {"10.0.0.1", 3, "mapped"},
		{"::ffff:10.0.0.1", 3, "mapped"}, {"10.0.0.1", 4, "group"}, {"10.0.0.1", 5, "device"}, {"10.0.0.1", 9, ""},
		{"10.0.0.2", 2, "network"}, {"10.0.0.2", 3, "group"}, {"10.0.0.2", 6, "everybody"},
		{"192.0.2.1", 3, ""}, {"192.0.2.1", 6, "everybody"}, {"2001:db8::1", 0, "six"}, {"2001:db8::1%eth0", 0, "six"}, {"2001:db8::1", 6, ""},
		{"", 0, ""}, {"", 6, ""},
	} {
		v := s.Name(device(tt.device), "a.example", noon.Add(time.Duration(tt.hour)*time.Hour))
		got := ""
		if v.Exemption != nil {
			got = v.Exemption.ID
		}
		if got != tt.want || v.Blocked() != (tt.want == "") {
			t.Errorf("%q at %d: %s by %q, want %q", tt.device, tt.hour, v.Action, got, tt.want)
		}
	}
}

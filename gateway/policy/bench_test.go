package policy

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/weir-gateway/weir/blocklists"
)

func BenchmarkName(b *testing.B) {
	s := snapshot(b, house(b))
	for kind, name := range map[string]string{"hit": "short.wechat.example", "miss": "www.free.example"} {
		b.Run(kind, func(b *testing.B) {
			sub := device("10.8.0.9")
			b.ReportAllocs()
			for b.Loop() {
				if v := s.Name(sub, name, noon); v.Blocked() != (kind == "hit") {
					b.Fatal(v.Action)
				}
			}
		})
	}
}

// BenchmarkNameAmong is the same decision with more and more of what is none
// of its business: lists and bans that do not speak about the name, groups
// that the device is not in, exemptions of others.
func BenchmarkNameAmong(b *testing.B) {
	for _, n := range []struct{ lists, bans, groups, exemptions int }{
		{1, 1, 1, 0}, {10, 10, 1, 0}, {100, 100, 1, 0}, {10, 10, 100, 100}, {10, 10, 10_000, 10_000},
	} {
		spec := among(b, n.lists, n.bans, n.groups, n.exemptions)
		s := snapshot(b, spec)
		for kind, name := range map[string]string{"hit": "short.wechat.example", "miss": "www.free.example"} {
			b.Run(fmt.Sprintf("lists=%d,bans=%d,groups=%d,exemptions=%d/%s", n.lists, n.bans, n.groups, n.exemptions, kind), func(b *testing.B) {
				sub := device("10.8.0.9")
				b.ReportAllocs()
				for b.Loop() {
					if v := s.Name(sub, name, noon); v.Blocked() != (kind == "hit") {
						b.Fatal(v.Action)
					}
				}
			})
		}
	}
}

func among(b *testing.B, lists, bans, groups, exemptions int) Spec {
	var spec Spec
	var rules [][]blocklists.Rule
	for i := range bans {
		spec.Bans = append(spec.Bans, &blocklists.Ban{ID: fmt.Sprint(i)})
	}
	for i := range lists {
		spec.Lists = append(spec.Lists, List{Name: fmt.Sprint(i), Ban: i % bans})
		rules = append(rules, []blocklists.Rule{block(1, fmt.Sprintf("n%d.example", i))})
	}
	rules[lists-1] = append(rules[lists-1], block(2, "wechat.example"))
	spec.Set = build(b, rules)
	other := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 32)
	}
	for i := range groups {
		spec.Groups = append(spec.Groups, Group{Name: fmt.Sprint(i), Devices: []netip.Prefix{other(i)}})
	}
	for i := range exemptions {
		spec.Exemptions = append(spec.Exemptions, Exemption{ID: fmt.Sprint(i), Ban: fmt.Sprint(i % bans), Device: other(i), Until: noon.AddDate(1, 0, 0)})
	}
	return spec
}

func BenchmarkAddr(b *testing.B) {
	s := snapshot(b, house(b))
	for kind, a := range map[string]string{"hit": "192.0.2.1", "embedded": "64:ff9b::192.0.2.1", "miss": "198.51.100.1"} {
		b.Run(kind, func(b *testing.B) {
			addr := netip.MustParseAddr(a)
			b.ReportAllocs()
			for b.Loop() {
				if v := s.Addr(Subject{}, addr, noon); v.Blocked() != (kind != "miss") {
					b.Fatal(v.Action)
				}
			}
		})
	}
}

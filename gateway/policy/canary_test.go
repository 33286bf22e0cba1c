package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/hello"
)

// TestCanaryJudges: whatever is asked, a device in the group is judged as the
// canary alone would, and every other as if there were none.
func TestCanaryJudges(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(7, 8))}
	inside := 0
	for range 2000 {
		spec, _ := d.spec(t)
		if len(spec.Groups) == 0 {
			continue
		}
		next, _ := d.spec(t)
		next.Generation = spec.Generation
		base, canary := snapshot(t, spec), snapshot(t, next)
		spec.Canary = &Canary{spec.Groups[d.IntN(len(spec.Groups))].Name, canary}
		both := snapshot(t, spec)
		for range 60 {
			q := d.question()
			of := base
			if base.Group(q.sub) == spec.Canary.Group {
				of = canary
				inside++
			}
			v := q.ask(of)
			if got := q.ask(both); got != v {
				t.Fatalf("%+v\n got %+v\nwant %+v", q, got, v)
			}
			if got, want := both.Group(q.sub), of.Group(q.sub); got != want {
				t.Fatalf("%+v: group %q, want %q", q, got, want)
			}
			if q.name != "" {
				checkByWays(t, both, of, q)
				if v.Reason != ReasonNoRule && q.path == "" && !both.Mentions(q.name) {
					t.Fatalf("%+v: nothing is said of the name, and it is %+v", q, v)
				}
			}
			if q.addr.IsValid() && v.Reason != ReasonNoRule && !both.MentionsAddr(q.addr) {
				t.Fatalf("%+v: nothing is said of the address, and it is %+v", q, v)
			}
		}
	}
	if inside < 1000 {
		t.Errorf("only %d questions came from the group", inside)
	}
}

// checkByWays asks by all the ways by which a name can be asked for.
func checkByWays(t *testing.T, both, of *Snapshot, q question) {
	t.Helper()
	host, h := blocklists.Host{Name: q.name}, hello.Hello{Kind: hello.Found, Name: q.name}
	v := of.Name(q.sub, q.name, q.now)
	inquiry, wanted := both.Inquire(q.sub, "", q.now), of.Inquire(q.sub, "", q.now)
	for what, pair := range map[string][2]Verdict{
		"fields":  {both.Fields(q.sub, host, "/a", nil, q.now), of.Fields(q.sub, host, "/a", nil, q.now)},
		"hello":   {both.Hello(q.sub, "", h, q.now), of.Hello(q.sub, "", h, q.now)},
		"no name": {both.Hello(q.sub, "", hello.Hello{Kind: hello.Missing}, q.now), of.Hello(q.sub, "", hello.Hello{Kind: hello.Missing}, q.now)},
		"beside":  {both.NameBeside(&v, q.sub, q.name, q.now), of.NameBeside(&v, q.sub, q.name, q.now)},
		"inquiry": {inquiry.Name(q.name), wanted.Name(q.name)},
		"flow":    {both.FlowEnd(q.sub, []byte("x"), q.now), of.FlowEnd(q.sub, []byte("x"), q.now)},
	} {
		if pair[0] != pair[1] {
			t.Fatalf("%s of %+v\n got %+v\nwant %+v", what, q, pair[0], pair[1])
		}
	}
}

// TestCanaryLocalData: the data is that of the policy that said the verdict, even
// where both have the same ban and list.
func TestCanaryLocalData(t *testing.T) {
	ban := &blocklists.Ban{ID: "b"}
	of := func(addr string) Spec {
		r := block(1, "app.example")
		r.Mode, r.Data = blocklists.LocalData, blocklists.MakeData("A "+addr)
		return Spec{
			Bans: []*blocklists.Ban{ban}, Lists: []List{{Name: "z", Zone: true}}, Set: build(t, [][]blocklists.Rule{{r}}),
			Groups: []Group{{Name: "pilot", Devices: prefixes("10.0.0.1/32")}},
		}
	}
	spec := of("192.0.2.1")
	spec.Canary = &Canary{"pilot", snapshot(t, of("192.0.2.2"))}
	s := snapshot(t, spec)
	for from, want := range map[string]string{"10.0.0.1": "192.0.2.2", "10.0.0.2": "192.0.2.1"} {
		sub := device(from)
		v := s.Name(sub, "app.example", noon)
		if got := fmt.Sprint(s.LocalData(sub, &v)); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", from, got, want)
		}
	}
}

// TestCanaryOthers: a filter that knows the bans of both spares by Others whoever
// is outside of the group, or inside and spared by the canary.
func TestCanaryOthers(t *testing.T) {
	spec := Spec{
		Bans: []*blocklists.Ban{{ID: "a"}}, Lists: []List{{Name: "a"}}, Set: build(t, [][]blocklists.Rule{{block(1, "192.0.2.0/24")}}),
		Groups: []Group{{Name: "pilot", Devices: prefixes("10.8.0.0/24", "2001:db8::/64")}, {Name: "boss", Devices: prefixes("10.8.0.8/32")}},
	}
	next := spec
	next.Exemptions = []Exemption{{ID: "EX-1", Ban: "a", Device: netip.MustParsePrefix("10.8.0.9/32"), Until: noon}}
	if snapshot(t, spec).Others(noon) != nil {
		t.Error("others without a canary")
	}
	spec.Canary = &Canary{"pilot", snapshot(t, next)}
	s := snapshot(t, spec)
	before := "[0.0.0.0-10.7.255.255 "
	after := " 10.8.1.0-255.255.255.255 ::-2001:db7:ffff:ffff:ffff:ffff:ffff:ffff 2001:db8:0:1::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]"
	if got, want := fmt.Sprint(s.Others(noon.Add(-1))), "["+before+"10.8.0.8-10.8.0.9"+after+"]"; got != want {
		t.Errorf("others\n got %s\nwant %s", got, want)
	}
	if got, want := fmt.Sprint(s.Others(noon)), "["+before+"10.8.0.8-10.8.0.8"+after+"]"; got != want {
		t.Errorf("others after the exemption\n got %s\nwant %s", got, want)
	}
	if got := s.NextChange(noon.Add(-1)); !got.Equal(noon) {
		t.Errorf("next change at %v, want the end of the canary's exemption", got)
	}
	spec.Groups[0].Devices = prefixes("0.0.0.0/0")
	if got, want := fmt.Sprint(snapshot(t, spec).Others(noon)), "[[10.8.0.8-10.8.0.8 ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]]"; got != want {
		t.Errorf("others of a group of all IPv4\n got %s\nwant %s", got, want)
	}
	if of, ok := s.ForGroup("pilot", noon.Add(-1)); !ok || of.Name(Subject{}, "x", noon).Action != Allow {
		t.Error("no policy for the group of the canary")
	}
}

func TestCanaryRefused(t *testing.T) {
	spec := Spec{Groups: []Group{{Name: "pilot", Devices: prefixes("10.0.0.1/32")}}}
	inner := snapshot(t, spec)
	for want, c := range map[string]*Canary{
		"for group others, which is not there": {"others", inner},
		"for group pilot is no policy":         {"pilot", nil},
	} {
		spec.Canary = c
		if _, err := NewSnapshot(spec); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", c, err, want)
		}
	}
	spec.Canary = &Canary{"pilot", inner}
	spec.Canary = &Canary{"pilot", snapshot(t, spec)}
	if _, err := NewSnapshot(spec); err == nil {
		t.Error("a canary of a canary")
	}
}

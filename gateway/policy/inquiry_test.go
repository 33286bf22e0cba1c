package policy

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/weir-gateway/weir/blocklists"
)

// zoneRule is a rule of a policy zone in short.
func zoneRule(kind blocklists.Kind, what string, mode blocklists.Mode) blocklists.Rule {
	r := blocklists.Rule{Kind: kind, Action: blocklists.Block, Mode: mode}
	if mode == blocklists.Passthru {
		r.Action = blocklists.Allow
	}
	if kind == blocklists.Prefix || kind == blocklists.Client {
		r.Prefix = netip.MustParsePrefix(what)
	} else {
		r.Name = what
	}
	return r
}

// Two zones and a plain list, each of a ban.
func zones(t *testing.T) *Snapshot {
	t.Helper()
	return newSnapshot(t, Spec{
		Bans:  []*blocklists.Ban{{ID: "first"}, {ID: "second"}, {ID: "plain"}},
		Lists: []List{{Name: "first", Ban: 0, Zone: true}, {Name: "second", Ban: 1, Zone: true}, {Name: "plain", Ban: 2}},
		Set: build(t, [][]blocklists.Rule{
			{
				zoneRule(blocklists.Exact, "pass.example", blocklists.Passthru), zoneRule(blocklists.Exact, "tcp.example", blocklists.TCPOnly),
				zoneRule(blocklists.Exact, "target.example", blocklists.NXDOMAIN),
				zoneRule(blocklists.Prefix, "192.0.2.0/24", blocklists.NODATA), zoneRule(blocklists.Prefix, "192.0.2.7/32", blocklists.Passthru),
				zoneRule(blocklists.Prefix, "192.0.2.8/32", blocklists.NXDOMAIN), zoneRule(blocklists.Client, "10.0.0.1/32", blocklists.Passthru),
				zoneRule(blocklists.Client, "10.0.0.2/32", blocklists.Drop),
			},
			{zoneRule(blocklists.Prefix, "192.0.2.64/26", blocklists.NXDOMAIN)},
			{{Kind: blocklists.Prefix, Action: blocklists.Block, Prefix: netip.MustParsePrefix("192.0.2.128/25")}},
		}),
	})
}

func newSnapshot(t *testing.T, spec Spec) *Snapshot {
	t.Helper()
	for i := range spec.Lists {
		if spec.Lists[i].Role == RoleBan {
			spec.Bans[spec.Lists[i].Ban].Title.EN = spec.Lists[i].Name
		}
	}
	s, err := NewSnapshot(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestInquiry(t *testing.T) {
	s := zones(t)
	for _, tc := range []struct {
		client, name, via string
		addrs             []string
		want              string // verdicts: on the alias, on each address
	}{
		{"10.0.0.9", "any.example", "target.example", nil, "block nxdomain"},
		{"10.0.0.9", "any.example", "", []string{"192.0.2.1"}, "block nodata"},
		// Passing by name, by who asks, or over TCP lets all of it pass that zone.
		{"10.0.0.9", "pass.example", "target.example", []string{"192.0.2.1"}, "allow no rule, allow no rule"},
		{"10.0.0.9", "tcp.example", "target.example", []string{"192.0.2.1"}, "allow no rule, allow no rule"},
		{"10.0.0.1", "any.example", "target.example", []string{"192.0.2.1"}, "allow no rule, allow no rule"},
		// It does not let it pass another zone, nor another list.
		{"10.0.0.9", "pass.example", "", []string{"192.0.2.65"}, "block nxdomain"},
		{"10.0.0.9", "pass.example", "", []string{"192.0.2.1", "192.0.2.200"}, "allow no rule, block nxdomain"},
		// Of several addresses, the longest prefix speaks for all, then the one spelled first.
		{"10.0.0.9", "any.example", "", []string{"192.0.2.1", "192.0.2.7"}, "allow no rule, allow list allows"},
		{"10.0.0.9", "any.example", "", []string{"192.0.2.8", "192.0.2.7", "192.0.2.1"}, "allow no rule, allow list allows, allow no rule"},
		{"10.0.0.9", "any.example", "", []string{"192.0.2.1", "192.0.2.8"}, "allow no rule, block nxdomain"},
		{"10.0.0.9", "any.example", "", []string{"192.0.2.1", "192.0.2.7", "192.0.2.200"}, "allow no rule, allow list allows, block nxdomain"},
	} {
		sub := device(tc.client)
		q := s.Inquire(sub, tc.name, noon)
		got := ""
		say := func(v Verdict) {
			word := v.Reason.String()
			if v.Blocked() {
				word = v.Answer.Mode.String()
			}
			if got != "" {
				got += ", "
			}
			got += fmt.Sprintf("%s %s", v.Action, word)
		}
		if tc.via != "" {
			say(q.Name(tc.via))
		}
		var addrs []netip.Addr
		for _, a := range tc.addrs {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		q.Addrs(addrs, func(_ int, v Verdict) bool { say(v); return true })
		if got != tc.want {
			t.Errorf("%s from %s by %q to %v: got %s, want %s", tc.name, tc.client, tc.via, tc.addrs, got, tc.want)
		}
	}
}

// Who asks is judged with what is asked for.
func TestClientRules(t *testing.T) {
	s := zones(t)
	for client, want := range map[string]string{"10.0.0.1": "allow", "10.0.0.2": "block", "10.0.0.3": "block"} {
		v := s.Name(device(client), "target.example", noon)
		if v.Action.String() != want || client == "10.0.0.2" && v.Answer.Mode != blocklists.Drop {
			t.Errorf("from %s: %+v", client, v)
		}
	}
	if v := s.Addr(device("10.0.0.2"), netip.MustParseAddr("198.51.100.1"), noon); !v.Blocked() || v.Rule.Policy() != "client-ip drop" {
		t.Errorf("an address: %+v", v)
	}
	if v := s.Name(Subject{}, "other.example", noon); v.Action != Allow {
		t.Errorf("from nobody: %+v", v)
	}
	if !s.AsksWho() {
		t.Error("a set with rules about who asks does not say so")
	}
}

func TestBeside(t *testing.T) {
	s := zones(t)
	v := s.Name(device("10.0.0.9"), "target.example", noon)
	if got := s.NameBeside(&v, device("10.0.0.9"), "target.example", noon); got.Blocked() {
		t.Errorf("its own list: %+v", got)
	}
	if got := s.AddrBeside(&v, device("10.0.0.9"), netip.MustParseAddr("192.0.2.70"), noon); !got.Blocked() || got.List != "second" {
		t.Errorf("another list: %+v", got)
	}
	if got := s.LocalData(Subject{}, &v); got != nil {
		t.Errorf("local data of a rule without: %q", got)
	}
}

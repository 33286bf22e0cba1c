package policy

import (
	"net/netip"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// signed is a policy of two bans with signatures: one in force, one to come.
func signed(t *testing.T) *Snapshot {
	t.Helper()
	var b blocklists.Builder
	for _, r := range []struct {
		list int
		rule blocklists.Rule
	}{
		{0, blocklists.Rule{Kind: blocklists.Bytes, Path: "1[679] f1 0[34]", Line: 3}},
		{0, blocklists.Rule{Kind: blocklists.Field, Name: "upgrade", Path: "= mmtls", Line: 4}},
		{0, blocklists.Rule{Kind: blocklists.Target, Path: "^/mmtls/", Line: 5}},
		{1, blocklists.Rule{Kind: blocklists.Bytes, Path: "16 f1 04 00 01", Line: 1}},
		{1, blocklists.Rule{Kind: blocklists.Bytes, Path: "aa bb cc", Line: 2}},
		{2, blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Allow, Name: "partner.example", Line: 9}},
		{0, blocklists.Rule{Kind: blocklists.Prefix, Prefix: netip.MustParsePrefix("198.51.100.0/24"), Line: 6}},
	} {
		if r.rule.Action == blocklists.None {
			r.rule.Action = blocklists.Block
		}
		if err := b.Add(r.list, r.rule); err != nil {
			t.Fatal(err)
		}
	}
	s, err := NewSnapshot(Spec{
		Generation: 7, Set: b.Build(),
		Bans: []*blocklists.Ban{{ID: "now"}, {ID: "later", Effective: noon.Add(time.Hour)}},
		Lists: []List{{Name: "now-signatures", Role: RoleBan, Signal: blocklists.SignalApp}, {Name: "later-signatures", Role: RoleBan, Ban: 1},
			{Name: "allow", Role: RoleOperator}},
		Groups:     []Group{{Name: "lab", Devices: []netip.Prefix{netip.MustParsePrefix("10.0.1.0/24")}, Bans: []string{"later"}}},
		Exemptions: []Exemption{{ID: "EX-1", Ban: "now", Device: netip.MustParsePrefix("10.0.0.9/32"), Until: noon.Add(time.Minute)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func at(addr string) Subject { return Subject{Addr: netip.MustParseAddr(addr)} }

func TestFlow(t *testing.T) {
	s := signed(t)
	for _, c := range []struct {
		sub    Subject
		first  string
		after  time.Duration
		action Action
		more   bool
		rule   string
	}{
		{at("10.0.0.1"), "", 0, Undecided, true, ""},
		{at("10.0.0.1"), "\x16\xf1", 0, Undecided, true, ""},
		{at("10.0.0.1"), "\x16\xf1\x04", 0, Block, false, "now-signatures:3"}, // although the later ban needs more bytes
		{at("10.0.0.1"), "\x19\xf1\x03..", 0, Block, false, "now-signatures:3"},
		{at("10.0.0.1"), "\xaa\xbb\xcc", 0, Report, false, "later-signatures:2"},
		{at("10.0.0.1"), "\xaa\xbb\xcc", time.Hour, Block, false, "later-signatures:2"},
		{at("10.0.0.1"), "SSH-2.0", 0, Allow, false, ""},
		{at("10.0.0.9"), "\x17\xf1\x04", 0, Allow, false, "now-signatures:3"}, // exempt
		{at("10.0.0.9"), "\x17\xf1\x04", time.Minute, Block, false, "now-signatures:3"},
		{at("10.0.1.1"), "\x17\xf1\x04", 0, Allow, false, ""}, // of a group without the ban
	} {
		v, more := s.Flow(c.sub, []byte(c.first), noon.Add(c.after))
		if v.Action != c.action || more != c.more || v.RuleID() != c.rule {
			t.Errorf("%v %q after %v: %v by %q, more %t; want %v by %q, %t", c.sub.Addr, c.first, c.after, v.Action, v.RuleID(), more, c.action, c.rule, c.more)
		}
		if end := s.FlowEnd(c.sub, []byte(c.first), noon.Add(c.after)); !more && end.Action != v.Action || more && end.Action != Allow {
			t.Errorf("%q at the end: %v", c.first, end.Action)
		}
	}
	v, _ := s.Flow(at("10.0.0.1"), []byte("\x16\xf1\x04"), noon)
	if v.Ban.ID != "now" || v.Reason != ReasonBan || v.Signal != blocklists.SignalApp || v.Generation != 7 || v.Rule.String() != "bytes 1[679] f1 0[34]" {
		t.Errorf("evidence %+v", v)
	}
}

func TestFields(t *testing.T) {
	s := signed(t)
	mmtls := func(yield func(string, string) bool) { yield("Upgrade", "mmtls") }
	for _, c := range []struct {
		sub    Subject
		host   string
		path   string
		fields blocklists.Fields
		action Action
		rule   string
	}{
		{at("10.0.0.1"), "innocent.example", "/", nil, Allow, ""},
		{at("10.0.0.1"), "innocent.example", "/", mmtls, Block, "now-signatures:4"},
		{at("10.0.0.1"), "innocent.example", "/mmtls/1", nil, Block, "now-signatures:5"},
		{at("10.0.0.1"), "192.0.2.1", "/mmtls/1", nil, Block, "now-signatures:5"},
		{at("10.0.0.1"), "192.0.2.1", "/", mmtls, Block, "now-signatures:4"},
		{at("10.0.0.1"), "192.0.2.1", "/", nil, Allow, ""},
		{at("10.0.0.1"), "198.51.100.1", "/", nil, Block, "now-signatures:6"},
		{at("10.0.0.1"), "www.partner.example", "/mmtls/1", mmtls, Allow, "allow:9"},
		{at("10.0.0.9"), "innocent.example", "/", mmtls, Allow, "now-signatures:4"},
		{at("10.0.1.1"), "innocent.example", "/", mmtls, Allow, ""},
	} {
		h, err := blocklists.ParseHost(c.host)
		if err != nil {
			t.Fatal(err)
		}
		v := s.Fields(c.sub, h, c.path, c.fields, noon)
		if v.Action != c.action || v.RuleID() != c.rule {
			t.Errorf("%v %s%s: %v by %q, want %v by %q", c.sub.Addr, c.host, c.path, v.Action, v.RuleID(), c.action, c.rule)
		}
	}
}

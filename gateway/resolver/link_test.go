package resolver

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
)

func TestLinks(t *testing.T) {
	for _, tt := range []struct {
		name  string
		qtype uint16
		in    []string
		want  []string
	}{
		{"address", dns.TypeA, []string{"www.example. 60 IN A 43.130.30.240"}, []string{"A 43.130.30.240"}},
		{"IPv6", dns.TypeAAAA, []string{"www.example. 60 IN AAAA 2001:db8::1", "www.example. 60 IN AAAA ::ffff:192.0.2.1"},
			[]string{"AAAA 2001:db8::1", "AAAA ::ffff:192.0.2.1"}},
		{"chain", dns.TypeA, []string{"b.example. 60 IN A 192.0.2.1", "a.example. 60 IN CNAME B.Example.", "www.example. 60 IN CNAME A.Example."},
			[]string{"CNAME a.example", "CNAME b.example", "A 192.0.2.1"}},
		{"DNAME", dns.TypeA, []string{"example. 60 IN DNAME Banned.Test.", "www.example. 60 IN CNAME www.banned.test."},
			[]string{"DNAME banned.test", "CNAME www.banned.test"}},
		{"service mode", dns.TypeHTTPS, []string{`www.example. 60 IN HTTPS 1 Svc.Example. alpn=h3 ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1`},
			[]string{"HTTPS svc.example", "HTTPS ipv4hint 192.0.2.1", "HTTPS ipv4hint 192.0.2.2", "HTTPS ipv6hint 2001:db8::1"}},
		{"service at the name itself", dns.TypeHTTPS, []string{"www.example. 60 IN HTTPS 1 . ipv4hint=192.0.2.1"}, []string{"HTTPS ipv4hint 192.0.2.1"}},
		{"alias mode", dns.TypeHTTPS, []string{"www.example. 60 IN HTTPS 0 pool.example."}, []string{"HTTPS pool.example"}},
		{"alias mode, no service", dns.TypeHTTPS, []string{"www.example. 60 IN HTTPS 0 ."}, nil},
		{"SVCB", dns.TypeSVCB, []string{"www.example. 60 IN SVCB 2 dns.example. ipv4hint=192.0.2.1 ipv6hint=2001:db8::1"},
			[]string{"SVCB dns.example", "SVCB ipv4hint 192.0.2.1", "SVCB ipv6hint 2001:db8::1"}},
		{"alias and then service", dns.TypeHTTPS, []string{"www.example. 60 IN CNAME a.test.", "a.test. 60 IN HTTPS 1 b.test."}, []string{"CNAME a.test", "HTTPS b.test"}},
		{"SRV", dns.TypeSRV, []string{"www.example. 60 IN SRV 1 1 443 srv.example.", "www.example. 60 IN SRV 0 0 0 ."}, []string{"SRV srv.example"}},
		{"MX", dns.TypeMX, []string{"www.example. 60 IN MX 1 mail.example."}, nil},
		{"NS", dns.TypeNS, []string{"www.example. 60 IN NS ns.example."}, nil},
		{"strange spelling", dns.TypeA, []string{`www.example. 60 IN CNAME A\032b\.c\@.banned.test.`}, []string{"CNAME a_b_c_.banned.test"}},
		{"unrelated", dns.TypeA, []string{"www.example. 60 IN A 192.0.2.1", "x.example. 60 IN CNAME banned.test."}, []string{"A 192.0.2.1"}},
	} {
		k := key{name: "www.example.", qtype: tt.qtype, qclass: dns.ClassINET}
		a := answerOf(t, newClock(), k, 0, tt.in...)
		var got []string
		for _, l := range a.Links() {
			got = append(got, l.String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s:\ngot  %q\nwant %q", tt.name, got, tt.want)
		}
	}
	if s := (Link{}).String(); s != "" {
		t.Errorf("the zero Link is %q", s)
	}
}

// snapshot holds back banned.test and 43.130.30.240 now, and reports soon.test.
func snapshot(t testing.TB, now time.Time) *policy.Snapshot {
	t.Helper()
	var c blocklists.Builder
	for list, rules := range [][]blocklists.Rule{
		{{Kind: blocklists.Suffix, Action: blocklists.Block, Name: "banned.test", Line: 1},
			{Kind: blocklists.Prefix, Action: blocklists.Block, Prefix: netip.MustParsePrefix("43.130.30.240/32"), Line: 2}},
		{{Kind: blocklists.Suffix, Action: blocklists.Block, Name: "soon.test", Line: 7}},
	} {
		for _, r := range rules {
			if err := c.Add(list, r); err != nil {
				t.Fatal(err)
			}
		}
	}
	s, err := policy.NewSnapshot(policy.Spec{Generation: 9, Set: c.Build(),
		Lists: []policy.List{{Name: "now", Ban: 0}, {Name: "later", Ban: 1}},
		Bans:  []*blocklists.Ban{{ID: "now"}, {ID: "later", Effective: now.Add(time.Hour)}},
		Exemptions: []policy.Exemption{
			{ID: "E-1", Ban: "now", Device: netip.MustParsePrefix("10.9.0.9/32"), Until: now.Add(30 * time.Minute)},
			{ID: "E-2", Name: "a.soon.test", Device: netip.MustParsePrefix("10.9.0.9/32"), Until: now.Add(20 * time.Minute)},
		},
		Groups: []policy.Group{
			{Name: "free", Devices: []netip.Prefix{netip.MustParsePrefix("10.8.0.0/24")}, Bans: []string{"later"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestJudge(t *testing.T) {
	now := newClock().now()
	s := snapshot(t, now)
	name := func(n string) Link { return Link{Type: "CNAME", Name: n} }
	addr := func(a string) Link { return Link{Type: "A", Addr: netip.MustParseAddr(a)} }
	for _, tt := range []struct {
		name   string
		device string
		links  []Link
		action policy.Action
		link   string
		rule   string
	}{
		{name: "none", action: policy.Allow},
		{name: "innocent", links: []Link{name("www.example"), addr("192.0.2.1")}, action: policy.Allow},
		{name: "name", links: []Link{name("www.example"), name("a.banned.test"), name("b.banned.test")}, action: policy.Block, link: "CNAME a.banned.test", rule: "now:1"},
		{name: "address", links: []Link{name("www.example"), addr("43.130.30.240")}, action: policy.Block, link: "A 43.130.30.240", rule: "now:2"},
		{name: "NAT64", links: []Link{addr("64:ff9b::43.130.30.240")}, action: policy.Block, link: "A 64:ff9b::2b82:1ef0", rule: "now:2"},
		{name: "report", links: []Link{name("x.example"), name("a.soon.test"), name("b.soon.test")}, action: policy.Report, link: "CNAME a.soon.test", rule: "later:7"},
		{name: "report, then block", links: []Link{name("a.soon.test"), name("a.banned.test")}, action: policy.Block, link: "CNAME a.banned.test", rule: "now:1"},
		{name: "group", device: "10.8.0.7", links: []Link{name("a.banned.test"), addr("192.0.2.1")}, action: policy.Allow},
	} {
		var sub policy.Subject
		if tt.device != "" {
			sub.Addr = netip.MustParseAddr(tt.device)
		}
		v, l, _ := Judge(s, sub, "", tt.links, now)
		if v.Action != tt.action || l.String() != tt.link || v.RuleID() != tt.rule || v.Generation != 9 {
			t.Errorf("%s: %s by %q at %q, generation %d, want %s by %q at %q", tt.name, v.Action, v.RuleID(), l, v.Generation, tt.action, tt.rule, tt.link)
		}
		if tt.device != "" && v.Group != "free" {
			t.Errorf("%s: group %q", tt.name, v.Group)
		}
	}
	exempt := policy.Subject{Addr: netip.MustParseAddr("10.9.0.9")}
	for _, tt := range []struct {
		links []Link
		link  string
		ends  time.Duration
	}{
		{[]Link{name("www.example"), name("a.banned.test"), addr("43.130.30.240")}, "CNAME a.banned.test", 30 * time.Minute},
		{[]Link{name("a.banned.test"), name("a.soon.test")}, "CNAME a.banned.test", 20 * time.Minute},
		{[]Link{name("a.banned.test"), name("b.soon.test")}, "CNAME b.soon.test", 30 * time.Minute}, // it is reported
		{[]Link{name("b.soon.test")}, "CNAME b.soon.test", time.Hour},
	} {
		v, l, ends := Judge(s, exempt, "", tt.links, now)
		if !v.Allowed() || l.String() != tt.link || !ends.Equal(now.Add(tt.ends)) {
			t.Errorf("exempt, %v: %s at %q until %v, want %q until %v", tt.links, v.Action, l, ends.Sub(now), tt.link, tt.ends)
		}
	}
	if v, _, _ := Judge(nil, policy.Subject{}, "", nil, now); v.Action != policy.Undecided {
		t.Errorf("without a snapshot: %s", v.Action)
	}
}

func TestLookupAddrs(t *testing.T) {
	z := &zone{answer: func(q *dns.Msg) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		add := func(s string) { m.Answer = append(m.Answer, rr(t, s)) }
		v4 := q.Question[0].Qtype == dns.TypeA
		switch q.Question[0].Name {
		case "both.example.":
			if add("both.example. 60 IN CNAME c.example."); v4 {
				add("c.example. 60 IN A 192.0.2.1")
			} else {
				add("c.example. 60 IN AAAA 2001:db8::1")
			}
		case "half.example.": // AAAA is broken
			if v4 {
				add("half.example. 60 IN A 192.0.2.1")
			} else {
				m.Rcode = dns.RcodeServerFailure
			}
		case "empty.example.":
			add("empty.example. 60 IN CNAME banned.test.")
		case "broken.example.":
			m.Rcode = dns.RcodeServerFailure
		default:
			m.Rcode = dns.RcodeNameError
		}
		return m
	}}
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10})
	for _, tt := range []struct {
		name, addrs, links string
		notFound, fails    bool
	}{
		{name: "both.example", addrs: "[192.0.2.1 2001:db8::1]", links: "[CNAME c.example A 192.0.2.1 CNAME c.example AAAA 2001:db8::1]"},
		{name: "half.example", addrs: "[192.0.2.1]", links: "[A 192.0.2.1]"},
		{name: "empty.example", addrs: "[]", links: "[CNAME banned.test CNAME banned.test]", notFound: true, fails: true},
		{name: "gone.example", addrs: "[]", links: "[]", notFound: true, fails: true},
		{name: "broken.example", addrs: "[]", links: "[]", fails: true},
		{name: "bad..name", addrs: "[]", links: "[]", fails: true},
	} {
		addrs, links, err := r.LookupAddrs(t.Context(), tt.name)
		if fmt.Sprint(addrs) != tt.addrs || fmt.Sprint(links) != tt.links {
			t.Errorf("%s: %v, %v, want %s, %s", tt.name, addrs, links, tt.addrs, tt.links)
		}
		if (err != nil) != tt.fails {
			t.Errorf("%s: error %v", tt.name, err)
		}
		if tt.notFound {
			wantErr(t, err, ErrNotFound)
		}
	}
	before := z.queries.Load()
	if _, _, err := r.LookupAddrs(context.Background(), "BOTH.example."); err != nil || z.queries.Load() != before {
		t.Errorf("the second lookup: %v, %d queries more", err, z.queries.Load()-before)
	}
}

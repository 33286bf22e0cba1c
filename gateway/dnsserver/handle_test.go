package dnsserver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
)

const zones = `
cloak.example.       300 IN CNAME x.wechat.com.
deep.example.        300 IN CNAME a.deep.example.
a.deep.example.      300 IN CNAME b.deep.example.
b.deep.example.      300 IN CNAME v.tiktok.com.
v.tiktok.com.        300 IN A     192.0.2.77
x.wechat.com.        300 IN A     192.0.2.78
svc.example.         300 IN HTTPS 1 edge.kaspersky.com. alpn=h2
alias.example.       300 IN HTTPS 0 www.wechat.com.
hint4.example.       300 IN HTTPS 1 . ipv4hint=192.0.2.5,203.0.113.5
hint6.example.       300 IN HTTPS 1 . ipv6hint=2001:db8:bad::5
addr4.example.       300 IN A     203.0.113.9
addr6.example.       300 IN AAAA  2001:db8:bad::9
mapped.example.      300 IN AAAA  64:ff9b::cb00:7109
soon.example.        300 IN CNAME www.future.example.
www.future.example.  300 IN A     192.0.2.6
good.example.        300 IN A     192.0.2.10
good.example.        300 IN AAAA  2001:db8::10
good.example.        300 IN HTTPS 1 . alpn=h2
`

var transports = []string{"udp", "tcp"}

func TestBlockedName(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable})
		names := []string{"wechat.com", "WeChat.COM", "short.weixin.qq.com", "a.b.c.wechat.com"}
		types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeTXT, dns.TypeMX, dns.TypeCNAME, dns.TypeSOA, dns.TypeNS, dns.TypeANY, dns.TypeAXFR, dns.TypeDS, dns.TypeSVCB, 65280}
		for _, network := range transports {
			for _, name := range names {
				for _, typ := range types {
					m := r.ask(t, network, edns(query(name, typ), 1232))
					label := fmt.Sprintf("%s %s over %s", name, dns.Type(typ), network)
					if m.Rcode != dns.RcodeNameError || len(m.Answer) != 0 {
						t.Errorf("%s: %v, want NXDOMAIN without answer", label, m)
					}
					if m.Authoritative || m.AuthenticatedData || !m.RecursionAvailable || !m.RecursionDesired || m.Truncated {
						t.Errorf("%s: flags of %v, want ra and rd only", label, m.MsgHdr)
					}
					wantSOA(t, label, m, 60)
					if got, want := m.Question[0].Name, dns.Fqdn(name); got != want {
						t.Errorf("%s: question %s, want it as asked", label, got)
					}
					e := edeOf(m)
					if e == nil || e.InfoCode != 15 || !strings.Contains(e.ExtraText, "WeChat") || !strings.Contains(e.ExtraText, "https://ban.example/wechat") {
						t.Errorf("%s: EDE %v, want 15 with ban and reference", label, e)
					}
					if n := r.up.count(name); n != 0 {
						t.Errorf("%s: upstream was asked %d times", label, n)
					}
				}
			}
		}
		want := len(transports) * len(names) * len(types)
		if st := r.Stats(); st.Blocked != uint64(want) || st.Rcodes["NXDOMAIN"] != uint64(want) {
			t.Errorf("stats %+v, want %d blocked", st, want)
		}
		if got := len(r.audit.take()); got != want {
			t.Errorf("%d audit records, want %d", got, want)
		}
	})
}

func wantSOA(t *testing.T, label string, m *dns.Msg, ttl uint32) {
	t.Helper()
	if len(m.Ns) != 1 {
		t.Errorf("%s: authority %v, want one SOA", label, m.Ns)
		return
	}
	soa, ok := m.Ns[0].(*dns.SOA)
	if !ok || soa.Hdr.Ttl != ttl || soa.Minttl != ttl {
		t.Errorf("%s: authority %v, want SOA with TTL and MINIMUM %d", label, m.Ns[0], ttl)
		return
	}
	if !dns.IsSubDomain(soa.Hdr.Name, m.Question[0].Name) {
		t.Errorf("%s: SOA of %s, which %s is not in", label, soa.Hdr.Name, m.Question[0].Name)
	}
}

func TestExtendedErrorCodes(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable})
		for _, tc := range []struct {
			name string
			code int // -1: no extended error
		}{{"wechat.com", 15}, {"kaspersky.com", 16}, {"tiktok.com", 17}, {"quiet.example", -1}} {
			m := r.ask(t, "udp", edns(query(tc.name, dns.TypeA), 1232))
			got := -1
			if e := edeOf(m); e != nil {
				got = int(e.InfoCode)
			}
			if got != tc.code || m.IsEdns0() == nil {
				t.Errorf("%s: EDE %d, want %d; OPT %v", tc.name, got, tc.code, m.IsEdns0())
			}
			m = r.ask(t, "udp", query(tc.name, dns.TypeA))
			if m.IsEdns0() != nil || m.Rcode != dns.RcodeNameError {
				t.Errorf("%s without EDNS: %v, want NXDOMAIN without OPT", tc.name, m)
			}
		}
	})
}

// What an official reference looks like is in the text whole; one that is too
// long is not in it at all.
func TestReferenceIsWhole(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		official := "https://www.example.gc.example/en/treasury-board-secretariat/news/2023/10/" + strings.Repeat("a-ban-on-", 12) + "devices.html"
		list := bans()[:2]
		list[0].Reference, list[1].Reference = official, official+strings.Repeat("x", maxText)
		r := start(t, zones, Options{portable: portable})
		r.store.Swap(snapshot(t, 9, list))
		for name, want := range map[string]string{
			"wechat.com":    "WeChat on government devices (" + official + ")",
			"kaspersky.com": "Kaspersky",
		} {
			if e := edeOf(r.ask(t, "udp", edns(query(name, dns.TypeA), 512))); e == nil || e.ExtraText != want {
				t.Errorf("%s: EDE %v, want %q", name, e, want)
			}
		}
	})
}

func TestModes(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable, BlockTTL: 7 * time.Second})
		for _, tc := range []struct {
			name   string
			qtype  uint16
			rcode  int
			answer string
			soa    bool
		}{
			{"m-nodata.example", dns.TypeA, dns.RcodeSuccess, "", true},
			{"m-null.example", dns.TypeA, dns.RcodeSuccess, "0.0.0.0", false},
			{"m-null.example", dns.TypeAAAA, dns.RcodeSuccess, "::", false},
			{"m-null.example", dns.TypeHTTPS, dns.RcodeSuccess, "", true},
			{"m-null.example", dns.TypeANY, dns.RcodeSuccess, "", true},
			{"m-refused.example", dns.TypeA, dns.RcodeRefused, "", false},
			{"m-addresses.example", dns.TypeA, dns.RcodeSuccess, "198.51.100.9", false},
			{"x.m-addresses.example", dns.TypeAAAA, dns.RcodeSuccess, "2001:db8::9", false},
			{"m-addresses.example", dns.TypeMX, dns.RcodeSuccess, "", true},
			{"m-v4only.example", dns.TypeAAAA, dns.RcodeSuccess, "", true},
		} {
			for _, network := range transports {
				label := fmt.Sprintf("%s %s over %s", tc.name, dns.Type(tc.qtype), network)
				m := r.ask(t, network, edns(query(tc.name, tc.qtype), 1232))
				got := ""
				for _, rr := range m.Answer {
					if rr.Header().Ttl != 7 || rr.Header().Name != dns.Fqdn(tc.name) || rr.Header().Rrtype != tc.qtype {
						t.Errorf("%s: %v, want TTL 7 and the question's name and type", label, rr)
					}
					got += strings.Fields(rr.String())[4]
				}
				if m.Rcode != tc.rcode || got != tc.answer {
					t.Errorf("%s: %s %q, want %s %q", label, dns.RcodeToString[m.Rcode], got, dns.RcodeToString[tc.rcode], tc.answer)
				}
				if e := edeOf(m); e == nil || e.InfoCode != 15 {
					t.Errorf("%s: EDE %v, want 15", label, e)
				}
				if tc.soa {
					wantSOA(t, label, m, 7)
				} else if len(m.Ns) != 0 {
					t.Errorf("%s: authority %v, want none", label, m.Ns)
				}
			}
		}
	})
}

func TestModeDrop(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable})
		// One connection: the dropped question must not cost the next its answer.
		c := r.dial(t, "tcp")
		if _, err := c.Write(append(frame(pack(t, query("m-drop.example", dns.TypeA))), frame(pack(t, query("good.example", dns.TypeA)))...)); err != nil {
			t.Fatal(err)
		}
		if m := readFrame(t, c, secs(30)); m == nil || m.Question[0].Name != "good.example." {
			t.Errorf("after a dropped question: %v, want the answer for good.example", m)
		}
		u := r.dial(t, "udp")
		if _, err := u.Write(pack(t, query("m-drop.example", dns.TypeA))); err != nil {
			t.Fatal(err)
		}
		eventually(t, "both drops are counted", func() bool { return r.Stats().Dropped["mode"] == 2 })
		_ = u.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := u.Read(make([]byte, 512)); err == nil {
			t.Errorf("dropped question got %d bytes", n)
		}
		var results []string
		for _, rec := range r.audit.take() {
			if rec.Ban == "m-drop" {
				results = append(results, rec.Result)
			}
		}
		if got := strings.Join(results, " "); got != "DROP DROP" {
			t.Errorf("audit results %q, want DROP twice", got)
		}
	})
}

func TestLinks(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r, res := startCounting(t, zones, Options{portable: portable})
		for _, tc := range []struct {
			name  string
			qtype uint16
			via   string
			ban   string
		}{
			{"cloak.example", dns.TypeA, "CNAME x.wechat.com", "wechat"},
			{"deep.example", dns.TypeA, "CNAME v.tiktok.com", "tiktok"},
			{"svc.example", dns.TypeHTTPS, "HTTPS edge.kaspersky.com", "kaspersky"},
			{"alias.example", dns.TypeHTTPS, "HTTPS www.wechat.com", "wechat"},
			{"hint4.example", dns.TypeHTTPS, "HTTPS ipv4hint 203.0.113.5", "addresses"},
			{"hint6.example", dns.TypeHTTPS, "HTTPS ipv6hint 2001:db8:bad::5", "addresses"},
			{"addr4.example", dns.TypeA, "A 203.0.113.9", "addresses"},
			{"addr6.example", dns.TypeAAAA, "AAAA 2001:db8:bad::9", "addresses"},
			{"mapped.example", dns.TypeAAAA, "AAAA 64:ff9b::cb00:7109", "addresses"},
		} {
			for _, pass := range []string{"udp", "tcp", "udp"} { // the second and third from the cache
				m := r.ask(t, pass, edns(query(tc.name, tc.qtype), 1232))
				if m.Rcode != dns.RcodeNameError || len(m.Answer) != 0 {
					t.Errorf("%s: %v, want NXDOMAIN", tc.name, m)
				}
				wantSOA(t, tc.name, m, 60)
				if e := edeOf(m); e == nil || !strings.HasSuffix(e.ExtraText, "through "+tc.via) {
					t.Errorf("%s: EDE %v, want through %s", tc.name, e, tc.via)
				}
				recs := r.audit.take()
				if len(recs) != 1 || recs[0].Via != tc.via || recs[0].Ban != tc.ban || recs[0].Action != "block" || recs[0].Result != "NXDOMAIN" || recs[0].Name != tc.name {
					t.Errorf("%s: audit %+v, want one block by %s via %s", tc.name, recs, tc.ban, tc.via)
				}
			}
			if n, m := res.resolved.Swap(0), r.up.count(tc.name); n != 1 || m == 0 {
				t.Errorf("%s: resolver asked %d times, want 1; upstream %d times", tc.name, n, m)
			}
		}
	})
}

func TestAllowed(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r, res := startCounting(t, zones, Options{portable: portable})
		for _, name := range []string{"good.example", "mail.qq.com", "map.qq.com", "notwechat.com", "wechat.com.example.org", "x\\.wechat.com", "tik\\.tok.com", "", "\\000\\255.example", "_sip._udp.example"} {
			q := edns(query(name, dns.TypeA), 1232)
			if name == "" {
				q = edns(query(".", dns.TypeNS), 1232)
			}
			m := r.ask(t, "udp", q)
			if m.Rcode != dns.RcodeSuccess || m.IsEdns0() == nil || edeOf(m) != nil {
				t.Errorf("%q: %v, want NOERROR with a bare OPT", name, m)
			}
			if m.Question[0] != q.Question[0] || m.Id != q.Id {
				t.Errorf("%q: question %v, want it as asked", name, m.Question)
			}
			if n, m := res.resolved.Swap(0), r.up.count(q.Question[0].Name); n != 1 || m == 0 {
				t.Errorf("%q: resolver asked %d times, want 1; upstream %d times", name, n, m)
			}
			if recs := r.audit.take(); len(recs) != 1 || recs[0].Action != "allow" || recs[0].Result != "NOERROR" || recs[0].Name == "" {
				t.Errorf("%q: audit %+v, want one allow", name, recs)
			}
		}
	})
}

func TestReport(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable})
		for _, tc := range []struct{ name, via string }{{"www.future.example", ""}, {"soon.example", "CNAME www.future.example"}} {
			m := r.ask(t, "udp", query(tc.name, dns.TypeA))
			if m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0 {
				t.Errorf("%s: %v, want its address", tc.name, m)
			}
			recs := r.audit.take()
			if len(recs) != 1 || recs[0].Action != "report" || recs[0].Via != tc.via || recs[0].Ban != "future" {
				t.Errorf("%s: audit %+v, want a report via %q", tc.name, recs, tc.via)
			}
		}
		if st := r.Stats(); st.Reported != 2 || st.Blocked != 0 || st.Allowed != 0 {
			t.Errorf("stats %+v, want 2 reported", st)
		}
	})
}

func TestExemptionOfSubject(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		snap := snapshotWith(t, bans()[:1], policy.Exemption{
			ID: "EX-1", Ban: "wechat", Device: netip.MustParsePrefix("127.0.0.1/32"), Until: time.Now().Add(time.Hour),
		})
		r := start(t, zones, Options{portable: portable})
		r.store.Swap(snap)
		if m := r.ask(t, "udp", query("x.wechat.com", dns.TypeA)); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
			t.Errorf("exempt device: %v, want its address", m)
		}
		recs := r.audit.take()
		if len(recs) != 1 || recs[0].Exemption != "EX-1" || recs[0].Reason != "exemption" || recs[0].Device.String() != "127.0.0.1" || recs[0].Generation != 3 {
			t.Errorf("audit %+v, want the exemption", recs)
		}
	})
}

// No client keeps an answer for longer than the permission for it: until the
// exemption ends, or the ban takes effect.
func TestPermissionLimitsTTL(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		list := bans()[:2]
		list[1].Effective = time.Now().Add(120 * time.Second)
		snap := snapshotWith(t, list, policy.Exemption{
			ID: "EX-1", Ban: "wechat", Device: netip.MustParsePrefix("127.0.0.1/32"), Until: time.Now().Add(60 * time.Second),
		})
		r := start(t, zones, Options{portable: portable})
		r.store.Swap(snap)
		for _, tc := range []struct {
			name     string
			min, max uint32
		}{{"x.wechat.com", 1, 60}, {"cloak.example", 1, 60}, {"x.kaspersky.com", 61, 120}, {"fresh.example", 240, 300}} {
			for _, label := range []string{"fetched", "cached"} {
				m := r.ask(t, "udp", query(tc.name, dns.TypeA))
				if len(m.Answer) == 0 || slices.ContainsFunc(m.Answer, func(rr dns.RR) bool { ttl := rr.Header().Ttl; return ttl < tc.min || ttl > tc.max }) {
					t.Errorf("%s %s: %v, want TTLs from %d to %d", label, tc.name, m.Answer, tc.min, tc.max)
				}
				if rec := r.audit.take(); len(rec) != 1 || (rec[0].Exemption != "") != (tc.max == 60) {
					t.Errorf("%s %s: audit %+v", label, tc.name, rec)
				}
			}
		}
	})
}

func snapshotWith(t *testing.T, list []testBan, ex ...policy.Exemption) *policy.Snapshot {
	t.Helper()
	spec := policy.Spec{Generation: 3, Exemptions: ex}
	var b blocklists.Builder
	for i := range list {
		if err := b.Add(i, list[i].rules[0]); err != nil {
			t.Fatal(err)
		}
		spec.Lists = append(spec.Lists, policy.List{Name: list[i].ID, Ban: i})
		spec.Bans = append(spec.Bans, &list[i].Ban)
	}
	spec.Set = b.Build()
	snap, err := policy.NewSnapshot(spec)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func TestProtocol(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable})
		set := func(f func(*dns.Msg)) *dns.Msg {
			m := edns(query("good.example", dns.TypeA), 1232)
			f(m)
			return m
		}
		r.ask(t, "udp", query("known.example", dns.TypeA)) // into the cache
		for _, tc := range []struct {
			label string
			q     *dns.Msg
			rcode int
			ede   int // -1: none
		}{
			{"EDNS version 1", set(func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }), dns.RcodeBadVers, -1},
			{"EDNS version 1, banned", set(func(m *dns.Msg) { m.Question[0].Name = "wechat.com."; m.IsEdns0().SetVersion(255) }), dns.RcodeBadVers, -1},
			{"two OPT", set(func(m *dns.Msg) { m.Extra = append(m.Extra, m.Extra[0]) }), dns.RcodeFormatError, -1},
			{"class CH", set(func(m *dns.Msg) {
				m.Question[0] = dns.Question{Name: "version.bind.", Qtype: dns.TypeTXT, Qclass: dns.ClassCHAOS}
			}), dns.RcodeRefused, 21},
			{"class ANY", set(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY }), dns.RcodeRefused, 21},
			{"AXFR", set(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), dns.RcodeRefused, 21},
			{"IXFR", set(func(m *dns.Msg) {
				m.Question[0].Qtype = dns.TypeIXFR
				m.Ns = []dns.RR{&dns.SOA{Hdr: dns.RR_Header{Name: "good.example.", Rrtype: dns.TypeSOA, Class: dns.ClassINET}, Ns: ".", Mbox: "."}}
			}), dns.RcodeRefused, 21},
			{"MAILA", set(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMAILA }), dns.RcodeNotImplemented, 21},
			{"type OPT", set(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeOPT }), dns.RcodeFormatError, -1},
			{"type TSIG", set(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTSIG }), dns.RcodeFormatError, -1},
			{"type 0", set(func(m *dns.Msg) { m.Question[0].Qtype = 0 }), dns.RcodeFormatError, -1},
			{"NOTIFY", set(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), dns.RcodeNotImplemented, -1},
			{"UPDATE", set(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented, -1},
			{"STATUS", set(func(m *dns.Msg) { m.Opcode = dns.OpcodeStatus }), dns.RcodeNotImplemented, -1},
			{"opcode 15, banned", set(func(m *dns.Msg) { m.Opcode = 15; m.Question[0].Name = "wechat.com." }), dns.RcodeNotImplemented, -1},
			{"RD=0, unknown", set(func(m *dns.Msg) { m.RecursionDesired = false; m.Question[0].Name = "unknown.example." }), dns.RcodeRefused, 20},
			{"RD=0, cached", set(func(m *dns.Msg) { m.RecursionDesired = false; m.Question[0].Name = "known.example." }), dns.RcodeSuccess, -1},
			{"RD=0, banned", set(func(m *dns.Msg) { m.RecursionDesired = false; m.Question[0].Name = "wechat.com." }), dns.RcodeNameError, 15},
			{"TC, AA, RA, Z and AD in a query", set(func(m *dns.Msg) {
				m.Truncated, m.Authoritative, m.RecursionAvailable, m.Zero, m.AuthenticatedData = true, true, true, true, true
			}), dns.RcodeSuccess, -1},
			{"unknown option", set(func(m *dns.Msg) {
				m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: []byte("x")}, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
			}), dns.RcodeSuccess, -1},
		} {
			for _, network := range transports {
				m := r.ask(t, network, tc.q)
				code := -1
				if e := edeOf(m); e != nil {
					code = int(e.InfoCode)
				}
				if m.Rcode != tc.rcode || code != tc.ede || m.Id != tc.q.Id || !m.Response || m.Opcode != tc.q.Opcode {
					t.Errorf("%s over %s: %v, EDE %d, want %s, EDE %d", tc.label, network, m, code, dns.RcodeToString[tc.rcode], tc.ede)
				}
				if opt := m.IsEdns0(); opt != nil && (opt.Version() != 0 || opt.UDPSize() != 1232) {
					t.Errorf("%s: %v, want version 0 and size 1232", tc.label, opt)
				}
				if m.RecursionDesired != tc.q.RecursionDesired {
					t.Errorf("%s: RD %v, want it copied", tc.label, m.RecursionDesired)
				}
			}
		}
		if n := r.up.count("unknown.example"); n != 0 {
			t.Errorf("RD=0 went upstream %d times", n)
		}
		if m := r.ask(t, "udp", set(func(m *dns.Msg) { m.IsEdns0().SetVersion(1) })); m.IsEdns0() == nil || len(m.Question) != 1 {
			t.Errorf("BADVERS: %v, want question and OPT", m)
		}
	})
}

func TestDNSSECOKIsCopied(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable})
		for _, name := range []string{"wechat.com", "good.example"} {
			for _, do := range []bool{false, true} {
				q := query(name, dns.TypeA)
				q.SetEdns0(4096, do)
				q.CheckingDisabled = do
				m := r.ask(t, "udp", q)
				if opt := m.IsEdns0(); opt == nil || opt.Do() != do || m.CheckingDisabled != do {
					t.Errorf("%s with DO and CD %v: %v", name, do, m)
				}
			}
		}
	})
}

func TestANY(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable})
		m := r.ask(t, "udp", query("good.example", dns.TypeANY))
		if len(m.Answer) != 1 || m.Rcode != dns.RcodeSuccess {
			t.Fatalf("ANY: %v, want one record", m)
		}
		if h, ok := m.Answer[0].(*dns.HINFO); !ok || h.Cpu != "RFC8482" || h.Os != "" || h.Hdr.Name != "good.example." {
			t.Errorf("ANY: %v, want HINFO RFC8482", m.Answer[0])
		}
		if n := r.up.count("good.example"); n != 0 {
			t.Errorf("ANY went upstream %d times", n)
		}
	})
}

func TestTruncation(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		var zone strings.Builder
		for i := range 60 {
			fmt.Fprintf(&zone, "big.example. 300 IN A 198.51.100.%d\n", i+1)
			fmt.Fprintf(&zone, "huge.example. 300 IN TXT \"%s%d\"\n", strings.Repeat("x", 200), i)
		}
		r := start(t, zone.String(), Options{portable: portable})
		for _, tc := range []struct {
			name  string
			qtype uint16
			size  uint16 // 0: no EDNS
			limit int
			tc    bool
		}{
			{"big.example", dns.TypeA, 0, 512, true},
			{"big.example", dns.TypeA, 100, 512, true},
			{"big.example", dns.TypeA, 600, 600, true},
			{"big.example", dns.TypeA, 1232, 1232, false},
			{"big.example", dns.TypeA, 65535, 1232, false},
			{"huge.example", dns.TypeTXT, 4096, 1232, true},
		} {
			q := query(tc.name, tc.qtype)
			if tc.size > 0 {
				edns(q, tc.size)
			}
			label := fmt.Sprintf("%s with size %d", tc.name, tc.size)
			c := r.dial(t, "udp")
			if _, err := c.Write(pack(t, q)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 65535)
			_ = c.SetReadDeadline(time.Now().Add(secs(30)))
			n, err := c.Read(buf)
			if err != nil {
				t.Fatalf("%s: %v", label, err)
			}
			var m dns.Msg
			if err := m.Unpack(buf[:n]); err != nil {
				t.Fatalf("%s: %v", label, err)
			}
			if n > tc.limit || m.Truncated != tc.tc || len(m.Question) != 1 || (m.IsEdns0() != nil) != (tc.size > 0) {
				t.Errorf("%s: %d bytes, tc %v, OPT %v; want at most %d and tc %v", label, n, m.Truncated, m.IsEdns0(), tc.limit, tc.tc)
			}
			if full := r.ask(t, "tcp", q); full.Truncated || len(full.Answer) != 60 {
				t.Errorf("%s over TCP: %d records, tc %v; want 60", label, len(full.Answer), full.Truncated)
			}
		}
	})
}

// The longest names there are, in a client's case of its own: a blocked reply
// fits 512 octets without TC, and what does not fit is words.
func TestBlockedReplyFits(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		list := bans()[:1]
		label := strings.Repeat("a", 63)
		rule := label + "." + label + "." + label + "." + label[:59]
		list[0].rules = suffix(rule)
		list[0].Title.EN, list[0].Reference = strings.Repeat("é", 300), strings.Repeat("ü", 90)
		r := start(t, "", Options{portable: portable})
		r.store.Swap(snapshot(t, 9, list))
		for _, name := range []string{rule, strings.ToUpper(rule), "B." + strings.ToUpper(rule)} {
			q := edns(query(name, dns.TypeA), 512)
			c := r.dial(t, "udp")
			if _, err := c.Write(pack(t, q)); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 65535)
			_ = c.SetReadDeadline(time.Now().Add(secs(30)))
			n, err := c.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			var m dns.Msg
			if err := m.Unpack(buf[:n]); err != nil {
				t.Fatal(err)
			}
			if n > 512 || m.Truncated || m.Rcode != dns.RcodeNameError || len(m.Ns) != 1 {
				t.Errorf("%s: %d bytes, %v; want NXDOMAIN with SOA within 512", name, n, &m)
			}
			if e := edeOf(&m); e == nil || !strings.HasPrefix(e.ExtraText, "é") || !strings.Contains(e.ExtraText, "é… (ü") || !strings.HasSuffix(e.ExtraText, "ü…") {
				t.Errorf("%s: EDE %v, want a text cut between characters", name, e)
			}
		}
	})
}

func TestFailures(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		var fail atomic.Pointer[error]
		hook := &hooked{resolve: func(context.Context, *dns.Msg) (*resolver.Answer, error) { return nil, *fail.Load() }}
		r := start(t, "", Options{portable: portable, Resolver: hook})
		for _, tc := range []struct {
			label string
			err   error
			ede   uint16
		}{
			{"no upstream", fmt.Errorf("x: %w", resolver.ErrNoUpstream), 22},
			{"timeout", context.DeadlineExceeded, 22},
			{"network", errors.New("connection reset"), 23},
			{"busy", resolver.ErrBusy, 0},
			{"neither answer nor error", nil, 23},
		} {
			fail.Store(&tc.err)
			for _, network := range transports {
				m := r.ask(t, network, edns(query("good.example", dns.TypeA), 1232))
				if e := edeOf(m); m.Rcode != dns.RcodeServerFailure || e == nil || e.InfoCode != tc.ede {
					t.Errorf("%s over %s: %v, want SERVFAIL with EDE %d", tc.label, network, m, tc.ede)
				}
				if recs := r.audit.take(); len(recs) != 1 || recs[0].Result != "SERVFAIL" {
					t.Errorf("%s: audit %+v, want one SERVFAIL", tc.label, recs)
				}
			}
		}
		if st := r.Stats(); st.Failed != 8 || st.Overloaded != 2 {
			t.Errorf("stats %+v, want 8 failed and 2 overloaded", st)
		}
		// A ban does not need the upstream.
		if m := r.ask(t, "udp", query("wechat.com", dns.TypeA)); m.Rcode != dns.RcodeNameError {
			t.Errorf("banned name without upstream: %v, want NXDOMAIN", m)
		}
	})
}

func TestUpstreamServfail(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "", Options{portable: portable})
		m := r.ask(t, "udp", edns(query("servfail.example", dns.TypeA), 1232))
		if m.Rcode != dns.RcodeServerFailure || edeOf(m) == nil {
			t.Errorf("got %v, want SERVFAIL with EDE", m)
		}
	})
}

func TestNoPolicy(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "", Options{portable: portable, Policy: new(policy.Store)})
		for _, name := range []string{"good.example", "wechat.com"} {
			m := r.ask(t, "udp", edns(query(name, dns.TypeA), 1232))
			if e := edeOf(m); m.Rcode != dns.RcodeServerFailure || e == nil || e.InfoCode != 14 {
				t.Errorf("%s without a policy: %v, want SERVFAIL with EDE 14", name, m)
			}
			if n := r.up.count(name); n != 0 {
				t.Errorf("%s went upstream without a policy", name)
			}
		}
		if recs := r.audit.take(); len(recs) != 2 || recs[0].Action != "undecided" || r.Stats().Undecided != 2 {
			t.Errorf("audit %+v, want two undecided", recs)
		}
	})
}

func TestCanonical(t *testing.T) {
	for _, tc := range []struct{ wire, want string }{
		{"\x06WeChat\x03COM\x00", "wechat.com"},
		{"\x00", ""},
		{"\x08x.wechat\x03com\x00", `x\046wechat.com`},
		{"\x02a\\\x03com\x00", `a\\.com`},
		{"\x03a\\.\x03com\x00", `a\\\046.com`},
		{"\x02\xc3\x89\x00", `\195\137`},
		{"\x02\x00@\x01b\x00", `\000\@.b`},
	} {
		name, _, err := dns.UnpackDomainName([]byte(tc.wire), 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := canonical(name); got != tc.want {
			t.Errorf("canonical(%q) = %q, want %q", name, got, tc.want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, tc := range []struct {
		in   string
		n    int
		want string
	}{{"abc", 3, "abc"}, {"abcdef", 5, "ab…"}, {"ééé", 5, "é…"}, {"éé", 3, ""}, {"abc", 0, ""}, {"a\xff", 9, "a\uFFFD"}} {
		if got := cut(tc.in, tc.n); got != tc.want {
			t.Errorf("cut(%q, %d) = %q, want %q", tc.in, tc.n, got, tc.want)
		}
	}
}

func TestZone(t *testing.T) {
	for _, tc := range []struct{ asked, name, rule, want string }{
		{"A.WeChat.com.", "a.wechat.com", "wechat.com", "WeChat.com."},
		{"WeChat.com.", "wechat.com", "wechat.com", "WeChat.com."},
		{"notwechat.com.", "notwechat.com", "wechat.com", "notwechat.com."},
		{"cloak.example.", "cloak.example", "wechat.com", "cloak.example."},
		{"cloak.example.", "cloak.example", "", "cloak.example."},
		{".", "", "wechat.com", "."},
	} {
		if got := zone(tc.asked, tc.name, tc.rule); got != tc.want {
			t.Errorf("zone(%q, %q, %q) = %q, want %q", tc.asked, tc.name, tc.rule, got, tc.want)
		}
	}
}

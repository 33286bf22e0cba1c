package dnsserver

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
)

// twoRoads is one core seen from both sides: what its hot path answers and
// what its slow path does.
type twoRoads struct {
	*core
	hot     *hot
	records *recorder
	over    transport // udp at first
}

// An outcome is all that a message leads to.
type outcome struct {
	reply   []byte
	left    bool // by the exit, or to the resolver
	records int
	record  string // the record, but for its time
	stats   Stats
}

// fast takes the hot path, as a reader does.
func (w *twoRoads) fast(p []byte, from netip.Addr) outcome {
	w.stats = counters{}
	var counted counters
	var o outcome
	now := time.Now()
	w.hot.judge(func(snap *policy.Snapshot) {
		if w.hot.over = w.over; w.over == udp {
			o.reply, o.left = w.hot.answer(make([]byte, 0, replySize), p, from, snap, now)
		} else {
			o.reply, o.left = w.hot.onStream(make([]byte, 0, replySize), p, from, snap, now)
		}
	})
	w.hot.tally.received++
	w.hot.commit(&counted)
	return w.finish(o, &counted)
}

// slow takes the road of everything else, which ends where the resolver would
// be asked.
func (w *twoRoads) slow(p []byte, from netip.Addr) outcome {
	w.stats = counters{}
	var o outcome
	q, reply := w.accept(make([]byte, 0, replySize), p, from, w.over)
	if o.reply = reply; q != nil {
		o.reply, o.left = w.reply(make([]byte, 0, replySize), q)
	}
	return w.finish(o, new(counters))
}

func (w *twoRoads) finish(o outcome, counted *counters) outcome {
	o.stats = Stats{Dropped: map[string]uint64{}, Rcodes: map[string]uint64{}}
	counted.addTo(&o.stats)
	w.stats.addTo(&o.stats)
	recs := w.records.take()
	if o.records = len(recs); o.records == 1 {
		recs[0].Time = time.Time{}
		o.record = fmt.Sprintf("%+v", recs[0])
	}
	return o
}

// same fails where the hot path answered what the slow path would not have, or
// counted or recorded something else. It reports whether the hot path answered.
func (w *twoRoads) same(t testing.TB, p []byte, from netip.Addr) (answered bool) {
	t.Helper()
	began := time.Now()
	slow, fast := w.slow(p, from), w.fast(p, from)
	older := uint32(time.Since(began)/time.Second) + 1
	if fast.left {
		if len(fast.reply) != 0 || fast.records != 0 || !reflect.DeepEqual(fast.stats, received(w.over)) {
			t.Errorf("%x left with a reply of %d octets, %d records and %+v", p, len(fast.reply), fast.records, fast.stats)
		}
		return false
	}
	if slow.left {
		t.Errorf("%x was answered, though the resolver must be asked", p)
		return true
	}
	sameReply(t, w.over, p, fast.reply, slow.reply, older)
	if fast.records != slow.records || fast.record != slow.record {
		t.Errorf("%x: %d records\n%s\nwant %d\n%s", p, fast.records, fast.record, slow.records, slow.record)
	}
	if !reflect.DeepEqual(fast.stats, slow.stats) {
		t.Errorf("%x: counted %+v\nwant %+v", p, fast.stats, slow.stats)
	}
	return true
}

// received is what is counted of a message that nothing was done about yet.
func received(tr transport) Stats {
	st := Stats{Dropped: map[string]uint64{}, Rcodes: map[string]uint64{}}
	var c counters
	c.received[tr].Add(1)
	c.addTo(&st)
	return st
}

// sameReply compares two replies record by record. Those of the first may be so
// many seconds older: each road looks at a clock of its own.
func sameReply(t testing.TB, tr transport, p, got, want []byte, older uint32) {
	t.Helper()
	if len(got) == 0 || len(want) == 0 {
		if len(got) != len(want) {
			t.Errorf("%x: reply of %d octets, want %d", p, len(got), len(want))
		}
		return
	}
	var g, w dns.Msg
	if err := g.Unpack(got); err != nil {
		t.Errorf("%x: reply %x: %v", p, got, err)
		return
	}
	if err := w.Unpack(want); err != nil {
		t.Fatalf("%x: reply %x of the slow path: %v", p, want, err)
	}
	for _, s := range [][2][]dns.RR{{g.Answer, w.Answer}, {g.Ns, w.Ns}, {g.Extra, w.Extra}} {
		for i := range min(len(s[0]), len(s[1])) {
			a, b := s[0][i].Header(), s[1][i].Header()
			if a.Rrtype != dns.TypeOPT && b.Ttl-a.Ttl <= older {
				a.Ttl = b.Ttl
			}
			a.Rdlength, b.Rdlength = 0, 0 // compression
		}
	}
	if g.String() != w.String() || !reflect.DeepEqual(&g, &w) {
		t.Errorf("%x: reply %v\nwant %v", p, &g, &w)
	}
	if limit := limitOf(p); tr == udp && len(got) > limit {
		t.Errorf("%x: reply of %d octets, limit %d", p, len(got), limit)
	}
}

// limitOf is what the client of a well-formed query takes.
func limitOf(p []byte) int {
	var m dns.Msg
	if m.Unpack(p) != nil || m.IsEdns0() == nil {
		return dns.MinMsgSize
	}
	return min(max(int(m.IsEdns0().UDPSize()), dns.MinMsgSize), maxUDP)
}

var (
	anyDevice  = netip.MustParseAddr("10.8.0.9")
	exempted   = netip.MustParseAddr("10.8.0.7")    // from wechat
	inGroup    = netip.MustParseAddr("10.9.1.1")    // with the ban of kaspersky alone
	inGroup6   = netip.MustParseAddr("2001:db8::7") // the same
	allDevices = []netip.Addr{anyDevice, exempted, inGroup, inGroup6, {}}
)

// house is a policy with something of everything: bans of every mode, allow
// rules in a ban's list, an operator's list, protected names, a group, and
// exemptions, one of which has ended.
func house(tb testing.TB) *policy.Snapshot {
	tb.Helper()
	list := bans()
	allow := func(kind blocklists.Kind, name string) blocklists.Rule {
		return blocklists.Rule{Kind: kind, Action: blocklists.Allow, Name: name, Line: 7}
	}
	list[0].rules = append(list[0].rules, allow(blocklists.Suffix, "help.wechat.com"),
		blocklists.Rule{Kind: blocklists.Exact, Action: blocklists.Block, Name: "exact.example", Line: 8},
		blocklists.Rule{Kind: blocklists.Under, Action: blocklists.Block, Name: "under.example", Line: 9},
		blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Block, Name: "ruled.example", Mode: blocklists.Null, Line: 10})
	list[1].rules = append(list[1].rules, suffix(longName)...)
	list[1].Title.EN, list[1].Reference = strings.Repeat("é", 90), "https://ban.example/"+strings.Repeat("a", 160)
	spec := policy.Spec{
		Generation: 1<<32 + 5,
		Groups:     []policy.Group{{Name: "few", Devices: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("2001:db8::/64")}, Bans: []string{"kaspersky"}}},
		Exemptions: []policy.Exemption{
			{ID: "EX-1", Ban: "wechat", Device: netip.PrefixFrom(exempted, 32), Until: time.Now().Add(24 * time.Hour)},
			{ID: "EX-2", Ban: "tiktok", Device: netip.PrefixFrom(exempted, 32), Until: time.Now().Add(-time.Hour)},
		},
	}
	var b blocklists.Builder
	add := func(l policy.List, rules ...blocklists.Rule) {
		for _, r := range rules {
			if err := b.Add(len(spec.Lists), r); err != nil {
				tb.Fatal(err)
			}
		}
		spec.Lists = append(spec.Lists, l)
	}
	for i := range list {
		spec.Bans = append(spec.Bans, &list[i].Ban)
		add(policy.List{Name: list[i].ID, Ban: i}, list[i].rules...)
	}
	add(policy.List{Name: "ours", Role: policy.RoleOperator}, allow(blocklists.Suffix, "ok.tiktok.com"), allow(blocklists.Suffix, "cloak2.example"))
	add(policy.List{Name: "vital", Role: policy.RoleProtected}, allow(blocklists.Exact, "update.kaspersky.com"))
	spec.Set = b.Build()
	s, err := policy.NewSnapshot(spec)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// longName is 251 octets as text: with the longest extended error, a blocked
// reply about it does not fit into 512 octets whole.
var longName = strings.Repeat(strings.Repeat("l", 62)+".", 3) + strings.Repeat("l", 62)

// hotZone is what the upstream knows beside zones. TTLs are long, so that
// nothing ends while a test runs.
const hotZone = `

chain.example.       86400 IN CNAME c1.chain.example.
c1.chain.example.    86400 IN CNAME c2.chain.example.
c2.chain.example.    86400 IN A     192.0.2.33
c2.chain.example.    86400 IN A     192.0.2.34
c2.chain.example.    86400 IN AAAA  2001:db8::33
cloak2.example.      86400 IN CNAME x.wechat.com.
texts.example.       86400 IN TXT   "one" "two"
mail.example.        86400 IN MX    10 mx.mail.example.
srv.example.         86400 IN SRV   1 2 443 target.srv.example.
svcb.example.        86400 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.40
sigs.example.        86400 IN A     192.0.2.41
ad.example.          86400 IN A     192.0.2.42
_sip._udp.example.   86400 IN TXT   "u"
`

// newRoads returns the house's core with warm caches: of every name in warm,
// each of the types, with and without DO and CD.
func newRoads(tb testing.TB) *twoRoads {
	tb.Helper()
	var big strings.Builder
	for i := range 40 {
		fmt.Fprintf(&big, "big.example. 86400 IN A 198.51.100.%d\nhuge.example. 86400 IN TXT %q\n", i+1, strings.Repeat("x", 200))
	}
	up := startUpstream(tb, zones+hotZone+big.String())
	res := up.resolver(tb)
	for _, name := range warm {
		for _, typ := range warmTypes {
			for i := range 4 {
				q := query(name, typ)
				if q.CheckingDisabled = i&1 != 0; i&2 != 0 {
					q.SetEdns0(1232, true)
				}
				if _, err := res.Resolve(tb.Context(), q); err != nil {
					tb.Fatalf("%s %s: %v", name, dns.Type(typ), err)
				}
			}
		}
	}
	store, rec := new(policy.Store), new(recorder)
	store.Swap(house(tb))
	c := &core{policy: store, resolver: res, audit: rec, blockTTL: 60}
	c.exit = newExit(tb.Context(), c, 0, 0, 0)
	return &twoRoads{core: c, hot: newHot(c), records: rec}
}

var (
	warm = []string{
		"good.example", "chain.example", "cloak.example", "cloak2.example", "deep.example", "addr4.example", "soon.example",
		"svcb.example", "hint4.example", "texts.example", "mail.example", "srv.example", "big.example", "huge.example", "ad.example", "sigs.example",
		"nx.free.example", "nodata.free.example", "servfail.example", "_sip._udp.example", ".", "www.future.example",
		"x.wechat.com", "help.wechat.com", "ok.tiktok.com", "update.kaspersky.com", "under.example", "tiktok.com", longName,
	}
	warmTypes = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeTXT, dns.TypeMX, dns.TypeSRV, 65280}
	// cold are names that are asked beside the warm ones.
	cold = []string{
		"cold.example", "wechat.com", "short.weixin.qq.com", "kaspersky.com", "a.b.kaspersky.com", "quiet.example", "x.quiet.example",
		"exact.example", "x.exact.example", "a.under.example", "ruled.example", "m-nodata.example", "m-null.example", "m-refused.example",
		"m-drop.example", "m-addresses.example", "x.m-v4only.example", "future.example", "nottiktok.com", "com", "x." + longName[:240],
	}
)

// variants are the shapes of one question: spelled as given and in upper case,
// with and without EDNS, flags and options.
func variants(tb testing.TB, name string, qtype uint16) (out [][]byte) {
	tb.Helper()
	for i := range 4 {
		for _, size := range []uint16{0, 512, 700, 4096} {
			q := query(name, qtype)
			if i&1 != 0 {
				q.Question[0].Name = strings.ToUpper(q.Question[0].Name)
				q.CheckingDisabled = true
			}
			if i&2 != 0 {
				q.RecursionDesired, q.AuthenticatedData = false, true
			}
			if size > 0 {
				q.SetEdns0(size, i == 1 || i == 2)
			}
			if size == 700 {
				q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"}}
			}
			out = append(out, pack(tb, q))
		}
	}
	return out
}

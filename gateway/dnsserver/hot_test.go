package dnsserver

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/wire"
)

// Every question by both roads, from different devices: what the hot path answers
// is what the slow path would have, and what it leaves it leaves untouched.
func TestHotEqualsSlow(t *testing.T) {
	w := newRoads(t)
	var answered, left int
	for _, name := range append(append([]string{}, warm...), cold...) {
		for _, typ := range append([]uint16{dns.TypeANY, dns.TypeAXFR, dns.TypeMAILA, dns.TypeNS, 0, dns.TypeTKEY}, warmTypes...) {
			for _, p := range variants(t, name, typ) {
				for _, from := range allDevices[:3] {
					if w.same(t, p, from) {
						answered++
					} else {
						left++
					}
					if t.Failed() {
						t.Fatalf("%s %s from %v", name, dns.Type(typ), from)
					}
				}
			}
		}
	}
	if answered < 4_000 || left < 4_000 {
		t.Errorf("%d answered and %d left: not enough of both", answered, left)
	}
}

// Damaged and odd messages by both roads.
func TestHotEqualsSlowOnBytes(t *testing.T) {
	w := newRoads(t)
	for _, p := range append(seeds(t), nil, plainQuery(), plainQuery()[:11], wire12(), append(plainQuery(), 0)) {
		for _, from := range allDevices {
			w.same(t, p, from)
		}
		for cut := range p {
			w.same(t, p[:cut], anyDevice)
		}
	}
}

// Which road a question takes. Whoever moves one from the hot path to the exit,
// or the other way, should have to say so.
func TestHotTakes(t *testing.T) {
	w := newRoads(t)
	for _, tc := range []struct {
		about, name string
		qtype       uint16
		size        uint16 // 0: no EDNS
		from        netip.Addr
		hot         bool
	}{
		{"blocked", "wechat.com", dns.TypeA, 0, anyDevice, true},
		{"blocked, with EDNS", "a.b.wechat.com", dns.TypeHTTPS, 1232, anyDevice, true},
		{"blocked, a type nobody knows", "wechat.com", 65280, 1232, anyDevice, true},
		{"blocked, ANY", "wechat.com", dns.TypeANY, 0, anyDevice, false},
		{"blocked, no data", "m-nodata.example", dns.TypeA, 0, anyDevice, true},
		{"blocked, null", "m-null.example", dns.TypeAAAA, 0, anyDevice, true},
		{"blocked, refused", "m-refused.example", dns.TypeA, 512, anyDevice, true},
		{"blocked, addresses", "m-addresses.example", dns.TypeA, 0, anyDevice, true},
		{"blocked, an address of the other family", "m-v4only.example", dns.TypeAAAA, 0, anyDevice, true},
		{"dropped", "m-drop.example", dns.TypeA, 0, anyDevice, true},
		{"blocked by the rule's own mode", "ruled.example", dns.TypeA, 0, anyDevice, true},
		{"blocked, no extended error", "quiet.example", dns.TypeA, 1232, anyDevice, true},
		{"blocked, too long with its words", longName, dns.TypeA, 512, anyDevice, false},
		{"blocked, not too long for this client", longName, dns.TypeA, 1232, anyDevice, true},
		{"blocked for the group", "kaspersky.com", dns.TypeA, 0, inGroup, true},
		{"cached", "good.example", dns.TypeA, 0, anyDevice, true},
		{"cached, from a group", "good.example", dns.TypeHTTPS, 1232, inGroup6, true},
		{"cached chain", "chain.example", dns.TypeA, 0, anyDevice, true},
		{"cached, no such name", "nx.free.example", dns.TypeA, 0, anyDevice, true},
		{"cached, no data", "nodata.free.example", dns.TypeTXT, 0, anyDevice, true},
		{"cached failure", "servfail.example", dns.TypeA, 0, anyDevice, false},
		{"cached, the root", ".", dns.TypeA, 0, anyDevice, true},
		{"cached, too long", "big.example", dns.TypeA, 0, anyDevice, false},
		{"cached, not too long for this client", "big.example", dns.TypeA, 1232, anyDevice, true},
		{"cached, too long for everybody", "huge.example", dns.TypeTXT, 4096, anyDevice, false},
		{"cached, and leads to a banned name", "cloak.example", dns.TypeA, 0, anyDevice, false},
		{"cached, and leads to a banned address", "addr4.example", dns.TypeA, 0, anyDevice, false},
		{"cached, and hints at a banned address", "hint4.example", dns.TypeHTTPS, 0, anyDevice, false},
		{"cached, and leads to a name that will be banned", "soon.example", dns.TypeA, 0, anyDevice, false},
		{"cached, and will be banned itself", "www.future.example", dns.TypeA, 0, anyDevice, false},
		{"cached, let through by an exemption", "x.wechat.com", dns.TypeA, 0, exempted, false},
		{"cached, of a ban that the group has not", "x.wechat.com", dns.TypeA, 0, inGroup, true},
		{"cached, let through by the ban's list", "help.wechat.com", dns.TypeA, 0, anyDevice, true},
		{"cached, let through by the operator", "ok.tiktok.com", dns.TypeA, 0, anyDevice, true},
		{"cached, let through, and leads to a banned name", "cloak2.example", dns.TypeA, 0, anyDevice, false},
		{"cached, protected", "update.kaspersky.com", dns.TypeA, 0, anyDevice, true},
		{"not cached", "cold.example", dns.TypeA, 0, anyDevice, false},
		{"an odd name", `x\.wechat.com`, dns.TypeA, 0, anyDevice, false},
	} {
		q := query(tc.name, tc.qtype)
		if tc.size > 0 {
			edns(q, tc.size)
		}
		if got := w.same(t, pack(t, q), tc.from); got != tc.hot {
			t.Errorf("%s (%s): answered on the hot path: %v, want %v", tc.about, tc.name, got, tc.hot)
		}
	}
}

// Without a policy, without a cache and before there is a resolver, everything
// leaves.
func TestHotLeaves(t *testing.T) {
	w := newRoads(t)
	good, banned := pack(t, query("good.example", dns.TypeA)), pack(t, query("wechat.com", dns.TypeA))
	for label, res := range map[string]Resolver{
		"a resolver without a readable cache": struct{ Resolver }{w.resolver},
		"no resolver yet":                     &reader{},
	} {
		c := &core{policy: w.policy, resolver: res, audit: w.records, blockTTL: 60}
		h := newHot(c)
		snap := c.policy.Load()
		if reply, leave := h.answer(nil, good, anyDevice, snap, time.Now()); !leave || len(reply) != 0 {
			t.Errorf("%s, cached: reply %x, leave %v", label, reply, leave)
		}
		if reply, leave := h.answer(nil, banned, anyDevice, snap, time.Now()); leave || len(reply) == 0 {
			t.Errorf("%s, banned: reply %x, leave %v", label, reply, leave)
		}
	}
	for _, p := range [][]byte{good, banned} {
		if reply, leave := w.hot.answer(nil, p, anyDevice, nil, time.Now()); !leave || len(reply) != 0 {
			t.Errorf("without a policy: reply %x, leave %v", reply, leave)
		}
	}
}

// A batch has as many records as decisions, in their order, and none of them
// changes with the buffer that its question stood in.
func TestHotRecordsABatch(t *testing.T) {
	w := newRoads(t)
	asked := []string{"wechat.com", "good.example", "m-drop.example", "a.b.wechat.com", "cold.example", "kaspersky.com"}
	var counted counters
	p := make([]byte, 512)
	w.hot.judge(func(snap *policy.Snapshot) {
		for _, name := range asked {
			n := copy(p, pack(t, query(name, dns.TypeA)))
			w.hot.answer(nil, p[:n], anyDevice, snap, time.Now())
			clear(p)
		}
	})
	w.hot.commit(&counted)
	w.hot.query.Parse(pack(t, query(strings.Repeat("x", 60), dns.TypeA))) // over all of the buffer that they had
	var got []string
	for _, rec := range w.records.take() {
		got = append(got, rec.Name+" "+rec.Action+" "+rec.Rule+" "+rec.Result)
	}
	want := []string{
		"wechat.com block wechat.com NXDOMAIN", "good.example allow  NOERROR", "m-drop.example block m-drop.example DROP",
		"a.b.wechat.com block wechat.com NXDOMAIN", "kaspersky.com block kaspersky.com NXDOMAIN",
	}
	if !slices.Equal(got, want) {
		t.Errorf("on the record:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if w.hot.commit(&counted); len(w.records.take()) != 0 || counted.actions[policy.Block].Load() != 4 || counted.actions[policy.Allow].Load() != 1 {
		t.Error("a second commit counts or records again")
	}
}

// What a reader keeps of the bans' words is of one policy: it does not grow
// with every reload, and says what the new policy says.
func TestHotForgetsOldPolicies(t *testing.T) {
	w := newRoads(t)
	for g := range uint64(5) {
		list := bans()
		list[0].Title.EN = strings.Repeat("x", int(g)+1)
		snap := snapshot(t, 100+g, list)
		reply, _ := w.hot.answer(nil, pack(t, edns(query("wechat.com", dns.TypeA), 1232)), anyDevice, snap, time.Now())
		var m dns.Msg
		if err := m.Unpack(reply); err != nil {
			t.Fatal(err)
		}
		if e := edeOf(&m); e == nil || !strings.HasPrefix(e.ExtraText, list[0].Title.EN+" (") {
			t.Errorf("generation %d: EDE %v, want %q", g, e, list[0].Title.EN)
		}
	}
	if n := len(w.hot.errors.data); n != 1 {
		t.Errorf("the words of %d bans are kept, want 1", n)
	}
}

// An answer says what is left of its TTLs by the time of the question, and
// what depends on DO and CD does so from the cache too.
func TestHotAnswersByTheQuestion(t *testing.T) {
	w := newRoads(t)
	for i := range 4 {
		q := query("sigs.example", dns.TypeA)
		if q.CheckingDisabled = i&1 != 0; i&2 != 0 {
			q.SetEdns0(1232, true)
		}
		reply, _ := w.hot.answer(nil, pack(t, q), anyDevice, w.policy.Load(), time.Now().Add(1000*time.Second))
		var m dns.Msg
		if err := m.Unpack(reply); err != nil {
			t.Fatalf("DO and CD %d: reply %x, %v", i, reply, err)
		}
		if len(m.Answer) != 1+i/2 || m.Answer[0].(*dns.A).A.String() != []string{"192.0.2.41", "192.0.2.99"}[i&1] {
			t.Errorf("DO and CD %d: %v", i, &m)
		}
		for _, rr := range m.Answer {
			if ttl := rr.Header().Ttl; ttl < 86400-1005 || ttl > 86400-1000 {
				t.Errorf("%v after 1000 s, want 85400", rr)
			}
		}
	}
}

// A message of which only the beginning is there is never judged.
func TestHotCut(t *testing.T) {
	w := newRoads(t)
	for _, tc := range []struct {
		label string
		p     []byte
		rcode byte // 0: no reply
	}{
		{"question", plainQuery(), wire.FormatError},
		{"odd question", append(wire12(), "\x01*\x00\x00\x01\x00\x01"...), wire.FormatError},
		{"reply", pack(t, &dns.Msg{MsgHdr: dns.MsgHdr{Response: true}}), 0},
		{"update", pack(t, &dns.Msg{MsgHdr: dns.MsgHdr{Opcode: dns.OpcodeUpdate}}), wire.NotImplemented},
	} {
		var c counters
		reply := w.hot.cut(nil, tc.p)
		w.hot.commit(&c)
		if tc.rcode == 0 {
			if len(reply) != 0 || c.dropped[dropResponse].Load() != 1 {
				t.Errorf("%s: reply %x", tc.label, reply)
			}
		} else if len(reply) != wire.HeaderLen || reply[3]&0xF != tc.rcode || c.rejected.Load() != 1 || c.rcodes[tc.rcode].Load() != 1 {
			t.Errorf("%s: reply %x, want a header with rcode %d", tc.label, reply, tc.rcode)
		}
		if recs := w.records.take(); len(recs) != 0 {
			t.Errorf("%s: on the record: %+v", tc.label, recs)
		}
	}
}

// FuzzHot: whatever comes, both roads lead to the same.
func FuzzHot(f *testing.F) {
	for i, p := range seeds(f) {
		f.Add(p, uint8(i))
	}
	for i, name := range append(warm, cold...) {
		f.Add(variants(f, name, dns.TypeA)[i%16], uint8(i))
	}
	w := newRoads(f)
	f.Fuzz(func(t *testing.T, p []byte, device uint8) {
		w.same(t, p, allDevices[int(device)%len(allDevices)])
	})
}

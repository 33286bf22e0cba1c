//go:build !race

// The race detector changes what is allocated.

package dnsserver

import (
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
)

// TestHotAllocationPins pins what the hot path allocates where no record is
// kept: nothing. Each pin also says which road was taken, and with what.
func TestHotAllocationPins(t *testing.T) {
	w := newRoads(t)
	w.audit = audit.Discard{}
	h := newHot(w.core)
	out := make([]byte, 0, replySize)
	now := time.Now()
	var counted counters
	for _, tc := range []struct {
		label string
		q     *dns.Msg
		rcode int // -1: no reply
	}{
		{"blocked A", query("wechat.com", dns.TypeA), dns.RcodeNameError},
		{"blocked AAAA", query("a.b.c.wechat.com", dns.TypeAAAA), dns.RcodeNameError},
		{"blocked HTTPS", query("WeChat.COM", dns.TypeHTTPS), dns.RcodeNameError},
		{"blocked A, EDNS", edns(query("short.weixin.qq.com", dns.TypeA), 1232), dns.RcodeNameError},
		{"blocked AAAA, EDNS", edns(query("wechat.com", dns.TypeAAAA), 1232), dns.RcodeNameError},
		{"blocked HTTPS, EDNS", edns(query("kaspersky.com", dns.TypeHTTPS), 512), dns.RcodeNameError},
		{"no data", edns(query("m-nodata.example", dns.TypeA), 1232), dns.RcodeSuccess},
		{"null A", edns(query("m-null.example", dns.TypeA), 1232), dns.RcodeSuccess},
		{"null AAAA", query("m-null.example", dns.TypeAAAA), dns.RcodeSuccess},
		{"refused", edns(query("m-refused.example", dns.TypeA), 1232), dns.RcodeRefused},
		{"dropped", query("m-drop.example", dns.TypeA), -1},
		{"addresses", edns(query("m-addresses.example", dns.TypeA), 1232), dns.RcodeSuccess},
		{"cached", query("good.example", dns.TypeA), dns.RcodeSuccess},
		{"cached, EDNS", edns(query("GOOD.example", dns.TypeAAAA), 1232), dns.RcodeSuccess},
		{"cached HTTPS", edns(query("svcb.example", dns.TypeHTTPS), 1232), dns.RcodeSuccess},
		{"cached chain", query("chain.example", dns.TypeA), dns.RcodeSuccess},
		{"cached, no such name", query("nx.free.example", dns.TypeA), dns.RcodeNameError},
		{"cached, big", edns(query("big.example", dns.TypeA), 1232), dns.RcodeSuccess},
		{"rejected", &dns.Msg{MsgHdr: dns.MsgHdr{Opcode: dns.OpcodeUpdate}}, dns.RcodeNotImplemented},
		{"a reply", &dns.Msg{MsgHdr: dns.MsgHdr{Response: true}}, -1},
	} {
		p := pack(t, tc.q)
		var reply []byte
		var leave bool
		answer := func(snap *policy.Snapshot) { reply, leave = h.answer(out, p, anyDevice, snap, now) }
		got := testing.AllocsPerRun(500, func() {
			h.judge(answer)
			h.commit(&counted)
		})
		if got != 0 {
			t.Errorf("%s: %v allocations, want none", tc.label, got)
		}
		rcode := -1
		if len(reply) > 3 {
			rcode = int(reply[3] & 0xF)
		}
		if leave || rcode != tc.rcode {
			t.Errorf("%s: rcode %d, left %v; want %d on the hot path", tc.label, rcode, leave, tc.rcode)
		}
	}
}

// What the slow path allocates is miekg/dns's: the sections, names and records
// of question and reply. This pins that little of ours comes on top.
func TestSlowAllocations(t *testing.T) {
	c := newCore(t)
	out := make([]byte, 0, replySize)
	for _, tc := range []struct {
		label string
		p     []byte
		most  float64
	}{
		{"a reply", []byte("\x00\x00\x80\x00\x00\x01\x00\x00\x00\x00\x00\x00"), 0},
		{"NOTIFY", []byte("\x00\x00\x20\x00\x00\x01\x00\x00\x00\x00\x00\x00"), 0},
		{"blocked", pack(t, query("short.weixin.qq.com", dns.TypeA)), 16},
		{"blocked with EDNS", pack(t, edns(query("short.weixin.qq.com", dns.TypeA), 1232)), 24},
	} {
		if got := testing.AllocsPerRun(200, func() { handleAll(c, out, tc.p, anyDevice, udp) }); got > tc.most {
			t.Errorf("%s: %v allocations, want at most %v", tc.label, got, tc.most)
		}
	}
}

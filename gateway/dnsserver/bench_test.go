package dnsserver

import (
	"net/netip"
	"testing"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/wire"
)

// Blocked and cached questions from bytes to bytes, without the socket.
func BenchmarkQuestion(b *testing.B) {
	up := startUpstream(b, "")
	res := up.resolver(b)
	if _, err := res.Resolve(b.Context(), query("good.example", dns.TypeA)); err != nil {
		b.Fatal(err)
	}
	c := newCore(b)
	c.resolver = res
	from := netip.MustParseAddr("10.8.0.7")
	out := make([]byte, 0, replySize)
	for _, bc := range []struct {
		name  string
		q     *dns.Msg
		rcode byte
	}{
		{"blocked", query("short.weixin.qq.com", dns.TypeA), dns.RcodeNameError},
		{"blocked/edns", edns(query("short.weixin.qq.com", dns.TypeA), 1232), dns.RcodeNameError},
		{"cached", query("good.example", dns.TypeA), dns.RcodeSuccess},
		{"rejected", &dns.Msg{MsgHdr: dns.MsgHdr{Opcode: dns.OpcodeUpdate}}, dns.RcodeNotImplemented},
	} {
		b.Run(bc.name, func(b *testing.B) {
			p := pack(b, bc.q)
			b.ReportAllocs()
			for b.Loop() {
				if reply := handleAll(c, out, p, from, udp); len(reply) < wire.HeaderLen || reply[3]&0xF != bc.rcode {
					b.Fatalf("reply %x", reply)
				}
			}
		})
	}
}

// The allocations of a blocked question are those of miekg/dns's messages: the
// question's and the reply's sections, names and records. The byte-level path
// will have none; until then this pins that nothing of ours comes on top.
func TestAllocations(t *testing.T) {
	c := newCore(t)
	from := netip.MustParseAddr("10.8.0.7")
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
		if got := testing.AllocsPerRun(200, func() { handleAll(c, out, tc.p, from, udp) }); got > tc.most {
			t.Errorf("%s: %v allocations, want at most %v", tc.label, got, tc.most)
		}
	}
}

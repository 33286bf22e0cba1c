package dnsserver

import (
	"hash/maphash"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/wire"
)

// benchHot answers one question again and again as a reader does under load,
// but for the system calls: what is counted is committed once for a batch.
func benchHot(b *testing.B, q *dns.Msg, wantLeave bool) {
	w := newRoads(b)
	w.audit = audit.Discard{}
	h := newHot(w.core)
	p, out := pack(b, q), make([]byte, 0, replySize)
	now := time.Now()
	var counted counters
	var reply []byte
	var leave bool
	answer := func(snap *policy.Snapshot) {
		h.read(&h.one, p, anyDevice)
		reply, leave = h.reply(out, &h.one, snap, now)
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		h.judge(answer)
		if n%32 == 0 {
			h.commit(&counted)
		}
	}
	if leave != wantLeave || leave == (len(reply) > 0) {
		b.Fatalf("reply %x, left %v", reply, leave)
	}
}

func BenchmarkHotBlocked(b *testing.B) {
	benchHot(b, edns(query("short.weixin.qq.com", dns.TypeA), 1232), false)
}

func BenchmarkHotCached(b *testing.B) {
	benchHot(b, edns(query("good.example", dns.TypeA), 1232), false)
}

// BenchmarkHotMiss is what the hot path costs a question that it leaves.
func BenchmarkHotMiss(b *testing.B) {
	benchHot(b, edns(query("cold.example", dns.TypeA), 1232), true)
}

var referenceSink uint64

// BenchmarkReference is work of a similar kind that has nothing to do with us:
// octets folded, hashed, looked up and copied. What the others cost in units of
// it hardly depends on the machine.
func BenchmarkReference(b *testing.B) {
	const names = 1 << 12
	seed := maphash.MakeSeed()
	table := make(map[uint64]uint32, names)
	in, out := []byte("xx.short.weixin.qq.com"), make([]byte, 256)
	for i := range names {
		in[0], in[1] = byte('a'+i%26), byte('a'+i/26%26)
		table[maphash.Bytes(seed, in)] = uint32(i)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		in[0], in[1] = byte('A'+i%26), byte('A'+i/26%26)
		for k, c := range in {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			out[k] = c
		}
		for at := 0; at < len(in); at += 6 {
			referenceSink += uint64(table[maphash.Bytes(seed, out[at:len(in)])])
		}
		copy(out[64:], out[:64])
	}
}

// BenchmarkSlow is the other road, from bytes to bytes.
func BenchmarkSlow(b *testing.B) {
	w := newRoads(b)
	w.audit = audit.Discard{}
	out := make([]byte, 0, replySize)
	for _, bc := range []struct {
		name  string
		q     *dns.Msg
		rcode byte
	}{
		{"blocked", edns(query("short.weixin.qq.com", dns.TypeA), 1232), dns.RcodeNameError},
		{"cached", edns(query("good.example", dns.TypeA), 1232), dns.RcodeSuccess},
		{"rejected", &dns.Msg{MsgHdr: dns.MsgHdr{Opcode: dns.OpcodeUpdate}}, dns.RcodeNotImplemented},
	} {
		b.Run(bc.name, func(b *testing.B) {
			p := pack(b, bc.q)
			b.ReportAllocs()
			for b.Loop() {
				if reply := handleAll(w.core, out, p, anyDevice, udp); len(reply) < wire.HeaderLen || reply[3]&0xF != bc.rcode {
					b.Fatalf("reply %x", reply)
				}
			}
		})
	}
}

package wire

import (
	"net/netip"
	"testing"
)

func BenchmarkParse(b *testing.B) {
	for _, bc := range []struct {
		name string
		p    []byte
	}{
		{"plain", plainQuery()},
		{"edns", extra(1, opt(option(10, "12345678")))},
		{"longest", named(nameOf(255))},
		{"odd", named("\x06we*hat\x03com\x00")},
		{"malformed", extra(3, "")},
	} {
		b.Run(bc.name, func(b *testing.B) {
			var q Query
			b.ReportAllocs()
			for b.Loop() {
				q.Parse(bc.p)
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	answer := Answer{Answers: 1, Body: []byte("\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xc0\x00\x02\x01"), TTLs: []uint16{6}}
	negative := Block{Rcode: NameError, TTL: 60, Zone: 3, EDE: []byte("\x00\x0fWeChat on government devices (https://ban.example/wechat)")}
	null := Block{Addr: netip.IPv4Unspecified(), TTL: 60}
	var q Query
	q.Parse(extra(1, opt("")))
	buf := make([]byte, 0, 2048)
	for _, bc := range []struct {
		name string
		do   func() []byte
	}{
		{"nxdomain", func() []byte { r, _ := q.AppendBlocked(buf, &negative); return r }},
		{"null", func() []byte { r, _ := q.AppendBlocked(buf, &null); return r }},
		{"answer", func() []byte { r, _ := q.AppendAnswer(buf, &answer, 7); return r }},
		{"failure", func() []byte { return q.AppendFailure(buf, ServerFailure, nil) }},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if len(bc.do()) < HeaderLen {
					b.Fatal("no reply")
				}
			}
		})
	}
}

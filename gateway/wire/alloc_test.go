//go:build !race

// The race detector changes what is allocated.

package wire

import (
	"net/netip"
	"testing"
)

// TestAllocationPins pins what a question costs: nothing at all.
func TestAllocationPins(t *testing.T) {
	full := extra(1, opt(option(10, "12345678")))
	answer := Answer{Answers: 1, Body: []byte("\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xc0\x00\x02\x01"), TTLs: []uint16{6}}
	negative := Block{Rcode: NameError, TTL: 60, Zone: 3, EDE: []byte("\x00\x0ftext")}
	null := Block{Addr: netip.IPv4Unspecified(), TTL: 60}
	buf := make([]byte, 0, 2048)
	var q Query
	var n int
	for _, tc := range []struct {
		label string
		p     []byte
		do    func() []byte
	}{
		{"parse", full, func() []byte { return buf[:1] }},
		{"parse a long name", named(nameOf(255)), func() []byte { return buf[:1] }},
		{"parse a header of lies", plainQuery()[:12], func() []byte { return AppendHeader(buf, plainHeader[:], FormatError) }},
		{"blocked", plainQuery(), func() []byte { r, _ := q.AppendBlocked(buf, &negative); return r }},
		{"blocked with EDNS", full, func() []byte { r, _ := q.AppendBlocked(buf, &negative); return r }},
		{"blocked with an address", full, func() []byte { r, _ := q.AppendBlocked(buf, &null); return r }},
		{"failure", full, func() []byte { return q.AppendFailure(buf, ServerFailure, negative.EDE) }},
		{"answer", full, func() []byte { r, _ := q.AppendAnswer(buf, &answer, 7); return r }},
	} {
		got := testing.AllocsPerRun(500, func() {
			q.Parse(tc.p)
			n += len(tc.do())
		})
		if got != 0 || n == 0 {
			t.Errorf("%s: %v allocations for %d octets, want none", tc.label, got, n)
		}
		n = 0
	}
}

var plainHeader = [HeaderLen]byte{0x12, 0x34, 1}

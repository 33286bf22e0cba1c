package dnsserver

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// padBlock is the length that padded replies are a multiple of (RFC 8467,
// section 4.1).
const padBlock = 468

// setOptions takes over what the client asks for by options that depend on the
// transport.
func (q *question) setOptions(opt *dns.OPT) {
	// QUIC's own padding is out of reach here, so that with EDNS every answer over
	// it is padded (RFC 9250, section 5.4; RFC 7830, section 4).
	q.pad = q.transport == doq
	for _, o := range opt.Option {
		switch o.Option() {
		case dns.EDNS0PADDING:
			// Only where it hides something (RFC 7830, section 6).
			q.pad = q.transport.encrypted()
		case dns.EDNS0TCPKEEPALIVE:
			// Elsewhere it means nothing (RFC 7828, section 3.3.1).
			q.keepalive = q.transport == tcp || q.transport == dot
		}
	}
}

// pad makes the reply as long as others of its kind, by an option of zeros at
// the end of its OPT record, which is its last record (RFC 7830, section 3). A
// reply that has none there is left alone.
func pad(p []byte, limit int) []byte {
	const head = 4 // code and length of the option
	opt := lastOPT(p)
	if opt < 0 || len(p)+head > limit {
		return p
	}
	size := min((len(p)+head+padBlock-1)/padBlock*padBlock, limit)
	fill := size - len(p) - head
	room := opt + 9 // the length of the options
	binary.BigEndian.PutUint16(p[room:], binary.BigEndian.Uint16(p[room:])+uint16(head+fill))
	p = binary.BigEndian.AppendUint16(p, dns.EDNS0PADDING)
	p = binary.BigEndian.AppendUint16(p, uint16(fill))
	return append(p, make([]byte, fill)...)
}

// lastOPT returns where the OPT record at the end of the message begins, or -1.
func lastOPT(p []byte) int {
	const fixed = 11 // root, type, size, extended rcode and flags, length of options
	off := questionEnd(p)
	if off < 0 {
		return -1
	}
	last := -1
	for rr := range records(p, off) {
		last = rr.owner
	}
	if last < 0 || last+fixed > len(p) || p[last] != 0 || binary.BigEndian.Uint16(p[last+1:]) != dns.TypeOPT {
		return -1
	}
	if last+fixed+int(binary.BigEndian.Uint16(p[last+9:])) != len(p) {
		return -1
	}
	return last
}

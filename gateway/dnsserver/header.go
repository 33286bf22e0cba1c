package dnsserver

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

const (
	headerLen = 12 // RFC 1035, section 4.1.1
	bitQR     = 0x80
	bitRD     = 0x01
	maxWire   = 255 // octets of a name, RFC 1035, section 2.3.4
	maxLabel  = 63
)

// A fate is what becomes of a message after a look at its raw bytes.
type fate uint8

const (
	ignore  fate = iota // no reply, whatever it is
	reject              // a header with an rcode
	proceed             // worth unpacking
)

// check looks at the raw bytes of a message, on every transport, before
// anything is allocated for it. The checks stand in the order of the threat:
// what must never be answered first, then what is not for us, then what lies.
func check(p []byte) (f fate, rcode int, why drop) {
	if len(p) < headerLen {
		return ignore, 0, dropShort
	}
	if p[2]&bitQR != 0 {
		// A reply to a reply is a loop between two servers, and lets a spoofed
		// packet start it.
		return ignore, 0, dropResponse
	}
	switch opcode := int(p[2]>>3) & 0xF; opcode {
	case dns.OpcodeQuery:
	default:
		// IQUERY is obsolete and answered so (RFC 3425, section 3). Weir has no
		// zones: a server without NOTIFY answers NOTIMP (RFC 1996, section 3.12),
		// and so does one without UPDATE (RFC 2136, section 2.2, rcode 4).
		// REFUSED would say that another client might be served.
		return reject, dns.RcodeNotImplemented, 0
	}
	qd, an := binary.BigEndian.Uint16(p[4:]), binary.BigEndian.Uint16(p[6:])
	ns, ar := binary.BigEndian.Uint16(p[8:]), binary.BigEndian.Uint16(p[10:])
	if qd != 1 {
		// RFC 9619, section 4. A query without a question makes sense with DNS
		// cookies only (RFC 7873, section 5.4), which Weir does not have.
		return reject, dns.RcodeFormatError, 0
	}
	if an != 0 || ns > 1 || ar > 2 {
		// IXFR has one SOA in the authority section (RFC 1995, section 3); OPT
		// and TSIG or SIG(0) are all that a query adds (RFC 6891, section 6.1.1;
		// RFC 8945, section 5.1).
		return reject, dns.RcodeFormatError, 0
	}
	end := questionEnd(p)
	if end < 0 {
		return reject, dns.RcodeFormatError, 0
	}
	if ns == 1 && binary.BigEndian.Uint16(p[end-4:]) != dns.TypeIXFR {
		return reject, dns.RcodeFormatError, 0
	}
	return proceed, 0, 0
}

// questionEnd returns where the question of a message ends, or -1 if it is
// malformed. There is nothing before the first name that it could point to, so
// compression is malformed too (RFC 1035, section 4.1.4).
func questionEnd(p []byte) int {
	off := headerLen
	for {
		if off >= len(p) || p[off] > maxLabel || off-headerLen >= maxWire {
			return -1
		}
		if p[off] == 0 {
			break
		}
		off += 1 + int(p[off])
	}
	if off += 1 + 4; off > len(p) {
		return -1
	}
	return off
}

// appendHeader appends a reply to p that is a header only, for messages whose
// question is not to be trusted.
func appendHeader(dst, p []byte, rcode int) []byte {
	const ra = 0x80
	return append(dst,
		p[0], p[1],
		bitQR|p[2]&(0xF<<3|bitRD), // the opcode and RD are copied
		ra|byte(rcode),
		0, 0, 0, 0, 0, 0, 0, 0)
}

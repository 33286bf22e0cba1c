package wire

import "encoding/binary"

// BadVersion is the rcode for a version of EDNS that we do not speak. It is too
// long for a header: its upper bits stand in the OPT record (RFC 6891, section
// 6.1.3).
const BadVersion = 16

// AppendReject appends the reply to a message that is read no further: a header
// only, because its question is not to be trusted, and our OPT record where the
// message has one (RFC 6891, section 6.1.1 makes no exception for errors). p
// must have a header, and for an rcode above 15 an OPT record.
func AppendReject(dst, p []byte, rcode uint8) []byte {
	start := len(dst)
	dst = AppendHeader(dst, p, rcode&0xF)
	opt := findOPT(p)
	if opt == nil {
		return dst
	}
	dst[start+11] = 1
	do := opt[6] & 0x80 // RFC 3225, section 3
	return append(dst, 0, 0, typeOPT, MaxUDP>>8, MaxUDP&0xFF, rcode>>4, 0, do, 0, 0, 0)
}

// Version returns the version of EDNS of a message; ok is false where it has no
// OPT record, or where none can be found.
func Version(p []byte) (version uint8, ok bool) {
	opt := findOPT(p)
	if opt == nil {
		return 0, false
	}
	return opt[5], true
}

// findOPT returns what follows the name of a message's OPT record, without its
// options, or nil. The message may be damaged after it, and in what it holds.
func findOPT(p []byte) []byte {
	const fixed = 10 // type, size, extended rcode and flags, length of options
	if len(p) < HeaderLen {
		return nil
	}
	off := HeaderLen
	for range binary.BigEndian.Uint16(p[4:]) {
		if off = skipName(p, off); off < 0 || off+4 > len(p) {
			return nil
		}
		off += 4
	}
	others := int(binary.BigEndian.Uint16(p[6:])) + int(binary.BigEndian.Uint16(p[8:]))
	all := others + int(binary.BigEndian.Uint16(p[10:]))
	for i := range all { // as many as there is room for: each takes 11 octets at the least
		name := off
		if off = skipName(p, off); off < 0 || off+fixed > len(p) {
			return nil
		}
		rr := p[off : off+fixed]
		if i >= others && p[name] == 0 && binary.BigEndian.Uint16(rr) == typeOPT {
			return rr
		}
		off += fixed + int(binary.BigEndian.Uint16(rr[8:]))
	}
	return nil
}

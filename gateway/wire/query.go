// Package wire reads DNS questions and writes blocked and cached answers as
// bytes, without allocating: it is what lets a question cost little more than
// the system calls that carry it.
//
// It knows the shape that nearly all questions have, a host name in class IN
// with at most an OPT record, and says of everything else that it is Complex.
// It holds no policy, no cache and no socket, and it is no DNS library:
// messages of other shapes are for one. For what both accept, both give the
// same answer.
package wire

import (
	"encoding/binary"
	"unsafe"
)

const (
	// HeaderLen is the length of a message's header (RFC 1035, section 4.1.1).
	HeaderLen = 12
	// MinLimit is what every client takes over UDP (RFC 1035, section 4.2.1),
	// and MaxUDP the most that is sent to one and the size that replies
	// announce: it crosses every usual path in one piece (RFC 9715, section 3.1).
	MinLimit = 512
	MaxUDP   = 1232

	maxName  = 255 // octets of a name, RFC 1035, section 2.3.4
	maxLabel = 63
)

// Bits of the third and fourth octet of a header.
const (
	bitQR, maskOpcode, bitTC, bitRD = 0x80, 0x78, 0x02, 0x01
	bitRA, bitAD, bitCD             = 0x80, 0x20, 0x10
)

// Rcodes of which this package speaks.
const (
	Success        = 0
	FormatError    = 1
	ServerFailure  = 2
	NameError      = 3
	NotImplemented = 4
	Refused        = 5
)

const (
	typeA     = 1
	typeSOA   = 6
	typeAAAA  = 28
	typeOPT   = 41
	typeIXFR  = 251
	classINET = 1
)

// A Fate is what becomes of a message after a look at its bytes.
type Fate uint8

const (
	Ignore  Fate = iota // no reply, whatever it is
	Reject              // a reply that is a header with an rcode
	Simple              // the Query is filled in
	Complex             // well-formed so far; a DNS library must read it
)

// A Query is one question of a client. It is owned by one goroutine and used
// again for the next message; it points into the message that it was read
// from. The zero Query is ready to Parse.
type Query struct {
	Type uint16
	// Limit is the longest reply that the client takes over UDP, from 512 to
	// MaxUDP. Over a stream the caller sets it.
	Limit int
	// EDNS is whether there was an OPT record, and DO its bit (RFC 3225).
	EDNS, DO bool
	// Padded and Keepalive are whether it had the options of RFC 7830 and RFC
	// 7828, which mean something on some transports.
	Padded, Keepalive bool
	// Cookies says that the option of that name means something, so that a
	// message with it is Complex. It is the caller's to set.
	Cookies bool
	// Subnets says the same of the client subnet, where it says more than that none
	// is to be told.
	Subnets bool

	msg  []byte            // header and question
	text int               // octets of the name as text
	name [maxName + 1]byte // a dot, and the name as text
}

// Parse reads the message. The rcode is that of a Reject. The checks stand in
// the order of the threat: what must never be answered first, then what is not
// for us, then what lies.
func (q *Query) Parse(p []byte) (f Fate, rcode uint8) {
	if len(p) < HeaderLen {
		return Ignore, 0
	}
	if p[2]&bitQR != 0 {
		// A reply to a reply is a loop between two servers, and lets a spoofed
		// packet start it.
		return Ignore, 0
	}
	if p[2]&maskOpcode != 0 {
		// IQUERY is obsolete and answered so (RFC 3425, section 3). Weir has no
		// zones: a server without NOTIFY answers NOTIMP (RFC 1996, section 3.12),
		// and so does one without UPDATE (RFC 2136, section 2.2, rcode 4).
		// REFUSED would say that another client might be served.
		return Reject, NotImplemented
	}
	questions, answers := binary.BigEndian.Uint16(p[4:]), binary.BigEndian.Uint16(p[6:])
	authorities, additional := binary.BigEndian.Uint16(p[8:]), binary.BigEndian.Uint16(p[10:])
	if questions != 1 {
		if q.Cookies && questions == 0 && answers == 0 && authorities == 0 && additional == 1 {
			return Complex, 0 // who asks for nothing may ask for a cookie (RFC 7873, section 5.4)
		}
		// RFC 9619, section 4.
		return Reject, FormatError
	}
	if answers != 0 || authorities > 1 || additional > 2 {
		// IXFR has one SOA in the authority section (RFC 1995, section 3); OPT
		// and TSIG or SIG(0) are all that a query adds (RFC 6891, section 6.1.1;
		// RFC 8945, section 5.1).
		return Reject, FormatError
	}
	end, host := q.readName(p)
	if end < 0 || end+4 > len(p) {
		return Reject, FormatError
	}
	q.Type = binary.BigEndian.Uint16(p[end:])
	class := binary.BigEndian.Uint16(p[end+2:])
	end += 4
	q.msg = p[:end]
	if authorities == 1 {
		if q.Type != typeIXFR {
			return Reject, FormatError
		}
		return Complex, 0
	}
	if !host || class != classINET || !plainType(q.Type) {
		return Complex, 0
	}
	q.EDNS, q.DO, q.Limit = false, false, MinLimit
	q.Padded, q.Keepalive = false, false
	if additional > 0 && (additional > 1 || !q.readOPT(p[end:])) {
		return Complex, 0
	}
	if additional == 0 && end != len(p) {
		return Complex, 0
	}
	return Simple, 0
}

// other is what fold makes of octets that host names do not have. No octet that
// they have has this bit.
const other = 0x80

// fold is the lower case of the octets that host names have.
var fold = func() (t [256]byte) {
	for c := range t {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			t[c] = byte(c)
		case 'A' <= c && c <= 'Z':
			t[c] = byte(c) + 'a' - 'A'
		default:
			t[c] = other
		}
	}
	return t
}()

// readName reads the question's name, in lower case, and returns where it
// ends, or -1 if it is malformed. There is nothing before the first name that
// it could point to, so compression is malformed too (RFC 1035, section
// 4.1.4). host is whether it has only octets that host names have; without,
// the text is not the name.
func (q *Query) readName(p []byte) (end int, host bool) {
	p = p[HeaderLen:]
	p = p[:min(len(p), maxName)]
	text := &q.name
	label, seen := 0, byte(0) // where the next label begins, with its length
	for i, c := range p {
		if i != label {
			c = fold[c]
			text[uint8(i)] = c // so converted, no index is checked
			seen |= c
			continue
		}
		text[uint8(i)] = '.'
		switch {
		case c == 0:
			q.text = max(i-1, 0)
			return HeaderLen + i + 1, seen&other == 0
		case c > maxLabel:
			return -1, false
		}
		label += 1 + int(c)
	}
	return -1, false
}

// plainType reports whether a question of that type is for data. The others
// never are, or have answers of their own: RFC 6895, section 3.1; RFC 6891,
// section 6.1.1; RFC 8945, section 4.2; RFC 2930, section 2; RFC 9824, section
// 3.5; RFC 8482.
func plainType(t uint16) bool {
	const nxname, tkey, any = 128, 249, 255
	return t != 0 && t != typeOPT && t != nxname && (t < tkey || t > any)
}

// readOPT reads the one additional record, which is all that is left of the
// message, and reports whether it is an OPT record of version 0 (RFC 6891,
// section 6.1.2) whose options are well-formed and mean nothing to us.
func (q *Query) readOPT(p []byte) bool {
	const fixed = 11
	if len(p) < fixed || p[0] != 0 || binary.BigEndian.Uint16(p[1:]) != typeOPT || p[6] != 0 {
		return false
	}
	options := p[fixed:]
	if int(binary.BigEndian.Uint16(p[9:])) != len(options) {
		return false
	}
	for len(options) > 0 {
		if len(options) < 4 {
			return false
		}
		code, n := binary.BigEndian.Uint16(options), int(binary.BigEndian.Uint16(options[2:]))
		if n > len(options)-4 || !knownOption(code, options[4:4+n]) || code == optionCookie && q.Cookies || code == optionSubnet && q.Subnets && options[4+2] > 0 {
			return false
		}
		q.Padded, q.Keepalive = q.Padded || code == optionPadding, q.Keepalive || code == optionKeepalive
		options = options[4+n:]
	}
	q.EDNS, q.DO = true, p[7]&0x80 != 0
	// Sizes below 512 mean 512 (RFC 6891, section 6.2.3).
	q.Limit = min(max(int(binary.BigEndian.Uint16(p[3:])), MinLimit), MaxUDP)
	return true
}

const (
	optionSubnet    = 8  // RFC 7871, section 6
	optionCookie    = 10 // RFC 7873, section 4
	optionKeepalive = 11 // RFC 7828, section 3.1
	optionPadding   = 12 // RFC 7830, section 3
)

// knownOption reports whether it is an option that clients send, that may
// stand in any query, and that is well-formed.
func knownOption(code uint16, data []byte) bool {
	const nsid, dau, n3u = 3, 5, 7
	switch code {
	case nsid, dau, dau + 1, n3u, optionCookie, optionPadding:
		return true
	case optionKeepalive:
		return len(data) == 0 || len(data) == 2 // RFC 7828, section 3.1
	case optionSubnet:
		if len(data) < 4 {
			return false
		}
		bits := byte(0) // of an address of no family, which dig sends for "none"
		switch binary.BigEndian.Uint16(data) {
		case 0:
		case 1:
			bits = 32
		case 2:
			bits = 128
		default:
			return false
		}
		return data[2] <= bits && data[3] <= bits // RFC 7871, section 6
	}
	return false
}

// Name returns the question's name as policy knows names: lower case, without
// the final dot, empty for the root. It is only for a Simple message, and it
// changes with the next Parse: whoever keeps it must clone it.
func (q *Query) Name() string { return unsafe.String(&q.name[1], q.text) }

// RecursionDesired reports the RD bit.
func (q *Query) RecursionDesired() bool { return q.msg[2]&bitRD != 0 }

// CheckingDisabled reports the CD bit (RFC 4035, section 3.2.2).
func (q *Query) CheckingDisabled() bool { return q.msg[3]&bitCD != 0 }

// wantsAD reports whether the client understands the AD bit (RFC 6840, section
// 5.7).
func (q *Query) wantsAD() bool { return q.DO || q.msg[3]&bitAD != 0 }

package wire

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// A Block is how a blocked question is answered: an address, or a negative
// answer with an SOA record that says how long to keep it.
type Block struct {
	Rcode uint8
	// Addr answers an A or AAAA question of its family. Where it is invalid or
	// of the other family, there is no data, unless the rcode says more.
	Addr netip.Addr
	TTL  uint32
	// Zone is how many octets at the end of the question's name, as text, are
	// the owner of the SOA record; 0 for the whole name. A resolver does not
	// accept the SOA of a zone that the question is not in.
	Zone int
	// Serial is that of the SOA record.
	Serial uint32
	// EDE is the data of the extended error, code and text (RFC 8914, section
	// 2); empty for none.
	EDE []byte
}

// soaData are the names of the SOA record, which never exist (RFC 6761,
// section 6.4), and its timers. The second name is compressed against the
// first: the pointer is filled in.
const (
	soaServer  = "\x04weir\x07invalid\x00"
	soaMailbox = "\x06nobody"
	soaTimers  = "\x00\x00\x0e\x10\x00\x00\x02\x58\x00\x01\x51\x80" // refresh 3600, retry 600, expire 86400
	soaLen     = len(soaServer) + len(soaMailbox) + 2 + 4 + len(soaTimers) + 4
)

// AppendBlocked appends the reply to a blocked question. It reports false, and
// the reply must not be sent, where it does not fit the client.
func (q *Query) AppendBlocked(dst []byte, b *Block) (reply []byte, fits bool) {
	start := len(dst)
	dst = q.appendHead(dst, b.Rcode)
	h := dst[start:]
	switch {
	case b.Rcode == Refused:
	case q.Type == typeA && b.Addr.Is4():
		h[7] = 1
		a := b.Addr.As4()
		dst = append(appendRecord(dst, HeaderLen, typeA, b.TTL, len(a)), a[:]...)
	case q.Type == typeAAAA && b.Addr.Is6():
		h[7] = 1
		a := b.Addr.As16()
		dst = append(appendRecord(dst, HeaderLen, typeAAAA, b.TTL, len(a)), a[:]...)
	default:
		h[9] = 1
		dst = q.appendSOA(dst, start, b)
	}
	dst = q.appendOPT(dst, start, b.EDE)
	return dst, len(dst)-start <= q.Limit
}

// appendSOA appends the SOA record: a resolver keeps the negative answer for
// the lesser of its TTL and MINIMUM (RFC 2308, section 5).
func (q *Query) appendSOA(dst []byte, start int, b *Block) []byte {
	if q.text == 0 {
		dst = append(dst, 0) // the root is shorter than a pointer to it
		dst = appendFixed(dst, typeSOA, b.TTL, soaLen)
	} else {
		owner := HeaderLen
		if b.Zone > 0 && b.Zone < q.text {
			owner += q.text - b.Zone // text and wire are the same octets but for the dots
		}
		dst = appendRecord(dst, owner, typeSOA, b.TTL, soaLen)
	}
	server := len(dst) - start
	dst = append(dst, soaServer...)
	dst = append(dst, soaMailbox...)
	dst = binary.BigEndian.AppendUint16(dst, pointer|uint16(server+len("\x04weir")))
	dst = binary.BigEndian.AppendUint32(dst, b.Serial)
	dst = append(dst, soaTimers...)
	return binary.BigEndian.AppendUint32(dst, b.TTL)
}

// AppendFailure appends a reply with an rcode and nothing in it. Where the
// extended error does not fit, it is left out.
func (q *Query) AppendFailure(dst []byte, rcode uint8, ede []byte) []byte {
	start := len(dst)
	head := q.appendHead(dst, rcode)
	dst = q.appendOPT(head, start, ede)
	if len(dst)-start > q.Limit {
		dst = q.appendOPT(head, start, nil)
	}
	return dst
}

// AppendTruncated appends a reply with nothing in it but TC, which tells the
// client to ask again over TCP. It is no longer than the question was.
func (q *Query) AppendTruncated(dst []byte) []byte {
	start := len(dst)
	dst = q.appendHead(dst, Success)
	dst[start+2] |= bitTC
	return q.appendOPT(dst, start, nil)
}

// appendHead appends a reply's header and the question as the client spelled
// it: RD and CD are copied, RA is set, AA and AD are not.
func (q *Query) appendHead(dst []byte, rcode uint8) []byte {
	start := len(dst)
	dst = append(dst, q.msg...)
	h := dst[start : start+HeaderLen]
	h[2] = bitQR | h[2]&bitRD
	h[3] = bitRA | h[3]&bitCD | rcode
	binary.BigEndian.PutUint64(h[4:], 1<<48) // one question
	return dst
}

// pointer marks a compressed name (RFC 1035, section 4.1.4).
const pointer = 0xC000

// appendRecord appends a record up to its data, with an owner that stands at
// that offset of the message.
func appendRecord(dst []byte, owner int, typ uint16, ttl uint32, data int) []byte {
	dst = binary.BigEndian.AppendUint16(dst, pointer|uint16(owner))
	return appendFixed(dst, typ, ttl, data)
}

func appendFixed(dst []byte, typ uint16, ttl uint32, data int) []byte {
	return append(dst, byte(typ>>8), byte(typ), 0, classINET,
		byte(ttl>>24), byte(ttl>>16), byte(ttl>>8), byte(ttl), byte(data>>8), byte(data))
}

// appendOPT appends our OPT record where the query had one (RFC 6891, section
// 6.1.1): our size, DO copied (RFC 3225, section 3), version 0, no option of
// the client's.
func (q *Query) appendOPT(dst []byte, start int, ede []byte) []byte {
	if !q.EDNS {
		return dst
	}
	dst[start+11] = 1
	flags := byte(0)
	if q.DO {
		flags = 0x80
	}
	if len(ede) == 0 {
		return append(dst, 0, 0, typeOPT, MaxUDP>>8, MaxUDP&0xFF, 0, 0, flags, 0, 0, 0)
	}
	const optionEDE = 15
	n := len(ede) + 4
	dst = append(dst, 0, 0, typeOPT, MaxUDP>>8, MaxUDP&0xFF, 0, 0, flags, 0, byte(n>>8), byte(n),
		0, optionEDE, byte(len(ede)>>8), byte(len(ede)))
	return append(dst, ede...)
}

// AppendHeader appends a reply to p that is a header only, for messages whose
// question is not to be trusted. p must have a header.
func AppendHeader(dst, p []byte, rcode uint8) []byte {
	return append(dst,
		p[0], p[1],
		bitQR|p[2]&(maskOpcode|bitRD), // the opcode and RD are copied
		bitRA|rcode,
		0, 0, 0, 0, 0, 0, 0, 0)
}

// An Answer is a response as it is kept: its records as bytes, for any client
// that asks the same. It is immutable.
type Answer struct {
	Rcode uint8
	AD    bool // authentic data, if the client understands it
	// Records of the answer and of the authority section.
	Answers, Authorities uint16
	// Body holds the records. Names in it may point to the question's name,
	// which every client spells in its own way, and into the body itself: so it
	// belongs behind a header and a question of that name.
	Body []byte
	// TTLs are where in Body the TTLs stand.
	TTLs []uint16
}

var errMessage = errors.New("message is no response with one question and without additional records")

// NewAnswer takes the records of a packed response over, which must have one
// question and no additional records. AD is that of the message.
func NewAnswer(m []byte) (Answer, error) {
	if len(m) < HeaderLen || m[2]&bitQR == 0 || len(m) > 0xFFFF ||
		binary.BigEndian.Uint16(m[4:]) != 1 || binary.BigEndian.Uint16(m[10:]) != 0 {
		return Answer{}, errMessage
	}
	a := Answer{
		Rcode: m[3] & 0xF, AD: m[3]&bitAD != 0,
		Answers: binary.BigEndian.Uint16(m[6:]), Authorities: binary.BigEndian.Uint16(m[8:]),
	}
	body := skipName(m, HeaderLen)
	if body < 0 || body+4 > len(m) {
		return Answer{}, errMessage
	}
	body += 4
	off := body
	n := int(a.Answers) + int(a.Authorities)
	a.TTLs = make([]uint16, 0, n)
	for range n {
		if off = skipName(m, off); off < 0 || off+10 > len(m) {
			return Answer{}, errMessage
		}
		a.TTLs = append(a.TTLs, uint16(off+4-body))
		off += 10 + int(binary.BigEndian.Uint16(m[off+8:]))
		if off > len(m) {
			return Answer{}, errMessage
		}
	}
	if off != len(m) {
		return Answer{}, errMessage
	}
	a.Body = append([]byte(nil), m[body:]...)
	return a, nil
}

// skipName returns where the name at that offset ends, or -1.
func skipName(m []byte, off int) int {
	for off < len(m) {
		switch l := int(m[off]); {
		case l == 0:
			return off + 1
		case l >= pointer>>8:
			return off + 2
		case l > maxLabel:
			return -1
		default:
			off += 1 + l
		}
	}
	return -1
}

// AppendAnswer appends the reply to a question that the answer answers, age
// seconds after it was stored. It reports false, and the reply must not be
// sent, where it does not fit the client.
func (q *Query) AppendAnswer(dst []byte, a *Answer, age uint32) (reply []byte, fits bool) {
	start := len(dst)
	if len(q.msg)+len(a.Body) > q.Limit {
		return dst, false
	}
	dst = q.appendHead(dst, a.Rcode)
	h := dst[start : start+HeaderLen]
	if a.AD && q.wantsAD() {
		h[3] |= bitAD
	}
	binary.BigEndian.PutUint16(h[6:], a.Answers)
	binary.BigEndian.PutUint16(h[8:], a.Authorities)
	body := len(dst)
	dst = append(dst, a.Body...)
	if age > 0 {
		for _, at := range a.TTLs {
			f := dst[body+int(at) : body+int(at)+4]
			ttl := binary.BigEndian.Uint32(f)
			binary.BigEndian.PutUint32(f, ttl-min(ttl, age))
		}
	}
	dst = q.appendOPT(dst, start, nil)
	return dst, len(dst)-start <= q.Limit
}

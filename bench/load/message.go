package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Types and classes of questions, RFC 1035 section 3.2.
const (
	typeA     = 1
	typeCNAME = 5
	typeAAAA  = 28
	typeOPT   = 41
	classIN   = 1

	headerSize = 12
)

var qtypes = map[string]uint16{"A": typeA, "NS": 2, "CNAME": typeCNAME, "MX": 15, "TXT": 16, "AAAA": typeAAAA, "HTTPS": 65}

// option is an OPT record that offers 1232 octets and asks for nothing, RFC 6891
// section 6.1.2.
var option = []byte{0, 0, typeOPT, 0x04, 0xd0, 0, 0, 0, 0, 0, 0}

var errName = errors.New("not a domain name")

// appendQuestion appends a query for the name with ID 0 and recursion desired.
func appendQuestion(b []byte, name string, qtype uint16, edns bool) ([]byte, error) {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 {
		return b, fmt.Errorf("%w: %.60q", errName, name)
	}
	var additional byte
	if edns {
		additional = 1
	}
	out := append(b, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, additional)
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 { // RFC 1035 section 2.3.4
			return b, fmt.Errorf("%w: %.60q", errName, name)
		}
		out = append(out, byte(len(label)))
		out = append(out, label...)
	}
	out = append(out, 0)
	out = binary.BigEndian.AppendUint16(out, qtype)
	out = binary.BigEndian.AppendUint16(out, classIN)
	if edns {
		out = append(out, option...)
	}
	return out, nil
}

// questionEnd is where the question section of a query with one plain question
// ends, 0 if it is not one.
func questionEnd(m []byte) int {
	o := headerSize
	for o < len(m) && m[o] != 0 {
		if m[o] > 63 {
			return 0
		}
		o += int(m[o]) + 1
	}
	if o+5 > len(m) || o-headerSize > 254 {
		return 0
	}
	return o + 5
}

// A class is what an answer amounts to. The zero class is no answer to the
// question at all.
type class uint8

const (
	malformed class = iota // cut short, not a response, or to another question
	answered               // NOERROR with an address or another record asked for
	null                   // NOERROR with 0.0.0.0 or ::
	nodata                 // NOERROR without the record asked for
	nxdomain
	servfail
	refused
	truncated // TC: the answer is to be had over TCP
	foreign   // an address that the built-in upstream did not give for this name
	other     // any other response code
	classes
)

var classNames = [classes]string{"malformed", "answered", "null", "nodata", "nxdomain", "servfail", "refused", "truncated", "foreign", "other"}

func (c class) String() string { return classNames[c] }

// An expectation is a set of classes. The zero value expects nothing in
// particular: anything that is a proper answer to the question is right.
type expectation uint16

var expectations = map[string]expectation{
	"any":      0,
	"allow":    1 << answered,
	"block":    1<<null | 1<<nodata | 1<<nxdomain | 1<<refused,
	"nxdomain": 1 << nxdomain,
	"nodata":   1 << nodata,
	"null":     1 << null,
	"refused":  1 << refused,
}

func (e expectation) accepts(c class) bool {
	if e == 0 {
		return c != malformed && c != foreign
	}
	return e&(1<<c) != 0
}

// classify says what m is as an answer to the query q. With derived, addresses
// must be those that the built-in upstream derives from the name, so that an
// answer meant for another name is found out.
func classify(q, m []byte, derived bool) class {
	end := questionEnd(q)
	if len(m) < end || m[2]&0xf8 != 0x80 { // QR set, opcode QUERY: RFC 1035 section 4.1.1
		return malformed
	}
	if binary.BigEndian.Uint16(m[4:]) != 1 || string(m[headerSize:end]) != string(q[headerSize:end]) {
		return malformed
	}
	if m[2]&0x02 != 0 {
		return truncated
	}
	switch m[3] & 0x0f {
	case 0:
		return classifyRecords(q[headerSize:end], m, end, derived)
	case 2:
		return servfail
	case 3:
		return nxdomain
	case 5:
		return refused
	}
	return other
}

// classifyRecords looks for the record asked for in the answer section, past at
// most 16 others (a chain of CNAMEs).
func classifyRecords(question, m []byte, at int, derived bool) class {
	qtype := binary.BigEndian.Uint16(question[len(question)-4:])
	for range min(int(binary.BigEndian.Uint16(m[6:])), 16) {
		at = skipName(m, at)
		if at == 0 || at+10 > len(m) {
			return malformed
		}
		rtype, size := binary.BigEndian.Uint16(m[at:]), int(binary.BigEndian.Uint16(m[at+8:]))
		at += 10
		if at+size > len(m) {
			return malformed
		}
		if rtype == qtype {
			return classifyData(question, m[at:at+size], qtype, derived)
		}
		at += size
	}
	return nodata
}

func classifyData(question, data []byte, qtype uint16, derived bool) class {
	want := addressSize(qtype)
	if want == 0 {
		return answered
	}
	if len(data) != want {
		return malformed
	}
	var zero, right [16]byte
	if string(data) == string(zero[:want]) {
		return null
	}
	if derived && string(data) != string(appendAddress(right[:0], question[:len(question)-4], qtype)) {
		return foreign
	}
	return answered
}

// skipName returns where the name at that place ends, 0 if it does not. What a
// compression pointer points to is of no interest, RFC 1035 section 4.1.4.
func skipName(m []byte, at int) int {
	for at < len(m) {
		switch n := int(m[at]); {
		case n == 0:
			return at + 1
		case n >= 0xc0:
			return at + 2
		case n > 63:
			return 0
		default:
			at += n + 1
		}
	}
	return 0
}

// addressSize is how long an address record's data is, 0 for other types.
func addressSize(qtype uint16) int {
	switch qtype {
	case typeA:
		return 4
	case typeAAAA:
		return 16
	}
	return 0
}

// appendAddress appends the address that the built-in upstream gives a name in
// wire form: in 198.18.0.0/15, the network for benchmarks (RFC 2544), or in
// 2001:db8::/32, by a hash of the name.
func appendAddress(b, name []byte, qtype uint16) []byte {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		h = (h ^ uint64(c)) * 1099511628211
	}
	h ^= h >> 32
	if qtype == typeA {
		return binary.BigEndian.AppendUint32(b, 198<<24|18<<16|uint32(h&0x1ffff))
	}
	b = append(b, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0)
	return binary.BigEndian.AppendUint64(b, h)
}

// appendReply turns a query into the upstream's answer, in place: b[:n] is the
// query, the result shares its memory. It is empty for what is no plain query.
func appendReply(b []byte, n int) []byte {
	end := 0
	if n >= headerSize && b[2]&0xf8 == 0 && binary.BigEndian.Uint16(b[4:]) == 1 {
		end = questionEnd(b[:n])
	}
	if end == 0 {
		return nil
	}
	edns := b[11] == 1 && n >= end+len(option) && b[end] == 0 && b[end+2] == typeOPT
	qtype := binary.BigEndian.Uint16(b[end-4:])
	out := b[:end]
	b[2], b[3] = 0x80|b[2]&1, 0x80
	clear(b[6:headerSize])
	if size := addressSize(qtype); size > 0 {
		b[7] = 1
		out = append(out, 0xc0, headerSize, 0, byte(qtype), 0, classIN, 0, 1, 0x51, 0x80, 0, byte(size)) // a day
		out = appendAddress(out, out[headerSize:end-4], qtype)
	}
	if edns {
		b[11] = 1
		out = append(out, option...)
	}
	return out
}

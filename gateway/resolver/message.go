package resolver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/dns"
)

const (
	udpSize   = 1232 // offered by EDNS; below every path's MTU, so never a fragment
	headerLen = 12
	maxMsg    = 65535
)

var (
	// errMismatch means that a message does not answer our query. Over UDP
	// anybody may have sent it.
	errMismatch = errors.New("response does not match the query")
	// errMalformed means that a message answers our query and cannot be read.
	errMalformed = errors.New("malformed response")
)

// parse reads a response to the query. The checks stand in the order of the
// threat: whether it is ours at all is decided on raw bytes, before anything
// in it is trusted. A truncated one comes back without records.
func parse(raw []byte, id uint16, k key) (*dns.Msg, error) {
	if len(raw) < headerLen || binary.BigEndian.Uint16(raw) != id {
		return nil, errMismatch
	}
	const qr, opcode, tc = 0x80, 0x78, 0x02
	if raw[2]&qr == 0 || raw[2]&opcode != 0 {
		return nil, errMismatch
	}
	if !sameQuestion(raw, k) {
		return nil, errMismatch
	}
	if raw[2]&tc != 0 {
		return &dns.Msg{MsgHdr: dns.MsgHdr{Id: id, Response: true, Truncated: true, Rcode: int(raw[3] & 0x0f)}}, nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(raw); err != nil {
		return nil, fmt.Errorf("%w: %v", errMalformed, err)
	}
	// Unpack takes a message that ends early for one with wrong counts.
	if len(m.Answer) != count(raw, 6) || len(m.Ns) != count(raw, 8) || len(m.Extra) != count(raw, 10) {
		return nil, fmt.Errorf("%w: it ends early", errMalformed)
	}
	if m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 && !concerns(m.Answer, k.name) {
		return nil, fmt.Errorf("%w: its records are about other names", errMalformed)
	}
	if !k.echoes(m) {
		return nil, fmt.Errorf("%w: it is for another client subnet", errMalformed)
	}
	// What cannot be written again cannot be served. The name may be longer on
	// the way out only by compression, which is ours.
	m.Compress = true
	if out, err := m.Pack(); err != nil {
		return nil, fmt.Errorf("%w: %v", errMalformed, err)
	} else if len(out) > maxMsg {
		return nil, fmt.Errorf("%w: too long", errMalformed)
	}
	return m, nil
}

// concerns reports whether one of the records is at the name, or an alias above
// it.
func concerns(rrs []dns.RR, name string) bool {
	return slices.ContainsFunc(rrs, func(rr dns.RR) bool {
		owner, ok := canonical(rr.Header().Name)
		return ok && (owner == name || rr.Header().Rrtype == dns.TypeDNAME && dns.IsSubDomain(owner, name))
	})
}

// sameQuestion reports whether the response has our question (RFC 5452, section
// 9.1). Old servers return a bare header with an error they have with the
// query; nothing but an error is taken from it.
func sameQuestion(raw []byte, k key) bool {
	switch count(raw, 4) {
	case 0:
		switch raw[3] & 0x0f {
		case dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeRefused:
			return len(raw) == headerLen
		}
		return false
	case 1:
	default:
		return false
	}
	name, off, err := dns.UnpackDomainName(raw, headerLen)
	if err != nil || off+4 > len(raw) {
		return false
	}
	return binary.BigEndian.Uint16(raw[off:]) == k.qtype &&
		binary.BigEndian.Uint16(raw[off+2:]) == k.qclass &&
		dns.CanonicalName(name) == k.name
}

func count(raw []byte, off int) int { return int(binary.BigEndian.Uint16(raw[off:])) }

// dislikesEDNS reports whether the response may be about the OPT record and not
// about the question (RFC 6891, section 7).
func dislikesEDNS(m *dns.Msg) bool {
	switch m.Rcode {
	case dns.RcodeFormatError, dns.RcodeNotImplemented, dns.RcodeBadVers:
		return true
	}
	return false
}

// answers reports whether the response says something about the name, and not
// only that the upstream does not.
func answers(m *dns.Msg) bool { return answered(m.Rcode) && !refers(m) }

// refers reports whether the response only says who else may know: no server that
// resolves does, and that a type does not exist is said by an SOA (RFC 2308,
// sections 2.1 and 2.2.1).
func refers(m *dns.Msg) bool {
	if m.Rcode != dns.RcodeSuccess || m.Authoritative || m.RecursionAvailable || len(m.Answer) > 0 {
		return false
	}
	has := func(t uint16) bool {
		return slices.ContainsFunc(m.Ns, func(rr dns.RR) bool { return rr.Header().Rrtype == t })
	}
	return has(dns.TypeNS) && !has(dns.TypeSOA)
}

func answered(rcode int) bool {
	switch rcode {
	case dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeYXDomain:
		return true
	}
	return false
}

package dnsserver

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/miekg/dns"
)

// hiddenOption is a code that nobody has (RFC 6891, section 9: reserved), so that
// miekg/dns does not look into the option.
const hiddenOption = 65535

// readOptions are those that are looked into here.
var readOptions = []uint16{dns.EDNS0SUBNET, dns.EDNS0COOKIE, dns.EDNS0TCPKEEPALIVE, dns.EDNS0PADDING}

// readQuery reads a message whose counts are those of a query. An option that
// means nothing here is ignored, whatever is in it (RFC 6891, section 6.1.2), also
// where miekg/dns wants more of it: the empty ZONEVERSION of RFC 9660, say.
func readQuery(p []byte) (m *dns.Msg, ok bool) {
	for range 2 {
		m = new(dns.Msg)
		if m.Unpack(p) == nil && len(m.Question) == int(p[5]) && len(m.Extra) == int(p[11]) {
			return m, true
		}
		p = bytes.Clone(p)
		hideOptions(p)
	}
	return nil, false
}

// hideOptions gives the options of OPT records that are not looked into another
// code.
func hideOptions(p []byte) {
	off := questionEnd(p)
	if off < 0 {
		return
	}
	for r := range records(p, off) {
		if r.rtype != dns.TypeOPT {
			continue
		}
		for o := r.data; len(o) >= 4; {
			code, n := binary.BigEndian.Uint16(o), int(binary.BigEndian.Uint16(o[2:]))
			if !slices.Contains(readOptions, code) {
				binary.BigEndian.PutUint16(o, hiddenOption)
			}
			o = o[min(4+n, len(o)):]
		}
	}
}

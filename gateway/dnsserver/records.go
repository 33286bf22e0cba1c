package dnsserver

import (
	"encoding/binary"
	"iter"

	"github.com/weir-gateway/weir/gateway/wire"
)

// A record is where a record of a message is, in a message that we packed.
type record struct {
	owner   int // offset of its name
	rtype   uint16
	ttl     uint32
	data    []byte
	section int // 0 answer, 1 authority, 2 additional
}

// records walks the records after the question section, which ends at off. It
// ends at the first that is damaged.
func records(p []byte, off int) iter.Seq[record] {
	return func(yield func(record) bool) {
		for section := range 3 {
			for range binary.BigEndian.Uint16(p[6+2*section:]) {
				r := record{owner: off, section: section}
				if off = skipName(p, off); off < 0 || off+10 > len(p) {
					return
				}
				r.rtype, r.ttl = binary.BigEndian.Uint16(p[off:]), binary.BigEndian.Uint32(p[off+4:])
				end := off + 10 + int(binary.BigEndian.Uint16(p[off+8:]))
				if end > len(p) {
					return
				}
				r.data, off = p[off+10:end], end
				if !yield(r) {
					return
				}
			}
		}
	}
}

// questionEnd returns where the records begin, or -1.
func questionEnd(p []byte) int {
	off := wire.HeaderLen
	for range binary.BigEndian.Uint16(p[4:]) {
		if off = skipName(p, off); off < 0 {
			return -1
		}
		off += 4
	}
	return off
}

// skipName returns the offset after the name at off, or -1.
func skipName(p []byte, off int) int {
	for off < len(p) {
		switch n := int(p[off]); {
		case n == 0:
			return off + 1
		case n >= 0xC0:
			return off + 2
		default:
			off += 1 + n
		}
	}
	return -1
}

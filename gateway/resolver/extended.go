package resolver

import (
	"encoding/binary"
	"strings"
	"unicode"

	"github.com/miekg/dns"
)

// maxExtended bounds the text of an extended error that is passed on, in bytes.
const maxExtended = 200

// An Extended is what an upstream says beyond the rcode (RFC 8914).
type Extended struct {
	Code uint16
	Text string // valid UTF-8, in one line
}

// Extended returns what the upstream said of its answer; ok is false where it
// said nothing.
func (a *Answer) Extended() (e Extended, ok bool) {
	b := a.wire.Body[:cap(a.wire.Body)][len(a.wire.Body):]
	if a.notes&noteExtended == 0 || len(b) < 2 {
		return Extended{}, false
	}
	return Extended{binary.BigEndian.Uint16(b), string(b[2:])}, true
}

// extendedOf returns the first extended error of a message, code and text, or nil.
// Its text is somebody else's: what cannot be shown is taken out of it.
func extendedOf(m *dns.Msg) []byte {
	opt := m.IsEdns0()
	if opt == nil {
		return nil
	}
	for _, o := range opt.Option {
		e, is := o.(*dns.EDNS0_EDE)
		if !is {
			continue
		}
		text := strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return -1
			}
			return r
		}, strings.ToValidUTF8(e.ExtraText, ""))
		for len(text) > maxExtended {
			cut := []rune(text)
			text = string(cut[:len(cut)-1-(len(text)-maxExtended)/4])
		}
		return append(binary.BigEndian.AppendUint16(nil, e.InfoCode), text...)
	}
	return nil
}

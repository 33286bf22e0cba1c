// Package hello reads ClientHellos: what a client of TLS or QUIC says in the
// clear before anything is encrypted, above all the name of the server that it
// wants.
//
// It takes bytes in whatever pieces they come, over any split into TCP
// segments and TLS records, and says as soon as it can tell what they are. It
// looks at each byte once, keeps no more than one handshake message, and
// refuses what two readers could read in two ways. It does no I/O, knows no
// deadline, verifies nothing and decides nothing: a name is returned as it was
// sent, and gateway/policy judges it.
package hello

import "encoding/binary"

// A Kind says what the first bytes of a connection are.
type Kind uint8

const (
	// Incomplete is the zero Kind: more bytes are needed, and nothing is known.
	Incomplete Kind = iota
	// Found is a whole ClientHello with a server name.
	Found
	// Missing is a whole ClientHello without a server name.
	Missing
	// NotTLS is something else than a TLS handshake from its first bytes on.
	NotTLS
	// Malformed begins like TLS and then is no ClientHello as RFC 8446 has it, or
	// is larger than any that is in use.
	Malformed
)

var kindNames = [...]string{"incomplete", "found", "no server name", "not TLS", "malformed"}

// String returns the kind in words.
func (k Kind) String() string { return kindNames[k] }

// A Hello is what a ClientHello says. The zero Hello says nothing.
type Hello struct {
	Kind Kind
	// Name is the server name as it was sent: neither canonical nor checked.
	Name string
	// ECH says that there is an encrypted_client_hello extension. That alone
	// means nothing: browsers send one with random content to every server
	// (GREASE, RFC 9849, section 6.2).
	ECH bool
}

const (
	// maxMessage bounds a ClientHello with its header. Those with post-quantum key
	// shares have two kilobytes, the largest that libraries accept 64.
	maxMessage = 64 << 10
	// maxWire bounds the bytes on the wire, headers of records included. A message
	// of a usual size may come in records of one byte.
	maxWire = 256 << 10

	recordHeader  = 5
	messageHeader = 4
	maxFragment   = 1 << 14 // RFC 8446, section 5.1

	recordHandshake    = 22
	messageClientHello = 1
)

// A Reader reads the beginning of a TLS connection. The zero Reader is ready.
// It belongs to one goroutine.
type Reader struct {
	hello Hello
	head  [recordHeader]byte
	got   int    // bytes of head
	left  int    // bytes of the fragment that are still to come
	wire  int    // bytes that were fed
	msg   []byte // of the message, with its header
}

// Hello returns what is known by now.
func (r *Reader) Hello() Hello { return r.hello }

// Feed reads further bytes and returns what is known by then. It keeps none of
// b. Once it has returned something else than Incomplete, that stays.
func (r *Reader) Feed(b []byte) Kind {
	if r.wire == 0 && r.whole(b) {
		return r.hello.Kind
	}
	r.wire += len(b)
	for len(b) > 0 && r.hello.Kind == Incomplete {
		if r.left == 0 {
			b = r.header(b)
			continue
		}
		n := min(r.left, len(b))
		r.msg = append(r.msg, b[:n]...)
		r.left -= n
		b = b[n:]
		r.look()
	}
	if r.wire > maxWire && r.hello.Kind == Incomplete {
		r.hello.Kind = Malformed
	}
	if r.hello.Kind != Incomplete {
		r.msg = nil
	}
	return r.hello.Kind
}

// whole takes the usual case, all of it in one record in one piece, without a
// copy of it.
func (r *Reader) whole(b []byte) bool {
	if len(b) < recordHeader+messageHeader || b[0] != recordHandshake || b[1] >= 0x10 {
		return false
	}
	fragment := b[recordHeader:]
	n := int(binary.BigEndian.Uint16(b[3:5]))
	if n > maxFragment || n > len(fragment) || n < messageHeader || n < messageSize(fragment) {
		return false
	}
	r.wire = len(b)
	r.hello = ParseHandshake(fragment[:messageSize(fragment)])
	return true
}

// messageSize is the size of the message that begins with b, with its header.
func messageSize(b []byte) int {
	return messageHeader + int(b[1])<<16 + int(b[2])<<8 + int(b[3])
}

// header reads the header of a record and returns the rest. Each byte is judged
// as soon as it is there, so that somebody who speaks another protocol and then
// waits for an answer is found out.
func (r *Reader) header(b []byte) []byte {
	r.head[r.got] = b[0]
	r.got++
	first := len(r.msg) == 0
	switch {
	case r.head[0] != recordHandshake && first:
		r.hello.Kind = NotTLS
	case r.head[0] != recordHandshake: // nothing may stand between its parts: RFC 8446, section 5.1
		r.hello.Kind = Malformed
	case r.got == 2 && r.head[1] >= 0x10 && first:
		// The version of a record is to be ignored (RFC 8446, section 5.1), but
		// nothing that is TLS was ever seen with such a one. mmtls has 0xf1.
		r.hello.Kind = NotTLS
	case r.got == recordHeader:
		r.got = 0
		r.left = int(binary.BigEndian.Uint16(r.head[3:]))
		if r.left == 0 || r.left > maxFragment { // an empty one would never end: same section
			r.hello.Kind = Malformed
		}
	}
	return b[1:]
}

// look decides once the message is whole, or cannot become one.
func (r *Reader) look() {
	switch {
	case r.msg[0] != messageClientHello:
		r.hello.Kind = Malformed
	case len(r.msg) < messageHeader:
	case messageSize(r.msg) > maxMessage:
		r.hello.Kind = Malformed
	case len(r.msg) >= messageSize(r.msg):
		r.hello = ParseHandshake(r.msg[:messageSize(r.msg)])
	}
}

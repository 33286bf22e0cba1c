package hello

import (
	"bytes"
	"encoding/binary"
)

// minDatagram is the least size of a datagram with a client's Initial packet;
// a server must ignore smaller ones (RFC 9000, section 14.1).
const minDatagram = 1200

const (
	// maxCrypto bounds a ClientHello in CRYPTO frames. With post-quantum key shares
	// it has two kilobytes; a server need not keep more than four (RFC 9000,
	// section 7.5).
	maxCrypto = 16 << 10
	// maxDatagrams bounds the datagrams that it may come in.
	maxDatagrams = 64
)

// A Flight reads the datagrams with which a client begins a QUIC connection, in
// whatever order they come, up to a whole ClientHello. It knows versions 1 and
// 2. The zero Flight is ready. It belongs to one goroutine.
type Flight struct {
	hello Hello
	conn  Conn
	scid  []byte // of the first packet
	n     int    // datagrams
	msg   []byte // of the CRYPTO stream, as far as it is known, with gaps
	have  []byte // 1 for each byte of msg that is known
	whole int    // bytes of msg without a gap
}

// A Conn recognizes the Initial packets of a client's connection.
type Conn struct {
	version uint32 // of the first packet; 0 before it
	dcid    []byte // of the first packet: the keys come from it
	// keys are by version; nil for a version that cannot be read.
	keys map[uint32]*initialKeys
	said []byte // the ClientHello, once it is whole
}

// Hello returns what is known by now.
func (f *Flight) Hello() Hello { return f.hello }

// Conn returns the connection, once a packet of it was read.
func (f *Flight) Conn() Conn { return f.conn }

// Feed reads the next datagram and reports whether it is of the same beginning
// of a connection: what a server could not read, or would ignore, is not, and
// must not be sent on. It keeps none of b.
func (f *Flight) Feed(b []byte) bool {
	if f.hello.Kind != Incomplete {
		return false
	}
	if f.conn.version == 0 && !f.begin(b) {
		return false
	}
	if f.n++; f.n > maxDatagrams {
		f.hello.Kind = Malformed
		return false
	}
	return f.packets(b)
}

// begin takes the first datagram. One that is no QUIC decides at once; one that
// only looks like it is left to Feed.
func (f *Flight) begin(b []byte) bool {
	if !isLong(b) {
		f.hello.Kind = NotTLS
		return false
	}
	p, _, ok := parseLong(b)
	switch {
	case !ok || p.version == 0:
		f.hello.Kind = NotTLS
		return false
	case salts[p.version] == nil:
		f.hello.Kind = NotTLS
		if len(b) >= minDatagram {
			f.conn.version, f.conn.dcid, f.scid = p.version, bytes.Clone(p.dcid), bytes.Clone(p.scid)
		}
		return false
	case p.kind != longInitial || len(b) < minDatagram:
		return false // of a connection that began elsewhere, or of no use to a server
	}
	keys, err := deriveKeys(p.version, p.dcid, ofClient)
	if err != nil {
		return false
	}
	if _, _, ok := keys.open(&p); !ok {
		return false
	}
	keys.largest = 0 // it is opened again
	f.conn = Conn{version: p.version, dcid: bytes.Clone(p.dcid), keys: map[uint32]*initialKeys{p.version: keys}}
	f.scid = bytes.Clone(p.scid)
	return true
}

// packets reads all packets of a datagram. They must be of one connection (RFC
// 9000, section 12.2), and readable: what one reader skips, another may not.
func (f *Flight) packets(b []byte) bool {
	var dcid []byte
	for isLong(b) {
		p, rest, ok := parseLong(b)
		if !ok || p.version != f.conn.version || dcid != nil && !bytes.Equal(p.dcid, dcid) {
			return false
		}
		b, dcid = rest, p.dcid
		switch p.kind {
		case longInitial:
			frames, reserved, ok := f.conn.keys[p.version].open(&p)
			if !ok {
				return false
			}
			if reserved || !eachFrame(frames, f.crypto) {
				f.hello = Hello{Kind: Malformed}
				return true
			}
		case longEarly:
			if !bytes.Equal(dcid, f.conn.dcid) {
				return false
			}
		default:
			return false // nobody has answered yet
		}
	}
	f.look()
	return dcid != nil
}

// Frames that a client's Initial packets may have (RFC 9000, section 17.2.2).
const (
	framePadding = 0x00
	framePing    = 0x01
	frameACK     = 0x02
	frameACKECN  = 0x03
	frameCrypto  = 0x06
	frameClose   = 0x1c
)

// eachFrame reads the frames of an Initial packet, gives what is in CRYPTO frames
// to crypto, and reports whether they are what it may have.
func eachFrame(b []byte, crypto func(offset uint64, data []byte) bool) bool {
	c := cursor{b: b}
	for len(c.b) > 0 && !c.bad {
		switch kind := c.varint(); kind {
		case framePadding, framePing:
		case frameACK, frameACKECN:
			c.skipACK(kind == frameACKECN)
		case frameCrypto:
			offset := c.varint()
			if data := c.take(c.length()); !c.bad && !crypto(offset, data) {
				return false
			}
		case frameClose:
			c.varint() // error code
			c.varint() // frame type
			c.take(c.length())
		default:
			return false
		}
	}
	return !c.bad && len(b) > 0
}

// skipACK passes over an ACK frame (RFC 9000, section 19.3).
func (c *cursor) skipACK(ecn bool) {
	c.varint() // largest acknowledged
	c.varint() // delay
	ranges := c.varint()
	c.varint() // first range
	for ; ranges > 0 && !c.bad; ranges-- {
		c.varint()
		c.varint()
	}
	if ecn {
		c.varint()
		c.varint()
		c.varint()
	}
}

// crypto takes a part of the stream and reports whether it may stand there: one
// byte must not be there twice with two values.
func (f *Flight) crypto(offset uint64, data []byte) bool {
	if offset > maxCrypto || offset+uint64(len(data)) > maxCrypto {
		return false
	}
	at, end := int(offset), int(offset)+len(data)
	if end > len(f.msg) {
		f.msg = append(f.msg, make([]byte, end-len(f.msg))...)
		f.have = append(f.have, make([]byte, end-len(f.have))...)
	}
	for i, b := range data {
		if f.have[at+i] == 1 && f.msg[at+i] != b {
			return false
		}
		f.msg[at+i], f.have[at+i] = b, 1
	}
	for f.whole < len(f.have) && f.have[f.whole] == 1 {
		f.whole++
	}
	return true
}

// look decides once the message is whole, or cannot become one.
func (f *Flight) look() {
	switch {
	case f.hello.Kind != Incomplete || f.whole == 0:
		return
	case f.msg[0] != messageClientHello:
		f.hello.Kind = Malformed
	case f.whole < messageHeader:
		return
	case messageSize(f.msg) > maxCrypto:
		f.hello.Kind = Malformed
	case f.whole >= messageSize(f.msg):
		f.hello = ParseHandshake(f.msg[:messageSize(f.msg)])
	}
	if f.hello.Kind != Incomplete {
		f.conn.said = f.msg[:f.whole]
		f.msg, f.have = nil, nil
	}
}

// errRefused is the error code of CONNECTION_REFUSED (RFC 9000, section 20.1).
const errRefused = 0x02

// Refuse returns the datagram with which a server ends the connection at once:
// CONNECTION_CLOSE in an Initial packet, or for another version of QUIC those
// that could be read (RFC 9000, section 6.1). It is nil where there is no
// connection to refuse. It is smaller than what it answers.
func (f *Flight) Refuse() []byte {
	version := f.conn.version
	switch {
	case version == 0:
		return nil
	case salts[version] == nil:
		b := []byte{0xc0, 0, 0, 0, 0}
		b = appendIDs(b, f.scid, f.conn.dcid)
		b = binary.BigEndian.AppendUint32(b, quicV1)
		return binary.BigEndian.AppendUint32(b, quicV2)
	}
	keys, err := deriveKeys(version, f.conn.dcid, ofServer)
	if err != nil {
		return nil
	}
	kind := longInitial
	if version == quicV2 {
		kind = (kind + 1) & 3
	}
	head := []byte{0xc0 | byte(kind)<<4}
	head = binary.BigEndian.AppendUint32(head, version)
	head = appendIDs(head, f.scid, f.conn.dcid)
	// With a padding frame there is enough for a sample.
	frames := []byte{frameClose, errRefused, 0, 0, framePadding}
	head = append(head, 0, byte(1+len(frames)+tagSize)) // no token; length
	return keys.seal(head, frames)
}

func appendIDs(b, dcid, scid []byte) []byte {
	b = append(append(b, byte(len(dcid))), dcid...)
	return append(append(b, byte(len(scid))), scid...)
}

// Begins looks for packets with which a connection may begin: initial are those
// that can be read, foreign what may be one of another version, or broken.
func Begins(b []byte) (initial, foreign bool) {
	for isLong(b) {
		p, rest, ok := parseLong(b)
		if !ok || salts[p.version] == nil {
			return initial, true
		}
		initial = initial || p.kind == longInitial
		b = rest
	}
	return initial, false
}

// Owns reports whether all Initial packets of the datagram are of this
// connection: whatever connection IDs the two sides have agreed on since, and
// whichever of the two versions (RFC 9368, section 2.1), its keys open them. One
// that says something else than the ClientHello that was read is not: the server
// may never have had that, and would read this. No packet that can be read is of
// a connection that could not.
func (c *Conn) Owns(b []byte) bool {
	for isLong(b) {
		p, rest, ok := parseLong(b)
		if !ok || salts[p.version] == nil {
			return false
		}
		b = rest
		if p.kind != longInitial {
			continue
		}
		keys := c.keys[p.version]
		if keys == nil {
			if c.keys == nil {
				return false
			}
			var err error
			if keys, err = deriveKeys(p.version, c.dcid, ofClient); err != nil {
				return false
			}
			c.keys[p.version] = keys
		}
		if frames, _, ok := keys.open(&p); !ok || !eachFrame(frames, c.repeats) {
			return false
		}
	}
	return true
}

// repeats reports whether a part of the CRYPTO stream is what was read, or comes
// after it.
func (c *Conn) repeats(offset uint64, data []byte) bool {
	if offset >= uint64(len(c.said)) {
		return true
	}
	said := c.said[offset:]
	n := min(len(said), len(data))
	return bytes.Equal(said[:n], data[:n])
}

package hello

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// The versions of QUIC whose Initial packets can be read: RFC 9000 and RFC 9369.
const (
	quicV1 uint32 = 0x00000001
	quicV2 uint32 = 0x6b3343cf
)

// A side is one that sends Initial packets.
type side int

const (
	ofClient side = iota
	ofServer
)

// salts are those of the secrets that everybody can derive (RFC 9001, section
// 5.2, and RFC 9369, section 3.3.1).
var salts = map[uint32][]byte{
	quicV1: {0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a},
	quicV2: {0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd, 0x2e, 0xd9},
}

const (
	keySize    = 16
	ivSize     = 12
	sampleSize = 16
	tagSize    = 16
)

// initialKeys protect the Initial packets of one side. They hide nothing from
// anybody who reads the first of them; they keep old middleboxes out.
type initialKeys struct {
	aead    cipher.AEAD
	mask    cipher.Block
	iv      [ivSize]byte
	largest uint64 // packet number that was opened, and one more
}

// deriveKeys returns the keys of a connection whose first packet had that
// destination connection ID (RFC 9001, section 5.1 and 5.2).
func deriveKeys(version uint32, dcid []byte, of side) (*initialKeys, error) {
	secret, err := hkdf.Extract(sha256.New, dcid, salts[version])
	if err != nil {
		return nil, err
	}
	prefix := "quic "
	if version == quicV2 { // RFC 9369, section 3.3.2
		prefix = "quicv2 "
	}
	own, err := expand(secret, [...]string{"client in", "server in"}[of], sha256.Size)
	if err != nil {
		return nil, err
	}
	key, err1 := expand(own, prefix+"key", keySize)
	iv, err2 := expand(own, prefix+"iv", ivSize)
	hp, err3 := expand(own, prefix+"hp", keySize)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	k := &initialKeys{iv: [ivSize]byte(iv)}
	if k.aead, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	k.mask, err = aes.NewCipher(hp)
	return k, err
}

// expand is HKDF-Expand-Label without a context (RFC 8446, section 7.1).
func expand(secret []byte, label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := append([]byte{byte(size >> 8), byte(size), byte(len(label))}, label...)
	return hkdf.Expand(sha256.New, secret, string(append(info, 0)), size)
}

// open takes the protection off a packet and returns its frames. The packet is
// left as it is. reserved says that bits are set that must not be.
func (k *initialKeys) open(p *longPacket) (frames []byte, reserved, ok bool) {
	if len(p.raw) < p.number+4+sampleSize {
		return nil, false, false
	}
	var mask [aes.BlockSize]byte
	k.mask.Encrypt(mask[:], p.raw[p.number+4:p.number+4+sampleSize])
	first := p.raw[0] ^ mask[0]&0x0f
	size := int(first&3) + 1
	head := append([]byte(nil), p.raw[:p.number+size]...)
	head[0] = first
	var truncated uint64
	for i := range size {
		head[p.number+i] ^= mask[1+i]
		truncated = truncated<<8 | uint64(head[p.number+i])
	}
	number := wholeNumber(k.largest, truncated, 8*size)
	frames, err := k.aead.Open(nil, k.nonce(number), p.raw[p.number+size:], head)
	if err != nil {
		return nil, false, false
	}
	k.largest = max(k.largest, number+1)
	return frames, first&0x0c != 0, true
}

// seal returns a packet with that header, up to and without its packet number,
// which is 0 in one byte.
func (k *initialKeys) seal(head, frames []byte) []byte {
	number := len(head)
	head = append(head, 0)
	b := k.aead.Seal(head, k.nonce(0), frames, head)
	var mask [aes.BlockSize]byte
	k.mask.Encrypt(mask[:], b[number+4:number+4+sampleSize])
	b[0] ^= mask[0] & 0x0f
	b[number] ^= mask[1]
	return b
}

func (k *initialKeys) nonce(number uint64) []byte {
	n := k.iv
	for i := range 8 {
		n[ivSize-1-i] ^= byte(number >> (8 * i))
	}
	return n[:]
}

// wholeNumber is the packet number of which only so many bits were sent, the
// nearest to the one that is expected (RFC 9000, appendix A.3).
func wholeNumber(expected, truncated uint64, bits int) uint64 {
	window := uint64(1) << bits
	n := expected&^(window-1) | truncated
	switch {
	case n+window/2 <= expected && n < 1<<62-window:
		return n + window
	case n > expected+window/2 && n >= window:
		return n - window
	}
	return n
}

// A longKind is the type of a packet with a long header.
type longKind uint8

const (
	longInitial longKind = iota
	longEarly            // 0-RTT
	longHandshake
	longRetry
)

// A longPacket is a packet with a long header (RFC 9000, section 17.2). Its
// slices are parts of the datagram.
type longPacket struct {
	version    uint32
	kind       longKind // of a version that is known
	dcid, scid []byte
	raw        []byte // all of it
	number     int    // where the packet number begins
}

// maxConnID bounds a connection ID in the versions that are known; another
// version may have up to 255 bytes (RFC 8999, section 5.1).
const maxConnID = 20

// isLong reports whether the datagram begins with a packet with a long header.
// The bit that distinguishes QUIC from others is not looked at: both sides can
// agree to use it (RFC 9287).
func isLong(b []byte) bool { return len(b) > 0 && b[0]&0x80 != 0 }

// parseLong reads the first packet of b, which has a long header, and returns
// what follows it. Of a version that is not known, nothing follows.
func parseLong(b []byte) (p longPacket, rest []byte, ok bool) {
	c := cursor{b: b}
	first := c.take(1)
	version := c.take(4)
	p.dcid = c.vector8()
	p.scid = c.vector8()
	if c.bad {
		return longPacket{}, nil, false
	}
	p.version = binary.BigEndian.Uint32(version)
	if salts[p.version] == nil {
		p.raw = b
		return p, nil, true
	}
	if len(p.dcid) > maxConnID || len(p.scid) > maxConnID {
		return longPacket{}, nil, false
	}
	p.kind = longKind(first[0] >> 4 & 3)
	if p.version == quicV2 { // RFC 9369, section 3.2
		p.kind = (p.kind + 3) & 3
	}
	if p.kind == longRetry {
		return longPacket{}, nil, false // a server's
	}
	if p.kind == longInitial {
		c.take(c.length()) // token
	}
	size := c.length()
	p.number = len(b) - len(c.b)
	c.take(size)
	if c.bad {
		return longPacket{}, nil, false
	}
	p.raw = b[:len(b)-len(c.b)]
	return p, c.b, true
}

// vector8 reads a vector with a length of one byte.
func (c *cursor) vector8() []byte {
	if n := c.take(1); !c.bad {
		return c.take(int(n[0]))
	}
	return nil
}

// varint reads a variable-length integer (RFC 9000, section 16).
func (c *cursor) varint() uint64 {
	if len(c.b) == 0 {
		c.bad = true
		return 0
	}
	b := c.take(1 << (c.b[0] >> 6))
	if c.bad {
		return 0
	}
	n := uint64(b[0] & 0x3f)
	for _, x := range b[1:] {
		n = n<<8 | uint64(x)
	}
	return n
}

// length reads a length, which is bad where it is more than there is.
func (c *cursor) length() int {
	n := c.varint()
	if n > uint64(len(c.b)) {
		c.b, c.bad = nil, true
		return 0
	}
	return int(n)
}

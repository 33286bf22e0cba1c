package hello

import "encoding/binary"

const (
	extServerName = 0      // RFC 6066, section 3
	extECH        = 0xfe0d // RFC 9849, section 5
	nameHost      = 0      // the only type of server name that was ever defined
)

// ParseHandshake reads a whole ClientHello message with its header of four
// bytes, as it stands in TLS records or QUIC CRYPTO frames. Its Kind is never
// Incomplete: a message that ends too early is Malformed.
func ParseHandshake(msg []byte) Hello {
	malformed := Hello{Kind: Malformed}
	if len(msg) < messageHeader || msg[0] != messageClientHello || messageSize(msg) != len(msg) {
		return malformed
	}
	c := cursor{b: msg[messageHeader:]}
	c.take(2 + 32)         // legacy_version, random
	c.skip8()              // legacy_session_id
	suites := c.vector16() // cipher_suites
	c.skip8()              // legacy_compression_methods
	switch {
	case c.bad || len(suites)%2 != 0:
		return malformed
	case len(c.b) == 0: // TLS 1.2 and before may have no extensions at all
		return Hello{Kind: Missing}
	}
	extensions := cursor{b: c.vector16()}
	if c.bad || len(c.b) > 0 {
		return malformed
	}
	return parseExtensions(extensions)
}

func parseExtensions(c cursor) Hello {
	var h Hello
	var seen seen
	for len(c.b) > 0 {
		kind := c.uint16()
		data := c.vector16()
		// There must not be two of one type (RFC 8446, section 4.2): one reader
		// would take the first, another the last.
		if c.bad || !seen.add(kind) {
			return Hello{Kind: Malformed}
		}
		switch kind {
		case extECH:
			h.ECH = true
		case extServerName:
			name, ok := parseServerName(data)
			if !ok {
				return Hello{Kind: Malformed}
			}
			h.Name = name
		}
	}
	if h.Kind = Found; h.Name == "" {
		h.Kind = Missing
	}
	return h
}

// parseServerName reads RFC 6066, section 3. The name is empty where there is
// none of a type that is known.
func parseServerName(data []byte) (string, bool) {
	c := cursor{b: data}
	list := cursor{b: c.vector16()}
	if c.bad || len(c.b) > 0 || len(list.b) == 0 {
		return "", false
	}
	var host []byte
	for len(list.b) > 0 {
		kind := list.take(1)
		name := list.vector16()
		if list.bad || len(name) == 0 {
			return "", false
		}
		if kind[0] != nameHost {
			continue
		}
		if host != nil { // not more than one of a type
			return "", false
		}
		host = name
	}
	return string(host), true
}

// A cursor reads from the front of b. After the first read that finds too
// little it is bad, and everything it returns is empty.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.b, c.bad = nil, true
		return nil
	}
	t := c.b[:n]
	c.b = c.b[n:]
	return t
}

func (c *cursor) uint16() uint16 {
	b := c.take(2)
	if c.bad {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

// skip8 passes over a vector with a length of one byte.
func (c *cursor) skip8() {
	if n := c.take(1); !c.bad {
		c.take(int(n[0]))
	}
}

func (c *cursor) vector16() []byte { return c.take(int(c.uint16())) }

// seen are the types of extensions that were there. A client has two dozen, so
// that most are compared with few; who sends thousands pays with a table.
type seen struct {
	few  [32]uint16
	n    int
	many map[uint16]struct{}
}

// add reports whether the type was not there before.
func (s *seen) add(kind uint16) bool {
	for _, k := range s.few[:s.n] {
		if k == kind {
			return false
		}
	}
	if s.n < len(s.few) {
		s.few[s.n] = kind
		s.n++
		return true
	}
	if s.many == nil {
		s.many = make(map[uint16]struct{})
	}
	_, there := s.many[kind]
	s.many[kind] = struct{}{}
	return !there
}

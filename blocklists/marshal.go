package blocklists

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
	"maps"
	"net/netip"
	"slices"
)

// A Set as bytes is two parts: what was built, which is long and the same for
// all Sets that came from it by edits, and how it was edited since, which is
// short. Each is
//
//	magic and version     8 bytes
//	contents              see below; numbers are uvarints, texts have their length before them
//	checksum              CRC-32C of all before it, 4 bytes, little endian
//
// The contents of the first are the classes, the endings, the prefixes and the
// records in blocks of at most chunkSize, each with its length before it, and
// after the last a zero; before them a bit for each record (see leads). The records are those of the Set, but each with its
// name. The hash table is not there: it is made for a seed that differs from
// process to process, and is found again faster than it would be checked.
//
// The contents of the second are the signatures, the rules about who asks and the
// overlay.
const (
	baseMagic  = "weirset\x01"
	editsMagic = "weiredt\x02"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SameBase reports whether the two were built as one: what WriteBase writes of
// them is the same.
func (s *Set) SameBase(o *Set) bool { return s != nil && o != nil && s.base == o.base }

// WriteBase writes what was built. Pace may be nil; it is called after each few
// names.
func (s *Set) WriteBase(w io.Writer, pace func()) error {
	m := newMarshaler(w, baseMagic)
	c := s.base
	if c == nil {
		c = new(core)
	}
	m.number(uint64(len(c.classes)))
	for _, k := range c.classes {
		m.class(&k)
	}
	n := 0
	for n < len(c.endings) && c.endings[n] != "" {
		n++
	}
	m.number(uint64(n))
	for _, e := range c.endings[:n] {
		m.text(e)
	}
	m.prefixes(c)
	m.number(uint64(c.table.used))
	leads := c.leads(pace)
	m.number(uint64(leads.n))
	m.bytes(leads.b)
	m.records(c, pace)
	return m.close()
}

// WriteEdits writes how the Set differs from what was built, its signatures, and
// its rules about who asks.
func (s *Set) WriteEdits(w io.Writer) error {
	m := newMarshaler(w, editsMagic)
	m.number(uint64(len(s.signs)))
	for _, sig := range s.signs {
		m.change(&Change{sig.list, sig.rule})
	}
	var asking []Match
	if s.clients != nil {
		asking = s.clients.rules
	}
	m.number(uint64(len(asking)))
	for _, c := range asking {
		m.change(&Change{c.List, c.Rule})
	}
	o := s.over
	if o == nil {
		m.number(0)
		return m.close()
	}
	m.number(1)
	m.number(uint64(len(o.dropped)))
	for _, list := range slices.Sorted(maps.Keys(o.dropped)) {
		m.number(uint64(list))
	}
	m.number(uint64(len(o.gone)))
	for _, c := range o.gone {
		m.change(c)
	}
	m.number(uint64(len(o.lines)))
	for _, list := range slices.Sorted(maps.Keys(o.lines)) {
		m.number(uint64(list))
		m.number(uint64(len(o.lines[list])))
		for _, s := range o.lines[list] {
			m.number(zigzag(s.from))
			m.number(zigzag(s.by))
		}
	}
	m.number(uint64(len(o.added)))
	for c, line := range o.added {
		c.Rule.Line = line
		m.change(&c)
	}
	return m.close()
}

// zigzag maps numbers of either sign to ones without, small ones to small ones.
func zigzag(n int) uint64 { return uint64(n)<<1 ^ uint64(n>>63) }

// A marshaler writes and keeps the sum of what it has written, and the first
// error.
type marshaler struct {
	w   *bufio.Writer
	sum uint32
	buf []byte
	err error
}

func newMarshaler(w io.Writer, magic string) *marshaler {
	m := &marshaler{w: bufio.NewWriterSize(w, 64<<10)}
	m.bytes([]byte(magic))
	return m
}

func (m *marshaler) bytes(b []byte) {
	m.sum = crc32.Update(m.sum, castagnoli, b)
	if _, err := m.w.Write(b); m.err == nil {
		m.err = err
	}
}

func (m *marshaler) number(n uint64) {
	m.buf = binary.AppendUvarint(m.buf[:0], n)
	m.bytes(m.buf)
}

func (m *marshaler) text(s string) {
	m.buf = append(binary.AppendUvarint(m.buf[:0], uint64(len(s))), s...)
	m.bytes(m.buf)
}

func (m *marshaler) class(k *class) {
	m.number(uint64(k.list))
	m.bytes([]byte{byte(k.kind), byte(k.action), byte(k.mode), k.priority})
	m.text(k.data.String())
}

func (m *marshaler) prefix(p netip.Prefix) {
	m.text(string(p.Addr().AsSlice()))
	m.number(uint64(max(p.Bits(), 0)))
}

func (m *marshaler) change(c *Change) {
	k := classOf(c.List, &c.Rule)
	m.class(&k)
	m.number(uint64(c.Rule.Line))
	if c.Rule.Kind == Prefix || c.Rule.Kind == Client {
		m.prefix(c.Rule.Prefix)
		return
	}
	m.text(c.Rule.Name)
	m.text(c.Rule.Path)
}

func (m *marshaler) close() error {
	sum := binary.LittleEndian.AppendUint32(nil, m.sum)
	if _, err := m.w.Write(sum); m.err == nil {
		m.err = err
	}
	if err := m.w.Flush(); m.err == nil {
		m.err = err
	}
	return m.err
}

// prefixes writes each prefix with its references, the last of the chain first:
// entering them so makes the same chain.
func (m *marshaler) prefixes(c *core) {
	if c.prefixes == nil {
		m.number(0)
		return
	}
	m.number(uint64(c.prefixes.Size()))
	var chain []addrRef
	for p, first := range c.prefixes.All() {
		chain = chain[:0]
		for i := first; i != 0; i = c.addrs.at(i - 1).next {
			chain = append(chain, *c.addrs.at(i - 1))
		}
		m.prefix(p)
		m.number(uint64(len(chain)))
		for _, r := range slices.Backward(chain) {
			m.number(uint64(r.class))
			m.number(uint64(r.line))
		}
	}
}

// records writes the records in blocks, those without a name with that of the
// first record of their name.
func (m *marshaler) records(c *core, pace func()) {
	named := c.namedElsewhere()
	block := make([]byte, 0, chunkSize)
	flush := func() {
		if len(block) > 0 {
			m.number(uint64(len(block)))
			m.bytes(block)
			block = block[:0]
		}
	}
	var rec []byte
	for i, chunk := range c.records {
		for at := 0; at < len(chunk); {
			r, size := readRecord(chunk[at:])
			rec = append(rec[:0], chunk[at:at+size]...)
			if len(r.text) == 0 {
				text := c.nameText(named[uint32(i<<chunkBits|at)])
				rec = append(appendRecord(rec[:0], r.class, false, r.line, len(text)), text...)
			}
			if len(block)+len(rec) > chunkSize {
				flush()
				if pace != nil {
					pace()
				}
			}
			block = append(block, rec...)
			at += size
		}
	}
	flush()
	m.number(0)
}

// namedElsewhere maps the offset of each record without a name to that of one
// with it.
func (c *core) namedElsewhere() map[uint32]uint32 {
	out := make(map[uint32]uint32)
	for _, page := range c.heads {
		for _, h := range page {
			for i := h.names; i != 0; {
				r := c.refs.at(i - 1)
				if r.record != h.text {
					out[r.record] = h.text
				}
				i = r.next
			}
		}
	}
	return out
}

// nameText is the name of the record as one without a path has it.
func (c *core) nameText(offset uint32) []byte {
	r, _ := readRecord(c.records.at(offset))
	if r.path {
		return []byte(c.endings.name(&r, nil))
	}
	return r.text
}

package blocklists

import (
	"bytes"
	"strings"
	"unsafe"
)

// A record is one rule as bytes:
//
//	length of the text    uvarint
//	class, or 127         7 bits; the eighth says that the rule has a path
//	class                 uvarint, only after 127
//	line                  uvarint
//	text                  see below
//
// The text of a rule without a path is its name with a frequent ending packed
// into one byte (see endings); that of one with a path is its name, a zero byte
// and the path. The second and further rules of one name have no text. What a
// rule says besides is its class, because a list of a million names has one or
// two of them.
type record struct {
	class uint32
	line  uint32
	path  bool
	text  []byte
}

const (
	pathFlag  = 0x80
	longClass = 0x7f
)

// appendRecord appends the record without its text, whose length is given.
func appendRecord(b []byte, class uint32, path bool, line uint32, text int) []byte {
	b = appendUvarint(b, uint32(text))
	var flag byte
	if path {
		flag = pathFlag
	}
	if class < longClass {
		b = append(b, flag|byte(class))
	} else {
		b = appendUvarint(append(b, flag|longClass), class)
	}
	return appendUvarint(b, line)
}

// readRecord reads the record that b begins with, and how long it is. Its text
// is a part of b.
func readRecord(b []byte) (r record, size int) {
	n, i := readUvarint(b, 0)
	flag := b[i]
	i++
	r.path = flag&pathFlag != 0
	r.class = uint32(flag &^ pathFlag)
	if r.class == longClass {
		r.class, i = readUvarint(b, i)
	}
	r.line, i = readUvarint(b, i)
	end := i + int(n)
	r.text = b[i:end:end]
	return r, end
}

func appendUvarint(b []byte, v uint32) []byte {
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

func readUvarint(b []byte, i int) (uint32, int) {
	v := uint32(b[i])
	i++
	if v < 0x80 {
		return v, i
	}
	v &= 0x7f
	for shift := 7; ; shift += 7 {
		c := uint32(b[i])
		i++
		v |= c & 0x7f << shift
		if c < 0x80 {
			return v, i
		}
	}
}

// A blob is a long run of bytes in chunks, so that it grows without ever being
// copied: a record is known by its offset, and never lies across two chunks. A
// chunk has at most chunkSize bytes; all but the last are as good as full.
type blob [][]byte

const (
	chunkBits  = 20
	chunkSize  = 1 << chunkBits
	firstChunk = 512 // most sets are small: the first chunk grows
	maxChunks  = 1 << (32 - chunkBits)
)

func (b blob) at(offset uint32) []byte {
	return b[offset>>chunkBits][offset&(chunkSize-1):]
}

// full reports whether the blob has no room for another record of any size.
func (b blob) full() bool { return len(b) >= maxChunks }

// add appends the bytes of a record.
func (b *blob) add(rec []byte) {
	last := len(*b) - 1
	if last < 0 || len((*b)[last])+len(rec) > chunkSize {
		size := chunkSize
		if last < 0 {
			size = max(firstChunk, len(rec))
		}
		*b = append(*b, append(make([]byte, 0, size), rec...))
		return
	}
	c := (*b)[last]
	if len(c)+len(rec) > cap(c) {
		c = append(make([]byte, 0, min(chunkSize, max(2*cap(c), len(c)+len(rec)))), c...)
	}
	(*b)[last] = append(c, rec...)
}

// A compactor writes the records of a blob again into the same bytes while
// they are read, some shorter or not at all. It never passes the reader: what
// it has written is at most what has been read, chunk by chunk.
type compactor struct {
	blob  blob
	chunk int
	pos   int
	ends  []int
	count int
}

// put writes a record and returns its offset.
func (w *compactor) put(rec []byte) uint32 {
	for w.pos+len(rec) > len(w.blob[w.chunk]) {
		w.ends = append(w.ends, w.pos)
		w.chunk, w.pos = w.chunk+1, 0
	}
	c := w.blob[w.chunk]
	if &c[w.pos] != &rec[0] { // most records stay where they are
		copy(c[w.pos:], rec)
	}
	offset := uint32(w.chunk)<<chunkBits | uint32(w.pos)
	w.pos += len(rec)
	w.count++
	return offset
}

// done returns the blob with the records that were written, and no more.
func (w *compactor) done() blob {
	if w.chunk == 0 && w.pos == 0 {
		return nil
	}
	w.ends = append(w.ends, w.pos)
	for i, end := range w.ends {
		c := w.blob[i][:end]
		if cap(c)-end > chunkSize/64 || len(w.ends) == 1 {
			c = append(make([]byte, 0, end), c...)
		}
		w.blob[i] = c
	}
	return append(make(blob, 0, len(w.ends)), w.blob[:len(w.ends)]...)
}

// endings are the top-level domains that came first, dot included: names hold
// them as one byte from 0x80 on, which no canonical name has.
type endings [128]string

// packName appends the name with its ending packed.
func (b *Builder) packName(dst []byte, name string) []byte {
	dot := strings.LastIndexByte(name, '.')
	if dot <= 0 {
		return append(dst, name...)
	}
	code, ok := b.codes[name[dot:]]
	if !ok {
		if len(b.codes) == len(b.base.endings) {
			return append(dst, name...)
		}
		if b.codes == nil {
			b.codes = make(map[string]byte)
		}
		code = byte(len(b.codes))
		ending := strings.Clone(name[dot:])
		b.codes[ending], b.base.endings[code] = code, ending
	}
	return append(append(dst, name[:dot]...), 0x80|code)
}

// name returns the name of a record, in buf or in the record itself.
func (e *endings) name(r *record, buf []byte) string {
	if r.path {
		return view(r.text[:bytes.IndexByte(r.text, 0)])
	}
	if last := len(r.text) - 1; r.text[last] >= 0x80 {
		buf = append(buf, r.text[:last]...)
		return view(append(buf, e[r.text[last]&0x7f]...))
	}
	return view(r.text)
}

// short reports whether the text is that of a name of two labels, quickly: it
// may say no to one.
func (r *record) short() bool {
	return !r.path && r.text[len(r.text)-1] >= 0x80 && bytes.IndexByte(r.text, '.') < 0
}

// holds reports whether the text is that of the name.
func (e *endings) holds(r *record, name string) bool {
	text := r.text
	if r.path {
		return len(text) > len(name) && text[len(name)] == 0 && string(text[:len(name)]) == name
	}
	last := len(text) - 1
	if last < 0 {
		return false
	}
	if text[last] < 0x80 {
		return string(text) == name
	}
	end := e[text[last]&0x7f]
	return len(name) == last+len(end) && string(text[:last]) == name[:last] && name[last:] == end
}

// view returns the bytes as a string without copying them. They must never
// change as long as the string is in use.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

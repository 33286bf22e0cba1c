package parse

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// sniffed is how many bytes of the input's beginning are looked at for what is
// not a list.
const sniffed = 4096

var (
	utf8BOM   = []byte("\xef\xbb\xbf")
	gzipMagic = []byte{0x1f, 0x8b} // RFC 1952, section 2.3.1
)

// An input is the unpacked bytes of a list, looked at and bounded.
type input struct {
	r     io.Reader
	bytes *capped // counts what is read
	gzip  bool
}

// open looks at the beginning of r: it unpacks gzip, skips a byte order mark
// and refuses what is not text.
func open(r io.Reader, limit int64) (*input, error) {
	packed := &capped{r: r, left: limit, limit: limit}
	in := &input{bytes: packed}
	b := bufio.NewReaderSize(packed, sniffed)
	if magic, err := b.Peek(len(gzipMagic)); err == nil && bytes.Equal(magic, gzipMagic) {
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, gzipError(err)
		}
		in.gzip = true
		in.bytes = &capped{r: gzipReader{z}, left: limit, limit: limit}
		b = bufio.NewReaderSize(in.bytes, sniffed)
	}
	// A short beginning is no error here: whoever reads on meets it again.
	head, err := b.Peek(sniffed)
	if err := sniff(head); err != nil {
		return nil, err
	}
	if err != nil && len(head) == 0 && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if bytes.HasPrefix(head, utf8BOM) {
		_, _ = b.Discard(len(utf8BOM)) // they are in the buffer
	}
	in.r = b
	return in, nil
}

// A capped reader fails once more than the limit is read from it. Its first
// error is its last word: a buffer in front of it may ask again.
type capped struct {
	r     io.Reader
	left  int64
	limit int64
	err   error
}

func (c *capped) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	// One byte more than is left, to tell a full input from one that is too large.
	if int64(len(p)) > c.left+1 {
		p = p[:c.left+1]
	}
	n, err := c.r.Read(p)
	c.err = err
	if int64(n) > c.left {
		n = int(c.left)
		c.err = &InputError{What: InputBytes, Msg: fmt.Sprintf("the list is larger than %d bytes: raise the limit if it is meant to be", c.limit)}
	}
	c.left -= int64(n)
	return n, c.err
}

func (c *capped) count() int64 { return c.limit - c.left }

// A gzipReader makes the errors of the format name themselves.
type gzipReader struct{ z *gzip.Reader }

func (g gzipReader) Read(p []byte) (int, error) {
	n, err := g.z.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = gzipError(err)
	}
	return n, err
}

// gzipError names what is wrong with the packed data; errors of the reader
// below stay as they are.
func gzipError(err error) error {
	var corrupt flate.CorruptInputError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &InputError{What: InputGzip, Msg: "the gzip data is truncated: fetch the list again", Err: io.ErrUnexpectedEOF}
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, &corrupt):
		return &InputError{What: InputGzip, Msg: "the gzip data is corrupt: fetch the list again", Err: err}
	}
	return err
}

// archives are files that hold a list at best, by how they begin.
var archives = []struct{ magic, name string }{
	{"PK\x03\x04", "a zip archive"},
	{"PK\x05\x06", "an empty zip archive"},
	{"\xfd7zXZ\x00", "an xz file"},
	{"BZh", "a bzip2 file"}, // see isBzip2
	{"\x28\xb5\x2f\xfd", "a zstd file"},
	{"7z\xbc\xaf\x27\x1c", "a 7z archive"},
	{"Rar!\x1a\x07", "a rar archive"},
	{"\x04\x22\x4d\x18", "an lz4 file"},
	{"\x1f\x9d", "a compress (.Z) file"},
	{"\x1f\x8b", "gzip inside gzip"},
	{"LZIP\x01", "an lzip file"},
	{"%PDF-", "a PDF document"},
}

// sniff returns what is wrong with an input that begins like that. It only
// knows what no list can begin with; markup is found line by line, because
// comments may stand before it.
func sniff(head []byte) error {
	// UTF-32 first: its little-endian mark begins with that of UTF-16.
	for _, bom := range []string{"\xff\xfe\x00\x00", "\x00\x00\xfe\xff", "\xff\xfe", "\xfe\xff"} {
		if bytes.HasPrefix(head, []byte(bom)) {
			return &InputError{What: InputEncoding, Msg: fmt.Sprintf("the list is UTF-%d: convert it to UTF-8", 8*max(2, len(bom)))}
		}
	}
	for _, a := range archives {
		if bytes.HasPrefix(head, []byte(a.magic)) && (a.magic != "BZh" || isBzip2(head)) {
			return &InputError{What: InputArchive, Msg: "this is " + a.name + ", not a list: unpack it first"}
		}
	}
	if len(head) > 262 && string(head[257:262]) == "ustar" {
		return &InputError{What: InputArchive, Msg: "this is a tar archive, not a list: unpack it first"}
	}
	if isBinary(head) {
		return binaryError(0)
	}
	return nil
}

// isBzip2 reports whether a block or the end of the stream follows the header,
// because "BZh" alone could begin a name.
func isBzip2(head []byte) bool {
	if len(head) < 10 {
		return false
	}
	block := string(head[4:10])
	return block == "1AY&SY" || block == "\x17\x72\x45\x38\x50\x90"
}

// isBinary reports whether the bytes are no text in any encoding that has
// ASCII in it: mostly control characters, or many of them without even being
// UTF-8. NUL bytes are found line by line.
func isBinary(head []byte) bool {
	controls := 0
	for _, c := range head {
		if c < ' ' && (c < '\t' || c > '\r') || c == 0x7f {
			controls++
		}
	}
	return controls*4 > len(head) || controls*20 > len(head) && !utf8.Valid(head)
}

func binaryError(line int) error {
	return &InputError{What: InputBinary, Line: line, Msg: "binary data, not a list: check where it came from"}
}

// markup returns what is wrong with an input that has such a line before its
// first rule, or nil. No dialect has lines that begin with "<" and a letter,
// "!" or "?".
func markup(text []byte, line int) error {
	if len(text) < 2 || text[0] != '<' {
		return nil
	}
	c := text[1] | 0x20
	if text[1] != '!' && text[1] != '?' && (c < 'a' || c > 'z') {
		return nil
	}
	head := bytes.ToLower(text[:min(len(text), 256)])
	if bytes.HasPrefix(head, []byte("<?xml")) && !bytes.Contains(head, []byte("html")) {
		return &InputError{What: InputXML, Line: line, Msg: "this is an XML document, perhaps an error message, not a list: check the address it came from"}
	}
	return &InputError{What: InputHTML, Line: line, Msg: "this is an HTML page, perhaps an error message, not a list: check the address it came from"}
}

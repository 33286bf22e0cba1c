package source

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// maxRatio is how much larger than it travelled a list may be. Real ones
	// shrink to a fifth or a tenth; a million times the same byte, to a thousandth.
	maxRatio = 100
	// ratioFrom is from how many bytes on the ratio counts: short texts that repeat
	// themselves are no danger.
	ratioFrom = 1 << 20
)

func tooLarge(limit int64) error {
	return &FetchError{Reason: ReasonSize, Msg: fmt.Sprintf("the list is larger than %d bytes: raise its max_size if it is meant to be", limit)}
}

// decoded returns the bytes without the encoding that they travel in (RFC 9110,
// section 8.4), bounded.
func decoded(r io.Reader, encoding string, limit int64) (io.Reader, error) {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return &bounded{r: r, limit: limit}, nil
	case "gzip", "x-gzip":
		return Gunzip(r, limit)
	}
	return nil, &FetchError{Reason: ReasonEncoding, Msg: fmt.Sprintf("the content encoding %q was not asked for", encoding)}
}

// Unpack returns what a list says, packed with gzip or not, bounded in size and
// in how much of it comes out of how little.
func Unpack(r io.Reader, limit int64) (io.Reader, error) {
	b := bufio.NewReader(r)
	if magic, err := b.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b { // RFC 1952, section 2.3.1
		return Gunzip(b, limit)
	}
	return &bounded{r: b, limit: limit}, nil
}

// Gunzip returns what the gzip data unpacks to. Reading it fails with a
// *FetchError where that is broken, larger than the limit, or out of all
// proportion.
func Gunzip(r io.Reader, limit int64) (io.Reader, error) {
	packed := &counter{r: r}
	z, err := gzip.NewReader(packed)
	if err != nil {
		return nil, gzipError(err)
	}
	return &bounded{r: z, limit: limit, packed: packed}, nil
}

// A counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// A bounded reader fails beyond its limit, and where packed data unpacks to too
// much of itself.
type bounded struct {
	r      io.Reader
	packed *counter // nil: not packed
	limit  int64
	n      int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	b.n += int64(n)
	switch {
	// The reader below buffers, so that packed.n is rather too large than too small.
	case b.packed != nil && b.n > ratioFrom && b.n > maxRatio*b.packed.n:
		return 0, &FetchError{Reason: ReasonBomb, Msg: fmt.Sprintf("%d bytes of gzip unpack to more than %d times as much", b.packed.n, maxRatio)}
	case b.n > b.limit:
		return 0, tooLarge(b.limit)
	case b.packed != nil && err != nil && !errors.Is(err, io.EOF):
		err = gzipError(err)
	}
	return n, err
}

// gzipError names what is wrong with the packed data; errors of the reader below
// stay as they are.
func gzipError(err error) error {
	var corrupt flate.CorruptInputError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &FetchError{ReasonTruncated, "the gzip data is cut off", io.ErrUnexpectedEOF}
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, &corrupt):
		return &FetchError{ReasonEncoding, "the gzip data is broken", err}
	}
	return err
}

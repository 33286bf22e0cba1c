package proxy

import "errors"

var errChunk = errors.New("chunked content is malformed")

// chunks follows chunked content to its end (RFC 9112, section 7.1). It takes
// only what the grammar has, CRLF included: a reader behind it that is more
// lenient finds nothing to be lenient about.
type chunks struct {
	state      chunkState
	size       uint64 // left of the chunk
	digits     int
	ext        int // bytes of the chunk extension
	trailer    int // bytes of the trailer section
	maxTrailer int
}

type chunkState uint8

const (
	inSize chunkState = iota
	inExt
	inSizeLF
	inData
	inDataCR
	inDataLF
	inTrailerStart
	inTrailer
	inTrailerLF
	inEndLF
)

const (
	maxChunkDigits = 15
	maxChunkExt    = 256
)

// advance returns how much of b belongs to the content, and whether it ends
// there.
func (c *chunks) advance(b []byte) (n int, done bool, err error) {
	for n < len(b) {
		if c.state == inData {
			k := min(c.size, uint64(len(b)-n))
			n += int(k)
			if c.size -= k; c.size == 0 {
				c.state = inDataCR
			}
			continue
		}
		done, ok := c.step(b[n])
		if !ok {
			return 0, false, errChunk
		}
		n++
		if done {
			return n, true, nil
		}
	}
	return n, false, nil
}

func (c *chunks) step(b byte) (done, ok bool) {
	switch c.state {
	case inSize, inExt, inSizeLF:
		return false, c.stepSize(b)
	case inDataCR:
		c.state = inDataLF
		return false, b == '\r'
	case inDataLF:
		c.state, c.digits, c.ext = inSize, 0, 0
		return false, b == '\n'
	case inTrailerStart:
		if b == '\r' {
			c.state = inEndLF
			return false, true
		}
		c.state = inTrailer
		return false, isTokenByte(b) && c.countTrailer()
	case inTrailer:
		if b == '\r' {
			c.state = inTrailerLF
			return false, true
		}
		return false, isFieldByte(b) && c.countTrailer()
	case inTrailerLF:
		c.state = inTrailerStart
		return false, b == '\n'
	}
	return b == '\n', b == '\n' // inEndLF
}

func (c *chunks) stepSize(b byte) bool {
	switch c.state {
	case inSize:
		if d, ok := hexDigit(b); ok {
			c.size = c.size<<4 | uint64(d)
			c.digits++
			return c.digits <= maxChunkDigits
		}
		if b == '\r' {
			c.state = inSizeLF
		} else {
			c.state = inExt
		}
		return c.digits > 0 && (b == '\r' || b == ';')
	case inExt:
		if b == '\r' {
			c.state = inSizeLF
			return true
		}
		c.ext++
		return isFieldByte(b) && c.ext <= maxChunkExt
	}
	c.state = inData
	if c.size == 0 {
		c.state = inTrailerStart
	}
	return b == '\n' // inSizeLF
}

func (c *chunks) countTrailer() bool {
	c.trailer++
	return c.trailer <= c.maxTrailer
}

func isFieldByte(b byte) bool { return b >= ' ' && b != 0x7f || b == '\t' }

func hexDigit(b byte) (byte, bool) {
	switch {
	case '0' <= b && b <= '9':
		return b - '0', true
	case 'a' <= b && b <= 'f':
		return b - 'a' + 10, true
	case 'A' <= b && b <= 'F':
		return b - 'A' + 10, true
	}
	return 0, false
}

package parse

import (
	"bytes"
	"io"
)

// lines cuts a reader into lines. A line ends at LF, CRLF or a CR alone. The
// buffer is as long as the longest permitted line and is the only copy: a line
// is valid until the next call. A line that is too long is one line, of which
// the beginning is kept.
type lines struct {
	r     io.Reader
	buf   []byte
	limit int // bytes a line may have
	pos   int // where the line that is being read begins
	scan  int // where the search for its end goes on
	end   int // of what was read
	lf    int // the next LF at or after scan, or end; stale when below scan
	eof   bool
	err   error // of the reader, given out after the last line
	nul   bool  // the last line has a NUL byte, be it behind the limit
}

// minBuffer keeps reads large where the limit is small.
const minBuffer = 64 << 10

func newLines(r io.Reader, limit int) *lines {
	// Two more bytes, so that a line of the full length fits with its CRLF.
	return &lines{r: r, limit: limit, buf: make([]byte, max(limit+2, minBuffer))}
}

// next returns the next line without its end, or io.EOF after the last. A line
// of more than limit bytes is cut there, and long is true.
func (l *lines) next() (line []byte, long bool, err error) {
	for {
		if n := l.find(); n >= 0 {
			line = l.buf[l.pos:n]
			l.advance(n)
			return l.cut(line)
		}
		if l.err != nil {
			return nil, false, l.err
		}
		if l.eof {
			if l.pos == l.end {
				return nil, false, io.EOF
			}
			line = l.buf[l.pos:l.end]
			l.pos, l.scan = l.end, l.end
			return l.cut(line)
		}
		if l.scan-l.pos > l.limit {
			return l.nextLong()
		}
		l.fill()
	}
}

func (l *lines) cut(line []byte) ([]byte, bool, error) {
	l.nul = bytes.IndexByte(line, 0) >= 0
	if len(line) > l.limit {
		return line[:l.limit], true, nil
	}
	return line, false, nil
}

// find returns the index of the line's end, or -1 where more must be read.
func (l *lines) find() int {
	if l.lf < l.scan {
		l.lf = l.end
		if i := bytes.IndexByte(l.buf[l.scan:l.end], '\n'); i >= 0 {
			l.lf = l.scan + i
		}
	}
	if i := bytes.IndexByte(l.buf[l.scan:l.lf], '\r'); i >= 0 {
		i += l.scan
		if i+1 == l.end && !l.eof && l.err == nil {
			l.scan = i // whether an LF follows is not known yet
			return -1
		}
		return i
	}
	if l.lf < l.end {
		return l.lf
	}
	l.scan = l.end
	return -1
}

// advance goes behind the line end at n.
func (l *lines) advance(n int) {
	next := n + 1
	if l.buf[n] == '\r' && next < l.end && l.buf[next] == '\n' {
		next++
	}
	l.pos, l.scan = next, next
}

// fill moves what is left to the front and reads once.
func (l *lines) fill() {
	if l.pos > 0 {
		copy(l.buf, l.buf[l.pos:l.end])
		l.scan -= l.pos
		l.end -= l.pos
		l.pos = 0
	}
	l.lf = -1
	for range 100 { // a reader may return nothing, but not for ever: see io.Reader
		n, err := l.r.Read(l.buf[l.end:])
		l.end += n
		switch {
		case err == io.EOF:
			l.eof = true
		case err != nil:
			l.err = err
		}
		if n > 0 || err != nil {
			return
		}
	}
	l.err = io.ErrNoProgress
}

// nextLong returns the beginning of a line that does not fit, and reads on to
// its end.
func (l *lines) nextLong() ([]byte, bool, error) {
	head := bytes.Clone(l.buf[l.pos : l.pos+l.limit])
	l.nul = bytes.IndexByte(l.buf[l.pos:l.scan], 0) >= 0
	for {
		l.pos = l.scan
		l.fill()
		n := l.find()
		done := n >= 0
		if !done {
			n = l.scan
		}
		l.nul = l.nul || bytes.IndexByte(l.buf[l.pos:n], 0) >= 0
		switch {
		case done:
			l.advance(n)
			return head, true, nil
		case l.err != nil:
			return nil, false, l.err
		case l.eof:
			l.pos = n
			return head, true, nil
		}
	}
}

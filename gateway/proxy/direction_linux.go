package proxy

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	moveRounds  = 4       // reads of one direction in one turn
	bulkyRead   = 4 << 10 // a read that is as large is a bulky one
	bulkyReads  = 8       // bulky reads in a row before splicing
	spliceChunk = 1 << 20 // of one splice, and the size of a pipe
	maxPipes    = 64      // of all loops: 128 descriptors, 64 MiB of the kernel's when all are full
	minPipes    = 4       // of each loop all the same
	keptPipes   = 8       // empty ones that a loop keeps for the next
)

// A direction is one half of a tunnel. Bytes go through the loop's own buffer,
// and bulky ones through a pipe with splice(2), without a copy. What the
// destination does not take at once is copied aside (at most copyChunk bytes)
// or stays in the pipe, and nothing further is read until it is gone.
type direction struct {
	src, dst *side
	n        int64  // bytes that were read
	pending  []byte // read and not yet written, nil for none
	pipe     *pipe  // nil for none; it holds piped bytes
	piped    int
	bulky    int  // bulky reads in a row
	ended    bool // the source's end was read
	shut     bool // and passed on
}

// begin gives the direction what was received before there was a tunnel.
func (d *direction) begin(early []byte) {
	if len(early) > 0 {
		d.pending, d.n = early, int64(len(early))
	}
}

// move moves bytes until nothing is ready, or until others have waited long
// enough; more tells which.
func (d *direction) move(l *loop) (more bool, err error) {
	for range moveRounds {
		if ok, err := d.flush(l); !ok || err != nil {
			return false, err
		}
		switch {
		case d.shut:
			return false, nil
		case d.ended:
			// One half is closed, the other goes on. This fails where the
			// destination is gone, which its own direction finds out.
			_ = unix.Shutdown(d.dst.fd, unix.SHUT_WR)
			d.shut = true
			return false, nil
		case !d.src.readable:
			return false, nil
		case d.bulky >= bulkyReads && d.splice(l, &err):
		default:
			err = d.copy(l)
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// flush writes what waits, and reports whether nothing waits any more.
func (d *direction) flush(l *loop) (bool, error) {
	for d.piped > 0 && d.dst.writable {
		n, err := unix.Splice(d.pipe.r, nil, d.dst.fd, nil, d.piped, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch {
		case err == unix.EAGAIN:
			d.dst.writable = false
		case err == unix.EINTR:
		case err != nil:
			return false, err
		default:
			d.piped -= int(n)
		}
	}
	if d.pipe != nil && d.piped == 0 {
		l.pipes.put(d.pipe)
		d.pipe = nil
	}
	if len(d.pending) > 0 && d.dst.writable {
		n, err := d.write(d.pending)
		if err != nil {
			return false, err
		}
		if d.pending = d.pending[n:]; len(d.pending) == 0 {
			d.pending = nil
		}
	}
	return d.piped == 0 && d.pending == nil, nil
}

// write writes what fits.
func (d *direction) write(b []byte) (int, error) {
	for n := 0; ; {
		k, err := unix.Write(d.dst.fd, b[n:])
		n += max(k, 0)
		switch {
		case err == unix.EAGAIN:
			d.dst.writable = false
			return n, nil
		case err == unix.EINTR:
		case err != nil:
			return n, err
		}
		if n == len(b) {
			return n, nil
		}
	}
}

// copy moves one buffer.
func (d *direction) copy(l *loop) error {
	n, err := unix.Read(d.src.fd, l.buf[:])
	switch {
	case errors.Is(err, unix.EAGAIN):
		d.src.readable = false
		return nil
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return err
	case n == 0:
		d.ended = true
		return nil
	}
	d.src.readable = n == len(l.buf) || d.src.hup
	if d.bulky++; n < bulkyRead {
		d.bulky = 0
	}
	return d.take(l.buf[:n])
}

// take writes what was read, and keeps a copy of what the destination does not
// take. Nothing may be pending.
func (d *direction) take(b []byte) error {
	d.n += int64(len(b))
	sent := 0
	if d.dst.writable && len(b) > 0 {
		var err error
		if sent, err = d.write(b); err != nil {
			return err
		}
	}
	if sent < len(b) {
		d.pending = slices.Clone(b[sent:])
	}
	return nil
}

// splice moves one pipeful into a pipe, which flush empties. It is false where
// there is no pipe to be had.
func (d *direction) splice(l *loop, failed *error) bool {
	if d.pipe = l.pipes.get(); d.pipe == nil {
		d.bulky = 0
		return false
	}
	n, err := unix.Splice(d.src.fd, nil, d.pipe.w, nil, spliceChunk, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
	switch {
	case err == unix.EAGAIN: // the pipe is empty, so it is the source
		d.src.readable = false
	case err == unix.EINTR:
	case err == unix.EINVAL || err == unix.ENOSYS:
		d.bulky = 0
	case err != nil:
		*failed = err
	case n == 0:
		d.ended = true
	default:
		d.piped = int(n)
		d.n += int64(d.piped)
		if n < bulkyRead {
			d.bulky--
		} else {
			d.bulky = 2 * bulkyReads // not out of it for a few small ones
		}
	}
	return true
}

// release gives back what the direction has at its end. A pipe with bytes in
// it is of no further use.
func (d *direction) release(l *loop) {
	if d.pipe != nil {
		if d.piped > 0 {
			l.pipes.discard(d.pipe)
		} else {
			l.pipes.put(d.pipe)
		}
	}
	d.pipe, d.pending = nil, nil
}

// A pipe is two descriptors, and empty unless a direction holds it.
type pipe struct{ r, w int }

// pipes are those of a loop.
type pipes struct {
	free []*pipe
	open int
	max  int
}

// get returns an empty pipe, or nil where there may be no more of them or none
// can be made.
func (p *pipes) get() *pipe {
	if n := len(p.free); n > 0 {
		got := p.free[n-1]
		p.free = p.free[:n-1]
		return got
	}
	if p.open >= p.max {
		return nil
	}
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		return nil
	}
	p.open++
	// Without the privilege, and with many pipes, it stays as small as it is.
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, spliceChunk)
	return &pipe{fds[0], fds[1]}
}

func (p *pipes) put(q *pipe) {
	if len(p.free) >= keptPipes {
		p.discard(q)
		return
	}
	p.free = append(p.free, q)
}

func (p *pipes) discard(q *pipe) {
	p.open--
	_, _ = unix.Close(q.r), unix.Close(q.w)
}

func (p *pipes) close() {
	for _, q := range p.free {
		p.discard(q)
	}
	p.free = nil
}

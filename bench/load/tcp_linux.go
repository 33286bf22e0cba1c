package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// maxRefusals is after how many failed connections in a row a server is held to
// be gone.
const maxRefusals = 1000

// A stream is one connection for DNS over TCP, RFC 1035 section 4.2.2, with
// questions pipelined as RFC 7766 section 6.2.1.1 has it. Its buffers are made
// once: in holds one message of any size, out the questions of a full window.
type stream struct {
	fd      int
	open    bool
	in, out []byte
	read    int
	asked   int
}

type tcpTransport struct {
	*engine
	streams  []stream
	refusals int
}

func tcpCommand(ctx context.Context, args []string, out io.Writer) error {
	return dnsCommand(ctx, "tcp", args, out, openTCP)
}

func openTCP(e *engine) error {
	t := &tcpTransport{engine: e, streams: make([]stream, e.flows)}
	e.transport = t
	e.how = "write"
	size := 1024
	for size < 4*e.window {
		size *= 2
	}
	for i := range t.streams {
		t.streams[i] = stream{fd: -1, in: make([]byte, 2+1<<16)}
		e.rings = append(e.rings, newRing(size))
	}
	for i := range t.streams {
		if err := t.connect(i); err != nil {
			t.close()
			return fmt.Errorf("%s: %w", e.server, err)
		}
	}
	return nil
}

func (t *tcpTransport) connect(flow int) error {
	fd, err := dialTCP(t.server, false)
	if err != nil {
		return err
	}
	s := &t.streams[flow]
	s.fd, s.open, s.read, s.asked, s.out = fd, false, 0, 0, s.out[:0]
	t.rings[flow].forget()
	return t.watch(unix.EPOLL_CTL_ADD, fd, flow, unix.EPOLLIN|unix.EPOLLOUT)
}

// reconnect ends a connection and makes a new one. What waited on it is lost.
func (t *tcpTransport) reconnect(flow int, refused bool) {
	if t.refusals++; !refused {
		t.refusals = 0
	}
	t.lost += uint64(t.rings[flow].waiting)
	t.reconnects++
	_ = unix.Close(t.streams[flow].fd)
	t.streams[flow].fd = -1
	t.rings[flow].forget()
	if t.refusals > maxRefusals {
		t.fatal = fmt.Errorf("%s: %d connections failed in a row", t.server, t.refusals)
		return
	}
	if err := t.connect(flow); err != nil {
		t.fatal = err
	}
}

func (t *tcpTransport) close() {
	for _, s := range t.streams {
		if s.fd >= 0 {
			_ = unix.Close(s.fd)
		}
	}
}

func (t *tcpTransport) send(flow, n int, first, step time.Duration) {
	s := &t.streams[flow]
	if !s.open || t.fatal != nil {
		if t.rate > 0 {
			t.unsent += uint64(n)
		}
		return
	}
	pending := len(s.out) > 0
	for i := range n {
		if t.done || t.perConn > 0 && s.asked == t.perConn {
			break
		}
		li, qi, _ := t.choose()
		id, ok := t.rings[flow].issue(first+time.Duration(i)*step, li, qi)
		if !ok {
			t.unsent += uint64(n - i)
			break
		}
		q := t.lists[li].query(qi)
		at := len(s.out)
		s.out = append(binary.BigEndian.AppendUint16(s.out, uint16(len(q))), q...)
		binary.BigEndian.PutUint16(s.out[at+2:], id)
		s.asked++
		t.sent++
		t.bytesOut += uint64(len(q))
	}
	if !pending {
		t.flush(flow)
	}
}

// flush writes what it can and waits for room for the rest.
func (t *tcpTransport) flush(flow int) {
	s := &t.streams[flow]
	if len(s.out) == 0 {
		return
	}
	n, err := unix.Write(s.fd, s.out)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		t.reconnect(flow, false)
		return
	}
	s.out = s.out[:copy(s.out, s.out[max(n, 0):])]
	events := uint32(unix.EPOLLIN)
	if len(s.out) > 0 {
		events |= unix.EPOLLOUT
	}
	if events != unix.EPOLLIN || n < 0 {
		t.rewatch(flow, events)
	}
}

func (t *tcpTransport) rewatch(flow int, events uint32) {
	if err := t.watch(unix.EPOLL_CTL_MOD, t.streams[flow].fd, flow, events); err != nil {
		t.fatal = err
	}
}

func (t *tcpTransport) ready(flow int, events uint32) {
	s := &t.streams[flow]
	if !s.open {
		if err := connectError(s.fd); err != nil {
			t.reconnect(flow, true)
			return
		}
		s.open, t.refusals = true, 0
		t.rewatch(flow, unix.EPOLLIN)
	} else if events&unix.EPOLLOUT != 0 {
		t.rewatch(flow, unix.EPOLLIN)
		t.flush(flow)
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 && s.fd >= 0 && s.open {
		t.receive(flow)
	}
}

func (t *tcpTransport) receive(flow int) {
	s := &t.streams[flow]
	n, err := unix.Read(s.fd, s.in[s.read:])
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	if err != nil || n == 0 {
		t.reconnect(flow, false)
		return
	}
	s.read += n
	now, at := t.now(), 0
	for s.read-at >= 2 {
		size := int(binary.BigEndian.Uint16(s.in[at:]))
		if s.read-at-2 < size {
			break
		}
		t.message(flow, s.in[at+2:at+2+size], now)
		at += 2 + size
	}
	s.read = copy(s.in, s.in[at:s.read])
	if t.perConn > 0 && s.asked == t.perConn && t.rings[flow].waiting == 0 {
		t.reconnect(flow, false)
	}
}

func (t *tcpTransport) message(flow int, m []byte, now time.Duration) {
	if len(m) < headerSize {
		t.unasked++
		t.example("a message of %d bytes", len(m))
		return
	}
	t.answer(t.rings[flow], binary.BigEndian.Uint16(m), m, now)
}

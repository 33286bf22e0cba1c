package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// maxSlots bounds the memory for message IDs: 64 MiB.
const maxSlots = 1 << 22

// udpTransport asks over connected sockets, in batches.
type udpTransport struct {
	*engine
	fds     []int
	in, out *batch
	gso     *segmenter // nil: sendmmsg
}

func udpCommand(ctx context.Context, args []string, out io.Writer) error {
	return dnsCommand(ctx, "udp", args, out, openUDP)
}

func openUDP(e *engine) error {
	u := &udpTransport{engine: e, in: newBatch(false), out: newBatch(false)}
	e.transport = u
	e.how = "sendmmsg"
	if e.gso && !e.once {
		u.gso = newSegmenter()
		e.how = "UDP segmentation"
	}
	size := 1 << 16 // all message IDs, but for hundreds of flows
	for size*e.flows > maxSlots {
		size /= 2
	}
	for i := range e.flows {
		fd, err := dialUDP(e.server)
		if err != nil {
			u.close()
			return fmt.Errorf("%s: %w", e.server, err)
		}
		u.fds, e.rings = append(u.fds, fd), append(e.rings, newRing(size))
		if err := e.watch(unix.EPOLL_CTL_ADD, fd, i, unix.EPOLLIN); err != nil {
			u.close()
			return err
		}
	}
	return nil
}

// dialUDP makes a connected socket that does not block.
func dialUDP(to netip.AddrPort) (int, error) {
	sa, family := dialable(to)
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketSize) // the system's limit may be lower
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, socketSize)
	if err := unix.Connect(fd, sa); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func (u *udpTransport) close() {
	for _, fd := range u.fds {
		_ = unix.Close(fd)
	}
}

func (u *udpTransport) send(flow, n int, first, step time.Duration) {
	for n > 0 && !u.done {
		k := min(n, batchSize)
		if u.gso != nil {
			u.sendSegmented(flow, k, first, step)
		} else {
			u.sendBatch(flow, k, first, step)
		}
		first += time.Duration(k) * step
		n -= k
	}
}

// sendSegmented sends n questions of one length, which that of an evenly drawn
// question decides: over the run the draw stays even.
func (u *udpTransport) sendSegmented(flow, n int, first, step time.Duration) {
	li := u.lists.draw(u.rng)
	l, r := u.lists[li], u.rings[flow]
	length := len(l.query(uint32(below(u.rng, uint64(l.count())))))
	issued := 0
	for ; issued < n; issued++ {
		qi := l.alike(u.rng, length)
		id, ok := r.issue(first+time.Duration(issued)*step, li, qi)
		if !ok {
			break
		}
		q := u.gso.buf[issued*length:]
		copy(q, l.query(qi))
		binary.BigEndian.PutUint16(q, id)
	}
	u.unsent += uint64(n - issued)
	if issued == 0 {
		return
	}
	if err := u.gso.send(u.fds[flow], issued, length); err != nil {
		r.revoke(issued)
		if unsupported(err) {
			u.gso, u.how = nil, "sendmmsg"
			u.sendBatch(flow, issued, first, step)
			return
		}
		u.unsent += uint64(issued)
		return
	}
	u.sent += uint64(issued)
	u.bytesOut += uint64(issued * length)
}

// sendBatch sends n questions of any length.
func (u *udpTransport) sendBatch(flow, n int, first, step time.Duration) {
	issued := 0
	for ; issued < n; issued++ {
		li, qi, ok := u.choose()
		if !ok {
			break
		}
		id, ok := u.rings[flow].issue(first+time.Duration(issued)*step, li, qi)
		if !ok {
			u.unsent += uint64(n - issued)
			break
		}
		q := u.lists[li].query(qi)
		copy(u.out.bufs[issued][:], q)
		binary.BigEndian.PutUint16(u.out.bufs[issued][:], id)
		u.out.iovs[issued].SetLen(len(q))
	}
	sent, _ := u.out.send(u.fds[flow], 0, issued) // what did not go is counted, whatever the reason
	u.rings[flow].revoke(issued - sent)
	u.unsent += uint64(issued - sent)
	u.sent += uint64(sent)
	for i := range sent {
		u.bytesOut += u.out.iovs[i].Len
	}
}

func (u *udpTransport) ready(flow int, _ uint32) {
	for {
		n, err := u.in.receive(u.fds[flow], unix.MSG_DONTWAIT)
		if err != nil {
			return // nothing there, or a refusal: its question will be lost
		}
		now := u.now()
		for i := range n {
			u.message(u.rings[flow], u.in.message(i), now)
		}
		if n < batchSize {
			return
		}
	}
}

func (u *udpTransport) message(r *ring, m []byte, now time.Duration) {
	if len(m) < headerSize {
		u.unasked++
		u.example("a message of %d bytes", len(m))
		return
	}
	u.answer(r, binary.BigEndian.Uint16(m), m, now)
}

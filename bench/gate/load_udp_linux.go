package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// The shape of the UDP load: a closed loop of 16 flows with 12 questions in
// flight each. The server's socket is never empty and never overflows, so a
// question without an answer is the server's fault.
const (
	flows     = 16
	inFlight  = 12
	lossAfter = 2 * time.Second
	slots     = 1 << 12 // outstanding IDs of a flow; a power of two
)

// A want is what the right answer to a question is.
type want uint8

const (
	wantZero     want = iota // NOERROR with the address 0.0.0.0: what the floor says
	wantNXDomain             // NXDOMAIN without an address: how weir blocks
	wantAddress              // NOERROR with upstreamAddress: what the cache has
)

// A deck is the questions of one kind. They are in piles of one length, because
// one system call with UDP_SEGMENT sends equal datagrams only; a draw picks the
// pile by its size, so every question is as likely as the next.
type deck struct {
	want   want
	weight int
	piles  map[int][][]byte
	of     []int // the length of each question
}

func newDeck(names []string, w want, weight int) (*deck, error) {
	d := &deck{want: w, weight: weight, piles: make(map[int][][]byte)}
	var slab []byte
	for _, n := range names {
		start := len(slab)
		b, err := question(slab, n)
		if err != nil {
			return nil, err
		}
		slab = b
		q := slab[start:len(slab):len(slab)]
		d.piles[len(q)] = append(d.piles[len(q)], q)
		d.of = append(d.of, len(q))
	}
	if len(d.of) == 0 {
		return nil, errors.New("no names to ask for")
	}
	return d, nil
}

// An asked is a question under way. q is nil when it is none.
type asked struct {
	q    []byte
	want want
	at   int64
}

// A flow is one socket with what is under way on it.
type flow struct {
	fd       int
	next     uint16
	inFlight int
	open     [slots]asked
}

// A tally is what a load came to.
type tally struct {
	ops, wrong, lost uint64
	detail           string
}

func (t *tally) add(o tally) {
	t.ops += o.ops
	t.wrong += o.wrong
	t.lost += o.lost
	if t.detail == "" {
		t.detail = o.detail
	}
}

// A blaster asks one server. It owns its sockets and its buffers, and is used
// by one goroutine.
type blaster struct {
	sleepy bool // whether the server needs the processor too
	epoll  int
	flows  [flows]*flow
	rand   *rand.Rand
	tally  tally

	in     [batch]mmsghdr
	inIov  [batch]unix.Iovec
	inBufs [batch][1500]byte
	iov    [2 * inFlight]unix.Iovec
	ids    [inFlight][2]byte
	oob    []byte
}

func newBlaster(server netip.AddrPort, seed uint64, sleepy bool) (*blaster, error) {
	b := &blaster{sleepy: sleepy, rand: rand.New(rand.NewPCG(seed, 0)), oob: make([]byte, unix.CmsgSpace(2))}
	for i := range b.in {
		b.inIov[i] = unix.Iovec{Base: &b.inBufs[i][0], Len: 1500}
		b.in[i].hdr.Iov, b.in[i].hdr.Iovlen = &b.inIov[i], 1
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b.oob[0]))
	h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	h.SetLen(unix.CmsgLen(2))
	var err error
	if b.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	for i := range b.flows {
		if b.flows[i], err = b.newFlow(server, i); err != nil {
			b.close()
			return nil, err
		}
	}
	return b, nil
}

func (b *blaster) newFlow(server netip.AddrPort, i int) (*flow, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20) // as much as the system grants
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()})
	if err == nil {
		err = unix.EpollCtl(b.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("socket to %v: %w", server, err)
	}
	return &flow{fd: fd, next: uint16(b.rand.Uint32())}, nil
}

func (b *blaster) close() {
	for _, f := range b.flows {
		if f != nil {
			_ = unix.Close(f.fd)
		}
	}
	_ = unix.Close(b.epoll)
}

// run keeps the server busy for d with questions from the decks and returns
// what it answered. It ends with nothing under way.
func (b *blaster) run(ctx context.Context, d time.Duration, decks ...*deck) (tally, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.tally = tally{}
	end := time.Now().Add(d)
	for _, f := range b.flows {
		if err := b.refill(f, true, decks); err != nil {
			return b.tally, err
		}
	}
	sending, sweep := true, time.Now().Add(lossAfter)
	for {
		now := time.Now()
		if sending && (now.After(end) || ctx.Err() != nil) {
			sending, sweep = false, now.Add(lossAfter)
		}
		if now.After(sweep) {
			b.giveUp(now.Add(-lossAfter).UnixNano())
			sweep = now.Add(lossAfter / 4)
			for _, f := range b.flows { // what was lost leaves room
				if err := b.refill(f, sending, decks); err != nil {
					return b.tally, err
				}
			}
		}
		if !sending && b.underWay() == 0 {
			return b.tally, ctx.Err()
		}
		if err := b.serve(sending, decks); err != nil {
			return b.tally, err
		}
	}
}

// serve waits for answers, checks them and asks as many questions again.
func (b *blaster) serve(sending bool, decks []*deck) error {
	var events [flows]unix.EpollEvent
	n, err := b.wait(events[:])
	if err != nil {
		return err
	}
	for _, e := range events[:n] {
		f := b.flows[e.Fd]
		if err := b.receive(f); err != nil {
			return err
		}
		if err := b.refill(f, sending, decks); err != nil {
			return err
		}
	}
	return nil
}

// wait returns the flows that have answers. With a processor of its own the
// load does not sleep: the call is raw and returns at once, so neither the
// scheduler nor a wake-up stands between an answer and the next question, and
// the server never waits for the load.
func (b *blaster) wait(events []unix.EpollEvent) (int, error) {
	if b.sleepy {
		n, err := unix.EpollWait(b.epoll, events, 1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("epoll: %w", err)
		}
		return max(n, 0), nil
	}
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(b.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	switch e {
	case 0:
		return int(n), nil
	case unix.EINTR:
		return 0, nil
	}
	return 0, fmt.Errorf("epoll: %w", e)
}

func (b *blaster) refill(f *flow, sending bool, decks []*deck) error {
	if !sending || f.inFlight == inFlight {
		return nil
	}
	return b.send(f, b.pick(decks))
}

func (b *blaster) pick(decks []*deck) *deck {
	if len(decks) == 1 {
		return decks[0]
	}
	sum := 0
	for _, d := range decks {
		sum += d.weight
	}
	r := b.rand.IntN(sum)
	for _, d := range decks {
		if r -= d.weight; r < 0 {
			return d
		}
	}
	return decks[0]
}

// send fills the flow's window with questions of one length in one system call.
func (b *blaster) send(f *flow, d *deck) error {
	k := inFlight - f.inFlight
	if k <= 0 {
		return nil
	}
	size := d.of[b.rand.IntN(len(d.of))]
	pile := d.piles[size]
	at := time.Now().UnixNano()
	for i := range k {
		q := pile[b.rand.IntN(len(pile))]
		b.ids[i] = [2]byte{byte(f.next >> 8), byte(f.next)}
		s := &f.open[f.next%slots]
		if s.q != nil { // still waited for after 4,096 others
			f.inFlight--
			b.tally.lost++
		}
		*s = asked{q, d.want, at}
		f.next++
		b.iov[2*i] = unix.Iovec{Base: &b.ids[i][0], Len: 2}
		b.iov[2*i+1] = unix.Iovec{Base: &q[2], Len: uint64(size - 2)}
	}
	*(*uint16)(unsafe.Pointer(&b.oob[unix.CmsgLen(0)])) = uint16(size)
	m := unix.Msghdr{Iov: &b.iov[0], Iovlen: uint64(2 * k), Control: &b.oob[0], Controllen: uint64(len(b.oob))}
	f.inFlight += k
	for {
		_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(f.fd), uintptr(unsafe.Pointer(&m)), 0)
		if e == 0 {
			return nil
		}
		if e != unix.EINTR {
			return fmt.Errorf("send with UDP_SEGMENT: %w", e)
		}
	}
}

// receive reads what is there on a flow.
func (b *blaster) receive(f *flow) error {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(f.fd), uintptr(unsafe.Pointer(&b.in[0])), batch, unix.MSG_DONTWAIT, 0, 0)
	if e == unix.EAGAIN || e == unix.EINTR {
		return nil
	}
	if e != 0 {
		return fmt.Errorf("receive: %w", e)
	}
	for i := range int(n) {
		b.check(f, b.inBufs[i][:min(b.in[i].n, 1500)])
	}
	return nil
}

func (b *blaster) check(f *flow, m []byte) {
	if len(m) < 12 {
		b.wrong("%d bytes", len(m))
		return
	}
	s := &f.open[(uint16(m[0])<<8|uint16(m[1]))%slots]
	if s.q == nil {
		b.wrong("an answer to ID %x, which nothing waits for", m[:2])
		return
	}
	q, w := s.q, s.want
	s.q = nil
	f.inFlight--
	b.tally.ops++
	if !right(m, q, w) {
		b.wrong("question %x answered %x", q[12:], m)
	}
}

func (b *blaster) wrong(format string, args ...any) {
	b.tally.wrong++
	if b.tally.detail == "" {
		b.tally.detail = fmt.Sprintf(format, args...)
	}
}

// right says whether m answers the question q as it should.
func right(m, q []byte, w want) bool {
	if m[2]&0xF8 != 0x80 || m[2]&2 != 0 || m[4] != 0 || m[5] != 1 || len(m) < len(q) || !bytes.Equal(m[12:len(q)], q[12:]) {
		return false // no reply, of another kind, truncated, or to something else
	}
	rcode, answers, record := m[3]&15, int(m[6])<<8|int(m[7]), m[len(q):]
	if w == wantNXDomain {
		return rcode == 3 && answers == 0
	}
	if rcode != 0 || answers != 1 {
		return false
	}
	address := upstreamAddress
	if w == wantZero {
		address = [4]byte{}
	}
	// One A record (RFC 1035, section 4.1.3).
	i := nameEnd(record)
	return len(record) >= i+14 && string(record[i:i+4]) == "\x00\x01\x00\x01" &&
		string(record[i+8:i+10]) == "\x00\x04" && [4]byte(record[i+10:i+14]) == address
}

func (b *blaster) underWay() int {
	n := 0
	for _, f := range b.flows {
		n += f.inFlight
	}
	return n
}

// giveUp counts what was asked before as lost.
func (b *blaster) giveUp(before int64) {
	for _, f := range b.flows {
		if f.inFlight == 0 {
			continue
		}
		for i := range f.open {
			if s := &f.open[i]; s.q != nil && s.at < before {
				s.q = nil
				f.inFlight--
				b.tally.lost++
			}
		}
	}
}

// askers is how many names askEach asks for at a time, and askTries how often.
const (
	askers   = 8
	askTries = 3
)

// askEach asks once for each name and returns an error if one is not answered
// with the upstream's address.
func askEach(ctx context.Context, server netip.AddrPort, names []string) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range askers {
		g.Go(func() error {
			c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(server))
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			for j := i; j < len(names) && ctx.Err() == nil; j += askers {
				if err := askOne(c, uint16(j), names[j]); err != nil {
					return fmt.Errorf("warming the cache: %s: %w", names[j], err)
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

func askOne(c *net.UDPConn, id uint16, name string) error {
	q, err := question(nil, name)
	if err != nil {
		return err
	}
	q[0], q[1] = byte(id>>8), byte(id)
	var b [1500]byte
	for range askTries {
		if _, err = c.Write(q); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(lossAfter)) // a socket that is open
		var n int
		if n, err = c.Read(b[:]); err == nil {
			if n < 12 || b[0] != q[0] || b[1] != q[1] || !right(b[:n], q, wantAddress) {
				return fmt.Errorf("answered %x", b[:n])
			}
			return nil
		}
	}
	return err
}

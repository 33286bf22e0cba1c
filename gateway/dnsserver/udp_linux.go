package dnsserver

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/gateway/policy"
)

const (
	// batch is how many messages one system call moves. More would wait longer
	// for each other and gain nothing: the calls are 1/32 of the cost then.
	batch = 32
	// slabIn holds every question there is; longer datagrams are none. It is not
	// a power of two, so that the heads of the slabs lie in different sets of the
	// processor's cache.
	slabIn = 2048 + 64
	// slabOut holds every reply of the hot path before its size is looked at:
	// an extended error is at most maxText+maxVia, a cached answer at most
	// MaxUDP and an OPT record.
	slabOut = 2048 + 128
	// slabControl holds the control message with the destination of a packet.
	slabControl = 64
	// wakeEvery is how often a reader without packets looks whether it is to end.
	wakeEvery = time.Second
	// lastBatches is what a reader answers at the most when it is to end: as much
	// as a socket's buffer holds.
	lastBatches = 256
)

// An mmsghdr is the kernel's struct of that name (recvmmsg(2)).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// A batchSocket is the sockets of one address, one for each reader: the kernel
// deals the clients out to them by their address and port (SO_REUSEPORT).
type batchSocket struct {
	server  *Server
	addr    netip.AddrPort
	wild    bool
	readers []*batchReader
	reading sync.WaitGroup
	// mu guards the descriptors against routes that outlive the sockets.
	mu     sync.RWMutex
	closed bool
}

// A batchReader is one goroutine with one socket. It takes up to a batch of
// messages with one system call, answers them into slabs of its own, and sends
// the replies with another. Nothing in it is shared: no other goroutine touches
// its slabs, and what leaves by the exit is copied first. When more comes than
// it can answer, packets wait in the socket's buffer, and beyond that the
// kernel drops and counts them.
type batchReader struct {
	socket *batchSocket
	fd     int
	hot    *hot
	count  counters
	slabs  *slabs
	judge  func(*policy.Snapshot) // answers the batch; made once
	n      int                    // messages in this batch
	now    time.Time
}

// slabs are a reader's memory: message i arrives in in[i] from name[i], and its
// reply is out[i], as long as reply[i] says.
type slabs struct {
	recv, send [batch]mmsghdr
	recvVec    [batch]unix.Iovec
	sendVec    [batch]unix.Iovec
	name       [batch]unix.RawSockaddrInet6 // or the shorter one of IPv4
	reply      [batch]int
	leave      [batch]bool
	asked      [batch]inquiry
	in         [batch][slabIn]byte
	out        [batch][slabOut]byte
	control    [batch][slabControl]byte
}

func listenNative(s *Server, at netip.AddrPort) (udpListener, error) {
	b := &batchSocket{server: s, addr: at, wild: at.Addr().IsUnspecified()}
	for range s.opts.Readers {
		fd, err := b.bind(len(b.readers) == 0)
		if err != nil {
			b.close()
			return nil, &net.OpError{Op: "listen", Net: network("udp", at), Addr: net.UDPAddrFromAddrPort(at), Err: err}
		}
		b.readers = append(b.readers, newBatchReader(b, fd))
	}
	return b, nil
}

// bind makes one socket of the address. The first is bound alone, so that an
// address that others use is an error, and only then lets ours join it.
func (b *batchSocket) bind(first bool) (fd int, err error) {
	family := unix.AF_INET
	if b.addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	if fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) != nil { // takes CAP_NET_ADMIN
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer) // as much as the system grants
	}
	wake := unix.NsecToTimeval(int64(wakeEvery))
	options := []func() error{
		func() error { return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wake) },
		func() error { return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wake) },
		func() error {
			if family == unix.AF_INET {
				return nil
			}
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
		},
		func() error { return b.askDestination(fd, family) },
		func() error { return neverFragment(fd, family) },
	}
	reuse := func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }
	bind := func() error {
		to, err := sockaddr(b.addr)
		if err != nil {
			return err
		}
		return unix.Bind(fd, to)
	}
	if first {
		options = append(options, bind, reuse)
	} else {
		options = append(options, reuse, bind)
	}
	for _, set := range options {
		if err = set(); err != nil {
			return 0, os.NewSyscallError("bind", err)
		}
	}
	return fd, nil
}

// askDestination has the kernel say which address each packet was sent to.
func (b *batchSocket) askDestination(fd, family int) error {
	switch {
	case !b.wild:
		return nil
	case family == unix.AF_INET:
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
}

// neverFragment has replies sent whole or not at all: fragments are how answers
// are forged (RFC 9715, section 3.1). What somebody claims of the path is not
// believed either; MaxUDP is less than every path must carry. It also saves the
// kernel the choice of an identification, which only fragments need (RFC 6864).
func neverFragment(fd, family int) error {
	if family == unix.AF_INET {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
}

func sockaddr(a netip.AddrPort) (unix.Sockaddr, error) {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
	}
	to := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if zone := a.Addr().Zone(); zone != "" {
		index, err := zoneIndex(zone)
		if err != nil {
			return nil, fmt.Errorf("zone %s: %w", zone, err)
		}
		to.ZoneId = index
	}
	return to, nil
}

// zoneIndex returns the number of an interface, by its name or by itself (RFC
// 4007, section 11.2).
func zoneIndex(zone string) (uint32, error) {
	i, err := net.InterfaceByName(zone)
	if err == nil {
		return uint32(i.Index), nil
	}
	if n, e := strconv.ParseUint(zone, 10, 32); e == nil {
		return uint32(n), nil
	}
	return 0, err
}

func (b *batchSocket) addrPort() netip.AddrPort { return b.addr }

func (b *batchSocket) stats() []*counters {
	all := make([]*counters, len(b.readers))
	for i, r := range b.readers {
		all[i] = &r.count
	}
	return all
}

func (b *batchSocket) serve(wg *sync.WaitGroup) {
	for _, r := range b.readers {
		b.reading.Add(1)
		wg.Go(r.run)
	}
}

// stopReading wakes the readers. The kernel says that such sockets are not
// connected, and does it nevertheless.
func (b *batchSocket) stopReading() {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return
	}
	for _, r := range b.readers {
		_ = unix.Shutdown(r.fd, unix.SHUT_RD)
	}
}

func (b *batchSocket) close() {
	b.stopReading()
	b.reading.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.closed = true
	for _, r := range b.readers {
		_ = unix.Close(r.fd)
	}
}

func newBatchReader(b *batchSocket, fd int) *batchReader {
	s := new(slabs)
	for i := range batch {
		s.recvVec[i] = unix.Iovec{Base: &s.in[i][0], Len: slabIn}
		s.recv[i].hdr.Iov, s.recv[i].hdr.Iovlen = &s.recvVec[i], 1
		s.recv[i].hdr.Name = (*byte)(unsafe.Pointer(&s.name[i]))
		if b.wild {
			s.recv[i].hdr.Control = &s.control[i][0]
		}
		s.send[i].hdr.Iov, s.send[i].hdr.Iovlen = &s.sendVec[i], 1
	}
	r := &batchReader{socket: b, fd: fd, hot: newHot(&b.server.core), slabs: s}
	r.judge = r.answer
	return r
}

// run is the reader's goroutine. When the server ends, it still answers what
// the kernel has for it by then: a socket that was shut down is read until it
// is empty, and after that each read returns at once, with no message.
func (r *batchReader) run() {
	defer r.socket.reading.Done()
	defer shortSlice()()
	for left := lastBatches; left > 0; {
		n, errno := r.receive()
		ending := r.socket.server.isEnding()
		if ending {
			left-- // others may go on asking
		}
		switch {
		case errno == 0 && r.slabs.recv[0].hdr.Namelen > 0:
			r.handle(n)
		case errno == unix.EINTR:
		case ending:
			return
		case errno == unix.EAGAIN:
		default:
			r.count.drop(dropReadError)
			time.Sleep(readPause)
		}
	}
}

// handle answers a batch.
func (r *batchReader) handle(n int) {
	r.n, r.now = n, time.Now()
	r.hot.judge(r.judge)
	r.hot.tally.received += uint64(n)
	r.hot.commit(&r.count)
	if r.hot.core.tap != nil {
		r.show()
	}
	r.exit()
	r.write()
}

// receive waits for a message and takes what else is there.
func (r *batchReader) receive() (n int, errno syscall.Errno) {
	s := r.slabs
	for i := range s.recv {
		h := &s.recv[i].hdr
		h.Namelen = unix.SizeofSockaddrInet6
		if r.socket.wild {
			h.SetControllen(slabControl)
		}
	}
	// What is there is taken without telling the scheduler, which costs it a
	// wakeup of its own for every call that lasts; only waiting is its concern.
	n, errno = r.recvmmsg(unix.RawSyscall6, unix.MSG_DONTWAIT)
	if errno == unix.EAGAIN {
		n, errno = r.recvmmsg(unix.Syscall6, unix.MSG_WAITFORONE)
	}
	return n, errno
}

type syscall6 func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, err syscall.Errno)

func (r *batchReader) recvmmsg(call syscall6, flags uintptr) (n int, errno syscall.Errno) {
	r.count.batches[0].Add(1)
	got, _, errno := call(unix.SYS_RECVMMSG, uintptr(r.fd), uintptr(unsafe.Pointer(&r.slabs.recv)), batch, flags, 0, 0)
	return int(got), errno
}

// answer answers the batch under one snapshot.
func (r *batchReader) answer(snap *policy.Snapshot) {
	s := r.slabs
	for i := range r.n {
		r.hot.read(&s.asked[i], s.in[i][:s.recv[i].n], source(&s.name[i]))
	}
	r.hot.lookAhead(s.asked[:r.n], snap)
	for i := range r.n {
		s.reply[i], s.leave[i] = 0, false
		switch q := &s.asked[i]; {
		case s.name[i].Port == 0 || !q.from.IsValid(): // the port stands in one place in both families
			r.hot.tally.dropped[dropNoPort]++
		case s.recv[i].hdr.Flags&unix.MSG_TRUNC != 0:
			s.reply[i] = len(r.hot.cut(s.out[i][:0], q.msg))
		default:
			reply, leave := r.hot.limit(s.out[i][:0], q, snap, r.now)
			s.reply[i], s.leave[i] = len(reply), leave
		}
	}
}

// show gives a tap what was answered, and what was not. What leaves by the exit
// comes to it from there.
func (r *batchReader) show() {
	s := r.slabs
	for i := range r.n {
		if !s.leave[i] {
			r.hot.core.show(udp, s.in[i][:s.recv[i].n], s.out[i][:s.reply[i]], s.asked[i].from, r.now)
		}
	}
}

// source returns where a message came from.
func source(name *unix.RawSockaddrInet6) netip.Addr {
	switch name.Family {
	case unix.AF_INET:
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(name)).Addr)
	case unix.AF_INET6:
		return netip.AddrFrom16(name.Addr).Unmap()
	}
	return netip.Addr{}
}

// exit hands on what the hot path left. What the exit has no room for is
// answered here.
func (r *batchReader) exit() {
	s := r.slabs
	for i := range r.n {
		if !s.leave[i] {
			continue
		}
		d := &datagram{
			msg: bytes.Clone(s.asked[i].msg), from: s.asked[i].from, arrived: r.now,
			back: r.routeOf(i),
		}
		s.reply[i] = len(r.hot.core.leave(s.out[i][:0], d))
	}
}

// write sends the replies of the batch.
func (r *batchReader) write() {
	s := r.slabs
	n := 0
	for i := range r.n {
		if s.reply[i] == 0 {
			continue
		}
		s.sendVec[n].Base = &s.out[i][0]
		s.sendVec[n].SetLen(s.reply[i])
		h, from := &s.send[n].hdr, &s.recv[i].hdr
		h.Name, h.Namelen = from.Name, from.Namelen
		if r.socket.wild {
			h.Control = from.Control
			h.SetControllen(replySource(s.control[i][:from.Controllen]))
		}
		n++
	}
	for done := 0; done < n; {
		r.count.batches[1].Add(1)
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(r.fd), uintptr(unsafe.Pointer(&s.send[done])), uintptr(n-done), unix.MSG_DONTWAIT, 0, 0)
		if errno == unix.EAGAIN { // the send buffer is full: the network is slower than we are
			sent, _, errno = unix.Syscall6(unix.SYS_SENDMMSG, uintptr(r.fd), uintptr(unsafe.Pointer(&s.send[done])), uintptr(n-done), 0, 0, 0)
		}
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN: // still full: the others would wait as long
			r.count.dropped[dropWriteError].Add(uint64(n - done))
			return
		case errno != 0:
			r.count.drop(dropWriteError) // the first one's; the rest is tried again
			done++
		default:
			done += int(sent)
		}
	}
}

// replySource turns the control message of a packet into that of its reply, in
// place, and returns its length: 0 where the kernel may choose the source, as
// for a packet that was sent to many.
func replySource(control []byte) int {
	const head = unix.SizeofCmsghdr
	if len(control) < head {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	data := control[head:]
	switch {
	case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
		info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&data[0]))
		if netip.AddrFrom4(info.Addr) != netip.AddrFrom4(info.Spec_dst) {
			return 0 // broadcast or multicast
		}
		info.Ifindex = 0 // routes decide
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
		info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&data[0]))
		to := netip.AddrFrom16(info.Addr)
		if to.IsMulticast() {
			return 0
		}
		if !to.IsLinkLocalUnicast() {
			info.Ifindex = 0
		}
		return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
	}
	return 0
}

// A batchRoute is the way back for one reply that a worker writes.
type batchRoute struct {
	reader     *batchReader
	name       unix.RawSockaddrInet6
	namelen    uint32
	control    [slabControl]byte
	controllen int
}

func (r *batchReader) routeOf(i int) *batchRoute {
	h := &r.slabs.recv[i].hdr
	back := &batchRoute{reader: r, name: r.slabs.name[i], namelen: h.Namelen}
	if r.socket.wild {
		back.control = r.slabs.control[i]
		back.controllen = replySource(back.control[:h.Controllen])
	}
	return back
}

// write implements route.
func (b *batchRoute) write(reply []byte) error {
	socket := b.reader.socket
	socket.mu.RLock()
	defer socket.mu.RUnlock()
	if socket.closed {
		return net.ErrClosed
	}
	vec := unix.Iovec{Base: &reply[0]}
	vec.SetLen(len(reply))
	h := unix.Msghdr{Name: (*byte)(unsafe.Pointer(&b.name)), Namelen: b.namelen, Iov: &vec, Iovlen: 1}
	if b.controllen > 0 {
		h.Control = &b.control[0]
		h.SetControllen(b.controllen)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(b.reader.fd), uintptr(unsafe.Pointer(&h)), 0); errno != 0 {
		return errno
	}
	return nil
}

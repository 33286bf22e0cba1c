package main

import (
	"encoding/binary"
	"errors"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchSize  = 32
	slabSize   = 4096 // of one datagram; a longer one is cut, and malformed
	socketSize = 4 << 20
)

// mmsg is the kernel's struct mmsghdr, which x/sys does not name.
type mmsg struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// A batch is the memory of one recvmmsg or sendmmsg call. Its headers point into
// it, so it is never copied; one goroutine uses it for all its sockets in turn,
// and what a call brought is good until the next.
type batch struct {
	hdrs  [batchSize]mmsg
	iovs  [batchSize]unix.Iovec
	bufs  [batchSize][slabSize]byte
	peers [batchSize]unix.RawSockaddrInet6 // large enough for both families
}

// newBatch makes a batch; with peers it records who sent, and sends back there.
func newBatch(peers bool) *batch {
	b := new(batch)
	for i := range b.hdrs {
		b.iovs[i].Base = &b.bufs[i][0]
		b.hdrs[i].hdr.Iov = &b.iovs[i]
		b.hdrs[i].hdr.SetIovlen(1)
		if peers {
			b.hdrs[i].hdr.Name = (*byte)(unsafe.Pointer(&b.peers[i]))
		}
	}
	return b
}

// receive reads up to a batch; none if there is nothing.
func (b *batch) receive(fd, flags int) (int, error) {
	for i := range b.hdrs {
		b.iovs[i].SetLen(slabSize)
		if b.hdrs[i].hdr.Name != nil {
			b.hdrs[i].hdr.Namelen = uint32(unsafe.Sizeof(b.peers[i]))
		}
	}
	call := syscall.RawSyscall6 // never waits with MSG_DONTWAIT, so the scheduler need not know
	if flags&unix.MSG_DONTWAIT == 0 {
		call = syscall.Syscall6
	}
	n, _, e := call(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.hdrs[0])), batchSize, uintptr(flags), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// message is the i-th datagram that came.
func (b *batch) message(i int) []byte { return b.bufs[i][:min(int(b.hdrs[i].n), slabSize)] }

// send writes the datagrams in [from,to), lengths as in iovs, and returns how
// many the kernel took. A refusal that an earlier datagram provoked is not the
// next one's: it is sent again, once.
func (b *batch) send(fd, from, to int) (sent int, err error) {
	refused := false
	for from+sent < to {
		k, _, e := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.hdrs[from+sent])), uintptr(to-from-sent), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case e == 0:
			sent, refused = sent+int(k), false
		case e == unix.EINTR:
		case e == unix.ECONNREFUSED && !refused:
			refused = true
		default:
			return sent, e
		}
	}
	return sent, nil
}

// A segmenter sends many datagrams of one length in one call: UDP_SEGMENT.
type segmenter struct {
	hdr     unix.Msghdr
	iov     unix.Iovec
	control [24]byte // CMSG_SPACE(2) on every 64-bit Linux
	buf     [batchSize * 512]byte
}

func newSegmenter() *segmenter {
	s := new(segmenter)
	s.iov.Base = &s.buf[0]
	s.hdr.Iov = &s.iov
	s.hdr.SetIovlen(1)
	s.hdr.Control = &s.control[0]
	s.hdr.SetControllen(unix.CmsgSpace(2))
	c := (*unix.Cmsghdr)(unsafe.Pointer(&s.control[0]))
	c.Level, c.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	c.SetLen(unix.CmsgLen(2))
	return s
}

// send sends n datagrams of that length from buf.
func (s *segmenter) send(fd, n, length int) error {
	s.iov.SetLen(n * length)
	binary.NativeEndian.PutUint16(s.control[unix.CmsgLen(0):], uint16(length))
	refused := false
	for {
		_, _, e := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.hdr)), unix.MSG_DONTWAIT)
		switch {
		case e == 0:
			return nil
		case e == unix.EINTR:
		case e == unix.ECONNREFUSED && !refused: // provoked by an earlier datagram
			refused = true
		default:
			return e
		}
	}
}

// unsupported says whether the error means that the kernel cannot segment here.
func unsupported(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOPROTOOPT)
}

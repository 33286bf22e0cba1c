package main

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batch is how many datagrams the floor moves with one system call.
const batch = 32

// A mmsghdr is the kernel's struct mmsghdr (recvmmsg(2)).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// suffixes is a set of names as hashes of their wire format: open addressing,
// half full, never changed once it is made. Two names with one hash are one
// name to it, which a floor may do and a gateway must not.
type suffixes struct {
	seed maphash.Seed
	mask uint64
	tab  []uint64 // zero is empty
}

func newSuffixes(names []string) *suffixes {
	n := 1
	for n < 2*len(names) {
		n <<= 1
	}
	s := &suffixes{seed: maphash.MakeSeed(), mask: uint64(n - 1), tab: make([]uint64, n)}
	for _, name := range names {
		q, err := question(nil, name)
		if err != nil {
			continue
		}
		h := s.hash(q[12 : len(q)-5])
		i := s.slot(h)
		s.tab[i] = h
	}
	return s
}

func readSuffixes(file string) (*suffixes, error) {
	names, err := readLines(file)
	if err != nil {
		return nil, err
	}
	return newSuffixes(names), nil
}

func (s *suffixes) hash(name []byte) uint64 { return maphash.Bytes(s.seed, name) | 1 }

// slot returns where the hash is, or the empty slot where it would be.
func (s *suffixes) slot(h uint64) uint64 {
	i := h >> 8 & s.mask
	for s.tab[i] != 0 && s.tab[i] != h {
		i = (i + 1) & s.mask
	}
	return i
}

func (s *suffixes) has(name []byte) bool {
	h := s.hash(name)
	return s.tab[s.slot(h)] == h
}

// answer turns the question in b[:n] into its reply and returns the length,
// zero for none. The name's suffixes are looked up from the shortest to the
// longest, in small letters; a name in the set has the address 0.0.0.0, and
// everything else is refused. b must have room for one record more.
func (s *suffixes) answer(b []byte, n int) int {
	var low [256]byte
	var starts [128]uint8
	if n < 12 || n > 512 {
		return 0
	}
	end, labels := 12, 0
	for end < n && b[end] != 0 {
		l := int(b[end])
		if l > 63 || end+l-12 > 254 || end+l+6 > n {
			return 0
		}
		starts[labels] = uint8(end - 12)
		labels++
		end += l + 1
	}
	if end+5 > n {
		return 0
	}
	for i, c := range b[12:end] {
		if c-'A' < 26 {
			c += 'a' - 'A'
		}
		low[i] = c
	}
	b[2], b[3] = b[2]|0x80, 0x80
	for i := labels - 2; i >= 0; i-- {
		if s.has(low[starts[i] : end-12]) {
			b[7] = 1
			return end + 5 + copy(b[end+5:], "\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x00\x00\x00\x00")
		}
	}
	b[3] |= 5
	return end + 5
}

// A slab is what one call of recvmmsg fills and one of sendmmsg empties. The
// kernel writes into it, so it is made once and stays where it is.
type slab struct {
	msgs  [batch]mmsghdr
	iov   [batch]unix.Iovec
	bufs  [batch][2048]byte
	addrs [batch]unix.RawSockaddrInet4
}

// floorUDP answers questions for the names in a file until it is killed: the
// least that a Go program can do with a socket. One blocking socket, one
// thread, 32 datagrams a system call, and no way out of the loop: the calls are
// raw, so the scheduler never learns of them.
func floorUDP(file string) error {
	set, err := readSuffixes(file)
	if err != nil {
		return err
	}
	runtime.GC() // of the names; from here on nothing is allocated
	runtime.LockOSThread()
	fd, at, err := floorSocket()
	if err != nil {
		return err
	}
	s := new(slab)
	for i := range s.msgs {
		s.iov[i].Base = &s.bufs[i][0]
		s.msgs[i].hdr.Iov = &s.iov[i]
		s.msgs[i].hdr.Iovlen = 1
		s.msgs[i].hdr.Name = (*byte)(unsafe.Pointer(&s.addrs[i]))
	}
	fmt.Println(at)
	for {
		s.turn(fd, set)
	}
}

func floorSocket() (int, netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20) // as much as the system grants
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return 0, netip.AddrPort{}, err
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	a, ok := sa.(*unix.SockaddrInet4)
	if !ok {
		return 0, netip.AddrPort{}, fmt.Errorf("the socket is bound to %T", sa)
	}
	return fd, netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
}

// turn reads a batch, answers it in place and writes it.
func (s *slab) turn(fd int, set *suffixes) {
	for i := range s.msgs {
		s.iov[i].Len = 1500
		s.msgs[i].hdr.Namelen = unix.SizeofSockaddrInet4
	}
	n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.msgs[0])), batch, unix.MSG_WAITFORONE, 0, 0)
	if e != 0 {
		return
	}
	for i := range int(n) {
		s.iov[i].Len = uint64(set.answer(s.bufs[i][:], int(s.msgs[i].n)))
	}
	for done := 0; done < int(n); {
		k, _, e := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&s.msgs[done])), n-uintptr(done), 0, 0, 0)
		if e != 0 {
			k = 1 // that datagram cannot be sent; the next ones can
		}
		done += int(k)
	}
}

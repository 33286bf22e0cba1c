package dnsserver

import (
	"net/netip"
	"testing"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/gateway/audit"
)

// A blaster is a client with one socket that allocates nothing while it runs:
// it keeps a window of questions in flight. It owns its memory.
type blaster struct {
	fd         int
	send, recv [64]mmsghdr
	sendVec    [64]unix.Iovec
	recvVec    [64]unix.Iovec
	in         [64][1500]byte
	questions  [][]byte
	sent       int
	answered   int
	rcodes     [16]int
}

func newBlaster(tb testing.TB, to netip.AddrPort, questions ...[]byte) *blaster {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}); err != nil {
		tb.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		tb.Fatal(err)
	}
	b := &blaster{fd: fd, questions: questions}
	for i := range b.send {
		b.send[i].hdr.Iov, b.send[i].hdr.Iovlen = &b.sendVec[i], 1
		b.recvVec[i].Base = &b.in[i][0]
		b.recvVec[i].SetLen(len(b.in[i]))
		b.recv[i].hdr.Iov, b.recv[i].hdr.Iovlen = &b.recvVec[i], 1
	}
	return b
}

// ask sends that many questions, with at most window in flight, and takes the
// answers. It returns how many came; what does not come for half a minute is lost,
// and nothing comes where the socket is shut down.
func (b *blaster) ask(total, window int) int {
	b.sent, b.answered = 0, 0
	for b.answered < total {
		for b.sent < total && b.sent-b.answered < window {
			n := min(total-b.sent, window-(b.sent-b.answered), len(b.send))
			for i := range n {
				q := b.questions[(b.sent+i)%len(b.questions)]
				b.sendVec[i].Base = &q[0]
				b.sendVec[i].SetLen(len(q))
			}
			sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(b.fd), uintptr(unsafe.Pointer(&b.send)), uintptr(n), 0, 0, 0)
			if errno != 0 {
				total = b.sent // nobody is there any more; answers may be on their way
				break
			}
			b.sent += int(sent)
		}
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(b.fd), uintptr(unsafe.Pointer(&b.recv)), uintptr(len(b.recv)), unix.MSG_WAITFORONE, 0, 0)
		switch errno {
		case 0:
		case unix.EINTR, unix.ECONNREFUSED:
			continue
		default:
			return b.answered
		}
		for i := range int(n) {
			if b.recv[i].n == 0 {
				return b.answered
			}
			b.rcodes[b.in[i][3]&0xF]++
			b.answered++
		}
	}
	return b.answered
}

// startQuiet runs a server for loads: no records are kept.
func startQuiet(tb testing.TB, opts Options) *rig {
	tb.Helper()
	opts.Audit = audit.Discard{}
	r := start(tb, zones, opts)
	r.ask(tb, "udp", query("good.example", dns.TypeA))
	return r
}

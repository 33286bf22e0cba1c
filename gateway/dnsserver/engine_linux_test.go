package dnsserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/gateway/policy"
)

// Full batches: at full load a question costs less than a tenth of a read and
// write call.
func TestSystemCallsUnderLoad(t *testing.T) {
	r := startQuiet(t, Options{Readers: 1})
	b := newBlaster(t, r.Addrs()[0], pack(t, query("wechat.com", dns.TypeA)), pack(t, edns(query("good.example", dns.TypeA), 1232)))
	const questions = 20_000
	var calls float64
	for try := range 10 { // a machine that does something else beside is no proof
		before := r.Stats()
		if got := b.ask(questions, 256); got != questions {
			t.Fatalf("%d of %d questions answered", got, questions)
		}
		st := r.Stats()
		calls = float64(st.UDPReads+st.UDPWrites-before.UDPReads-before.UDPWrites) / questions
		t.Logf("try %d: %.3f calls a question (%d reads, %d writes)", try, calls, st.UDPReads-before.UDPReads, st.UDPWrites-before.UDPWrites)
		if calls < 0.1 {
			return
		}
	}
	t.Errorf("%.3f system calls a question, want less than 0.1", calls)
}

// The clients are dealt out to the readers by their address and port, and each
// is answered.
func TestFlowsSpreadOverReaders(t *testing.T) {
	const readers, flows = 4, 96
	r := start(t, "", Options{Readers: readers})
	p := pack(t, query("wechat.com", dns.TypeA))
	for range flows {
		b := newBlaster(t, r.Addrs()[0], p)
		if got := b.ask(3, 1); got != 3 || b.rcodes[dns.RcodeNameError] != 3 {
			t.Fatalf("%d answers, by rcode %v; want 3 NXDOMAIN", got, b.rcodes)
		}
	}
	var sum uint64
	for i, c := range r.udp[0].stats() {
		n := c.received[udp].Load()
		if n == 0 || n%3 != 0 { // a flow has one reader
			t.Errorf("reader %d has %d questions of %d flows", i, n, flows)
		}
		sum += n
	}
	if sum != 3*flows || len(r.udp[0].stats()) != readers {
		t.Errorf("%d questions received, want %d", sum, 3*flows)
	}
}

// Whatever had come when the server was told to end is answered, not only what
// was read by then.
func TestEndAnswersWhatHasCome(t *testing.T) {
	up := startUpstream(t, "")
	store := new(policy.Store)
	store.Swap(snapshot(t, 1, bans()))
	s, err := Listen(Options{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Policy: store, Resolver: up.resolver(t)})
	if err != nil {
		t.Fatal(err)
	}
	blocked, missed := pack(t, query("wechat.com", dns.TypeA)), pack(t, query("good.example", dns.TypeA))
	var clients []net.Conn
	for range 40 {
		c, err := net.Dial("udp4", s.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		for _, p := range [][]byte{blocked, missed, blocked} {
			if _, err := c.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		clients = append(clients, c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	for i, c := range clients {
		for n := range 3 {
			if m := readPacket(t, c); m == nil {
				t.Fatalf("client %d: %d answers, want 3", i, n)
			}
		}
	}
	if st := s.Stats(); st.UDP != 120 || st.Blocked != 80 || st.Cached+st.Forwarded != 40 || st.Dropped["read_error"] != 0 {
		t.Errorf("stats %+v, want 120 received", st)
	}
}

// A route outlives its socket, and then writes nowhere, whoever has the
// descriptor by then.
func TestRouteAfterClose(t *testing.T) {
	r := start(t, "", Options{Readers: 1})
	r.ask(t, "udp", query("wechat.com", dns.TypeA))
	r.stop(t)
	back := r.udp[0].(*batchSocket).readers[0].routeOf(0)                              // its memory is ours now
	other, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0) // one of which gets the descriptor, the lowest that is free
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = unix.Close(other[0]), unix.Close(other[1]) }()
	if err := back.write([]byte("reply")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after the end: %v, want net.ErrClosed", err)
	}
	for _, fd := range other {
		if n, err := unix.Read(fd, make([]byte, 10)); err == nil {
			t.Errorf("%d octets written to a descriptor that is another's", n)
		}
	}
}

// Descriptors are given back: by a server that served, by one that did not, and
// by one that could not be made.
func TestNoDescriptorIsLeft(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		up := startUpstream(t, "")
		res := up.resolver(t)
		// Descriptors that the runtime itself opens, and keeps.
		start(t, "", Options{portable: portable, Resolver: res}).stop(t)
		descriptors, goroutines := openFiles(t), runtime.NumGoroutine()
		opts := Options{Policy: new(policy.Store), Resolver: res, Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("0.0.0.0:0")}, portable: portable}
		for range 5 {
			s, err := Listen(opts)
			if err != nil {
				t.Fatal(err)
			}
			taken := opts
			taken.Listen = append([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, s.Addrs()[0])
			if _, err := Listen(taken); err == nil {
				t.Error("a second server on the address: no error")
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("Close again: %v", err)
			}
			if s, err = Listen(opts); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := s.Serve(ctx); err != nil {
				t.Error(err)
			}
		}
		eventually(t, "descriptors and goroutines are back to their number", func() bool {
			return openFiles(t) <= descriptors && runtime.NumGoroutine() <= goroutines
		})
	})
}

func openFiles(tb testing.TB) int {
	tb.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(all)
}

// Nobody else may have the address, not even one who is ready to share it.
func TestAddressIsOurs(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		for _, share := range []bool{false, true} {
			for _, wild := range []bool{false, true} {
				ours := freePort(t)
				at := ours
				if wild {
					at = netip.AddrPortFrom(netip.IPv4Unspecified(), ours.Port())
				}
				foreign := foreignSocket(t, at, share)
				s, err := Listen(Options{Listen: []netip.AddrPort{ours}, Policy: new(policy.Store), Resolver: &hooked{}, portable: portable})
				if err == nil {
					_ = s.Close()
				}
				var op *net.OpError
				if !errors.As(err, &op) || !errors.Is(err, unix.EADDRINUSE) {
					t.Errorf("%v beside a foreign socket at %v that shares (%v): error %v, want an OpError for an address in use", ours, at, share, err)
				}
				_ = foreign.Close()
				if s, err = Listen(Options{Listen: []netip.AddrPort{ours}, Policy: new(policy.Store), Resolver: &hooked{}, portable: portable}); err != nil {
					t.Errorf("when the foreign socket has gone: %v", err)
				} else {
					_ = s.Close()
				}
			}
		}
	})
}

// foreignSocket is bound to the address, ready to share it or not.
func foreignSocket(t *testing.T, at netip.AddrPort, share bool) net.PacketConn {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		e := c.Control(func(fd uintptr) {
			if share {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}
		})
		return errors.Join(err, e)
	}}
	c, err := lc.ListenPacket(t.Context(), "udp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A question from port 0 cannot be answered: it is counted, and nothing is sent.
func TestSourcePortZero(t *testing.T) {
	corpus.Root(t)
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "", Options{portable: portable})
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(fd) }()
		p := pack(t, query("wechat.com", dns.TypeA))
		to := r.Addrs()[0]
		head := binary.BigEndian.AppendUint16([]byte{0, 0}, to.Port())
		head = binary.BigEndian.AppendUint16(head, uint16(8+len(p)))
		packet := append(append(head, 0, 0), p...) // no checksum
		for range 3 {
			if err := unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: to.Addr().As4()}); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "all three are counted", func() bool { return r.Stats().Dropped["no_port"] == 3 })
		if st := r.Stats(); st.UDP != 3 || st.Blocked != 0 || st.Dropped["write_error"] != 0 || len(r.audit.take()) != 0 {
			t.Errorf("stats %+v, want three dropped and nothing else", st)
		}
	})
}

// A network that takes nothing holds a batch up once, not once for each reply.
func TestStuckNetwork(t *testing.T) {
	r := start(t, "", Options{Readers: 1})
	reader := r.udp[0].(*batchSocket).readers[0]
	r.stop(t)
	// The reader has ended and its memory is ours. A socket whose reader does not
	// read is such a network.
	const name = "\x00weir-stuck"
	full, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(full) }()
	if err := unix.Bind(full, &unix.SockaddrUnix{Name: "@" + name[1:]}); err != nil {
		t.Fatal(err)
	}
	if reader.fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(reader.fd) }()
	for err == nil {
		err = unix.Sendto(reader.fd, []byte("x"), unix.MSG_DONTWAIT, &unix.SockaddrUnix{Name: "@" + name[1:]})
	}
	if err := unix.SetsockoptTimeval(reader.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 100_000}); err != nil {
		t.Fatal(err)
	}
	s := reader.slabs
	for i := range batch {
		to := (*unix.RawSockaddrUnix)(unsafe.Pointer(&s.name[i]))
		to.Family = unix.AF_UNIX
		for k, c := range []byte(name) {
			to.Path[k] = int8(c)
		}
		s.recv[i].hdr.Namelen = uint32(2 + len(name))
		s.reply[i] = 1
	}
	reader.n = batch
	begin := time.Now()
	reader.write()
	if d, n := time.Since(begin), reader.count.dropped[dropWriteError].Load(); d > time.Second || n != batch {
		t.Errorf("%v for a batch, %d dropped; want 100 ms and %d", d, n, batch)
	}
}

// A reply that cannot be sent does not cost the others of the batch theirs.
func TestWriteErrorCostsOne(t *testing.T) {
	r := start(t, "", Options{Readers: 1})
	reader := r.udp[0].(*batchSocket).readers[0]
	r.stop(t)
	// The reader has ended and its memory is ours: a batch of three, of which
	// the second goes where no packet can go.
	got, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = got.Close() }()
	if reader.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(reader.fd) }()
	port := got.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	s := reader.slabs
	for i := range 3 {
		addr := [4]byte{127, 0, 0, 1}
		if i == 1 {
			addr = [4]byte{255, 255, 255, 255} // takes SO_BROADCAST
		}
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&s.name[i])) = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port<<8 | port>>8, Addr: addr}
		s.recv[i].hdr.Namelen = unix.SizeofSockaddrInet4
		s.reply[i] = copy(s.out[i][:], []byte{'a' + byte(i)})
	}
	reader.n = 3
	reader.write()
	var replies []byte
	buf := make([]byte, 16)
	for range 2 {
		_ = got.SetReadDeadline(time.Now().Add(secs(5)))
		n, _, err := got.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		replies = append(replies, buf[:n]...)
	}
	if !bytes.Equal(replies, []byte("ac")) || reader.count.dropped[dropWriteError].Load() != 1 {
		t.Errorf("replies %q, %d dropped; want a and c, and one dropped", replies, reader.count.dropped[dropWriteError].Load())
	}
}

// Questions of every kind from many clients while the server ends: each one
// that was counted was answered.
func TestEndUnderLoad(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := startQuiet(t, Options{portable: portable})
		was := r.Stats().UDP
		questions := [][]byte{pack(t, query("wechat.com", dns.TypeA)), pack(t, query("good.example", dns.TypeA)), pack(t, query("wechat.com", dns.TypeANY))}
		var wg sync.WaitGroup
		clients := make([]*blaster, 4)
		for i := range clients {
			clients[i] = newBlaster(t, r.Addrs()[0], questions...)
			_ = unix.SetsockoptTimeval(clients[i].fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000})
			wg.Go(func() { clients[i].ask(1<<30, 64) })
		}
		time.Sleep(100 * time.Millisecond)
		r.stop(t)
		wg.Wait()
		var answered uint64
		for _, c := range clients {
			answered += uint64(c.answered)
		}
		if st := r.Stats(); answered != st.UDP-was || answered < 1000 || st.Inflight != 0 {
			t.Errorf("%d answers to %d questions that were received; stats %+v", answered, st.UDP-was, st)
		}
	})
}

package dnsserver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/gateway/policy"
)

// Whatever had come when the server was told to end is answered, not only what
// was read by then.
func TestEndAnswersWhatHasCome(t *testing.T) {
	up := startUpstream(t, "")
	store := new(policy.Store)
	store.Swap(snapshot(t, 1, bans()))
	s, err := Listen(Options{Listen: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}, Policy: store, Resolver: up.resolver(t), Timeout: secs(60), Drain: secs(60)})
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
	took := time.Hour
	for range 5 { // a machine that does something else beside is no proof
		begin, before := time.Now(), reader.count.dropped[dropWriteError].Load()
		reader.write()
		took = min(took, time.Since(begin))
		if n := reader.count.dropped[dropWriteError].Load() - before; n != batch {
			t.Errorf("%d dropped, want %d", n, batch)
		}
		if took < secs(2) {
			return
		}
	}
	t.Errorf("%v for a batch, want 100 ms", took)
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
			wg.Go(func() { clients[i].ask(1<<30, 64) })
		}
		eventually(t, "a thousand questions have come", func() bool { return r.Stats().UDP-was >= 1000 })
		r.stop(t)
		for _, c := range clients { // what was answered is with them by now
			_ = unix.Shutdown(c.fd, unix.SHUT_RD)
		}
		wg.Wait()
		var answered uint64
		for _, c := range clients {
			answered += uint64(c.answered)
		}
		if st := r.Stats(); answered != st.UDP-was || st.Inflight != 0 {
			t.Errorf("%d answers to %d questions that were received; stats %+v", answered, st.UDP-was, st)
		}
	})
}

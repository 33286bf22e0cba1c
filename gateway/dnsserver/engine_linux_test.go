package dnsserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
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

// In one batch are the questions of many clients: each is judged by its own
// device, answered to its own address, from the one that it asked, with its own
// question, and what leaves by the exit is not overwritten by what follows.
func TestBatchKeepsClientsApart(t *testing.T) {
	up := startUpstream(t, "")
	store, rec := new(policy.Store), new(recorder)
	store.Swap(snapshotWith(t, bans()[:1], policy.Exemption{ID: "EX-1", Ban: "wechat", Device: netip.MustParsePrefix("127.0.0.3/32"), Until: time.Now().Add(time.Hour)}))
	s, err := Listen(Options{Listen: addrPorts("0.0.0.0:0"), Policy: store, Resolver: up.resolver(t), Audit: rec, Readers: 1, Timeout: secs(60), Drain: secs(60)})
	if err != nil {
		t.Fatal(err)
	}
	var clients [4]*net.UDPConn
	want := map[string]string{} // by name: device and action
	for i := range clients {
		// Its socket takes replies from the address that it asks only.
		device, asked := netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i)}), netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + i)}), s.Addrs()[0].Port())
		if clients[i], err = net.DialUDP("udp4", &net.UDPAddr{IP: device.AsSlice()}, net.UDPAddrFromAddrPort(asked)); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = clients[i].Close() }()
	}
	const each = 45
	for n := range each {
		for i, c := range clients { // in turns, so that each batch has all of them
			name := fmt.Sprintf("c%d-n%d.%s", i, n, []string{"wechat.com", "free.example", "wechat.com"}[n%3])
			action := "allow"
			if n%3 != 1 && i != 2 {
				action = "block"
			}
			want[name] = fmt.Sprintf("127.0.0.%d %s", i+1, action)
			if _, err := c.Write(pack(t, query(name, dns.TypeA))); err != nil {
				t.Fatal(err)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Serve(ctx); err != nil {
		t.Fatal(err)
	}
	for i, c := range clients {
		for range each {
			m := readPacket(t, c)
			if m == nil {
				t.Fatalf("client %d lacks answers", i)
			}
			name := strings.TrimSuffix(m.Question[0].Name, ".")
			if !strings.HasPrefix(name, fmt.Sprintf("c%d-", i)) || (m.Rcode == dns.RcodeNameError) != strings.HasSuffix(want[name], "block") {
				t.Errorf("client %d: %v, want %s", i, m, want[name])
			}
		}
	}
	for _, r := range rec.take() {
		if got := fmt.Sprintf("%v %s", r.Device, r.Action); got != want[r.Name] {
			t.Errorf("on the record of %s: %s, want %s", r.Name, got, want[r.Name])
		}
		delete(want, r.Name)
	}
	if len(want) != 0 {
		t.Errorf("not on the record: %v", want)
	}
}

// A datagram of which only the beginning was read is not judged by it, even if
// that is a question.
func TestCutDatagram(t *testing.T) {
	r := start(t, "", Options{})
	c := r.dial(t, "udp")
	if _, err := c.Write(append(plainQuery(), make([]byte, slabIn)...)); err != nil {
		t.Fatal(err)
	}
	m := readPacket(t, c)
	if st := r.Stats(); m == nil || m.Rcode != dns.RcodeFormatError || st.Blocked != 0 || st.Rejected != 1 || len(r.audit.take()) != 0 {
		t.Errorf("got %v, stats %+v; want FORMERR and no judgement", m, st)
	}
}

// Nobody else may have the address, not even one who is ready to share it.
func TestAddressIsOurs(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		for _, share := range []bool{false, true} {
			for _, wild := range []bool{false, true} {
				ours := corpus.Port(t)
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
		_ = got.SetReadDeadline(time.Now().Add(secs(30)))
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

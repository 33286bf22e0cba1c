package dnsserver

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// replyID is the id of every mutant that is a reply, and of no other.
const replyID = 0xFFFF

// mutant returns random bytes, or a query with random damage.
func mutant(rnd *rand.Rand, seeds [][]byte) []byte {
	var p []byte
	if rnd.IntN(4) == 0 {
		p = make([]byte, rnd.IntN(600))
		for i := range p {
			p[i] = byte(rnd.Uint32())
		}
	} else {
		p = bytes.Clone(seeds[rnd.IntN(len(seeds))])
		for range 1 + rnd.IntN(6) {
			switch i := rnd.IntN(len(p)); rnd.IntN(3) {
			case 0:
				p[i] = byte(rnd.Uint32())
			case 1:
				p[i] ^= 1 << rnd.IntN(8)
			case 2:
				p = p[:i+1]
			}
		}
	}
	if len(p) > 2 {
		id := uint16(rnd.UintN(replyID))
		if p[2]&0x80 != 0 {
			id = replyID
		}
		binary.BigEndian.PutUint16(p, id)
	}
	return p
}

func seeds(tb testing.TB) [][]byte {
	update := query("wechat.com", dns.TypeSOA)
	update.Opcode = dns.OpcodeUpdate
	reply := query("wechat.com", dns.TypeA)
	reply.Response = true
	many := edns(query("good.example", dns.TypeHTTPS), 512)
	many.IsEdns0().Option = []dns.EDNS0{
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"},
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(192, 0, 2, 0)},
		&dns.EDNS0_PADDING{Padding: make([]byte, 40)},
	}
	var out [][]byte
	for _, m := range []*dns.Msg{query("wechat.com", dns.TypeA), edns(query("a.B.c.TikTok.com", dns.TypeAAAA), 1232), query(".", dns.TypeNS), update, reply, many, query("m-drop.example", dns.TypeANY)} {
		out = append(out, pack(tb, m))
	}
	return out
}

// 10,000 damaged packets over each transport: nothing breaks, no reply is
// answered, every reply is one, and nothing is left behind.
func TestDamagedPackets(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, "", Options{portable: portable, MaxTCPPerClient: 1000})
		r.ask(t, "udp", query("good.example", dns.TypeA))
		before := runtime.NumGoroutine()
		all := seeds(t)
		const packets = 10_000
		rnd := rand.New(rand.NewPCG(1, 2))

		c := r.dial(t, "udp")
		stop := make(chan struct{})
		var replies atomic.Int64
		var wg sync.WaitGroup
		wg.Go(func() { checkReplies(t, c, stop, &replies) })
		for i := range packets {
			if _, err := c.Write(mutant(rnd, all)); err != nil {
				t.Fatal(err)
			}
			if i%64 == 0 { // or a busy machine loses some before they are read
				eventually(t, "the packets are received", func() bool { return r.Stats().UDP > uint64(i) })
			}
		}
		eventually(t, "every packet is received", func() bool { return r.Stats().UDP >= packets && r.Stats().Inflight == 0 })
		close(stop)
		_ = c.SetReadDeadline(time.Now())
		wg.Wait()
		if st := r.Stats(); st.Dropped["response"] == 0 || st.Dropped["short"] == 0 || st.Rejected == 0 || st.Blocked == 0 || replies.Load() == 0 {
			t.Errorf("stats %+v: the packets were not of every kind", st)
		}

		rejected := r.Stats().TCP
		for range packets / 20 {
			c, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			damagedConnection(t, c, rnd, all)
		}
		if got := r.Stats().TCP - rejected; got < packets/20 {
			t.Errorf("%d messages received over TCP", got)
		}
		if m := r.ask(t, "udp", query("wechat.com", dns.TypeA)); m.Rcode != dns.RcodeNameError {
			t.Errorf("afterwards: %v, want NXDOMAIN", m)
		}
		eventually(t, "goroutines are back to their number", func() bool { return runtime.NumGoroutine() <= before+2 })
	})
}

// checkReplies checks what comes back until stop.
func checkReplies(t *testing.T, c net.Conn, stop chan struct{}, n *atomic.Int64) {
	buf := make([]byte, 65535)
	for {
		size, err := c.Read(buf)
		if err != nil {
			select {
			case <-stop:
				return
			default:
				continue
			}
		}
		n.Add(1)
		if size > maxUDP {
			t.Errorf("reply of %d bytes", size)
		}
		checkReply(t, buf[:size])
	}
}

func checkReply(t *testing.T, p []byte) {
	t.Helper()
	var m dns.Msg
	if err := m.Unpack(p); err != nil {
		t.Errorf("reply %x: %v", p, err)
	} else if !m.Response || m.Id == replyID {
		t.Errorf("reply %v is none, or one to a reply", &m)
	}
}

// damagedConnection sends 20 damaged messages over one connection, which may
// be closed on the way.
func damagedConnection(t *testing.T, c net.Conn, rnd *rand.Rand, all [][]byte) {
	t.Helper()
	defer func() { _ = c.Close() }()
	for range 20 {
		if _, err := c.Write(frame(mutant(rnd, all))); err != nil {
			break
		}
	}
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	for {
		m := readFrame(t, c, secs(30))
		if m == nil {
			return
		}
		if !m.Response || m.Id == replyID {
			t.Errorf("reply %v is none, or one to a reply", m)
		}
	}
}

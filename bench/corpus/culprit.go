package corpus

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

// A Culprit is an upstream resolver on real sockets, over UDP and TCP of one
// port, that can be told to misbehave. Its right answer to every name is the
// address that RightAddr makes of it, and Poison is in none.
type Culprit struct {
	Addr    netip.AddrPort
	Queries atomic.Int64 // that came

	tb    testing.TB
	pc    net.PacketConn
	other net.PacketConn // another source address
	ttl   uint32
	fault atomic.Pointer[Misdeed]
}

// Poison is the address to which a Culprit that lies leads.
const Poison = "192.0.2.66"

// RightAddr is the one address of a name.
func RightAddr(name string) netip.Addr {
	var n uint32
	for _, c := range []byte(dns.CanonicalName(name)) {
		n = n*31 + uint32(c)
	}
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

// OnePort listens on one port of loopback over UDP and TCP. Both are the caller's
// to close.
func OnePort(tb testing.TB) (net.PacketConn, net.Listener) {
	tb.Helper()
	for range 20 {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		l, err := net.Listen("tcp4", pc.LocalAddr().String())
		if err == nil {
			return pc, l
		}
		_ = pc.Close() // somebody else has the TCP port
	}
	tb.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

// NewCulprit starts an upstream that is honest, whose answers live for so many
// seconds. It ends with the test.
func NewCulprit(tb testing.TB, ttl uint32) *Culprit {
	tb.Helper()
	pc, l := OnePort(tb)
	c := &Culprit{tb: tb, ttl: ttl, pc: pc}
	c.Repent()
	var err error
	if c.other, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
		tb.Fatal(err)
	}
	c.Addr = netip.MustParseAddrPort(c.pc.LocalAddr().String())
	tb.Cleanup(func() {
		_, _, _ = c.pc.Close(), c.other.Close(), l.Close()
	})
	go c.datagrams()
	go c.accept(l)
	return c
}

// Do has it misbehave from now on.
func (c *Culprit) Do(m Misdeed) { c.fault.Store(&m) }

// Repent has it answer as it should.
func (c *Culprit) Repent() { c.Do(Both("honest", honest)) }

func (c *Culprit) datagrams() {
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, from, err := c.pc.ReadFrom(buf)
		if err != nil {
			return
		}
		q := new(dns.Msg)
		if q.Unpack(buf[:n]) != nil || len(q.Question) != 1 {
			continue
		}
		f := c.fault.Load()
		c.Queries.Add(1)
		go func() {
			to := c.pc
			if f.spoofed {
				to = c.other
			}
			for _, b := range f.UDP(c, q, c.right(q)) {
				_, _ = to.WriteTo(b, from)
			}
		}()
	}
}

func (c *Culprit) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			for q := readQuery(conn); q != nil; q = readQuery(conn) {
				f := c.fault.Load()
				c.Queries.Add(1)
				for _, b := range f.TCP(c, q, c.right(q)) {
					_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
				}
			}
		}()
	}
}

// readQuery returns the next query of a stream, nil for none.
func readQuery(r io.Reader) *dns.Msg {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil
	}
	b := make([]byte, binary.BigEndian.Uint16(n[:]))
	if _, err := io.ReadFull(r, b); err != nil {
		return nil
	}
	q := new(dns.Msg)
	if q.Unpack(b) != nil || len(q.Question) != 1 {
		return nil
	}
	return q
}

func (c *Culprit) right(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if name := q.Question[0].Name; q.Question[0].Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: c.ttl}, A: RightAddr(name).AsSlice()}}
	}
	return m
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// An origin is what is behind the servers: a web server for tunnels and GET, on
// several loopback addresses with one port, and a DNS server for the names that
// are allowed. It runs in the load's process, so servers are not charged for it.
type origin struct {
	port    uint16
	tcp     []net.Listener
	dns     *net.UDPConn
	dnsAddr netip.AddrPort
}

// originAddresses is how many loopback addresses the origin has. Each server
// dials thousands of connections a second from one address: with a single
// destination it would search for free ports instead of working.
const originAddresses = 8

// pageSize is the length of the page that GET returns.
const pageSize = 1024

var page = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store\r\n" +
	fmt.Sprintf("Content-Length: %d\r\n\r\n", pageSize) + strings.Repeat("x", pageSize))

// originTries is how often another port is tried, until one is free everywhere.
const originTries = 32

func startOrigin() (*origin, error) {
	o := new(origin)
	var err error
	for range originTries {
		if err = o.listen(); err == nil {
			break
		}
		o.close()
	}
	if err != nil {
		return nil, fmt.Errorf("origin: %w", err)
	}
	o.dns, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		o.close()
		return nil, fmt.Errorf("upstream: %w", err)
	}
	o.dnsAddr = o.dns.LocalAddr().(*net.UDPAddr).AddrPort()
	for _, l := range o.tcp {
		go o.accept(l)
	}
	go o.answer()
	return o, nil
}

func (o *origin) listen() error {
	o.tcp, o.port = nil, 0
	for i := range originAddresses {
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i)), Port: int(o.port)})
		if err != nil {
			return err
		}
		o.tcp = append(o.tcp, l)
		o.port = l.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	return nil
}

func (o *origin) close() {
	for _, l := range o.tcp {
		_ = l.Close()
	}
	if o.dns != nil {
		_ = o.dns.Close()
	}
}

// host returns one of the origin's addresses with its port, in turn.
func (o *origin) host(turn int) string {
	return fmt.Sprintf("127.0.0.%d:%d", 1+turn%originAddresses, o.port)
}

func (o *origin) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go serveOrigin(c)
		}
	}
}

// serveOrigin answers each GET with the page and sends everything else back.
// The load has one request under way on a connection, in one segment.
func serveOrigin(c net.Conn) {
	defer func() { _ = c.Close() }()
	b := make([]byte, 2048)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		reply := b[:n]
		if bytes.HasPrefix(reply, []byte("GET ")) {
			reply = page
		}
		if _, err := c.Write(reply); err != nil {
			return
		}
	}
}

// answer gives every question for an address the same one, for an hour.
func (o *origin) answer() {
	b := make([]byte, 1500)
	for {
		n, from, err := o.dns.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 17 {
			continue
		}
		if reply := reply(b[:n]); reply != nil {
			_, _ = o.dns.WriteToUDPAddrPort(reply, from) // the server asks again
		}
	}
}

// reply turns a question into its answer, in place. An OPT record is dropped:
// who sends none speaks plain DNS (RFC 6891, section 7).
func reply(b []byte) []byte {
	end := 12 + nameEnd(b[12:]) + 4
	if end > len(b) {
		return nil
	}
	b = b[:end]
	b[2], b[3] = 0x80|b[2]&1, 0x80
	b[6], b[7], b[8], b[9], b[10], b[11] = 0, 0, 0, 0, 0, 0
	if b[end-4] == 0 && b[end-3] == 1 {
		b[7] = 1
		b = append(b, "\xc0\x0c\x00\x01\x00\x01\x00\x00\x0e\x10\x00\x04"...)
		b = append(b, upstreamAddress[:]...)
	}
	return b
}

// upstreamAddress is the address of every allowed name.
var upstreamAddress = [4]byte{192, 0, 2, 1}

// nameEnd returns where the name that b begins with ends: after a pointer or
// the root label (RFC 1035, section 4.1.4).
func nameEnd(b []byte) int {
	i := 0
	for i < len(b) && b[i] != 0 {
		if b[i] >= 0xC0 {
			return i + 2
		}
		i += int(b[i]) + 1
	}
	return i + 1
}

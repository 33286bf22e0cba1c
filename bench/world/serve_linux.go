package world

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Ports of the internet's plain servers.
var (
	httpPorts  = []int{80, 8080}
	tlsPorts   = []int{443, 8443}
	pushPorts  = []int{5223, 5228}
	smtpPorts  = []int{25, 587}
	imapPorts  = []int{143}
	echoPorts  = []int{22, 5222, 8081, 14000}        // TCP
	plainPorts = []int{500, 1194, 3478, 4500, 51820} // UDP that is sent back
	protocols  = []int{4, 41, 47, 50}                // IP protocols that are sent back: IP in IP, 6in4, GRE, ESP
	dnsPorts   = []int{53, 5353, 5053, 1253, 9953}   // UDP and TCP
	dotPorts   = []int{853}                          //
	doqPorts   = []int{784, 853, 8853}               //
	quicPorts  = []int{80, 443, 8443}                //
)

// serve starts every server of the internet.
func (w *World) serve() {
	w.tb.Helper()
	for _, p := range httpPorts {
		w.http(w.tcp(p))
	}
	for _, p := range tlsPorts {
		w.http(tls.NewListener(w.tcp(p), w.CA.config("h2", "http/1.1")))
	}
	for _, p := range pushPorts {
		w.eachConn(tls.NewListener(w.tcp(p), w.CA.config()), func(c net.Conn) { _, _ = io.Copy(c, c) })
	}
	for _, p := range smtpPorts {
		w.eachConn(w.tcp(p), greets("220 mail.example ESMTP\r\n"))
	}
	for _, p := range imapPorts {
		w.eachConn(w.tcp(p), greets("* OK IMAP4rev1\r\n"))
	}
	w.eachConn(tls.NewListener(w.tcp(993), w.CA.config()), greets("* OK IMAP4rev1\r\n"))
	for _, p := range echoPorts {
		w.eachConn(w.tcp(p), func(c net.Conn) { _, _ = io.Copy(c, c) })
	}
	w.replies(123, ntp)
	for _, p := range plainPorts {
		w.replies(p, func(b []byte) []byte { return b })
	}
	for _, p := range protocols {
		w.echoes(p)
	}
	w.serveDNS()
	w.serveQUIC()
}

// tcp listens on a port of every address.
func (w *World) tcp(port int) net.Listener {
	w.tb.Helper()
	var l net.Listener
	err := w.Internet.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	if err != nil {
		w.tb.Fatalf("internet: %v", err)
	}
	w.tb.Cleanup(func() { _ = l.Close() })
	return l
}

// packet listens for packets; network is one of package net's.
func (w *World) packet(network, addr string) net.PacketConn {
	w.tb.Helper()
	var c net.PacketConn
	err := w.Internet.Do(func() (err error) {
		c, err = net.ListenPacket(network, addr)
		return err
	})
	if err != nil {
		w.tb.Fatalf("internet: %s: %v", network, err)
	}
	w.tb.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *World) http(l net.Listener) {
	s := &http.Server{Handler: http.HandlerFunc(site), ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	w.tb.Cleanup(func() { _ = s.Close() })
	go func() { _ = s.Serve(l) }()
}

// connTime bounds how long a server without a protocol keeps a connection.
const connTime = 2 * time.Minute

// eachConn serves every connection of the listener.
func (w *World) eachConn(l net.Listener, serve func(net.Conn)) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(connTime))
				serve(c)
			}()
		}
	}()
}

// greets is a server that speaks first.
func greets(line string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := io.WriteString(c, line); err == nil {
			_, _ = io.Copy(io.Discard, c)
		}
	}
}

// replies answers each packet to a UDP port from the address that it was for.
func (w *World) replies(port int, answer func([]byte) []byte) {
	a := fmt.Sprintf(":%d", port)
	go reply4(w.packet("udp4", "0.0.0.0"+a), answer)
	go reply6(w.packet("udp6", "[::]"+a), answer)
}

// echoes sends back the packets of an IP protocol.
func (w *World) echoes(protocol int) {
	same := func(b []byte) []byte { return b }
	go reply4(w.packet(fmt.Sprintf("ip4:%d", protocol), "0.0.0.0"), same)
	go reply6(w.packet(fmt.Sprintf("ip6:%d", protocol), "::"), same)
}

func reply4(c net.PacketConn, answer func([]byte) []byte) {
	p := ipv4.NewPacketConn(c)
	if err := p.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return
	}
	buf := make([]byte, 65536)
	for {
		n, cm, from, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		if out := answer(buf[:n]); out != nil && cm != nil {
			_, _ = p.WriteTo(out, &ipv4.ControlMessage{Src: cm.Dst}, from)
		}
	}
}

func reply6(c net.PacketConn, answer func([]byte) []byte) {
	p := ipv6.NewPacketConn(c)
	if err := p.SetControlMessage(ipv6.FlagDst, true); err != nil {
		return
	}
	buf := make([]byte, 65536)
	for {
		n, cm, from, err := p.ReadFrom(buf)
		if err != nil {
			return
		}
		if out := answer(buf[:n]); out != nil && cm != nil {
			_, _ = p.WriteTo(out, &ipv6.ControlMessage{Src: cm.Dst}, from)
		}
	}
}

// ntp answers a request of a client with the time (RFC 5905, section 7.3).
func ntp(b []byte) []byte {
	if len(b) < 48 || b[0]&7 != 3 {
		return nil
	}
	out := make([]byte, 48)
	out[0], out[1] = 4<<3|4, 1   // version 4, mode server; stratum 1
	copy(out[24:32], b[40:48])   // origin: the client's transmit time
	const fromEpoch = 2208988800 // 1900 to 1970
	now := uint64(time.Now().Unix()+fromEpoch) << 32
	for i := range 8 {
		out[32+i], out[40+i] = byte(now>>(56-8*i)), byte(now>>(56-8*i))
	}
	return out
}

// Site is an address of an ordinary site, in no list.
var Site = netip.MustParseAddr("63.245.7.7")

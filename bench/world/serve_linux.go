package world

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"hash/fnv"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Ports of the internet beside DNS: what speaks HTTP, TLS, first, back, and
// over UDP.
var (
	httpPorts  = []int{80, 8080}
	tlsPorts   = []int{443, 853, 8443}
	firstPorts = []int{25, 587, 993}
	echoPorts  = []int{22, 5222, 5223, 14000}
	quicPorts  = []int{443, 784, 853}
	sameBack   = []int{123, 14000} // datagrams come back
	dnsPorts   = []int{53, 5353}
)

// idle bounds how long a server of the internet waits for a client.
const idle = 20 * time.Second

// serve starts the servers of the internet, each on every address.
func (w *World) serve() {
	w.tb.Helper()
	// So that an answer may come from the address that was asked.
	w.Internet.sysctl(w.tb, map[string]string{"net/ipv6/ip_nonlocal_bind": "1"})
	web := &http.Server{Handler: http.HandlerFunc(page), ReadHeaderTimeout: idle, ErrorLog: log.New(io.Discard, "", 0)}
	w.tb.Cleanup(func() { _ = web.Close() })
	for _, port := range httpPorts {
		go func(l net.Listener) { _ = web.Serve(l) }(w.listen(port))
	}
	for _, port := range tlsPorts {
		l := newChoosing(w.listen(port))
		go func() { _ = web.Serve(tls.NewListener(l, w.CA.config("http/1.1"))) }()
	}
	for _, port := range firstPorts {
		go accept(w.listen(port), func(c net.Conn) { _, _ = io.WriteString(c, "220 ready\r\n"); _, _ = io.Copy(c, c) })
	}
	for _, port := range echoPorts {
		go accept(w.listen(port), func(c net.Conn) { _, _ = io.Copy(c, c) })
	}
	for _, port := range quicPorts {
		w.datagrams(port, negotiate)
	}
	for _, port := range sameBack {
		w.datagrams(port, func(b []byte) []byte { return b })
	}
	for _, port := range dnsPorts {
		w.names(port)
	}
	// The machine of the gateway has something of its own that devices must not
	// reach.
	go accept(w.listenIn(w.Gateway, 22), func(c net.Conn) { _, _ = io.Copy(c, c) })
}

// page says where the request arrived, so that a client can tell whom it spoke
// with.
func page(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Origin-Host", r.Host)
	_, _ = fmt.Fprintf(rw, "origin %s %s\n", r.Host, r.URL.Path)
}

func (w *World) listen(port int) net.Listener { return w.listenIn(w.Internet, port) }

func (w *World) listenIn(s *Space, port int) net.Listener {
	w.tb.Helper()
	var l net.Listener
	if err := s.Do(func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}); err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { _ = l.Close() })
	return l
}

// A choosing listener has connections that begin as TLS does, and sends back
// what comes on all others: whatever a client speaks, somebody answers.
type choosing struct {
	net.Listener
	some chan net.Conn
	end  chan struct{}
}

func newChoosing(l net.Listener) *choosing {
	c := &choosing{l, make(chan net.Conn), make(chan struct{})}
	go func() {
		accept(l, c.choose)
		close(c.end)
	}()
	return c
}

func (c *choosing) choose(conn net.Conn) {
	br := bufio.NewReader(conn)
	if first, err := br.Peek(2); err != nil || first[0] != 22 || first[1] != 3 {
		_, _ = io.Copy(conn, br)
		return
	}
	done := make(chan struct{})
	select {
	case c.some <- &begun{conn, br, done, sync.Once{}}:
		<-done
	case <-c.end:
	}
}

// Accept implements net.Listener.
func (c *choosing) Accept() (net.Conn, error) {
	select {
	case conn := <-c.some:
		return conn, nil
	case <-c.end:
		return nil, net.ErrClosed
	}
}

// A begun connection was read from already.
type begun struct {
	net.Conn
	br   *bufio.Reader
	done chan struct{}
	once sync.Once
}

func (b *begun) Read(p []byte) (int, error) { return b.br.Read(p) }

func (b *begun) Close() error {
	b.once.Do(func() { close(b.done) })
	return b.Conn.Close()
}

func accept(l net.Listener, serve func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(idle))
			serve(c)
		}()
	}
}

// datagrams answers datagrams from the address that they were sent to.
func (w *World) datagrams(port int, answer func([]byte) []byte) {
	w.tb.Helper()
	c4, c6 := w.packets("udp4", port), w.packets("udp6", port)
	go func() {
		p := ipv4.NewPacketConn(c4)
		_ = p.SetControlMessage(ipv4.FlagDst, true)
		for b := make([]byte, 64<<10); ; {
			n, cm, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			if out := answer(b[:n]); out != nil && cm != nil {
				_, _ = p.WriteTo(out, &ipv4.ControlMessage{Src: cm.Dst}, from)
			}
		}
	}()
	go func() {
		p := ipv6.NewPacketConn(c6)
		_ = p.SetControlMessage(ipv6.FlagDst, true)
		for b := make([]byte, 64<<10); ; {
			n, cm, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			if out := answer(b[:n]); out != nil && cm != nil {
				_, _ = p.WriteTo(out, &ipv6.ControlMessage{Src: cm.Dst}, from)
			}
		}
	}()
}

func (w *World) packets(network string, port int) *net.UDPConn {
	w.tb.Helper()
	var c *net.UDPConn
	if err := w.Internet.Do(func() (err error) {
		c, err = net.ListenUDP(network, &net.UDPAddr{Port: port})
		return err
	}); err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() { _ = c.Close() })
	return c
}

// negotiate answers as a QUIC server does that knows no version of the client's
// (RFC 9000, section 6).
func negotiate(b []byte) []byte {
	if len(b) < 1200 || b[0]&0x80 == 0 {
		return nil
	}
	dcid := b[6 : 6+int(b[5])]
	rest := b[6+len(dcid):]
	scid := rest[1 : 1+int(rest[0])]
	out := append([]byte{0x80, 0, 0, 0, 0, byte(len(scid))}, scid...)
	out = append(append(out, byte(len(dcid))), dcid...)
	return append(out, 0, 0, 0, 1)
}

// names serves DNS, over UDP and TCP.
func (w *World) names(port int) {
	for _, c := range []net.PacketConn{w.packets("udp4", port), w.packets("udp6", port)} {
		s := &dns.Server{PacketConn: c, Handler: dns.HandlerFunc(resolve)}
		go func() { _ = s.ActivateAndServe() }()
	}
	s := &dns.Server{Listener: w.listen(port), Handler: dns.HandlerFunc(resolve)}
	go func() { _ = s.ActivateAndServe() }()
}

// AddrsOf are the addresses of a name in this world: one for each family, made of
// the name.
func AddrsOf(name string) (v4, v6 netip.Addr) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(strings.TrimSuffix(strings.ToLower(name), ".")))
	n := h.Sum32()
	v4 = netip.AddrFrom4([4]byte{63, 245, byte(n>>8)%200 + 10, byte(n)%250 + 1})
	v6 = netip.AddrFrom16([16]byte{0x26, 0x20, 0x1, 0x1, 14: byte(n >> 8), 15: byte(n)})
	return v4, v6
}

// resolve answers every question for an address, and those for a service with
// what hides and leads elsewhere.
func resolve(rw dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	name := q.Question[0].Name
	v4, v6 := AddrsOf(name)
	h := dns.RR_Header{Name: name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET, Ttl: 60}
	switch q.Question[0].Qtype {
	case dns.TypeA:
		m.Answer = []dns.RR{&dns.A{Hdr: h, A: v4.AsSlice()}}
	case dns.TypeAAAA:
		m.Answer = []dns.RR{&dns.AAAA{Hdr: h, AAAA: v6.AsSlice()}}
	case dns.TypeHTTPS:
		m.Answer = []dns.RR{&dns.HTTPS{SVCB: dns.SVCB{Hdr: h, Priority: 1, Target: ".", Value: []dns.SVCBKeyValue{
			&dns.SVCBAlpn{Alpn: []string{"h3", "h2"}}, &dns.SVCBECHConfig{ECH: []byte{0, 0}},
		}}}}
	}
	_ = rw.WriteMsg(m)
}

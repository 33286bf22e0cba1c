package dnsserver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// header returns a header for the client, as a load balancer writes it.
func header(client string, tail ...byte) []byte {
	a := netip.MustParseAddr(client)
	p := []byte(proxySignature + "\x21\x11\x00\x0c")
	n := 12
	if a.Is6() {
		p[13], n = 0x21, 36
	}
	p = append(p, a.AsSlice()...)
	p = append(p, a.AsSlice()...) // where it went to
	p = append(p, 1, 2, 3, 4)
	p = append(p, tail...)
	binary.BigEndian.PutUint16(p[14:], uint16(n+len(tail)))
	return p
}

func TestParseProxy(t *testing.T) {
	local := []byte(proxySignature + "\x20\x00\x00\x00")
	for label, tc := range map[string]struct {
		p      []byte
		client string
		ok     bool
	}{
		"IPv4":            {header("10.8.0.7"), "10.8.0.7", true},
		"IPv6":            {header("2001:db8::7"), "2001:db8::7", true},
		"mapped":          {header("::ffff:10.8.0.7"), "10.8.0.7", true},
		"with more":       {header("10.8.0.7", 4, 0, 1, 0), "10.8.0.7", true},
		"local":           {local, "invalid IP", true},
		"version 1":       {[]byte("PROXY TCP4 10.8.0.7 10.8.0.1 1 2\r\n"), "", false},
		"version 3":       {append([]byte(proxySignature), 0x31, 0x11, 0, 0), "", false},
		"another command": {append([]byte(proxySignature), 0x22, 0x11, 0, 0), "", false},
		"unix":            {append([]byte(proxySignature), 0x21, 0x31, 0, 0), "", false},
		"no address":      {append([]byte(proxySignature), 0x21, 0x11, 0, 0), "", false},
		"cut":             {header("10.8.0.7")[:20], "", false},
		"too long":        {append([]byte(proxySignature), 0x21, 0x11, 0xff, 0xff), "", false},
		"empty":           {nil, "", false},
	} {
		client, n, err := parseProxy(append(tc.p, "rest"...))
		if tc.p == nil || label == "cut" {
			client, n, err = parseProxy(tc.p)
		}
		if (err == nil) != tc.ok || tc.ok && (client.String() != tc.client || n != len(tc.p)) {
			t.Errorf("%s: %v, %d, %v", label, client, n, err)
		}
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add(header("10.8.0.7"))
	f.Add(header("2001:db8::7", 4, 0, 1, 0))
	f.Fuzz(func(t *testing.T, p []byte) {
		client, n, err := parseProxy(p)
		if err == nil && (n < proxyHead || n > len(p)) || err != nil && client.IsValid() {
			t.Errorf("%v, %d, %v", client, n, err)
		}
	})
}

// A device behind a load balancer is judged by its own address, over every
// transport that has the protocol; from anybody else a header is no DNS.
func TestProxied(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r, ca := startAll(t, zones, Options{Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}, MaxTCPPerClient: 1, portable: portable})
		q := pack(t, query("wechat.com", dns.TypeA))
		dial := func(network, from, addr string) net.Conn {
			c := dialFrom(t, network, from, addr)
			_ = c.SetDeadline(time.Now().Add(secs(60)))
			return c
		}
		blocked := func(what, device string) {
			t.Helper()
			if got := r.device(t); got != device {
				t.Errorf("%s: %s, want %s", what, got, device)
			}
		}
		buf := make([]byte, 4096)

		c := dial("udp", "127.0.0.9", r.addr)
		for _, device := range []string{"10.8.0.7", "2001:db8::7"} {
			_, _ = c.Write(append(header(device), q...))
			if n, err := c.Read(buf); err != nil || buf[3]&0xF != dns.RcodeNameError || n < 12 {
				t.Fatalf("over UDP: %x, %v", buf[:n], err)
			}
			blocked("udp", device)
		}
		_, _ = c.Write(q) // of its own
		if _, err := c.Read(buf); err != nil {
			t.Fatal(err)
		}
		blocked("udp without a header", "127.0.0.9")
		reply := query("wechat.com", dns.TypeA)
		reply.Response = true
		for _, p := range [][]byte{pack(t, reply), {1, 2, 3}, {}} { // what has no answer
			_, _ = c.Write(append(header("10.8.0.7"), p...))
		}
		_, _ = c.Write(header("10.8.0.7")[:20])
		eventually(t, "all are dropped", func() bool {
			st := r.Stats()
			return st.Dropped["response"] == 1 && st.Dropped["short"] == 2 && st.Dropped["proxy_header"] == 1
		})

		for range 3 { // the limit of each client is none of the load balancer's
			c = dial("tcp", "127.0.0.9", r.addr)
			_, _ = c.Write(append(header("10.8.0.8"), frame(q)...))
			if readFrame(t, c, secs(30)) == nil {
				t.Fatal("no answer over TCP")
			}
			blocked("tcp", "10.8.0.8")
		}
		c = dial("tcp", "127.0.0.9", r.DoTAddrs()[0].String())
		_, _ = c.Write(header("10.8.0.9"))
		s := tls.Client(c, ca.client("dot"))
		if _, err := s.Write(frame(q)); err != nil || readFrame(t, s, secs(30)) == nil {
			t.Fatalf("no answer over DoT: %v", err)
		}
		blocked("dot", "10.8.0.9")

		h := &http.Client{Timeout: secs(30), Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: ca.client(), DialContext: func(_ context.Context, network, addr string) (net.Conn, error) {
			c := dialFrom(t, network, "127.0.0.9", addr)
			_, err := c.Write(header("10.8.0.10"))
			return c, err
		}}}
		if resp, m := webAsk(t, h, request(t, "POST", r.dohURL(), q)); m == nil {
			t.Fatalf("over DoH: %s", resp.Status)
		}
		h.CloseIdleConnections()
		blocked("doh", "10.8.0.10")

		// Without a header, and from somebody who is not believed.
		before := r.Stats().Dropped["proxy_header"]
		for _, addr := range []string{r.addr, r.DoTAddrs()[0].String(), r.DoHAddrs()[0].String()} {
			c = dial("tcp", "127.0.0.9", addr)
			_, _ = c.Write(append(frame(q), make([]byte, 64)...))
			if !closedWithin(c, secs(30)) {
				t.Errorf("%s: a load balancer without a header is served", addr)
			}
		}
		eventually(t, "those are counted", func() bool { return r.Stats().Dropped["proxy_header"] == before+3 })
		c = dial("udp", "127.0.0.2", r.addr)
		_, _ = c.Write(append(header("10.8.0.7"), q...))
		if n, err := c.Read(buf); err != nil || buf[3]&0xF != dns.RcodeNotImplemented {
			t.Errorf("a header from a stranger: %x, %v", buf[:n], err)
		}
		c = dial("tcp", "127.0.0.2", r.addr)
		_, _ = c.Write(append(header("10.8.0.7"), frame(q)...))
		_ = c.(*net.TCPConn).CloseWrite() // it may be taken for the beginning of a long message
		if m := readFrame(t, c, secs(30)); m != nil && m.Rcode != dns.RcodeNotImplemented && m.Rcode != dns.RcodeFormatError {
			t.Errorf("a header from a stranger over TCP: %v", m)
		}
		if recs := r.audit.take(); len(recs) != 0 {
			t.Errorf("records of strangers: %+v", recs)
		}
	})
}

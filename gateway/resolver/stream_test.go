package resolver

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// streams starts a TCP server on which each accepted connection is handled.
func streams(t testing.TB, handle func(n int, c net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(t.(*testing.T).Context(), func() { _ = c.Close() })
			wg.Go(func() {
				defer stop()
				defer func() { _ = c.Close() }()
				handle(n, c)
			})
		}
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

func readQuery(c net.Conn) *dns.Msg {
	var n [2]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return nil
	}
	b := make([]byte, binary.BigEndian.Uint16(n[:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return nil
	}
	q := new(dns.Msg)
	if q.Unpack(b) != nil {
		return nil
	}
	return q
}

func writeMsg(t testing.TB, c net.Conn, m *dns.Msg) {
	b := pack(t, m)
	_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
}

// TestStaleConnection: a pooled connection that the server closed costs a new
// connection, not an error.
func TestStaleConnection(t *testing.T) {
	z := records(t, wwwA)
	var conns atomic.Int64
	read := make(chan struct{}, 1)
	addr := streams(t, func(n int, c net.Conn) {
		conns.Add(1)
		for i := 0; ; i++ {
			q := readQuery(c)
			if q == nil {
				return
			}
			if n == 1 && i == 2 {
				read <- struct{}{}
				return // closes under the third query
			}
			writeMsg(t, c, z.answer(q))
		}
	})
	r := open(t, Options{Upstreams: upstreams(t, "tcp://"+addr.String())})
	for range 2 {
		resolve(t, r, "www.example", dns.TypeA)
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("2 questions took %d connections", n)
	}
	resolve(t, r, "www.example", dns.TypeA)
	<-read
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections, want a second one", n)
	}
	if s := r.Stats().Upstreams[0]; s.Failures != 0 {
		t.Errorf("a stale connection counted as a failure: %+v", s)
	}
}

// TestPipelining: more questions than connections, answered in any order.
func TestPipelining(t *testing.T) {
	const n = 4 * streamConns
	var conns, open1 atomic.Int64
	var mu sync.Mutex
	type waiting struct {
		c net.Conn
		q *dns.Msg
	}
	var all []waiting
	addr := streams(t, func(_ int, c net.Conn) {
		conns.Add(1)
		for q := readQuery(c); q != nil; q = readQuery(c) {
			mu.Lock()
			if all = append(all, waiting{c, q}); len(all) == n {
				for i := len(all) - 1; i >= 0; i-- {
					m := new(dns.Msg).SetReply(all[i].q)
					m.Answer = []dns.RR{rr(t, all[i].q.Question[0].Name+" 60 IN A 192.0.2.1")}
					writeMsg(t, all[i].c, m)
				}
			}
			mu.Unlock()
		}
	})
	r := open(t, Options{Upstreams: upstreams(t, "tcp://"+addr.String())})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			name := fmt.Sprintf("h%d.example", i)
			q := question(name, dns.TypeA)
			a, err := r.Resolve(t.Context(), q)
			if err != nil {
				t.Error(err)
				return
			}
			wantTexts(t, name, a.Reply(q).Answer, name+". 60 IN A 192.0.2.1")
			open1.Add(1)
		})
	}
	wg.Wait()
	if c := conns.Load(); c > streamConns {
		t.Errorf("%d connections, want %d at the most", c, streamConns)
	}
}

// TestStreamMisbehaves: each of these servers is left for the next upstream.
func TestStreamMisbehaves(t *testing.T) {
	for name, handle := range map[string]func(c net.Conn, q *dns.Msg){
		"closes":   func(net.Conn, *dns.Msg) {},
		"no DNS":   func(c net.Conn, _ *dns.Msg) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") },
		"length 0": func(c net.Conn, _ *dns.Msg) { _, _ = c.Write([]byte{0, 0}) },
		"half":     func(c net.Conn, _ *dns.Msg) { _, _ = c.Write([]byte{0, 100, 1}) },
		"other question": func(c net.Conn, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			m.Question[0].Name = "other.example."
			writeMsg(t, c, m)
		},
		"truncated": func(c net.Conn, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			m.Truncated = true
			writeMsg(t, c, m)
		},
		"silent": func(c net.Conn, _ *dns.Msg) { readQuery(c) },
	} {
		t.Run(name, func(t *testing.T) {
			addr := streams(t, func(_ int, c net.Conn) {
				if q := readQuery(c); q != nil {
					handle(c, q)
				}
			})
			within(t, 1800*time.Millisecond, func() time.Duration {
				r := open(t, Options{Upstreams: upstreams(t, "tcp://"+addr.String(), "udp://"+listen(t, records(t, wwwA)).String()), late: lateAfter})
				start := time.Now()
				resolve(t, r, "www.example", dns.TypeA)
				took := time.Since(start)
				until(t, "a failure in the counters", func() bool {
					s := r.Stats().Upstreams[0]
					return s.Failures+s.Late > 0
				})
				return took
			})
		})
	}
}

// TestCertificate: an upstream over TLS that is not the one named is not used.
func TestCertificate(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	z := records(t, wwwA)
	wrongName := listenTLS(t, z, ca.server(t, "127.0.0.2", "other.example"))
	wrongCA := listenTLS(t, z, other.server(t, "127.0.0.1"))
	wrongNameH := listenHTTPS(t, doh(z), ca.server(t, "127.0.0.2"))
	wrongCAH := listenHTTPS(t, doh(z), other.server(t, "127.0.0.1"))
	for _, u := range []string{"tls://" + wrongName.String(), "tls://" + wrongCA.String(),
		"https://" + wrongNameH.String(), "https://" + wrongCAH.String()} {
		r := open(t, Options{Upstreams: upstreams(t, u), TLSConfig: ca.client()})
		_, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
		if err == nil || !strings.Contains(err.Error(), "x509") {
			t.Errorf("%s: error %v, want one about the certificate", u, err)
		}
	}
	if n := z.queries.Load(); n != 0 {
		t.Errorf("upstreams saw %d queries", n)
	}
}

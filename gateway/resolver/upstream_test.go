package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

const wwwA = "www.example. 300 IN A 192.0.2.1"

// closedPort returns an address on which nothing listens.
func closedPort(t testing.TB) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

func TestFailover(t *testing.T) {
	good := records(t, wwwA)
	for _, tt := range []struct {
		name    string
		first   func() netip.AddrPort
		atmost  time.Duration
		atleast time.Duration
	}{
		{"refused connection", func() netip.AddrPort { return closedPort(t) }, 300 * time.Millisecond, 0},
		{"silence", func() netip.AddrPort { return listen(t, silent()) }, 900 * time.Millisecond, 380 * time.Millisecond},
		{"SERVFAIL", func() netip.AddrPort { return listen(t, rcode(dns.RcodeServerFailure)) }, 300 * time.Millisecond, 0},
		{"REFUSED", func() netip.AddrPort { return listen(t, rcode(dns.RcodeRefused)) }, 300 * time.Millisecond, 0},
		{"NOTIMP", func() netip.AddrPort { return listen(t, rcode(dns.RcodeNotImplemented)) }, 300 * time.Millisecond, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := open(t, Options{Upstreams: udp(t, tt.first(), listen(t, good)), Timeout: time.Second})
			start := time.Now()
			a := resolve(t, r, "www.example", dns.TypeA)
			wantTexts(t, "answer", a.Reply(question("www.example", dns.TypeA)).Answer, wwwA)
			if d := time.Since(start); d > tt.atmost || d < tt.atleast {
				t.Errorf("it took %v, want %v to %v", d, tt.atleast, tt.atmost)
			}
		})
	}
}

func TestNXDOMAINIsAnAnswer(t *testing.T) {
	second := records(t, wwwA)
	r := open(t, Options{Upstreams: udp(t, listen(t, rcode(dns.RcodeNameError)), listen(t, second))})
	if a := resolve(t, r, "www.example", dns.TypeA); a.Rcode() != dns.RcodeNameError || second.queries.Load() != 0 {
		t.Errorf("%s, and the second upstream saw %d queries", dns.RcodeToString[a.Rcode()], second.queries.Load())
	}
}

func TestAllSayNo(t *testing.T) {
	first, last := rcode(dns.RcodeServerFailure), rcode(dns.RcodeRefused)
	r := open(t, Options{Upstreams: udp(t, listen(t, first), listen(t, last), closedPort(t)), CacheEntries: 10})
	if a := resolve(t, r, "www.example", dns.TypeA); a.Rcode() != dns.RcodeRefused {
		t.Errorf("got %s, want the last response, REFUSED", dns.RcodeToString[a.Rcode()])
	}
	if first.queries.Load() != 1 || last.queries.Load() != 1 {
		t.Errorf("upstreams saw %d and %d queries, want 1 each", first.queries.Load(), last.queries.Load())
	}
	if r.Cached(question("www.example", dns.TypeA)) != nil {
		t.Error("REFUSED was cached")
	}
}

func TestServfailIsCachedBriefly(t *testing.T) {
	z := rcode(dns.RcodeServerFailure)
	clk := newClock()
	r := openAt(t, Options{Upstreams: udp(t, listen(t, z)), CacheEntries: 10}, clk.now, portDNS)
	for range 3 {
		resolve(t, r, "www.example", dns.TypeA)
	}
	if n := z.queries.Load(); n != 1 {
		t.Errorf("%d queries, want 1", n)
	}
	clk.move(servfailTTL * time.Second)
	resolve(t, r, "www.example", dns.TypeA)
	if n := z.queries.Load(); n != 2 {
		t.Errorf("%d queries after it ended, want 2", n)
	}
}

// TestHealth follows an upstream that stops responding and comes back.
func TestHealth(t *testing.T) {
	var up atomic.Bool
	first := records(t, wwwA)
	inner := first.answer
	first.answer = func(q *dns.Msg) *dns.Msg {
		if up.Load() {
			return inner(q)
		}
		return nil
	}
	second := records(t, wwwA)
	clk := newClock()
	r := openAt(t, Options{Upstreams: udp(t, listen(t, first), listen(t, second)), Timeout: 500 * time.Millisecond}, clk.now, portDNS)
	ask := func() (toFirst, toSecond int64) {
		f, s := first.queries.Load(), second.queries.Load()
		resolve(t, r, "www.example", dns.TypeA)
		return first.queries.Load() - f, second.queries.Load() - s
	}
	for i := range failLimit {
		if f, s := ask(); f != 1 || s != 1 {
			t.Fatalf("question %d: %d and %d queries, want 1 and 1", i, f, s)
		}
	}
	if s := r.Stats().Upstreams; s[0].Healthy || s[0].Failures != failLimit || !s[1].Healthy {
		t.Errorf("after %d failures: %+v", failLimit, s)
	}
	for range 5 {
		if f, s := ask(); f != 0 || s != 1 {
			t.Fatalf("while backing off: %d and %d queries", f, s)
		}
	}
	// The interval doubles with each failed probe, up to the cap.
	for want := minBackoff; want < 2*maxBackoff; want *= 2 {
		want := min(want, maxBackoff)
		clk.move(want - time.Millisecond)
		if f, _ := ask(); f != 0 {
			t.Fatalf("asked before %v", want)
		}
		clk.move(time.Millisecond)
		if f, s := ask(); f != 1 || s != 1 {
			t.Fatalf("after %v: %d and %d queries, want one probe", want, f, s)
		}
	}
	up.Store(true)
	clk.move(maxBackoff)
	if f, s := ask(); f != 1 || s != 0 {
		t.Errorf("it came back: %d and %d queries", f, s)
	}
	if s := r.Stats().Upstreams; !s[0].Healthy {
		t.Errorf("after a response: %+v", s[0])
	}
	if f, s := ask(); f != 1 || s != 0 {
		t.Errorf("healthy again: %d and %d queries", f, s)
	}
}

// TestLastResort: upstreams that back off are still better than none.
func TestLastResort(t *testing.T) {
	var up atomic.Bool
	z := records(t, wwwA)
	inner := z.answer
	z.answer = func(q *dns.Msg) *dns.Msg {
		if up.Load() {
			return inner(q)
		}
		return nil
	}
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), Timeout: 100 * time.Millisecond})
	for range 2 {
		_, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
		wantErr(t, err, context.DeadlineExceeded)
	}
	if s := r.Stats().Upstreams[0]; s.Healthy {
		t.Errorf("after 2 questions with 2 tries each: %+v", s)
	}
	up.Store(true)
	resolve(t, r, "www.example", dns.TypeA)
}

func TestLostDatagramIsSentAgain(t *testing.T) {
	z := records(t, wwwA)
	inner := z.answer
	z.answer = func(q *dns.Msg) *dns.Msg {
		if z.queries.Load() == 1 {
			return nil
		}
		return inner(q)
	}
	r := open(t, Options{Upstreams: udp(t, listen(t, z)), Timeout: time.Second})
	resolve(t, r, "www.example", dns.TypeA)
}

// raw starts a UDP server that sends datagrams made from the query.
func raw(t testing.TB, datagrams func(q *dns.Msg) [][]byte) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, maxMsg)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(buf[:n]) != nil {
				continue
			}
			for _, b := range datagrams(q) {
				_, _ = pc.WriteTo(b, from)
			}
		}
	}()
	return netip.MustParseAddrPort(pc.LocalAddr().String())
}

func pack(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	b, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return b
}

// TestForgeries: what does not answer our query is ignored, and the response
// that does is still taken.
func TestForgeries(t *testing.T) {
	poison := "www.example. 300 IN A 192.0.2.66"
	forge := func(q *dns.Msg, change func(m *dns.Msg)) []byte {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr(t, poison)}
		change(m)
		return pack(t, m)
	}
	addr := raw(t, func(q *dns.Msg) [][]byte {
		out := [][]byte{
			{}, {1, 2, 3}, make([]byte, headerLen), make([]byte, 4096),
			forge(q, func(m *dns.Msg) { m.Response = false }),
			forge(q, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }),
			forge(q, func(m *dns.Msg) { m.Question = nil }),
			forge(q, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
			forge(q, func(m *dns.Msg) { m.Question[0].Name = "other.example." }),
			forge(q, func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }),
			forge(q, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
			forge(q, func(m *dns.Msg) { m.Question, m.Answer, m.Rcode = nil, nil, dns.RcodeNameError }),
		}
		for i := range 200 {
			out = append(out, forge(q, func(m *dns.Msg) { m.Id += uint16(i + 1) }))
		}
		good := new(dns.Msg).SetReply(q)
		good.Question[0].Name = "WWW.EXAMPLE."
		good.Answer = []dns.RR{rr(t, wwwA)}
		return append(out, pack(t, good))
	})
	r := open(t, Options{Upstreams: udp(t, addr)})
	a := resolve(t, r, "www.example", dns.TypeA)
	wantTexts(t, "answer", a.Reply(question("www.example", dns.TypeA)).Answer, wwwA)
	if n := r.Stats().Mismatched; n != 212 {
		t.Errorf("%d mismatched responses were counted, want 212", n)
	}
}

// TestForgeriesOnly: forgeries end with the time of the question, not earlier
// and not later.
func TestForgeriesOnly(t *testing.T) {
	addr := raw(t, func(q *dns.Msg) [][]byte {
		m := new(dns.Msg).SetReply(q)
		m.Id++
		m.Answer = []dns.RR{rr(t, wwwA)}
		return [][]byte{pack(t, m)}
	})
	r := open(t, Options{Upstreams: udp(t, addr), Timeout: 300 * time.Millisecond})
	start := time.Now()
	_, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
	wantErr(t, err, context.DeadlineExceeded)
	if d := time.Since(start); d < 200*time.Millisecond || d > time.Second {
		t.Errorf("it took %v", d)
	}
}

// TestOtherSource: a response from elsewhere does not reach the connected
// socket.
func TestOtherSource(t *testing.T) {
	other, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pc.Close() }()
	go func() {
		buf := make([]byte, 4096)
		n, from, err := pc.ReadFrom(buf)
		q := new(dns.Msg)
		if err != nil || q.Unpack(buf[:n]) != nil {
			return
		}
		for _, a := range []string{"192.0.2.66", "192.0.2.1"} {
			m := new(dns.Msg).SetReply(q)
			m.Answer = []dns.RR{rr(t, "www.example. 300 IN A "+a)}
			c := pc
			if a == "192.0.2.66" {
				c = other
			}
			_, _ = c.WriteTo(pack(t, m), from)
			time.Sleep(20 * time.Millisecond)
		}
	}()
	r := open(t, Options{Upstreams: udp(t, netip.MustParseAddrPort(pc.LocalAddr().String()))})
	a := resolve(t, r, "www.example", dns.TypeA)
	wantTexts(t, "answer", a.Reply(question("www.example", dns.TypeA)).Answer, wwwA)
}

func TestTruncated(t *testing.T) {
	var lines []string
	for i := range 200 {
		lines = append(lines, fmt.Sprintf("www.example. 300 IN A 192.0.2.%d", i))
	}
	z := records(t, lines...)
	var overUDP, overTCP atomic.Int64
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := z.answer(q)
		if w.RemoteAddr().Network() == "udp" {
			overUDP.Add(1)
			m.Truncate(udpSize)
		} else {
			overTCP.Add(1)
		}
		_ = w.WriteMsg(m)
	})
	r := open(t, Options{Upstreams: udp(t, listen(t, h)), CacheEntries: 10})
	a := resolve(t, r, "www.example", dns.TypeA)
	m := a.Reply(question("www.example", dns.TypeA))
	if len(m.Answer) != len(lines) || m.Truncated {
		t.Errorf("%d records, truncated %v", len(m.Answer), m.Truncated)
	}
	if overUDP.Load() != 1 || overTCP.Load() != 1 || r.Stats().Truncated != 1 {
		t.Errorf("%d queries over UDP, %d over TCP, %d counted", overUDP.Load(), overTCP.Load(), r.Stats().Truncated)
	}
}

// TestWithoutEDNS: what an upstream says about OPT is not taken for what it
// says about the name.
func TestWithoutEDNS(t *testing.T) {
	good := func(q *dns.Msg) []byte {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{rr(t, wwwA)}
		return pack(t, m)
	}
	for name, old := range map[string]func(q *dns.Msg) []byte{
		"FORMERR": func(q *dns.Msg) []byte { return pack(t, new(dns.Msg).SetRcode(q, dns.RcodeFormatError)) },
		"FORMERR without question": func(q *dns.Msg) []byte {
			m := new(dns.Msg).SetRcode(q, dns.RcodeFormatError)
			m.Question = nil
			return pack(t, m)
		},
		"NOTIMP": func(q *dns.Msg) []byte { return pack(t, new(dns.Msg).SetRcode(q, dns.RcodeNotImplemented)) },
		"BADVERS": func(q *dns.Msg) []byte {
			m := new(dns.Msg).SetRcode(q, dns.RcodeBadVers)
			m.SetEdns0(1232, false)
			return pack(t, m)
		},
		"ends early":       func(q *dns.Msg) []byte { b := good(q); return b[:len(b)-3] },
		"ends at a record": func(q *dns.Msg) []byte { b := good(q); return b[:len(b)-16] },
		"counts lie":       func(q *dns.Msg) []byte { b := good(q); b[11] = 9; return b },
	} {
		t.Run(name, func(t *testing.T) {
			addr := raw(t, func(q *dns.Msg) [][]byte {
				if q.IsEdns0() != nil {
					return [][]byte{old(q)}
				}
				return [][]byte{good(q)}
			})
			r := open(t, Options{Upstreams: udp(t, addr)})
			a := resolve(t, r, "www.example", dns.TypeA)
			wantTexts(t, "answer", a.Reply(question("www.example", dns.TypeA)).Answer, wwwA)
		})
	}
	t.Run("always malformed", func(t *testing.T) {
		bad := raw(t, func(q *dns.Msg) [][]byte { b := good(q); return [][]byte{b[:len(b)-3]} })
		r := open(t, Options{Upstreams: udp(t, bad, listen(t, records(t, wwwA)))})
		resolve(t, r, "www.example", dns.TypeA)
		if n := r.Stats().Malformed; n != 2 {
			t.Errorf("%d malformed responses were counted, want 2", n)
		}
	})
}

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
			r := open(t, Options{Upstreams: upstreams(t, "tcp://"+addr.String(), "udp://"+listen(t, records(t, wwwA)).String()), Timeout: 500 * time.Millisecond})
			start := time.Now()
			resolve(t, r, "www.example", dns.TypeA)
			if d := time.Since(start); d > 450*time.Millisecond {
				t.Errorf("it took %v", d)
			}
			if s := r.Stats().Upstreams[0]; s.Failures == 0 {
				t.Errorf("no failure was counted: %+v", s)
			}
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

func TestHTTPMisbehaves(t *testing.T) {
	ca := newAuthority(t)
	conf := ca.server(t, "127.0.0.1")
	good := records(t, wwwA)
	target := listenHTTPS(t, doh(good), conf)
	var body []byte
	reply := func(typ string, change func(b []byte) []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			in, _ := io.ReadAll(req.Body)
			q := new(dns.Msg)
			if err := q.Unpack(in); err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Type", typ)
			_, _ = w.Write(change(pack(t, good.answer(q))))
		}
	}
	body = make([]byte, maxMsg+100)
	for name, h := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "https://"+target.String()+"/dns-query", 307)
		},
		"error":        func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) },
		"content type": reply("text/html", func(b []byte) []byte { return b }),
		"too long":     reply(mediaType, func(b []byte) []byte { return append(b, body...) }),
		"empty":        reply(mediaType, func([]byte) []byte { return nil }),
		"ID":           reply(mediaType, func(b []byte) []byte { b[1] = 1; return b }),
		"truncated":    reply(mediaType, func(b []byte) []byte { b[2] |= 2; return b }),
		"hangs":        func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() },
	} {
		t.Run(name, func(t *testing.T) {
			before := good.queries.Load()
			r := open(t, Options{Upstreams: upstreams(t, "https://"+listenHTTPS(t, h, conf).String()), TLSConfig: ca.client(), Timeout: 500 * time.Millisecond})
			if _, err := r.Resolve(t.Context(), question("www.example", dns.TypeA)); err == nil {
				t.Error("no error")
			}
			if good.queries.Load() != before {
				t.Error("a redirect was followed")
			}
		})
	}
}

func TestHTTPAge(t *testing.T) {
	ca := newAuthority(t)
	z := records(t, wwwA)
	inner := doh(z)
	addr := listenHTTPS(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Age", "100")
		inner(w, req)
	}), ca.server(t, "127.0.0.1"))
	r := open(t, Options{Upstreams: upstreams(t, "https://"+addr.String()), TLSConfig: ca.client()})
	a := resolve(t, r, "www.example", dns.TypeA)
	wantTexts(t, "answer", a.Reply(question("www.example", dns.TypeA)).Answer, "www.example. 200 IN A 192.0.2.1")
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"ftp://192.0.2.1", `scheme "ftp" is not known`},
		{"quic://192.0.2.1", "use udp, tcp, tls or https"},
		{"udp://dns.example", "needs an address"},
		{"tcp://dns.example:53", "needs an address"},
		{"tls://:853", "no host"},
		{"tls://a..b", "neither an address nor a name"},
		{"udp://192.0.2.1:0", "not one from 1 to 65535"},
		{"udp://192.0.2.1:70000", "not one from 1 to 65535"},
		{"udp://127.0.0.1:5353", "our own listener"},
		{"tcp://[::ffff:127.0.0.1]:5353", "our own listener"},
	} {
		_, err := New(Options{Upstreams: upstreams(t, tt.url), Self: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:5353")}})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.url) {
			t.Errorf("%s: error %v, want %q", tt.url, err, tt.want)
		}
	}
	if _, err := New(Options{Bootstrap: []netip.AddrPort{{}}}); err == nil {
		t.Error("no error for an invalid bootstrap resolver")
	}
	if _, err := New(Options{Upstreams: upstreams(t, "udp://192.0.2.1")[:1:1]}); err != nil {
		t.Error(err)
	}
}

// TestBootstrapStale: an upstream whose name can no longer be resolved is
// reached where it was.
func TestBootstrapStale(t *testing.T) {
	ca := newAuthority(t)
	var down atomic.Bool
	names := records(t)
	names.answer = func(q *dns.Msg) *dns.Msg {
		if down.Load() {
			return nil
		}
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{rr(t, "dns.example. 60 IN A 127.0.0.1")}
		}
		return m
	}
	z := records(t, wwwA)
	https := listenHTTPS(t, doh(z), ca.server(t, "dns.example"))
	clk := newClock()
	r := openAt(t, Options{Upstreams: upstreams(t, "https://dns.example:"+port(https)), Timeout: time.Second,
		Bootstrap: []netip.AddrPort{listen(t, names)}, TLSConfig: ca.client()}, clk.now, portDNS)
	resolve(t, r, "www.example", dns.TypeA)
	down.Store(true)
	clk.move(2 * time.Minute)
	r.main.close() // a new connection must be made
	start := time.Now()
	resolve(t, r, "www.example", dns.TypeA)
	if d := time.Since(start); d > 300*time.Millisecond {
		t.Errorf("it took %v", d)
	}
	if n := names.queries.Load(); n < 2 {
		t.Errorf("the bootstrap resolver saw %d queries", n)
	}
}

func TestBootstrapFails(t *testing.T) {
	r := open(t, Options{Upstreams: upstreams(t, "tls://dns.example"), Bootstrap: []netip.AddrPort{listen(t, rcode(dns.RcodeNameError))}})
	_, err := r.Resolve(t.Context(), question("www.example", dns.TypeA))
	if err == nil || !strings.Contains(err.Error(), "resolving upstream host dns.example") || !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

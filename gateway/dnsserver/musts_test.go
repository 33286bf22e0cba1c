package dnsserver

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// The size that a client announces is for datagrams: over every other transport an
// answer is whole, however small that size is (RFC 8484, section 6; RFC 7766,
// section 5; RFC 9250, section 4.2).
func TestSizeIsForDatagrams(t *testing.T) {
	r, ca := startAll(t, zones+hugeZone(), Options{})
	q := edns(query("huge.example", dns.TypeTXT), 512)
	q.Id = 0
	whole := func(about string, m *dns.Msg, err error) {
		t.Helper()
		if err != nil || m == nil || m.Truncated || m.Len() < 40_000 {
			t.Errorf("%s: %v, %v", about, m, err)
		}
	}
	for network, addr := range map[string]string{"tcp": r.addr, "tcp-tls": r.DoTAddrs()[0].String()} {
		c := dns.Client{Net: network, TLSConfig: ca.client(), Timeout: secs(60)}
		m, _, err := c.Exchange(q, addr)
		whole(network, m, err)
	}
	for proto, c := range webClients(t, ca) {
		_, m := webAsk(t, c, request(t, http.MethodPost, r.dohURL(), pack(t, q)))
		whole(proto, m, nil)
	}
	m, err := readDoQ(sendDoQ(t, dialDoQ(t, r, ca), frame(pack(t, q))))
	whole("doq", m, err)
}

// Nothing but HTTP over TLS is spoken where DNS over HTTPS is (RFC 8484, section 5).
func TestDoHNeedsTLS(t *testing.T) {
	r, _ := startAll(t, zones, Options{})
	q := pack(t, query("good.example", dns.TypeA))
	resp, err := http.Post(strings.Replace(r.dohURL(), "https:", "http:", 1), dohType, bytes.NewReader(q))
	if err == nil {
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode < 400 || new(dns.Msg).Unpack(body) == nil && len(body) > 12 {
			t.Errorf("in the clear: %s, %q", resp.Status, body)
		}
	}
	if st := r.Stats(); st.DoH != 0 {
		t.Errorf("%d questions were taken in the clear", st.DoH)
	}
}

// A session that is gone gets nothing more, and nothing is left of it (RFC 7766,
// section 6.2.4). One whose
// client has only ended its own side still gets its answers; see TestPipelining.
func TestSessionGone(t *testing.T) {
	r := start(t, zones, Options{})
	c := r.dial(t, "tcp")
	var all []byte
	for i := range 20 {
		q := query("a.slow.example", dns.TypeA)
		q.Id = uint16(i)
		all = append(all, frame(pack(t, q))...)
	}
	if _, err := c.Write(all); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the questions are there", func() bool { return r.Stats().TCP == 20 })
	if err := c.(*net.TCPConn).SetLinger(0); err != nil { // a reset
		t.Fatal(err)
	}
	_ = c.Close()
	close(r.up.gate)
	eventually(t, "nothing is left of it", func() bool { return r.Stats().Conns == 0 && r.Stats().Inflight == 0 })
	if m := r.ask(t, "tcp", query("good.example", dns.TypeA)); m.Rcode != dns.RcodeSuccess {
		t.Errorf("afterwards: %v", m)
	}
}

// Error codes of a client that nobody knows mean that it has ended what it had, and
// no more (RFC 9250, section 4.3.4).
func TestDoQUnknownErrors(t *testing.T) {
	r, ca := startAll(t, zones, Options{})
	const unknown = 0x2a2a
	c := dialDoQ(t, r, ca)
	for range 5 {
		s, err := c.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(doqQuery(t, "a.slow.example", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		s.CancelRead(unknown)
		s.CancelWrite(unknown)
	}
	if m, err := readDoQ(sendDoQ(t, c, doqQuery(t, "wechat.com", dns.TypeA))); err != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("another question of that connection: %v, %v", m, err)
	}
	_ = c.CloseWithError(unknown, "what?")
	eventually(t, "the connection is gone", func() bool { return r.Stats().ConnsDoQ == 0 })
	if m, err := readDoQ(sendDoQ(t, dialDoQ(t, r, ca), doqQuery(t, "good.example", dns.TypeA))); err != nil || m.Rcode != dns.RcodeSuccess {
		t.Errorf("another connection: %v, %v", m, err)
	}
}

// Who has not shown that an address is its own has no more than three times sent
// there of what it sent itself (RFC 9250, section 5.3; RFC 9000, section 8.1), but
// for the rest of one datagram: quic-go looks before it sends one, not after.
func TestDoQAmplification(t *testing.T) {
	r, ca := startAll(t, "", Options{})
	server, err := net.ResolveUDPAddr("udp", r.DoQAddrs()[0].String())
	if err != nil {
		t.Fatal(err)
	}
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.DialUDP("udp", nil, server)
	if err != nil {
		t.Fatal(err)
	}
	var sent, got atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { _, _ = front.Close(), back.Close() }()
	wg.Go(func() { // the client's datagrams go on, and its address never answers
		b := make([]byte, 4096)
		for {
			n, _, err := front.ReadFromUDP(b)
			if err != nil {
				return
			}
			if sent.Load() < 2400 { // the first flight: a ClientHello of today takes two
				sent.Add(int64(n))
				_, _ = back.Write(b[:n])
			}
		}
	})
	wg.Go(func() {
		b := make([]byte, 4096)
		for {
			n, err := back.Read(b)
			if err != nil {
				return
			}
			got.Add(int64(n))
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), secs(3))
	defer cancel()
	if c, err := quic.DialAddr(ctx, front.LocalAddr().String(), ca.client("doq"), &quic.Config{HandshakeIdleTimeout: secs(2)}); err == nil {
		_ = c.CloseWithError(0, "")
		t.Error("a handshake without the server's side")
	}
	eventually(t, "the server has spoken", func() bool { return got.Load() > 0 })
	time.Sleep(500 * time.Millisecond) // for what the server sends again
	if sent.Load() == 0 || got.Load() == 0 || got.Load() >= 3*sent.Load()+1280 {
		t.Errorf("%d octets were sent to who had sent %d", got.Load(), sent.Load())
	}
	t.Logf("%d octets for %d", got.Load(), sent.Load())
}

// Of several cookies in a question the first counts, and no other (RFC 7873, section
// 5.2).
func TestFirstCookieCounts(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones, Options{portable: portable, Cookies: cookies(t, strings.Repeat("ab", 16))})
		ask := func(first, then string) *dns.Msg {
			q := withCookie("good.example", first)
			q.IsEdns0().Option = append(q.IsEdns0().Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: then})
			return r.ask(t, "udp", q)
		}
		if m := ask("0011223344556677", "ffff"); m.Rcode != dns.RcodeSuccess || !strings.HasPrefix(cookieOf(m), "0011223344556677") || len(m.IsEdns0().Option) != 1 {
			t.Errorf("the second is of no length that there is: %v", m)
		}
		if m := ask("ffff", "0011223344556677"); m.Rcode != dns.RcodeFormatError {
			t.Errorf("the first is of no length that there is: %v", m)
		}
	})
}

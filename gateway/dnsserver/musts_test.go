package dnsserver

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
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

// Every reply has the question that it is to, as the client spells it, whatever became
// of it (RFC 7766, section 7; RFC 4343, section 4), and an OPT record where that had
// one, cut or not (RFC 6891, section 7).
func TestRepliesHaveTheirQuestion(t *testing.T) {
	onEngines(t, func(t *testing.T, portable bool) {
		r := start(t, zones+hugeZone(), Options{portable: portable})
		for _, tc := range []struct {
			name  string
			qtype uint16
			rcode int
			cut   bool // over UDP
		}{
			{"WeChat.com", dns.TypeA, dns.RcodeNameError, false},
			{"cloaK.Example", dns.TypeA, dns.RcodeNameError, false},
			{"m-nodatA.example", dns.TypeTXT, dns.RcodeSuccess, false},
			{"M-refused.example", dns.TypeA, dns.RcodeRefused, false},
			{"gooD.eXample", dns.TypeA, dns.RcodeSuccess, false},
			{"gOOd.example", dns.TypeA, dns.RcodeSuccess, false}, // from the cache
			{"nX.eXample", dns.TypeA, dns.RcodeNameError, false},
			{"noData.eXample", dns.TypeA, dns.RcodeSuccess, false},
			{"serVfail.eXample", dns.TypeA, dns.RcodeServerFailure, false},
			{"hugE.eXample", dns.TypeTXT, dns.RcodeSuccess, true},
			{"gOod.example", dns.TypeANY, dns.RcodeSuccess, false},
			{"gOod.example", dns.TypeAXFR, dns.RcodeRefused, false},
		} {
			for _, network := range transports {
				for _, withOPT := range []bool{true, false} {
					q := query(tc.name, tc.qtype)
					if withOPT {
						q = edns(q, 1232)
					}
					m := r.ask(t, network, q)
					if m.Rcode != tc.rcode || m.Truncated != (tc.cut && network == "udp") {
						t.Errorf("%s %s over %s: %v", tc.name, dns.Type(tc.qtype), network, m.MsgHdr)
					}
					if len(m.Question) != 1 || m.Question[0] != q.Question[0] || (m.IsEdns0() != nil) != withOPT {
						t.Errorf("%s over %s: question %v and OPT %v, want %v", tc.name, network, m.Question, m.IsEdns0(), q.Question)
					}
					if m.Authoritative {
						t.Errorf("%s over %s: AA for what is another's (RFC 1035, section 4.1.1)", tc.name, network)
					}
				}
			}
		}
	})
}

// The life that HTTP sees ends with what the reply says, and that may be that there is
// nothing at the end of an alias (RFC 8484, section 5.1; RFC 2308, section 5).
func TestDoHFreshness(t *testing.T) {
	const (
		alias = "a.example. 300 IN CNAME b.example."
		soa   = "example. 200 IN SOA ns.example. h.example. 1 2 3 4 60"
	)
	for _, tc := range []struct {
		rcode  int
		answer []string
		ns     string
		want   uint32
	}{
		{dns.RcodeSuccess, []string{alias, "b.example. 20 IN A 192.0.2.1"}, "", 20},
		{dns.RcodeSuccess, []string{alias}, soa, 60},
		{dns.RcodeNameError, []string{alias}, soa, 60},
		{dns.RcodeNameError, []string{"a.example. 5 IN CNAME b.example."}, soa, 5},
		{dns.RcodeNameError, nil, soa, 60},
		{dns.RcodeNameError, []string{alias}, "", 0},
		{dns.RcodeNameError, nil, "", 0},
		{dns.RcodeSuccess, nil, "", 0},
		{dns.RcodeServerFailure, nil, soa, 0},
	} {
		m := new(dns.Msg).SetRcode(query("a.example", dns.TypeA), tc.rcode)
		for _, s := range append(tc.answer, tc.ns) {
			if s == "" {
				continue
			}
			rr, err := dns.NewRR(s)
			if err != nil {
				t.Fatal(err)
			}
			if s == tc.ns {
				m.Ns = append(m.Ns, rr)
			} else {
				m.Answer = append(m.Answer, rr)
			}
		}
		if got := freshness(pack(t, m)); got != tc.want {
			t.Errorf("%s, %q, %q: %d seconds, want %d", dns.RcodeToString[tc.rcode], tc.answer, tc.ns, got, tc.want)
		}
	}
}

// A client that offers other protocols only, such as a draft's, is refused with
// no_application_protocol (RFC 9001, section 8.1; RFC 9250, section 4.1).
func TestDoQOtherProtocol(t *testing.T) {
	r, ca := startAll(t, zones, Options{})
	for _, protocol := range []string{"doq-i02", "h3", "dot"} {
		ctx, cancel := context.WithTimeout(t.Context(), secs(30))
		c, err := quic.DialAddr(ctx, r.DoQAddrs()[0].String(), ca.client(protocol), nil)
		cancel()
		if e, ok := errors.AsType[*quic.TransportError](err); !ok || e.ErrorCode != 0x178 {
			t.Errorf("%s: %v, %v, want no_application_protocol", protocol, c, err)
		}
	}
}

// A request of HTTP/1.1 says once which host it is for (RFC 9112, section 3.2), and
// the reply to HEAD has no content (RFC 9110, section 9.3.2).
func TestDoHFirstVersion(t *testing.T) {
	r, ca := startAll(t, zones, Options{})
	get := dohPath + "?dns=" + base64.RawURLEncoding.EncodeToString(pack(t, query("wechat.com", dns.TypeA)))
	for _, tc := range []struct {
		request string
		want    string
		content bool
	}{
		{"GET " + get + " HTTP/1.1\r\n", "HTTP/1.1 400 ", true},
		{"GET " + get + " HTTP/1.1\r\nHost: a\r\nHost: b\r\n", "HTTP/1.1 400 ", true},
		{"GET " + get + " HTTP/1.1\r\nHost: a\r\n", "HTTP/1.1 200 ", true},
		{"HEAD " + get + " HTTP/1.1\r\nHost: a\r\n", "HTTP/1.1 200 ", false},
	} {
		c, err := tls.Dial("tcp", r.DoHAddrs()[0].String(), ca.client("http/1.1"))
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(secs(30)))
		_, _ = io.WriteString(c, tc.request+"Connection: close\r\n\r\n")
		b, _ := io.ReadAll(c)
		_ = c.Close()
		_, content, _ := bytes.Cut(b, []byte("\r\n\r\n"))
		if !bytes.HasPrefix(b, []byte(tc.want)) || len(content) > 0 != tc.content {
			t.Errorf("%q: %q, want %s and content %v", tc.request, b, tc.want, tc.content)
		}
	}
}

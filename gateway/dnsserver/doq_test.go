package dnsserver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// patientQUIC gives up late.
func patientQUIC() *quic.Config {
	return &quic.Config{HandshakeIdleTimeout: time.Minute, MaxIdleTimeout: time.Minute}
}

// dialDoQ opens a connection. A first packet that comes twice and late begins a
// handshake that nobody goes on with, and takes a place for as long: who is refused
// for that tries again.
func dialDoQ(tb testing.TB, r *rig, ca *testCA) (c *quic.Conn) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		var err error
		if c, err = quic.DialAddr(ctx, r.DoQAddrs()[0].String(), ca.client("doq"), patientQUIC()); err == nil {
			break
		}
		if e, ok := errors.AsType[*quic.TransportError](err); !ok || e.ErrorCode != quic.ConnectionRefused || ctx.Err() != nil {
			tb.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	tb.Cleanup(func() { _ = c.CloseWithError(0, "") })
	return c
}

// sendDoQ writes the bytes to a stream of their own and ends it.
func sendDoQ(tb testing.TB, c *quic.Conn, p []byte) *quic.Stream {
	tb.Helper()
	s, err := c.OpenStream()
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := s.Write(p); err != nil {
		tb.Fatal(err)
	}
	_ = s.Close()
	_ = s.SetReadDeadline(time.Now().Add(secs(60)))
	return s
}

func doqQuery(tb testing.TB, name string, qtype uint16) []byte {
	tb.Helper()
	q := edns(query(name, qtype), 1232)
	q.Id = 0
	return frame(pack(tb, q))
}

// readDoQ reads the one reply of a stream and its end.
func readDoQ(s *quic.Stream) (*dns.Msg, error) {
	p, err := io.ReadAll(s)
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	if len(p) < 2 || int(binary.BigEndian.Uint16(p)) != len(p)-2 {
		return nil, errors.New("no frame")
	}
	return m, m.Unpack(p[2:])
}

func TestDoQ(t *testing.T) {
	r, ca := startAll(t, zones, Options{})
	c := dialDoQ(t, r, ca)
	slow := sendDoQ(t, c, doqQuery(t, "a.slow.example", dns.TypeA))
	for name, want := range map[string]int{"wechat.com": dns.RcodeNameError, "good.example": 0, "cloak.example": dns.RcodeNameError} {
		m, err := readDoQ(sendDoQ(t, c, doqQuery(t, name, dns.TypeA)))
		if err != nil || m.Rcode != want || m.Id != 0 || want != 0 && edeOf(m) == nil {
			t.Errorf("%s: %v, %v", name, m, err)
		}
	}
	close(r.up.gate)
	if m, err := readDoQ(slow); err != nil || m.Rcode != 0 {
		t.Errorf("the slow question: %v, %v", m, err)
	}
	// Dropped: the stream ends without an answer, and the connection stays.
	_, err := readDoQ(sendDoQ(t, c, doqQuery(t, "m-drop.example", dns.TypeA)))
	if e, ok := errors.AsType[*quic.StreamError](err); !ok || e.ErrorCode != doqUnspecifiedError {
		t.Errorf("a dropped question: %v", err)
	}
	// Not cut, as over UDP: the client's size is for datagrams.
	if m, err := readDoQ(sendDoQ(t, c, doqQuery(t, "good.example", dns.TypeTXT))); err != nil || m.Truncated {
		t.Errorf("%v, %v", m, err)
	}
	for _, rec := range r.audit.take() {
		if rec.Transport != "doq" {
			t.Errorf("transport %q", rec.Transport)
		}
	}
	if st := r.Stats(); st.DoQ != 6 {
		t.Errorf("stats %+v", st)
	}
	eventually(t, "one connection is left", func() bool { return r.Stats().ConnsDoQ == 1 })
}

// RFC 9250, section 4.3.3: what ends the connection, and with which code.
func TestDoQProtocolErrors(t *testing.T) {
	r, ca := startAll(t, "", Options{})
	id := query("wechat.com", dns.TypeA)
	id.Id = 1
	reply := query("wechat.com", dns.TypeA)
	reply.Id, reply.Response = 0, true
	keepalive := edns(query("wechat.com", dns.TypeA), 1232)
	keepalive.Id = 0
	keepalive.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}}
	good := doqQuery(t, "wechat.com", dns.TypeA)
	for label, p := range map[string][]byte{
		"an id":          frame(pack(t, id)),
		"a reply":        frame(pack(t, reply)),
		"keepalive":      frame(pack(t, keepalive)),
		"two questions":  append(append([]byte{}, good...), good...),
		"cut":            good[:len(good)-1],
		"nothing":        {},
		"no length":      {0, 0},
		"half a length":  {0},
		"short":          {0, 3, 0, 0, 1},
		"longer than 64": append([]byte{0xff, 0xff}, make([]byte, 70000)...),
	} {
		c := dialDoQ(t, r, ca)
		_, err := readDoQ(sendDoQ(t, c, p))
		if e, ok := errors.AsType[*quic.ApplicationError](err); !ok || e.ErrorCode != doqProtocolError || !e.Remote {
			t.Errorf("%s: %v, want DOQ_PROTOCOL_ERROR", label, err)
		}
	}
	c := dialDoQ(t, r, ca)
	if s, err := c.OpenUniStream(); err == nil {
		t.Errorf("a unidirectional stream %v", s)
	}
	// A header that cannot be a question of ours is answered as everywhere.
	update := query("wechat.com", dns.TypeSOA)
	update.Id, update.Opcode = 0, dns.OpcodeUpdate
	if m, err := readDoQ(sendDoQ(t, c, frame(pack(t, update)))); err != nil || m.Rcode != dns.RcodeNotImplemented {
		t.Errorf("UPDATE: %v, %v", m, err)
	}
	if got := r.Stats().Dropped["quic_protocol"]; got != 10 {
		t.Errorf("%d protocol errors counted, want 10", got)
	}
}

// A stream that never ends its message, and one that is given up.
func TestDoQSlowStream(t *testing.T) {
	r, ca := startAll(t, "", Options{ReadTimeout: 300 * time.Millisecond})
	c := dialDoQ(t, r, ca)
	s, err := c.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(doqQuery(t, "wechat.com", dns.TypeA)); err != nil { // and no FIN
		t.Fatal(err)
	}
	_ = s.SetReadDeadline(time.Now().Add(secs(30)))
	if _, err := readDoQ(s); err == nil || !strings.Contains(err.Error(), "canceled by remote") {
		t.Errorf("a stream without end: %v", err)
	}
	if got := r.Stats().Dropped["quic_slow"]; got != 1 {
		t.Errorf("%d slow streams counted, want 1", got)
	}
	r, ca = startAll(t, "", Options{}) // where the next one has all the time
	c = dialDoQ(t, r, ca)
	given := sendDoQ(t, c, doqQuery(t, "a.slow.example", dns.TypeA))
	eventually(t, "the question waits", func() bool { return r.Stats().Inflight == 1 })
	given.CancelRead(doqRequestCancelled)
	close(r.up.gate)
	if m, err := readDoQ(sendDoQ(t, c, doqQuery(t, "wechat.com", dns.TypeA))); err != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("the connection after it: %v, %v", m, err)
	}
}

func TestDoQLimits(t *testing.T) {
	r, ca := startAll(t, "", Options{MaxTCPPerClient: 2, MaxPipeline: 4, Timeout: secs(20)})
	before := runtime.NumGoroutine()
	one, two := dialDoQ(t, r, ca), dialDoQ(t, r, ca)
	eventually(t, "both are there, and nobody else", func() bool { return r.Stats().ConnsDoQ == 2 })
	ctx, cancel := context.WithTimeout(context.Background(), secs(60))
	defer cancel()
	if c, err := quic.DialAddr(ctx, r.DoQAddrs()[0].String(), ca.client("doq"), patientQUIC()); err == nil {
		t.Errorf("a third connection of one client: %v", c.RemoteAddr())
	}
	if st := r.Stats(); st.Dropped["quic_client_limit"] == 0 || st.ConnsDoQ != 2 {
		t.Errorf("stats %+v", st)
	}
	for range 4 {
		sendDoQ(t, one, doqQuery(t, "a.slow.example", dns.TypeA))
	}
	if _, err := one.OpenStream(); err == nil {
		t.Error("a fifth stream")
	}
	if m, err := readDoQ(sendDoQ(t, two, doqQuery(t, "wechat.com", dns.TypeA))); err != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("another connection: %v, %v", m, err)
	}
	close(r.up.gate)
	_ = one.CloseWithError(0, "")
	_ = two.CloseWithError(0, "")
	eventually(t, "both are gone", func() bool { return r.Stats().ConnsDoQ == 0 })
	dialDoQ(t, r, ca)
	eventually(t, "goroutines are back to their number", func() bool { return runtime.NumGoroutine() <= before+20 })
}

// Under load a client must prove its address, which costs it a round trip and
// nothing else.
func TestDoQRetry(t *testing.T) {
	r, ca := startAll(t, "", Options{MaxConns: 2, MaxTCPPerClient: 4})
	l := r.quic[len(r.quic)-1]
	for i, want := range []bool{false, false, true} {
		if i > 0 {
			dialDoQ(t, r, ca)
		}
		eventually(t, "the connections are there", func() bool { return r.Stats().ConnsDoQ == int64(i) })
		if got := l.doubtful(l.conn.LocalAddr()); got != want {
			t.Errorf("%d of 2 connections: address validation %v, want %v", i, got, want)
		}
	}
	var flood rate
	now := time.Unix(1000, 0)
	for range 5 * calmHandshakes {
		flood.more(now)
	}
	if n := flood.more(now); n != 5*calmHandshakes+1 {
		t.Errorf("%d in a second", n)
	}
	if n := flood.more(now.Add(time.Second)); n != 1 {
		t.Errorf("%d in the next second, want 1", n)
	}
	// A retry and the handshake after it, with a real client.
	l.handshakes.n.Store(10 * calmHandshakes)
	l.handshakes.second.Store(time.Now().Unix())
	r.places[doq].mu.Lock()
	r.places[doq].max = 100
	r.places[doq].mu.Unlock()
	c := dialDoQ(t, r, ca)
	if m, err := readDoQ(sendDoQ(t, c, doqQuery(t, "wechat.com", dns.TypeA))); err != nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("after a retry: %v, %v", m, err)
	}
}

func TestKdigDoQ(t *testing.T) {
	r, ca := startAll(t, zones, Options{})
	port := portOf(t, r.DoQAddrs()[0].String())
	args := "+edns +tls-ca=" + ca.file + " +tls-hostname=" + resolverName + " +quic "
	seesOurAnswers(t, "doq", kdig(t, port, args+"wechat.com"), kdig(t, port, args+"good.example"))
}

func TestDoQPadding(t *testing.T) {
	r, ca := startAll(t, zones, Options{})
	c := dialDoQ(t, r, ca)
	for i, name := range []string{"wechat.com", "good.example", "wechat.com"} {
		q := edns(query(name, dns.TypeA), 1232)
		q.Id = 0
		if i < 2 {
			q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 80)}}
		}
		p, err := io.ReadAll(sendDoQ(t, c, frame(pack(t, q))))
		if err != nil || (len(p)-2)%padBlock != 0 {
			t.Errorf("%s: %d octets, %v", name, len(p)-2, err)
		}
	}
}

// A client that comes back resumes its session, and cannot send early.
func TestDoQNoEarlyData(t *testing.T) {
	r, ca := startAll(t, "", Options{})
	cfg, tickets := ca.client("doq"), make(ticketCache, 8)
	cfg.ClientSessionCache = tickets
	for i := range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), secs(60))
		c, err := quic.DialAddrEarly(ctx, r.DoQAddrs()[0].String(), cfg, patientQUIC())
		if err != nil {
			t.Fatal(err)
		}
		if m, err := readDoQ(sendDoQ(t, c, doqQuery(t, "wechat.com", dns.TypeA))); err != nil || m.Rcode != dns.RcodeNameError {
			t.Errorf("%v, %v", m, err)
		}
		<-c.HandshakeComplete()
		if st := c.ConnectionState(); st.Used0RTT || st.TLS.DidResume != (i == 1) {
			t.Errorf("connection %d: early data %v, resumed %v", i, st.Used0RTT, st.TLS.DidResume)
		}
		eventually(t, "a ticket has come", func() bool { return len(tickets) > 0 })
		_ = c.CloseWithError(0, "")
		cancel()
	}
}

// A ticketCache gives each session out once.
type ticketCache chan *tls.ClientSessionState

func (c ticketCache) Get(string) (*tls.ClientSessionState, bool) {
	select {
	case s := <-c:
		return s, s != nil
	default:
		return nil, false
	}
}

func (c ticketCache) Put(_ string, s *tls.ClientSessionState) {
	select {
	case c <- s:
	default:
	}
}

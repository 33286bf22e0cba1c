package dnsserver

import (
	"crypto/tls"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
)

// kdig asks a server on loopback.
func kdig(t *testing.T, port, args string) string {
	t.Helper()
	all := append([]string{"@127.0.0.1", "-p", port, "+retry=0", "+timeout=60"}, strings.Fields(args)...)
	out, err := exec.Command(corpus.Tool(t, "kdig"), all...).CombinedOutput()
	if err != nil {
		t.Errorf("kdig %s: %v", args, err)
	}
	return string(out)
}

func portOf(t *testing.T, addr string) string {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// seesOurAnswers checks what a client prints about a blocked and an allowed name.
func seesOurAnswers(t *testing.T, transport, blocked, allowed string) {
	t.Helper()
	for _, want := range []string{"status: NXDOMAIN", "EDE: 15 (Blocked)"} {
		if !strings.Contains(blocked, want) {
			t.Errorf("%s: no %q in\n%s", transport, want, blocked)
		}
	}
	for _, want := range []string{"status: NOERROR", "192.0.2.10"} {
		if !strings.Contains(allowed, want) {
			t.Errorf("%s: no %q in\n%s", transport, want, allowed)
		}
	}
}

func TestKdigDoT(t *testing.T) {
	r, ca := startDoT(t, zones, Options{})
	port := portOf(t, r.DoTAddrs()[0].String())
	args := "+edns +tls-ca=" + ca.file + " +tls-hostname=" + resolverName + " "
	blocked := kdig(t, port, args+"wechat.com")
	seesOurAnswers(t, "dot", blocked, kdig(t, port, args+"good.example"))
	if !strings.Contains(blocked, "PADDING") && !strings.Contains(blocked, "Padding") {
		t.Errorf("kdig pads its questions, and the answer is not padded:\n%s", blocked)
	}
	if out := kdig(t, port, args+"+keepopen wechat.com tiktok.com"); strings.Count(out, "status: NXDOMAIN") != 2 {
		t.Errorf("two questions over one connection:\n%s", out)
	}
	for _, rec := range r.audit.take() {
		if rec.Transport != "dot" {
			t.Errorf("record %+v, want transport dot", rec)
		}
	}
	if st := r.Stats(); st.DoT < 4 || st.TCP != 0 {
		t.Errorf("stats %+v, want 4 messages over DoT", st)
	}
}

// Go's own client, which sends no ALPN, as RFC 7858 clients may.
func TestDoTClient(t *testing.T) {
	r, ca := startDoT(t, zones, Options{})
	c := dns.Client{Net: "tcp-tls", TLSConfig: ca.client(), Timeout: secs(30)}
	m, _, err := c.Exchange(edns(query("wechat.com", dns.TypeA), 1232), r.DoTAddrs()[0].String())
	if err != nil || m.Rcode != dns.RcodeNameError || edeOf(m) == nil {
		t.Errorf("%v, %v; want NXDOMAIN with EDE", m, err)
	}
}

// Out-of-order answers, as over TCP.
func TestDoTPipelining(t *testing.T) {
	r, ca := startDoT(t, zones, Options{})
	c := dialTLS(t, r.DoTAddrs()[0].String(), ca.client("dot"))
	if got := c.ConnectionState().NegotiatedProtocol; got != "dot" {
		t.Errorf("protocol %q, want dot", got)
	}
	var all []byte
	for i, n := range []string{"a.slow.example", "wechat.com"} {
		q := query(n, dns.TypeA)
		q.Id = uint16(i)
		all = append(all, frame(pack(t, q))...)
	}
	if _, err := c.Write(all); err != nil {
		t.Fatal(err)
	}
	if m := readFrame(t, c, secs(30)); m == nil || m.Id != 1 {
		t.Errorf("first answer %v, want that of the second question", m)
	}
	close(r.up.gate)
	if m := readFrame(t, c, secs(30)); m == nil || m.Id != 0 {
		t.Errorf("second answer %v, want that of the first question", m)
	}
}

// Replies are padded where the question was, to a multiple of 468 octets, and
// never in the clear.
func TestPadding(t *testing.T) {
	r, ca := startDoT(t, zones+hugeZone(), Options{})
	padded := func(name string, qtype uint16) *dns.Msg {
		m := edns(query(name, qtype), 1232)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, 20)}}
		return m
	}
	c := dialTLS(t, r.DoTAddrs()[0].String(), ca.client("dot"))
	size := func(c net.Conn, m *dns.Msg) int {
		t.Helper()
		if _, err := c.Write(frame(pack(t, m))); err != nil {
			t.Fatal(err)
		}
		reply := readRaw(t, c)
		var got dns.Msg
		if err := got.Unpack(reply); err != nil {
			t.Fatalf("%s: %v", m.Question[0].Name, err)
		}
		return len(reply)
	}
	for _, q := range []*dns.Msg{padded("wechat.com", dns.TypeA), padded("good.example", dns.TypeA), padded("cloak.example", dns.TypeA),
		padded("servfail.example", dns.TypeA), padded("good.example", dns.TypeANY), padded("huge.example", dns.TypeTXT)} {
		if n := size(c, q); n%padBlock != 0 {
			t.Errorf("%s: a reply of %d octets, want a multiple of %d", q.Question[0].String(), n, padBlock)
		}
		plain := query(q.Question[0].Name, q.Question[0].Qtype)
		if n := size(c, edns(plain, 1232)); n%padBlock == 0 {
			t.Errorf("%s: padded, and the question was not", q.Question[0].String())
		}
		if n := size(r.dial(t, "tcp"), q); n%padBlock == 0 {
			t.Errorf("%s: padded in the clear", q.Question[0].String())
		}
	}
}

func readRaw(t *testing.T, c net.Conn) []byte {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(secs(30)))
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, int(head[0])<<8|int(head[1]))
	if _, err := io.ReadFull(c, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// RFC 7828: a client that asks is told how long its connection may idle.
func TestKeepalive(t *testing.T) {
	r, ca := startDoT(t, zones, Options{Idle: secs(7), IdleEncrypted: secs(21)})
	q := edns(query("good.example", dns.TypeA), 1232)
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE}}
	for c, want := range map[net.Conn]uint16{
		r.dial(t, "tcp"): 70,
		dialTLS(t, r.DoTAddrs()[0].String(), ca.client("dot")): 210,
	} {
		if _, err := c.Write(frame(pack(t, q))); err != nil {
			t.Fatal(err)
		}
		m := readFrame(t, c, secs(30))
		if m == nil || m.IsEdns0() == nil || len(m.IsEdns0().Option) != 1 {
			t.Fatalf("got %v, want an option", m)
		}
		if o, ok := m.IsEdns0().Option[0].(*dns.EDNS0_TCP_KEEPALIVE); !ok || o.Timeout != want {
			t.Errorf("option %v, want a keepalive of %d", m.IsEdns0().Option[0], want)
		}
	}
	if m := r.ask(t, "udp", q); len(m.IsEdns0().Option) != 0 {
		t.Errorf("over UDP: %v", m.IsEdns0().Option)
	}
}

// What is no TLS, or another protocol, costs nothing for long and is counted.
func TestDoTHandshakes(t *testing.T) {
	r, ca := startDoT(t, "", Options{HandshakeTimeout: 300 * time.Millisecond})
	addr := r.DoTAddrs()[0].String()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	silent, plain := dial(), dial()
	if _, err := plain.Write(frame(pack(t, query("wechat.com", dns.TypeA)))); err != nil {
		t.Fatal(err)
	}
	if !closedWithin(plain, secs(30)) || !closedWithin(silent, secs(30)) {
		t.Error("what speaks no TLS keeps its connection")
	}
	if _, err := tls.Dial("tcp", addr, ca.client("h2")); err == nil {
		t.Error("a handshake for HTTP/2 succeeds")
	}
	old := ca.client("dot")
	old.MaxVersion = tls.VersionTLS11
	if _, err := tls.Dial("tcp", addr, old); err == nil {
		t.Error("a handshake with TLS 1.1 succeeds")
	}
	eventually(t, "four failed handshakes are counted", func() bool {
		st := r.Stats()
		return st.Dropped["tls_handshake"] == 4 && st.ConnsDoT == 0
	})
}

// The places of DoT are not those of TCP.
func TestDoTLimits(t *testing.T) {
	r, ca := startDoT(t, "", Options{MaxTCP: 1, MaxConns: 3, MaxTCPPerClient: 2})
	tcp := r.dial(t, "tcp")
	for range 2 {
		dialTLS(t, r.DoTAddrs()[0].String(), ca.client("dot"))
	}
	if _, err := tls.Dial("tcp", r.DoTAddrs()[0].String(), ca.client("dot")); err == nil {
		t.Error("a third connection of one client")
	}
	if _, err := tcp.Write(frame(pack(t, query("wechat.com", dns.TypeA)))); err != nil || readFrame(t, tcp, secs(30)) == nil {
		t.Error("connections over DoT take the place of one over TCP")
	}
	if st := r.Stats(); st.ConnsDoT != 2 || st.Conns != 1 || st.Dropped["tcp_client_limit"] != 1 {
		t.Errorf("stats %+v", st)
	}
}

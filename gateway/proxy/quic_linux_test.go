package proxy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/hello"
	"github.com/weir-gateway/weir/gateway/policy"
)

const quicPort = 3130

// quicSite is where the servers of serveQUIC are in these tests.
const quicSite = "198.51.100.80"

// newQUICWorld is newWorld with servers and a gateway that inspects QUIC.
func newQUICWorld(t *testing.T) (*world, *harness) {
	t.Helper()
	w := newWorld(t)
	if w == nil {
		return nil, nil
	}
	serveQUIC(w)
	return w, w.startQUIC(nil)
}

// startQUIC runs a gateway that QUIC is brought to.
func (w *world) startQUIC(edit func(*Options)) *harness {
	w.tb.Helper()
	h := w.start(func(o *Options) {
		o.QUIC = []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), quicPort), netip.AddrPortFrom(netip.IPv6Unspecified(), quicPort)}
		if edit != nil {
			edit(o)
		}
	})
	h.store.Swap(snapshotHello(w.tb, 1, policy.HelloPolicy{}, banned...))
	w.divert("tproxy")
	w.run(`table inet quic {
		chain prerouting {
			type filter hook prerouting priority mangle; policy accept;
			iifname "g0" meta nfproto ipv4 udp dport 443 tproxy ip to :3130 meta mark set 1 accept
			iifname "g0" meta nfproto ipv6 udp dport 443 tproxy ip6 to :3130 meta mark set 1 accept
		}
	}
`, "nft", "-f", "-")
	h.names.set("site.example", quicSite, "2001:db8:80::80")
	h.names.set("other.example", quicSite, "2001:db8:80::80")
	return h
}

// serveQUIC has QUIC servers everywhere on the Internet that say on each stream
// which address they were reached at, and then repeat what they hear. It is no
// method of world, whose goroutines must have ended before these.
func serveQUIC(w *world) {
	w.tb.Helper()
	cfg := serverConfig().Clone()
	cfg.NextProtos = []string{"echo"}
	w.in(w.internet, func() { // a server of IPv6 names the address that it answers from
		if err := os.WriteFile("/proc/sys/net/ipv6/ip_nonlocal_bind", []byte("1"), 0); err != nil {
			w.tb.Fatal(err)
		}
	})
	for _, network := range []string{"udp4", "udp6"} {
		var pc net.PacketConn
		w.in(w.internet, func() {
			var err error
			if pc, err = net.ListenPacket(network, ":443"); err != nil {
				w.tb.Fatal(err)
			}
		})
		tr := &quic.Transport{Conn: pc}
		l, err := tr.Listen(cfg, patientQUIC(quic.Version1, quic.Version2))
		if err != nil {
			w.tb.Fatal(err)
		}
		w.tb.Cleanup(func() { _ = tr.Close(); _ = pc.Close() })
		go acceptQUIC(l)
	}
}

func acceptQUIC(l *quic.Listener) {
	for {
		c, err := l.Accept(context.Background())
		if err != nil {
			return
		}
		go echoQUIC(c)
	}
}

func echoQUIC(c *quic.Conn) {
	for {
		s, err := c.AcceptStream(context.Background())
		if err != nil {
			return
		}
		go func() {
			_, _ = fmt.Fprintf(s, "%s\n", c.LocalAddr())
			_, _ = io.Copy(s, s)
			_ = s.Close()
		}()
	}
}

// quicSocket is a socket of the device.
func (w *world) quicSocket() *quic.Transport {
	w.tb.Helper()
	var pc *net.UDPConn
	w.in(w.device, func() {
		var err error
		if pc, err = net.ListenUDP("udp", nil); err != nil {
			w.tb.Fatal(err)
		}
	})
	tr := &quic.Transport{Conn: pc}
	w.tb.Cleanup(func() { _ = tr.Close(); _ = pc.Close() })
	return tr
}

// patientQUIC gives up late. Under load datagrams are sent twice and more.
func patientQUIC(v ...quic.Version) *quic.Config {
	return &quic.Config{Versions: v, HandshakeIdleTimeout: patience, MaxIdleTimeout: patience}
}

// dialQUIC connects from the device.
func dialQUIC(tr *quic.Transport, addr, name string, v quic.Version, protocols ...string) (*quic.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return tr.Dial(ctx, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 443)),
		&tls.Config{ServerName: name, NextProtos: append([]string{"echo"}, protocols...), InsecureSkipVerify: true},
		patientQUIC(v))
}

// ask sends bytes on a new stream and returns where the server is, and whether
// it repeated them.
func ask(c *quic.Conn, send []byte) (at string, same bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := c.OpenStreamSync(ctx)
	if err != nil {
		return "", false, err
	}
	_ = s.SetDeadline(time.Now().Add(patience))
	go func() { _, _ = s.Write(send); _ = s.Close() }()
	b, err := io.ReadAll(s)
	at, body, _ := strings.Cut(string(b), "\n")
	return at, sha256.Sum256([]byte(body)) == sha256.Sum256(send), err
}

// wasRefused reports whether the other side refused the connection.
func wasRefused(err error) bool {
	var e *quic.TransportError
	return errors.As(err, &e) && e.Remote && e.ErrorCode == quic.ConnectionRefused
}

func TestQUIC(t *testing.T) {
	w, h := newQUICWorld(t)
	if w == nil {
		return
	}
	const four, six = quicSite, "2001:db8:80::80"
	long := strings.Fields(strings.Repeat(strings.Repeat("p", 200)+" ", 25))
	for i := range long {
		long[i] = fmt.Sprintf("%s%d", long[i], i)
	}
	for _, c := range []struct {
		addr, name string
		protocols  []string
		at         string // empty: refused
		rule       string
		reason     string
	}{
		{addr: four, name: "site.example", at: four},
		{addr: six, name: "site.example", at: six},
		{addr: four, name: "site.example", protocols: long, at: four}, // in several packets
		{addr: four, name: "www.TikTok.com", rule: "tiktok:1"},
		{addr: six, name: "www.tiktok.com", rule: "tiktok:1"},
		{addr: four, name: "www.tiktok.com", protocols: long, rule: "tiktok:1"},
		{addr: "93.184.216.34", name: "site.example", rule: "tiktok:3"},
		{addr: "203.0.113.9", name: "site.example", at: four}, // where it never was
		{addr: four, name: "", reason: "no server name"},
	} {
		for _, v := range []quic.Version{quic.Version1, quic.Version2} {
			before, began := len(h.audit.all()), time.Now()
			conn, err := dialQUIC(w.quicSocket(), c.addr, c.name, v, c.protocols...)
			took := time.Since(began)
			if c.at == "" {
				if !wasRefused(err) {
					t.Errorf("%s at %s, %v: %v, want a refusal", c.name, c.addr, v, err)
				}
				if took > patience/2 {
					t.Errorf("%s at %s, %v: refused after %v", c.name, c.addr, v, took)
				}
			} else if err != nil {
				t.Errorf("%s at %s, %v: %v", c.name, c.addr, v, err)
				continue
			} else if at, same, err := ask(conn, []byte("hello")); err != nil || !same || !strings.Contains(at, c.at) {
				t.Errorf("%s at %s, %v: at %q, same %v, %v; want %s", c.name, c.addr, v, at, same, err, c.at)
			}
			// Not simply the next record: that may be the end of an earlier connection.
			var all []audit.Record
			eventually(t, fmt.Sprintf("%s at %s, %v: a record of rule %q, reason %q", c.name, c.addr, v, c.rule, c.reason), func() bool {
				all = h.audit.all()[before:]
				return slices.ContainsFunc(all, func(r audit.Record) bool {
					return strings.EqualFold(r.Name, cmp.Or(c.name, c.addr)) && r.Transport == "tproxy" && r.Protocol == "quic" && r.Address.String() == c.addr && r.Port == 443 &&
						r.RuleID == c.rule && (c.reason == "" || r.Reason == c.reason)
				})
			})
			for _, r := range all {
				if blocked := r.Action == policy.Block.String(); r.Name == strings.ToLower(c.name) && r.Address.String() == c.addr && blocked != (c.at == "") {
					t.Errorf("%s at %s, %v: record %+v", c.name, c.addr, v, r)
				}
			}
			if conn != nil {
				_ = conn.CloseWithError(0, "")
			}
		}
	}
}

// TestQUICBulk: what is let through is not changed, and counted.
func TestQUICBulk(t *testing.T) {
	w, h := newQUICWorld(t)
	if w == nil {
		return
	}
	body := make([]byte, 8<<20)
	_, _ = rand.Read(body)
	for _, addr := range []string{"198.51.100.80", "2001:db8:80::80"} {
		tr := w.quicSocket()
		c, err := dialQUIC(tr, addr, "site.example", quic.Version1)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, same, err := ask(c, body); err != nil || !same {
			t.Errorf("%s: same %v, %v", addr, same, err)
		}
		t.Logf("%s: %d bytes there and back in %v", addr, len(body), time.Since(began))
		_ = c.CloseWithError(0, "")
		_ = tr.Close()
		_ = tr.Conn.Close()
	}
	// The socket of the device is gone, and the path ends with it, or by its age.
	for _, p := range h.s.quic.all() {
		p.expire(time.Now().Add(quicIdle + time.Second))
	}
	eventually(t, "the paths are gone", func() bool { return h.s.QUICStats().Paths == 0 && h.s.flows.openTunnels() == 0 })
	ends := 0
	for _, r := range h.audit.all() {
		if r.Event == "close" {
			ends++
			if r.BytesIn < int64(len(body)) || r.BytesOut < int64(len(body)) {
				t.Errorf("record of the end: %d bytes in, %d out", r.BytesIn, r.BytesOut)
			}
		}
	}
	if ends != 2 {
		t.Errorf("%d records of an end, want 2", ends)
	}
}

// TestQUICSameSocket: a path that was let through is no way for a connection
// that would not be, and does not suffer from one.
func TestQUICSameSocket(t *testing.T) {
	w, h := newQUICWorld(t)
	if w == nil {
		return
	}
	tr := w.quicSocket()
	good, err := dialQUIC(tr, quicSite, "site.example", quic.Version1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dialQUIC(tr, quicSite, "www.tiktok.com", quic.Version1); !wasRefused(err) {
		t.Errorf("a banned name from the same socket: %v, want a refusal", err)
	}
	if _, err := dialQUIC(tr, quicSite, "www.tiktok.com", quic.Version2); !wasRefused(err) {
		t.Errorf("a banned name from the same socket, with another version: %v, want a refusal", err)
	}
	more, err := dialQUIC(tr, quicSite, "other.example", quic.Version2)
	if err != nil {
		t.Fatalf("another name from the same socket: %v", err)
	}
	for _, c := range []*quic.Conn{good, more} {
		if _, same, err := ask(c, bytes.Repeat([]byte("x"), 100_000)); err != nil || !same {
			t.Errorf("same %v, %v", same, err)
		}
	}
	if got := h.s.QUICStats(); got.Connections != 4 || got.Refused != 2 || got.Paths != 1 {
		t.Errorf("%+v, want 4 connections, 2 of them refused, on 1 path", got)
	}
}

// TestQUICRecheck: a ban ends what is open, and nothing else.
func TestQUICRecheck(t *testing.T) {
	w, h := newQUICWorld(t)
	if w == nil {
		return
	}
	one, err := dialQUIC(w.quicSocket(), quicSite, "site.example", quic.Version1)
	if err != nil {
		t.Fatal(err)
	}
	two, err := dialQUIC(w.quicSocket(), quicSite, "other.example", quic.Version1)
	if err != nil {
		t.Fatal(err)
	}
	h.store.Swap(snapshotHello(t, 2, policy.HelloPolicy{}, "site.example"))
	h.s.Recheck()
	eventually(t, "a record of the cut", func() bool {
		r, ok := h.audit.find(func(r *audit.Record) bool { return r.Event == "close" })
		return ok && r.Name == "site.example" && r.Result == string(endCut) && r.RuleID == "tiktok:1"
	})
	if _, same, err := ask(two, []byte("still here")); err != nil || !same {
		t.Errorf("the other connection: same %v, %v", same, err)
	}
	s, err := one.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	_ = s.SetDeadline(time.Now().Add(time.Second))
	_, _ = s.Write([]byte("x"))
	if n, err := s.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("%d bytes came after the cut", n)
	}
	if _, err := dialQUIC(w.quicSocket(), quicSite, "site.example", quic.Version1); !wasRefused(err) {
		t.Errorf("a new connection: %v, want a refusal", err)
	}
}

// remembering is a socket that keeps what was sent.
type remembering struct {
	net.PacketConn
	mu   sync.Mutex
	sent [][]byte
}

func (r *remembering) WriteTo(b []byte, to net.Addr) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, bytes.Clone(b))
	return r.PacketConn.WriteTo(b, to)
}

// TestQUICRefusedOnce: a client that sends its beginning again, because it has not
// heard that it is refused, is told so again; it is not another connection.
func TestQUICRefusedOnce(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	h := w.startQUIC(nil)
	socket := w.quicSocket().Conn
	r := &remembering{PacketConn: socket}
	tr := &quic.Transport{Conn: r}
	if _, err := dialQUIC(tr, quicSite, "www.tiktok.com", quic.Version1); !wasRefused(err) {
		t.Fatalf("%v, want a refusal", err)
	}
	_ = tr.Close()
	before := h.s.QUICStats()
	first, buf := r.sent[0], make([]byte, 2048)
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(quicSite), 443))
	// What comes while the socket that told the refusal is not yet closed goes there
	// and is lost: like any client, this one sends again what nobody answers.
	eventually(t, "the refusal again", func() bool {
		if _, err := socket.WriteTo(first, to); err != nil {
			t.Fatal(err)
		}
		_ = socket.SetReadDeadline(time.Now().Add(time.Second))
		n, _, err := socket.ReadFrom(buf)
		initial, _ := hello.Begins(buf[:n])
		return err == nil && initial
	})
	eventually(t, "it is a stray", func() bool { return h.s.QUICStats().Stray > before.Stray })
	if st := h.s.QUICStats(); st.Connections != 1 || st.Refused != 1 || len(h.audit.all()) != 1 {
		t.Errorf("%+v, records %+v; want one connection", st, h.audit.all())
	}
}

// TestQUICNobody: where no server is, the client hears it at once.
func TestQUICNobody(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	w.startQUIC(nil)
	for _, addr := range []string{"198.51.100.80", "2001:db8:80::80"} {
		began := time.Now()
		_, err := dialQUIC(w.quicSocket(), addr, "site.example", quic.Version1)
		if took := time.Since(began); !wasRefused(err) || took > patience/2 {
			t.Errorf("%s: %v after %v", addr, err, took)
		}
	}
}

// TestQUICOthers: what is no beginning of QUIC is no way around, and leaves
// nothing behind.
func TestQUICOthers(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	var got int
	var pc net.PacketConn
	w.in(w.internet, func() {
		var err error
		if pc, err = net.ListenPacket("udp4", ":443"); err != nil {
			t.Fatal(err)
		}
	})
	defer func() { _ = pc.Close() }()
	heard := make(chan int, 100)
	go func() {
		b := make([]byte, 2048)
		for {
			n, _, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			heard <- n
		}
	}()
	h := w.startQUIC(func(o *Options) { o.PeekTimeout = 300 * time.Millisecond })
	send := func(datagrams ...[]byte) {
		t.Helper()
		w.in(w.device, func() {
			c, err := net.Dial("udp", "198.51.100.80:443")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			for _, b := range datagrams {
				if _, err := c.Write(b); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	junk := make([]byte, 1200)
	_, _ = rand.Read(junk)
	copy(junk, "\xc3\x00\x00\x00\x01\x08destconn\x00\x00\x44\x80")
	send([]byte("\x16\xfe\xfdDTLS"), []byte("more"), []byte("more"))
	send([]byte("\x41 short header of a connection from before"))
	send(junk, junk)
	eventually(t, "two are refused", func() bool { return h.s.QUICStats().Refused == 2 })
	st := h.s.QUICStats()
	if st.Stray > 2 || st.Connections != 2 {
		t.Errorf("%+v, want 2 connections, and no more strays", st)
	}
	eventually(t, "both are seen", func() bool { return h.s.QUICStats().Unread == 2 })
	eventually(t, "a record of each", func() bool { return len(h.audit.all()) == 2 })
	for _, r := range h.audit.all() {
		if r.Reason != policy.ReasonNotTLS.String() || r.Action != policy.Block.String() || r.Result != "refused" {
			t.Errorf("record %+v", r)
		}
	}
	eventually(t, "the paths are forgotten", func() bool {
		for _, p := range h.s.quic.all() {
			p.expire(time.Now().Add(quicRefused + time.Second))
		}
		return h.s.QUICStats().Paths == 0
	})
	if len(heard) > 0 {
		t.Errorf("%d datagrams reached the server", len(heard))
	}
	// With a policy that lets it pass, it does, and what is QUIC is still judged.
	h.store.Swap(snapshotHello(t, 2, policy.HelloPolicy{NotTLS: policy.Allow}, banned...))
	send([]byte("\x16\xfe\xfdDTLS"), []byte("more"))
	for range 2 {
		select {
		case <-heard:
			got++
		case <-time.After(patience / 2):
		}
	}
	if got != 2 {
		t.Errorf("%d datagrams came through, want 2", got)
	}
	if _, err := dialQUIC(w.quicSocket(), quicSite, "www.tiktok.com", quic.Version1); !wasRefused(err) {
		t.Errorf("a banned name: %v, want a refusal", err)
	}
}

package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
)

// helloFor returns what a TLS client that wants this server sends first.
func helloFor(tb testing.TB, name string) []byte {
	tb.Helper()
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	go func() {
		_ = tls.Client(far, &tls.Config{ServerName: name, InsecureSkipVerify: name == ""}).Handshake()
		_ = far.Close()
	}()
	head := make([]byte, 5)
	if _, err := io.ReadFull(near, head); err != nil {
		tb.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(near, body); err != nil {
		tb.Fatal(err)
	}
	return append(head, body...)
}

// inRecords cuts a hello of one record into records of that size.
func inRecords(b []byte, size int) []byte {
	var out []byte
	for msg := b[5:]; len(msg) > 0; {
		n := min(size, len(msg))
		out = append(append(out, 22, 3, 1, byte(n>>8), byte(n)), msg[:n]...)
		msg = msg[n:]
	}
	return out
}

// counting is an origin that sends back what it gets, and says how much in all
// it got.
func counting(tb testing.TB) (*origin, chan int) {
	got := make(chan int, 64)
	return rawOrigin(tb, func(c *net.TCPConn, br *bufio.Reader) {
		n, _ := io.Copy(c, br)
		got <- int(n)
	}), got
}

func strict(tb testing.TB) *policy.Snapshot {
	return snapshotHello(tb, 2, policy.HelloPolicy{}, banned...)
}

// TestPeekVerdicts: what a client says first is judged before the origin has a
// byte of it, in whatever pieces it comes.
func TestPeekVerdicts(t *testing.T) {
	o, got := counting(t)
	h := start(t, []uint16{o.port}, nil)
	h.store.Swap(strict(t))
	for _, c := range []struct {
		host, what string
		first      []byte
		reason     string // empty: allowed
		rule, via  string
	}{
		{"ok.example", "its name", helloFor(t, "ok.example"), "", "", ""},
		{"127.0.0.1", "a name for an address", helloFor(t, "ok.example"), "", "", ""},
		{"ok.example", "banned", helloFor(t, "WWW.tiktok.com"), "ban", "tiktok:1", "SNI WWW.tiktok.com"},
		{"127.0.0.1", "banned for an address", helloFor(t, "wechat.com"), "ban", "tiktok:2", "SNI wechat.com"},
		{"ok.example", "another", helloFor(t, "other.example"), "other server name", "", "SNI other.example"},
		{"ok.example", "none", helloFor(t, ""), "no server name", "", ""},
		{"ok.example", "HTTP", []byte("GET / HTTP/1.1\r\nHost: tiktok.com\r\n\r\n"), "not TLS", "", ""},
		{"ok.example", "mmtls", []byte("\x16\xf1\x04\x00\xa1"), "not TLS", "", ""},
		{"ok.example", "broken", []byte("\x16\x03\x01\x00\x04\x02\x00\x00\x00"), "malformed TLS", "", ""},
	} {
		for pieces, send := range map[string]func(*raw){
			"early":    func(*raw) {},
			"at once":  func(r *raw) { _, _ = r.Write(c.first) },
			"by bytes": func(r *raw) { byBytes(r, c.first) },
			"records": func(r *raw) {
				if c.first[0] == 22 && c.first[1] == 3 {
					_, _ = r.Write(inRecords(c.first, 1))
				} else {
					_, _ = r.Write(c.first)
				}
			},
		} {
			t.Run(c.what+" "+pieces, func(t *testing.T) {
				h.tb = t
				before := len(h.audit.all())
				early := ""
				if pieces == "early" {
					early = string(c.first)
				}
				r := h.connect(fmt.Sprintf("%s:%d", c.host, o.port), early)
				send(r)
				_ = r.CloseWrite()
				back, err := io.ReadAll(r.br)
				n := <-got
				if c.reason == "" {
					if err != nil || !bytes.HasSuffix(back, c.first[len(c.first)-1:]) || n != len(back) || n < len(c.first) {
						t.Errorf("allowed: %d bytes to the origin, %d back, %v", n, len(back), err)
					}
					return
				}
				if len(back) > 0 || n > 0 {
					t.Errorf("held back: %d bytes to the origin, %d back, %v", n, len(back), err)
				}
				// The end of an earlier tunnel may come on the record only now.
				var rec audit.Record
				eventually(t, "a record", func() bool {
					for _, r := range h.audit.all()[before:] {
						if r.Event == "" {
							rec = r
							return true
						}
					}
					return false
				})
				if rec.Action != "block" || rec.Reason != c.reason || rec.RuleID != c.rule || rec.Via != c.via ||
					rec.Result != "refused" || rec.Transport != "connect" || rec.Generation != 2 || rec.Name != c.host {
					t.Errorf("record %+v", rec)
				}
				if c.rule != "" && rec.Ban != "tiktok" {
					t.Errorf("no ban in %+v", rec)
				}
			})
		}
	}
	h.tb = t
	eventually(t, "all tunnels have ended", func() bool { return h.s.Stats().Tunnels == 0 })
	for _, s := range h.s.Stats().Hellos {
		if s.Reason == policy.ReasonNoServerName && s.Count != 4 || s.Reason == policy.ReasonBan && s.Count != 8 {
			t.Errorf("counted %v, %v: %d", s.Reason, s.Action, s.Count)
		}
	}
	if st := h.s.Stats(); st.TunnelsOpened != 8 || st.Panics != 0 {
		t.Errorf("stats %+v", st)
	}
}

// byBytes sends each byte in a segment of its own, until the proxy ends it.
func byBytes(r *raw, b []byte) {
	for i := range b {
		if _, err := r.Write(b[i : i+1]); err != nil {
			return
		}
	}
}

// TestPeekIntact: real TLS through the tunnel, whole.
func TestPeekIntact(t *testing.T) {
	page := strings.Repeat("0123456789abcdef", 64<<10)
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, "%d %s", n, page)
	}))
	web.EnableHTTP2 = true
	web.StartTLS()
	t.Cleanup(web.Close)
	port := uint16(web.Listener.Addr().(*net.TCPAddr).Port)
	h := start(t, []uint16{port}, nil)
	h.store.Swap(strict(t))
	for range 5 {
		c := h.connect(fmt.Sprintf("ok.example:%d", port), "")
		client := tls.Client(c.TCPConn, &tls.Config{ServerName: "ok.example", InsecureSkipVerify: true})
		req, _ := http.NewRequest(http.MethodPost, "https://ok.example/", strings.NewReader(page))
		req.Close = true
		if err := req.Write(client); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(client), req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if want := fmt.Sprintf("%d %s", len(page), page); err != nil || string(b) != want {
			t.Errorf("%d bytes, %v; want %d", len(b), err, len(want))
		}
		_ = client.Close()
	}
}

// TestPeekRecheck: a name that is banned later cuts the tunnel that began with
// it, though nothing else of it is banned.
func TestPeekRecheck(t *testing.T) {
	o := rawOrigin(t, echo)
	h := start(t, []uint16{o.port}, nil)
	h.store.Swap(strict(t))
	open := func(name string) *raw {
		first := helloFor(t, name)
		c := h.connect(fmt.Sprintf("127.0.0.1:%d", o.port), string(first))
		if _, err := io.ReadFull(c.br, make([]byte, len(first))); err != nil {
			t.Fatal(err)
		}
		return c
	}
	doomed, other := open("later.example"), open("other.example")
	h.store.Swap(snapshotHello(t, 3, policy.HelloPolicy{}, append(banned, "later.example")...))
	h.s.Recheck()
	if _, err := doomed.br.ReadByte(); err == nil {
		t.Error("the tunnel outlives the ban")
	}
	other.send("x")
	if b, err := other.br.ReadByte(); err != nil || b != 'x' {
		t.Errorf("the other tunnel: %q, %v", b, err)
	}
	eventually(t, "a record of the cut", func() bool {
		recs := h.audit.all()
		last := recs[len(recs)-1]
		return last.Result == "cut" && last.Via == "SNI later.example" && last.RuleID == "tiktok:6" && last.Generation == 3
	})
}

// TestPeekTimeout: who says nothing, or never ends, has so long.
func TestPeekTimeout(t *testing.T) {
	o, got := counting(t)
	h := start(t, []uint16{o.port}, func(o *Options) { o.HeaderTimeout = time.Second })
	h.store.Swap(strict(t))
	for _, first := range []string{"", string(helloFor(t, "ok.example")[:100])} {
		c, resp, _ := h.ask(http.MethodConnect, fmt.Sprintf("CONNECT ok.example:%d HTTP/1.1\r\n\r\n%s", o.port, first))
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
		if b, err := io.ReadAll(c.br); len(b) > 0 || errors.Is(err, io.EOF) {
			t.Errorf("%q, %v", b, err)
		}
		if n := <-got; n > 0 {
			t.Errorf("%d bytes to the origin", n)
		}
	}
	eventually(t, "two records", func() bool { return len(h.audit.all()) == 2 })
	for _, rec := range h.audit.all() {
		if rec.Reason != "no hello in time" || rec.Action != "block" {
			t.Errorf("record %+v", rec)
		}
	}
}

// TestPeekOriginFirst: an origin that speaks while the client does not is heard
// where silence may pass, and not where it may not.
func TestPeekOriginFirst(t *testing.T) {
	o := rawOrigin(t, func(c *net.TCPConn, br *bufio.Reader) {
		_, _ = io.WriteString(c, "220 ready\r\n")
		_, _ = io.Copy(c, br)
	})
	h := start(t, []uint16{o.port}, nil)
	began := time.Now()
	c := h.connect(fmt.Sprintf("ok.example:%d", o.port), "")
	if line, err := c.br.ReadString('\n'); err != nil || line != "220 ready\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c.send("EHLO")
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c.br); err != nil || string(b) != "EHLO" {
		t.Errorf("%q, %v", b, err)
	}
	h.store.Swap(strict(t))
	c = h.connect(fmt.Sprintf("ok.example:%d", o.port), "")
	if b, err := io.ReadAll(c.br); len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	if took := time.Since(began); took > patience/2 { // it is not the time for a head that ended the waiting
		t.Errorf("took %v", took)
	}
}

// TestPeekAfterPlainRequest: CONNECT on a connection that net/http has.
func TestPeekAfterPlainRequest(t *testing.T) {
	web := httpOrigin(t, func(http.ResponseWriter, *http.Request) {})
	o, got := counting(t)
	h := start(t, []uint16{web.port, o.port}, nil)
	h.store.Swap(strict(t))
	for _, name := range []string{"tiktok.com", "ok.example"} {
		c := h.dial()
		c.send(fmt.Sprintf("GET http://ok.example:%d/ HTTP/1.1\r\nHost: ok.example:%d\r\n\r\n", web.port, web.port))
		c.response("GET")
		first := helloFor(t, name)
		c.send(fmt.Sprintf("CONNECT ok.example:%d HTTP/1.1\r\n\r\n", o.port))
		if resp, _ := c.response("CONNECT"); resp.StatusCode != 200 {
			t.Fatalf("CONNECT: %s", resp.Status)
		}
		_, _ = c.Write(first)
		_ = c.CloseWrite()
		b, _ := io.ReadAll(c.br)
		if n := <-got; name == "ok.example" && !bytes.Equal(b, first) || name != "ok.example" && (n > 0 || len(b) > 0) {
			t.Errorf("%s: %d bytes to the origin, %d back", name, n, len(b))
		}
	}
}

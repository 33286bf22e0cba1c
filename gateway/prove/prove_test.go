package prove

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
)

func TestCatalogue(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range Catalogue {
		if seen[r.ID] || r.ID == "" || r.Tries == "" {
			t.Errorf("route %q is there twice or says nothing", r.ID)
		}
		seen[r.ID] = true
		if tried := r.each != nil; tried == (r.Untried != "") || tried && (r.Closed == "" || r.Open == "") || !tried && r.Why == "" {
			t.Errorf("route %s: tried %v, but outcome %q, %q; closed %q, open %q", r.ID, tried, r.Untried, r.Why, r.Closed, r.Open)
		}
	}
}

func builtIn(t *testing.T) []Target {
	t.Helper()
	cfg, err := config.Default(bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	targets, err := TargetsOf(cfg, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	return targets
}

func TestTargetsOfBuiltInBans(t *testing.T) {
	targets := builtIn(t)
	if len(targets) != 4 {
		t.Fatalf("%d bans, want 4", len(targets))
	}
	for _, b := range targets {
		if len(b.Names) == 0 || b.Title.FR == "" {
			t.Errorf("%s: names %v, title %v", b.Ban, b.Names, b.Title)
		}
	}
	cfg, err := config.Default(bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Bans[0].Effective = time.Now().Add(time.Hour)
	if got, err := TargetsOf(cfg, time.Now()); err != nil || len(got) != 3 {
		t.Errorf("a ban that is not in force: %d targets, %v", len(got), err)
	}
}

// Each way to cut a ClientHello is one that a server understands.
func TestCutsAreUnderstood(t *testing.T) {
	d := &device{wait: 5 * time.Second} // a third of it is how long a client stalls
	for _, how := range cuts {
		near, far := net.Pipe()
		name := make(chan string, 1)
		go func() {
			_ = tls.Server(far, &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				name <- h.ServerName
				return nil, errors.New("seen")
			}}).Handshake()
			_ = far.Close()
			close(name)
		}()
		go func() { _, _ = io.Copy(io.Discard, near) }()
		if err := d.sendHello(near, clientHello("www.example.com"), how); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if got := <-name; got != "www.example.com" {
			t.Errorf("%s: the server sees %q", how, got)
		}
		_ = near.Close()
	}
	if at := bytes.Index(padded(clientHello("www.example.com")), []byte("www.example.com")); at < 1500 {
		t.Errorf("padded: the name is at %d", at)
	}
	if h := clientHello(""); len(h) < 50 || bytes.Contains(h, []byte("192.0.2.1")) {
		t.Errorf("a ClientHello without a name: %q", h)
	}
}

// What a server does decides: a byte, or silence on a connection that stands, is
// open; a reset, an end and a refusal are closed.
func TestJudgement(t *testing.T) {
	for what, tt := range map[string]struct {
		serve func(net.Conn)
		wait  time.Duration // short only where it is waited for
		want  Outcome
	}{
		"answers": {func(c net.Conn) { _, _ = c.Write([]byte("x")) }, time.Minute, Open},
		"stands":  {func(net.Conn) { <-t.Context().Done() }, time.Second, Open},
		"closes":  {func(c net.Conn) { _ = c.Close() }, time.Minute, Closed},
		"resets": {func(c net.Conn) {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = c.Close()
		}, time.Minute, Closed},
	} {
		d := &device{wait: tt.wait}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = c.Read(make([]byte, 4096))
				tt.serve(c)
				_ = c.Close()
			}
		}()
		got := tlsProbe(netip.MustParseAddrPort(l.Addr().String()), "www.example.com", whole).try(t.Context(), d)
		if got.Outcome != tt.want {
			t.Errorf("%s: %v, want %s", what, got, tt.want)
		}
		_ = l.Close()
		if got := tlsProbe(netip.MustParseAddrPort(l.Addr().String()), "x", whole).try(t.Context(), d); got.Outcome != Closed {
			t.Errorf("a port where nobody listens: %v", got)
		}
	}
}

// A block is known by its words, not by its status: a site may say 403 too.
func TestBlockPageIsKnown(t *testing.T) {
	d := &device{wait: time.Minute}
	for reply, want := range map[string]Outcome{
		"HTTP/1.1 403 Forbidden\r\nProxy-Status: weir; error=http_request_denied\r\nContent-Length: 0\r\n\r\n": Closed,
		"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n":                                                  Open,
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":                                                         Open,
		"": Closed,
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := l.Accept(); err == nil {
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, reply)
				_ = c.Close()
			}
		}()
		if got := d.asks(t.Context(), netip.MustParseAddrPort(l.Addr().String()), get("x.example", "/")); got.Outcome != want {
			t.Errorf("%q: %v, want %s", reply, got, want)
		}
		_ = l.Close()
	}
}

func sample(t *testing.T) *Report {
	t.Helper()
	targets := builtIn(t)
	o := Options{Gateway: netip.MustParseAddr("192.0.2.1"), Targets: targets}.withDefaults()
	plan := o.plan()
	results := make([]Attempt, len(plan))
	for i := range results {
		results[i] = Attempt{Target: plan[i].target, Finding: Finding{Closed, "reset"}}
		if plan[i].probe == nil {
			results[i].Finding = Finding{plan[i].route.Untried, plan[i].route.Why}
		}
	}
	r := &Report{Schema: schema, Started: time.Now().UTC(), Ended: time.Now().UTC(), Gateway: "192.0.2.1"}
	r.fill(o, plan, results)
	return r
}

func TestSignedReport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key.pem")
	key, err := Key(file)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Key(file)
	if err != nil || !key.Equal(again) {
		t.Errorf("the key that was made is not the one that is read: %v", err)
	}
	r := sample(t)
	data, err := r.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	got, public, err := Verify(data)
	if err != nil || !public.Equal(key.Public()) || len(got.Rows) != len(r.Rows) || !got.Passed {
		t.Fatalf("verify: %v", err)
	}
	for what, bad := range map[string][]byte{
		"one outcome changed": bytes.Replace(data, []byte(`"closed"`), []byte(`"works"`), 1),
		"another key":         resigned(t, data),
		"no report":           []byte("{}"),
		"no JSON":             []byte("weir"),
	} {
		if _, _, err := Verify(bad); err == nil {
			t.Errorf("%s: the signature holds", what)
		}
	}
}

// resigned replaces the public key by another one.
func resigned(t *testing.T, data []byte) []byte {
	t.Helper()
	other, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(data, []byte(`"public_key": "`)) + len(`"public_key": "`)
	out := bytes.Clone(data)
	copy(out[i:], []byte(fmt.Sprintf("%X", other[:10]))) // still base64
	return out
}

// What cannot be closed and what was not tried never count as closed, and one
// open attempt decides.
func TestRowsAndPassing(t *testing.T) {
	r := sample(t)
	for _, row := range r.Rows {
		if row.Route == "fronting" && row.Outcome != Beyond || row.Route == "before-ban" && row.Outcome != NotTried {
			t.Errorf("%s is %s", row.Route, row.Outcome)
		}
	}
	for _, o := range []Outcome{Open, Broken, ""} {
		route := &Route{ID: "x"}
		r := new(Report)
		r.fill(Options{}, []attempt{{route: route, ban: -1}, {route: route, ban: -1}}, []Attempt{{Finding: Finding{Outcome: o}}, {Finding: Finding{Outcome: Closed}}})
		if r.Passed || o != "" && r.Rows[0].Outcome != o {
			t.Errorf("with %q: passed %v, row %s", o, r.Passed, r.Rows[0].Outcome)
		}
	}
	empty := new(Report)
	if empty.fill(Options{}, nil, nil); empty.Passed {
		t.Error("a proof that tried nothing has passed")
	}
}

func TestPage(t *testing.T) {
	r := sample(t)
	r.Rows[0].Attempts[0].Seen = `<script>alert(1)</script>`
	var out strings.Builder
	if err := r.HTML(&out); err != nil {
		t.Fatal(err)
	}
	page := out.String()
	for _, want := range []string{`<html lang="en">`, `lang="fr">Interdiction de WeChat`, "<caption>", `scope="col"`, `scope="row"`, "<main>", "&lt;script&gt;alert"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if strings.Contains(page, "<script") || strings.Contains(page, "src=") {
		t.Error("the page needs or runs something else")
	}
}

func TestFixtures(t *testing.T) {
	var f Fixtures
	if err := f.Set("cloak", "zone.example"); err != nil || f.Cloak != "zone.example" {
		t.Errorf("%v, %+v", err, f)
	}
	if err := f.Set("nothing", "x"); err == nil {
		t.Error("an unknown fixture: no error")
	}
}

// Where there is nothing at all, nothing passes, and the end comes in time.
func TestNothingAnswers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	local := netip.MustParseAddr("127.0.0.1")
	r, err := Run(ctx, Options{Gateway: local, DNS: netip.AddrPortFrom(local, 9), Proxy: netip.AddrPortFrom(local, 9),
		Only: []string{"dns-gateway", "dns-canary", "connect"}, Targets: builtIn(t), Wait: 200 * time.Millisecond})
	if err != nil || r.Passed || r.Generation != 0 {
		t.Errorf("%v, passed %v, generation %d", err, r.Passed, r.Generation)
	}
}

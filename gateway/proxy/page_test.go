package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
)

// A ban that says little still makes a whole page, and nothing in it is taken
// for markup or for a link that a browser should follow.
func TestPageOfSparseBan(t *testing.T) {
	x := &exchange{request: &request{host: blocklists.Host{Name: "x.example"}}, start: time.Unix(0, 0), via: "CNAME <b>",
		verdict: policy.Verdict{Action: policy.Block, Generation: 7, List: "l", Rule: blocklists.Rule{Kind: blocklists.Suffix, Name: "x.example", Line: 3},
			Ban: &blocklists.Ban{ID: "id", Title: blocklists.Text{FR: "Titre </title><script>"}, Reference: "javascript:alert(1)"}}}
	for name, ban := range map[string]*blocklists.Ban{"sparse": x.verdict.Ban, "none": nil} {
		x.verdict.Ban = ban
		p := string(x.page())
		for _, want := range []string{"x.example (l:3)", "CNAME &lt;b&gt;", "1970-01-01T00:00:00Z", "No reason was published.", "Aucun motif", "centre de services", "<dd>7</dd>"} {
			if !strings.Contains(p, want) {
				t.Errorf("%s: the page lacks %q", name, want)
			}
		}
		if strings.Contains(p, "<script") || strings.Contains(p, `href="javascript`) || strings.Contains(p, "<b>") {
			t.Errorf("%s: markup of others in the page", name)
		}
		if n := strings.Count(p, "<h1"); n != 2 {
			t.Errorf("%s: %d headings", name, n)
		}
	}
}

func TestProxyStatusText(t *testing.T) {
	got := proxyStatus(&denial{err: "dns_error", text: "a \"b\" \\ é\r\nX: y"})
	if want := `weir; error=dns_error; details="a \"b\" \\ ???X: y"`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestUploadsOnOneConnection(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, "%s %d", r.Method, n)
	})
	h := start(t, []uint16{o.port}, nil)
	c := h.dial()
	for i := range 50 {
		content := strings.Repeat("x", i*500)
		framing := fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(content), content)
		if i%2 == 1 {
			framing = fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(content), content)
		}
		c.send(fmt.Sprintf("POST http://ok.example:%[1]d/ HTTP/1.1\r\nHost: ok.example:%[1]d\r\n%[2]s", o.port, framing))
		if resp, body := c.response("POST"); resp.Close || body != fmt.Sprintf("POST %d", len(content)) {
			t.Fatalf("%d: %s %q, close %v", i, resp.Status, body, resp.Close)
		}
	}
}

func TestLocalhostIsLoopback(t *testing.T) {
	o := httpOrigin(t, func(http.ResponseWriter, *http.Request) {})
	h := start(t, []uint16{o.port}, nil)
	if resp, _ := h.dial().get("app.localhost", o, ""); resp.StatusCode != 200 {
		t.Errorf("where it is allowed: %s", resp.Status)
	}
	h.s.SetRules(nil, []uint16{o.port}, nil)
	if resp, _ := h.dial().get("localhost", o, ""); resp.StatusCode != 403 {
		t.Errorf("where it is not: %s", resp.Status)
	}
	if n := len(h.names.lookups); n != 0 {
		t.Errorf("%d lookups", n)
	}
}

// An exempt device and another one on the same origin: a connection that was
// opened for the first never serves the second.
func TestExemptionDoesNotLeak(t *testing.T) {
	for last := 2 * time.Second; !exemptionEnds(t, last); last *= 2 {
		if last > patience {
			t.Fatal("this machine cannot ask within the exemption")
		}
	}
}

// exemptionEnds is false where the exemption was over too soon.
func exemptionEnds(t *testing.T, last time.Duration) bool {
	o := httpOrigin(t, func(http.ResponseWriter, *http.Request) {})
	h := start(t, []uint16{o.port}, nil)
	var b blocklists.Builder
	if err := b.Add(0, blocklists.Rule{Kind: blocklists.Suffix, Action: blocklists.Block, Name: "tiktok.com", Line: 1}); err != nil {
		t.Fatal(err)
	}
	ban, until := testBan, time.Now().Add(last)
	snap, err := policy.NewSnapshot(policy.Spec{
		Generation: 2, Set: b.Build(), Bans: []*blocklists.Ban{&ban}, Lists: []policy.List{{Name: "tiktok", Role: policy.RoleBan}}, Hello: anyHello,
		Exemptions: []policy.Exemption{{ID: "EX-1", Ban: ban.ID, Device: netip.MustParsePrefix("127.0.0.1/32"), Until: until}},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.store.Swap(snap)
	c, tunnel := h.dial(), h.dial()
	resp, _ := c.get("tiktok.com", o, "")
	tunnel.send(fmt.Sprintf("CONNECT tiktok.com:%d HTTP/1.1\r\n\r\nno TLS", o.port))
	opened, _ := tunnel.response(http.MethodConnect)
	if !time.Now().Before(until) {
		return false
	}
	if resp.StatusCode != 200 || opened.StatusCode != 200 {
		t.Errorf("exempt: %s and %s", resp.Status, opened.Status)
	}
	eventually(t, "two records", func() bool { return len(h.audit.all()) == 2 })
	time.Sleep(time.Until(until))
	if resp, _ := c.get("tiktok.com", o, ""); resp.StatusCode != 403 {
		t.Errorf("afterwards, on the same connection: %s", resp.Status)
	}
	h.s.Recheck()
	if _, err := tunnel.br.ReadByte(); err == nil {
		t.Error("the tunnel outlives the exemption")
	}
	for i, want := range []string{"exemption", "exemption", "ban"} {
		if r := h.audit.all()[i]; r.Reason != want || i < 2 && r.Exemption != "EX-1" {
			t.Errorf("record %+v", r)
		}
	}
	return true
}

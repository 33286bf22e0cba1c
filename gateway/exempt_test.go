package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/gateway/ledger"
)

// An exemptWorld is a gateway with an API for several people, devices at
// 127.0.0.1 and 127.0.0.2, and an origin that is banned.
type exemptWorld struct {
	*fixture
	state  string
	origin string
}

const exemptConf = `
dns: {listen: ["127.0.0.1:0"], upstreams: ["UPSTREAM"]}
proxy:
  listen: ["127.0.0.1:0"]
  connect_ports: [PORT]
  allow_networks: [127.0.0.1]
  sni: {missing: allow, mismatch: allow, ech: allow, not_tls: allow, malformed: allow, timeout: allow}
admin:
  listen: "127.0.0.1:0"
  tokens:
    - {name: op, role: operator, sha256: fdc06f2bd25bbd8d4edfebaba8ded4dbb06fbeffa3c63ec413e00d56ea774f17}
    - {name: boss, role: approver, sha256: fdc06f2bd25bbd8d4edfebaba8ded4dbb06fbeffa3c63ec413e00d56ea774f18}
    - {name: both, role: [operator, approver], sha256: fdc06f2bd25bbd8d4edfebaba8ded4dbb06fbeffa3c63ec413e00d56ea774f19}
bans:
- wechat
- id: own
  title: Own
  authority: us
  reference: "https://example.org/own"
  max_exemption: 24h
  tiers: [exclusive]
  lists:
  - {name: own, source: "file:own.txt", format: domains}
groups:
- {name: wide, devices: [10.0.0.0/8]}
- {name: two, devices: [127.0.0.2]}
exemptions:
- {id: F-1, device: 10.8.0.7, ban: own, from: 2098-01-01, until: 2098-01-01, ticket: T-0, approved_by: "The chief", reason: "Liaison"}
audit: {file: audit.jsonl}
state: STATE
`

func newExemptWorld(t *testing.T) *exemptWorld {
	t.Helper()
	_, port, _ := net.SplitHostPort(corpus.Echo(t))
	w := &exemptWorld{state: socketFolder(t), origin: "banned.example:" + port}
	conf := strings.NewReplacer("PORT", port, "UPSTREAM", loopbackUpstream(t), "STATE", w.state).Replace(exemptConf)
	for i, secret := range []string{"op", "boss", "both"} {
		conf = strings.Replace(conf, fmt.Sprintf("fdc06f2bd25bbd8d4edfebaba8ded4dbb06fbeffa3c63ec413e00d56ea774f1%d", 7+i), sha(secret), 1)
	}
	w.fixture = newFixture(t, map[string]string{"weir.yml": conf, "own.txt": "banned.example\nother.example\n"})
	return w
}

// loopbackUpstream is a real DNS server in whose world everything is here.
func loopbackUpstream(t *testing.T) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A 127.0.0.1")
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ActivateAndServe() }()
	t.Cleanup(func() { _ = s.Shutdown() })
	return "udp://" + pc.LocalAddr().String()
}

// as calls the API with the token.
func (w *exemptWorld) as(token, method, path, etag, body string, into any) (status int, text string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, "http://"+w.AdminAddr().String()+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if etag != "" {
		req.Header.Set("If-Match", etag)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(resp.Body)
	if into != nil && resp.StatusCode < 300 {
		if err := json.Unmarshal(b, into); err != nil {
			w.t.Fatalf("%s: %v", b, err)
		}
	}
	return resp.StatusCode, string(b)
}

// request has somebody request an exemption of 127.0.0.2 from own.
func (w *exemptWorld) request(token string, until time.Time, more string) (e Exemption) {
	w.t.Helper()
	body := fmt.Sprintf(`{"ban":"own","device":"127.0.0.2/32","until":%q,"ticket":"T-1","reason":"a test"%s}`, until.Format(time.RFC3339Nano), more)
	if status, text := w.as(token, "POST", "/v1/exemptions", "", body, &e); status != 201 {
		w.t.Fatalf("request: %d %s", status, text)
	}
	return e
}

func (w *exemptWorld) approve(token string, e *Exemption, body string) (status int, text string) {
	w.t.Helper()
	return w.as(token, "POST", "/v1/exemptions/"+e.ID+"/approve", `"`+e.ETag()+`"`, body, e)
}

// ask asks for banned.example from that address.
func (w *exemptWorld) ask(from string) string {
	w.t.Helper()
	return dns.RcodeToString[w.answer(from, "banned.example.").Rcode]
}

func (w *exemptWorld) answer(from, name string) *dns.Msg {
	w.t.Helper()
	c := &dns.Client{Timeout: 20 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}}
	return w.exchange(c, new(dns.Msg).SetQuestion(name, dns.TypeA))
}

// connect opens a tunnel to the origin from that address, nil if it is blocked.
func (w *exemptWorld) connect(from string) net.Conn {
	w.t.Helper()
	c, err := w.tryConnect(from)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// tryConnect is connect where the tunnel may be cut as soon as it is there.
func (w *exemptWorld) tryConnect(from string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
	c, err := d.Dial("tcp", w.ProxyAddrs()[0].String())
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", w.origin)
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if strings.HasPrefix(line, "HTTP/1.1 403") {
		_ = c.Close()
		return nil, nil
	}
	for err == nil && line != "\r\n" {
		line, err = r.ReadString('\n')
	}
	if err == nil {
		_, _ = io.WriteString(c, "ping")
		_, err = io.ReadFull(c, make([]byte, 4))
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("the tunnel does not carry: %w", err)
	}
	return c, nil
}

// cutWithin waits for the end of the tunnel.
func (w *exemptWorld) cutWithin(c net.Conn, limit time.Duration) {
	w.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(limit))
	if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		w.t.Errorf("the tunnel is still open after %v: %v", limit, err)
	}
	_ = c.Close()
}

// Who requests does not approve, under whatever credential or name.
func TestApproverIsAnother(t *testing.T) {
	w := newExemptWorld(t)
	until := time.Now().Add(time.Hour)
	e := w.request("both", until, "")
	named := w.request("op", until, `,"requested_by":"Ann Other"`)
	for _, tt := range []struct {
		name, token string
		e           Exemption
		body        string
		status      int
		says        string
	}{
		{"an operator", "op", e, `{}`, 403, "this takes the role approver"},
		{"oneself", "both", e, `{}`, 403, "token:both requested it"},
		{"oneself by another name", "both", e, `{"name":"Somebody Else"}`, 403, "token:both requested it"},
		{"the same name", "boss", named, `{"name":" ann  OTHER "}`, 403, "under another credential"},
		{"the name of the credential", "boss", e, `{"name":"both"}`, 403, "under another credential"},
		{"an old version", "boss", Exemption{ID: e.ID, Version: 7}, `{}`, 412, "changed meanwhile"},
		{"nothing", "boss", Exemption{ID: "W-99"}, `{}`, 404, "weir exempt list"},
		{"one of the file", "boss", Exemption{ID: "F-1"}, `{}`, 409, "configuration"},
	} {
		if status, text := w.approve(tt.token, &tt.e, tt.body); status != tt.status || !strings.Contains(text, tt.says) {
			t.Errorf("%s: %d %s, want %d with %q", tt.name, status, text, tt.status, tt.says)
		}
	}
	if got := w.ask("127.0.0.2"); got != "NXDOMAIN" || w.Status().Generation != 1 {
		t.Errorf("nobody approved: %s, generation %d", got, w.Status().Generation)
	}
	if status, text := w.approve("boss", &e, `{"why":"agreed"}`); status != 200 || e.State != stateApproved || e.ApprovedBy.Identity != "token:boss" {
		t.Errorf("another person: %d %s", status, text)
	}
	if status, _ := w.approve("boss", &e, `{}`); status != 409 {
		t.Errorf("twice: %d", status)
	}
}

// What an exemption may not be is refused with the reason.
func TestExemptionRefused(t *testing.T) {
	w := newExemptWorld(t)
	soon := time.Now().Add(time.Hour).Format(time.RFC3339)
	for _, tt := range []struct{ body, says string }{
		{`{"ban":"own","device":"127.0.0.2/32","ticket":"T","reason":"r"}`, "there is no end"},
		{`{"ban":"own","device":"127.0.0.2/32","until":"2020-01-01T00:00:00Z","ticket":"T","reason":"r"}`, "ends before it begins"},
		{`{"ban":"own","device":"127.0.0.2/32","until":"2099-01-01T00:00:00Z","ticket":"T","reason":"r"}`, "24 hours at the most"},
		{`{"ban":"wechat","device":"127.0.0.2/32","until":"2099-01-01T00:00:00Z","ticket":"T","reason":"r"}`, "8784 hours at the most"},
		{`{"ban":"own","until":"` + soon + `","ticket":"T","reason":"r"}`, "for a device or for a group"},
		{`{"ban":"own","device":"127.0.0.2/32","group":"two","until":"` + soon + `","ticket":"T","reason":"r"}`, "one of them only"},
		{`{"ban":"none","device":"127.0.0.2/32","until":"` + soon + `","ticket":"T","reason":"r"}`, "no ban"},
		{`{"ban":"own","device":"127.0.0.0/8","until":"` + soon + `","ticket":"T","reason":"r"}`, "wider than a device"},
		{`{"ban":"own","group":"none","until":"` + soon + `","ticket":"T","reason":"r"}`, "no group"},
		{`{"ban":"own","group":"wide","until":"` + soon + `","ticket":"T","reason":"r"}`, "blanket"},
		{`{"ban":"own","device":"127.0.0.2/32","until":"` + soon + `","reason":"r"}`, "no ticket"},
		{`{"device":"127.0.0.2/32","until":"` + soon + `","ticket":"T","reason":"r"}`, "from a ban or for a name"},
		{`{"ban":"own","name":"a.example","device":"127.0.0.2/32","until":"` + soon + `","ticket":"T","reason":"r"}`, "for one of them only"},
		{`{"name":"gc.ca","device":"127.0.0.2/32","until":"` + soon + `","ticket":"T","reason":"r"}`, "blanket"},
		{`{"name":"192.0.2.1","device":"127.0.0.2/32","until":"` + soon + `","ticket":"T","reason":"r"}`, "is an address"},
		{`{"name":"a.example","device":"127.0.0.2/32","until":"2099-01-01T00:00:00Z","ticket":"T","reason":"r"}`, "for a name, an exemption may last 24 hours at the most"},
		{`{"ban":"own","device":"127.0.0.2/32","until":"` + soon + `","ticket":"T","reason":" "}`, "no reason"},
		{`{"ban":"own","device":"127.0.0.2/32","until":"` + soon + `","ticket":"T","reason":"a\u0000b"}`, "U+0000"},
	} {
		if status, text := w.as("op", "POST", "/v1/exemptions", "", tt.body, nil); status != 422 || !strings.Contains(text, tt.says) {
			t.Errorf("%s: %d %s, want 422 with %q", tt.body, status, text, tt.says)
		}
	}
}

// An exemption holds on both planes for its device only, from the moment it is
// acknowledged, and ends when it is revoked, open tunnels included.
func TestExemptionOnBothPlanes(t *testing.T) {
	w := newExemptWorld(t)
	e := w.request("op", time.Now().Add(time.Hour), "")
	began := time.Now()
	if status, text := w.approve("boss", &e, `{}`); status != 200 {
		t.Fatalf("approve: %d %s", status, text)
	}
	t.Logf("in force after %v", time.Since(began))
	if got := w.ask("127.0.0.2"); got != "NOERROR" {
		t.Errorf("DNS of the device: %s", got)
	}
	if got := w.ask("127.0.0.1"); got != "NXDOMAIN" {
		t.Errorf("DNS of another device: %s", got)
	}
	if c := w.connect("127.0.0.1"); c != nil {
		t.Error("the proxy lets another device through")
	}
	c := w.connect("127.0.0.2")
	if c == nil {
		t.Fatal("the proxy holds back the device")
	}
	var all Exemptions
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if w.as("op", "GET", "/v1/exemptions", "", "", &all); len(all.Exemptions) == 2 && all.Exemptions[1].Uses >= 2 {
			break
		}
	}
	if r := all.Exemptions[1]; !r.Live || r.Uses < 2 || r.LastUsed.IsZero() || r.ID != e.ID {
		t.Errorf("report: %+v", r)
	}
	if status, text := w.as("op", "POST", "/v1/exemptions/"+e.ID+"/revoke", `"2"`, `{"why":"no more"}`, &e); status != 200 || e.State != stateRevoked {
		t.Fatalf("revoke: %d %s", status, text)
	}
	w.cutWithin(c, 20*time.Second)
	if got := w.ask("127.0.0.2"); got != "NXDOMAIN" {
		t.Errorf("DNS after it was revoked: %s", got)
	}
	if c := w.connect("127.0.0.2"); c != nil {
		t.Error("the proxy lets it through after it was revoked")
	}
	for end := time.Now().Add(time.Minute); strings.Count(w.read("audit.jsonl"), `"exemption":"`+e.ID+`"`) < 2 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	for _, plane := range []string{"dns", "proxy"} {
		found := false
		for line := range strings.Lines(w.read("audit.jsonl")) {
			found = found || strings.Contains(line, `"plane":"`+plane+`"`) && strings.Contains(line, `"reason":"exemption"`) && strings.Contains(line, `"exemption":"`+e.ID+`"`)
		}
		if !found {
			t.Errorf("no use on the audit record of the %s plane", plane)
		}
	}
	w.ledgerSays("exemption requested", "exemption approved", "exemption revoked")
}

// ledgerSays checks the record of changes and that it has these in order.
func (w *exemptWorld) ledgerSays(want ...string) {
	w.t.Helper()
	files, _ := ledger.Files(w.state)
	head, err := ledger.Verify(files, w.Status().Ledger.Hash)
	if err != nil {
		w.t.Fatal(err)
	}
	entries, more, err := ledger.Page(w.state, 0, int(head.Seq))
	if err != nil || more {
		w.t.Fatal(err, more)
	}
	slices.Reverse(entries)
	for _, e := range entries {
		if len(want) > 0 && e.What == want[0] && e.Who != "" && e.Object != "" && e.Before+e.After != "" {
			want = want[1:]
		}
	}
	if len(want) > 0 {
		w.t.Errorf("the record of changes lacks %q: %+v", want, entries)
	}
}

// An exemption ends on the second, without a reload, on both planes, and with
// it the tunnels that are open.
func TestExemptionEnds(t *testing.T) {
	t.Parallel()
	w := newExemptWorld(t)
	longEnough(t, w.endsOnTime)
}

// longEnough has the check made with an exemption that is so long, and with longer
// ones where it was over before it was looked at: the machine has other work.
func longEnough(t *testing.T, check func(long time.Duration) bool) {
	t.Helper()
	for long := 8 * time.Second; ; long *= 2 {
		if check(long) || t.Failed() {
			return
		}
		if long > time.Minute {
			t.Fatalf("%v are over before all is looked at", long)
		}
	}
}

// endsOnTime reports whether there was the time to look at it.
func (w *exemptWorld) endsOnTime(long time.Duration) bool {
	t := w.t
	t.Helper()
	before := w.Status().Generation
	until := time.Now().Add(long)
	e := w.request("op", until, "")
	status, text := w.approve("boss", &e, `{}`)
	c, err := w.tryConnect("127.0.0.2")
	switch {
	case !time.Now().Before(until):
		return false
	case status != 200:
		t.Fatalf("approve: %d %s", status, text)
	case c == nil:
		t.Fatalf("the proxy holds back the device: %v", err)
	}
	for {
		before := time.Now()
		got := w.ask("127.0.0.2")
		after := time.Now()
		switch {
		case after.Before(until) && got != "NOERROR":
			t.Fatalf("%v before the end: %s", until.Sub(after), got)
		case !before.Before(until) && got != "NXDOMAIN":
			t.Fatalf("%v after the end: %s", before.Sub(until), got)
		}
		if !before.Before(until) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	w.cutWithin(c, 20*time.Second)
	if c := w.connect("127.0.0.2"); c != nil {
		t.Error("the proxy lets it through after the end")
	}
	if g := w.Status().Generation; g != before+1 {
		t.Errorf("generation %d, want %d: the end is no change of the policy", g, before+1)
	}
	return true
}

// What is approved is there after a restart, and requests are too.
func TestExemptionsOutlive(t *testing.T) {
	state := socketFolder(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "weir.yml")
	conf := strings.NewReplacer("PORT", "443", "STATE", state, "UPSTREAM", "udp://127.0.0.1:9").Replace(exemptConf)
	for name, text := range map[string]string{"weir.yml": conf, "own.txt": "banned.example\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(do func(g *Gateway, client *http.Client)) {
		t.Helper()
		g, stop := runGateway(t, file)
		defer stop()
		do(g, socketClient(state))
	}
	post := func(client *http.Client, path, etag, body string) int {
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://weir"+path, strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("If-Match", etag)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	run(func(_ *Gateway, client *http.Client) {
		for range 2 {
			if got := post(client, "/v1/exemptions", "", `{"ban":"own","device":"127.0.0.2/32","until":"`+until+`","ticket":"T","reason":"r","requested_by":"A"}`); got != 201 {
				t.Fatalf("request: %d", got)
			}
		}
		if got := post(client, "/v1/exemptions/W-2/revoke", `"1"`, `{}`); got != 200 {
			t.Fatalf("revoke: %d", got)
		}
	})
	if err := os.WriteFile(filepath.Join(state, exemptionsFolder, "W-1.json.tmp-1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(func(g *Gateway, _ *http.Client) {
		l := g.local.Load()
		if len(l.exemptions) != 2 || l.exemptions[0].State != stateRequested || l.exemptions[1].State != stateRevoked || l.nextID() != "W-3" {
			t.Errorf("after a restart: %+v", l.exemptions)
		}
	})
}

// The number of exemptions is bounded by those that have not ended.
func TestExemptionsBounded(t *testing.T) {
	now := time.Now()
	l := new(local)
	for i := range maxExemptions {
		l.exemptions = append(l.exemptions, &Exemption{ID: fmt.Sprintf("W-%d", i+1), Until: now.Add(time.Hour)})
	}
	more := &Exemption{ID: l.nextID(), Until: now.Add(time.Hour)}
	if _, _, err := l.with(more, now); err == nil {
		t.Error("there is room for one more")
	}
	l.exemptions[7].Until = now
	next, gone, err := l.with(more, now)
	if err != nil || gone.ID != "W-8" || len(next.exemptions) != maxExemptions || next.find(more.ID) != more || l.find("W-8") == nil {
		t.Errorf("%v %v", gone, err)
	}
}

// After a rollback, exemptions still begin and end; rules wait for the update,
// as everything does that would change the lists.
func TestExemptionsWhileHeld(t *testing.T) {
	w := newExemptWorld(t)
	e := w.request("op", time.Now().Add(time.Hour), "")
	put := func() (int, string) {
		return w.as("op", "PUT", "/v1/rules/block/own/new.example", "", `{"reason":"r"}`, nil)
	}
	if status, text := put(); status != 200 {
		t.Fatalf("rule: %d %s", status, text)
	}
	if err := w.Rollback(t.Context(), 1, "test", "too much"); err != nil {
		t.Fatal(err)
	}
	if got := w.rcode("new.example"); got != "NOERROR" {
		t.Errorf("a rule that was rolled back: %s", got)
	}
	if status, text := w.approve("boss", &e, `{}`); status != 200 {
		t.Fatalf("approve: %d %s", status, text)
	}
	if got := w.ask("127.0.0.2"); got != "NOERROR" {
		t.Errorf("an exemption while held: %s", got)
	}
	if status, text := w.as("op", "PUT", "/v1/rules/allow/a.example", "", `{"reason":"r"}`, nil); status != 409 || !strings.Contains(text, "held at generation 1") {
		t.Errorf("a rule while held: %d %s", status, text)
	}
	if err := w.Update(t.Context(), "test", "again"); err != nil {
		t.Fatal(err)
	}
	if a, b := w.rcode("new.example"), w.ask("127.0.0.2"); a != "NXDOMAIN" || b != "NOERROR" {
		t.Errorf("after the update: rule %s, exemption %s", a, b)
	}
}

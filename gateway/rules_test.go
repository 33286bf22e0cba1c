package gateway

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// connectStatus is how the proxy answers CONNECT to that name, which is blocked.
func (w *exemptWorld) connectStatus(name string) string {
	w.t.Helper()
	c, err := net.Dial("tcp", w.ProxyAddrs()[0].String())
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	_, _ = fmt.Fprintf(c, "CONNECT %s:%s HTTP/1.1\r\nHost: %[1]s:%[2]s\r\n\r\n", name, w.origin[strings.LastIndex(w.origin, ":")+1:])
	b, _ := io.ReadAll(c)
	status, _, _ := strings.Cut(string(b), "\r\n")
	return status
}

// A rule for one name is in force on both planes when it is acknowledged, is
// cited by its number under its ban, stays over a restart, and goes again.
func TestRules(t *testing.T) {
	w := newExemptWorld(t)
	const block, allow = "/v1/rules/block/own/new.example", "/v1/rules/allow/=x.banned.example"
	put := func(path, body string) (r Rule) {
		t.Helper()
		began := time.Now()
		if status, text := w.as("op", "PUT", path, "", body, &r); status != 200 {
			t.Fatalf("%s: %d %s", path, status, text)
		}
		t.Logf("%s: in force after %v", path, time.Since(began))
		return r
	}
	r := put(block, `{"reason":"found today","ticket":"T-9"}`)
	for _, name := range []string{"new.example", "under.new.example"} {
		if got := w.rcode(name); got != "NXDOMAIN" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := w.connectStatus("new.example"); !strings.Contains(got, "403") {
		t.Errorf("CONNECT: %s", got)
	}
	if r.Number != 1 || r.By != "token:op" || r.Ban != "own" {
		t.Errorf("%+v", r)
	}
	if again := put(block, `{"reason":"once more"}`); again.Reason != r.Reason || w.Status().Generation != 2 {
		t.Errorf("added twice: %+v, generation %d", again, w.Status().Generation)
	}
	put(allow, `{"reason":"a partner"}`)
	if a, b := w.rcode("x.banned.example"), w.rcode("y.x.banned.example"); a != "NOERROR" || b != "NXDOMAIN" {
		t.Errorf("=x.banned.example is allowed: %s, and what is under it %s", a, b)
	}
	for end := time.Now().Add(time.Minute); !strings.Contains(w.read("audit.jsonl"), `"rule_id":"own+rules:1"`) && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	if !strings.Contains(w.read("audit.jsonl"), `"ban":"own"`) || !strings.Contains(w.read("audit.jsonl"), `"rule_id":"own+rules:1"`) {
		t.Errorf("not cited:\n%s", w.read("audit.jsonl"))
	}
	var all Rules
	if w.as("op", "GET", "/v1/rules", "", "", &all); len(all.Rules) != 2 {
		t.Errorf("list: %+v", all)
	}
	for _, tt := range []struct {
		method, path, etag, body string
		status                   int
		says                     string
	}{
		{"PUT", "/v1/rules/block/none/a.example", "", `{"reason":"r"}`, 422, "no ban"},
		{"PUT", "/v1/rules/block/own/com", "", `{"reason":"r"}`, 422, "top-level"},
		{"PUT", "/v1/rules/block/own/192.0.2.1", "", `{"reason":"r"}`, 422, "address"},
		{"PUT", "/v1/rules/allow/a.example", "", `{"reason":" "}`, 422, "needs a reason"},
		{"DELETE", block, "", "", 428, "If-Match"},
		{"DELETE", block, `"other"`, "", 412, "changed"},
		{"DELETE", "/v1/rules/block/own/none.example", "*", "", 404, "no such rule"},
		{"DELETE", block, `"` + r.ETag() + `"`, "", 204, ""},
		{"GET", block, "", "", 404, "no such rule"},
	} {
		if status, text := w.as("op", tt.method, tt.path, tt.etag, tt.body, nil); status != tt.status || !strings.Contains(text, tt.says) {
			t.Errorf("%s %s: %d %s, want %d with %q", tt.method, tt.path, status, text, tt.status, tt.says)
		}
	}
	if got := w.rcode("new.example"); got != "NOERROR" {
		t.Errorf("a rule that was removed: %s", got)
	}
	if next := put("/v1/rules/block/own/other.example", `{"reason":"r"}`); next.Number != 3 {
		t.Errorf("a number is used twice: %d", next.Number)
	}
	w.ledgerSays("rule added", "rule added", "rule removed", "rule added")
}

// A rule that the vectors of a ban do not stand changes nothing.
func TestRuleAgainstVectors(t *testing.T) {
	w := newExemptWorld(t)
	if status, text := w.as("op", "PUT", "/v1/rules/allow/wechat.com", "", `{"reason":"r"}`, nil); status == 200 {
		t.Logf("allowing what must be blocked is the operator's right: %s", text)
	}
	before := w.Status().Generation
	status, text := w.as("op", "PUT", "/v1/rules/block/wechat/qq.com", "", `{"reason":"r"}`, nil)
	if status != 409 || !strings.Contains(text, "the policy in force stays") || w.Status().Generation != before || w.rcode("www.qq.com") != "NOERROR" {
		t.Errorf("a name that must not be blocked: %d %s", status, text)
	}
	if b, err := os.ReadFile(filepath.Join(w.state, rulesFile)); err == nil && strings.Contains(string(b), "qq.com") {
		t.Errorf("it is kept: %s", b)
	}
}

// Rules are there after a restart, with their numbers.
func TestRulesOutlive(t *testing.T) {
	state := socketFolder(t)
	file := filepath.Join(t.TempDir(), "weir.yml")
	conf := `{dns: {listen: [], upstreams: ["udp://127.0.0.1:9"]}, proxy: {listen: []}, admin: {listen: ""}, bans: [tiktok], state: ` + state + "}\n"
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	g, stop := runGateway(t, file)
	for _, name := range []string{"a.example", "b.example"} {
		if status := putRule(t, state, "/v1/rules/block/tiktok/"+name); status != 200 {
			t.Fatalf("%s: %d", name, status)
		}
	}
	rules := g.store.Load().Rules()
	stop()
	g, stop = runGateway(t, file)
	defer stop()
	if l := g.local.Load(); len(l.rules) != 2 || l.numbered != 2 || g.store.Load().Rules() != rules {
		t.Errorf("after a restart: %+v, %d rules in force, want %d", l, g.store.Load().Rules(), rules)
	}
}

package gateway

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A canaryWorld is a gateway whose group two, the device 127.0.0.2, may go ahead of
// 127.0.0.1, with what each of them sees.
type canaryWorld struct{ *exemptWorld }

const ahead, behind = "127.0.0.2", "127.0.0.1"

func newCanaryWorld(t *testing.T) *canaryWorld { return &canaryWorld{newExemptWorld(t)} }

// sees asks for the name from both devices, by both planes, more than once: what
// one of them was answered must not be what the other gets from a cache.
func (w *canaryWorld) sees(when, name string, aheadBlocked, behindBlocked bool) {
	w.t.Helper()
	for range 3 {
		for from, blocked := range map[string]bool{ahead: aheadBlocked, behind: behindBlocked} {
			want := map[bool]string{true: "NXDOMAIN, 403", false: "NOERROR, 200"}[blocked]
			if got := w.askBoth(from, name); got != want {
				w.t.Errorf("%s: %s asks for %s: %s, want %s", when, from, name, got, want)
			}
		}
	}
}

func (w *canaryWorld) askBoth(from, name string) string {
	w.t.Helper()
	r := w.answer(from, dns.Fqdn(name))
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 20 * time.Second}
	conn, err := d.Dial("tcp", w.ProxyAddrs()[0].String())
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, port, _ := strings.Cut(w.origin, ":")
	_, _ = fmt.Fprintf(conn, "CONNECT %s:%s HTTP/1.1\r\nHost: %[1]s:%[2]s\r\n\r\n", name, port)
	line := make([]byte, len("HTTP/1.1 403"))
	if _, err := io.ReadFull(conn, line); err != nil {
		w.t.Fatal(err)
	}
	return dns.RcodeToString[r.Rcode] + ", " + strings.TrimPrefix(string(line), "HTTP/1.1 ")
}

// call changes something as the operator.
func (w *canaryWorld) call(want int, method, path, body string) string {
	w.t.Helper()
	status, text := w.as("op", method, path, "", body, nil)
	if status != want {
		w.t.Fatalf("%s %s: %d, want %d: %s", method, path, status, want, text)
	}
	return text
}

// TestCanary: a list that changes is in force for the group first, on both planes
// and whatever the caches hold, over a restart, too; then for everybody.
func TestCanary(t *testing.T) {
	w := newCanaryWorld(t)
	w.sees("before", "banned.example", true, true)
	w.sees("before", "next.example", false, false) // now cached
	w.call(http.StatusOK, http.MethodPost, "/v1/canary", `{"group":"two","why":"ticket 9"}`)
	st := w.Status()
	if c := st.Canary; c == nil || c.Group != "two" || c.From != 1 || c.Who != "token:op" || c.Why != "ticket 9" || st.Generation != 2 || st.Kind != "canary" {
		t.Fatalf("status: %+v, %+v", st, st.Canary)
	}
	w.write("own.txt", "next.example\nunder.next2.example\n")
	waitFor(t, "the changed list", func() bool { return w.Status().Generation == 3 })
	check := func(when string) {
		t.Helper()
		w.sees(when, "banned.example", false, true)
		w.sees(when, "next.example", true, false)
		w.sees(when, "innocent.example", false, false)
	}
	check("ahead")
	w.restart()
	check("after a restart")
	if c := w.Status().Canary; c == nil || c.From != 1 || c.Why != "ticket 9" {
		t.Errorf("after a restart: %+v", c)
	}
	w.stop()
	w.write("own.txt", "next.example\nlater.example\n")
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	check("after a restart with another list")
	w.sees("after a restart with another list", "later.example", true, false)
	text := w.get("/metrics")
	for _, want := range []string{`weir_policy_canary{group="two"} 1`, `weir_policy_canary_rules{group="two"}`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the metrics", want)
		}
	}
	for device, of := range map[string]string{ahead: "two", behind: ""} {
		var x Explanation
		if status, text := w.as("op", http.MethodGet, "/v1/explain?target=next.example&device="+device, "", "", &x); status != http.StatusOK {
			t.Fatalf("explain: %d %s", status, text)
		}
		if x.Canary != of || x.Blocked != (of != "") || len(x.Voices) != map[bool]int{true: 1}[x.Blocked] {
			t.Errorf("explain for %s: canary %q, blocked %v, voices %+v", device, x.Canary, x.Blocked, x.Voices)
		}
		e, err := NewExplainer(w.cfg)
		if err != nil {
			t.Fatal(err)
		}
		e.Resolve = false
		without, err := e.Explain(t.Context(), "next.example", netip.MustParseAddr(device), time.Now())
		if err != nil || without.Canary != of || without.Blocked != x.Blocked || without.Generation != x.Generation {
			t.Errorf("explain without a gateway for %s: %+v, %v", device, without, err)
		}
	}
	if h := w.history()[0]; h.Canary != "two" || h.CanaryRules == 0 {
		t.Errorf("history: %+v", h)
	}
	d, err := w.diff(diffQuery{from: 1, limit: 10})
	if err != nil || d.Added != 2 || d.Removed == 0 {
		t.Errorf("from the beginning: %+v, %v", d, err)
	}
	w.call(http.StatusOK, http.MethodPost, "/v1/canary/promote", `{"why":"it works"}`)
	for _, restart := range []bool{false, true} {
		if restart {
			w.restart()
		}
		w.sees("promoted", "banned.example", false, false)
		w.sees("promoted", "next.example", true, true)
		w.sees("promoted", "later.example", true, true)
		if st := w.Status(); st.Canary != nil || st.Held != 0 || !restart && st.Kind != "canary promoted" {
			t.Errorf("promoted: %s, held %d, %+v", st.Kind, st.Held, st.Canary)
		}
	}
	if text := w.get("/metrics"); !strings.Contains(text, `weir_policy_canary{group=""} 0`) {
		t.Error("the metrics still have a canary")
	}
	// Files are taken for everybody again, and the way back is to what all others had.
	before := w.Status().Generation
	w.write("own.txt", "last.example\n")
	waitFor(t, "the changed list", func() bool { return w.Status().Generation > before })
	w.sees("afterwards", "last.example", true, true)
	for _, h := range w.history() {
		if h.Canary != "" { // the newest in which the group was ahead
			if err := w.Rollback(t.Context(), h.Number, "op", ""); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	w.sees("back to before it was promoted", "banned.example", true, true)
	w.sees("back to before it was promoted", "next.example", false, false)
	w.ledgerSays("canary", "canary promoted")
}

// TestCanaryDropped: the group goes back to what all others have, and the lists as
// they are now are in force for nobody until somebody asks.
func TestCanaryDropped(t *testing.T) {
	w := newCanaryWorld(t)
	w.call(http.StatusOK, http.MethodPost, "/v1/canary", `{"group":"two"}`)
	w.write("own.txt", "next.example\n")
	waitFor(t, "the changed list", func() bool { return w.Status().Generation == 3 })
	w.sees("ahead", "next.example", true, false)
	c := w.tunnel(ahead)
	w.call(http.StatusOK, http.MethodPost, "/v1/canary/drop", `{"why":"it breaks mail"}`)
	w.cutWithin(c, 20*time.Second) // banned.example is banned for the group again
	for _, restart := range []bool{false, true} {
		if restart {
			w.restart()
		}
		w.sees("dropped", "banned.example", true, true)
		w.sees("dropped", "next.example", false, false)
		if st := w.Status(); st.Canary != nil || st.Held != 1 || st.Kind != "canary dropped" || st.Generation != 4 {
			t.Errorf("dropped: %s, held %d, generation %d, %+v", st.Kind, st.Held, st.Generation, st.Canary)
		}
		if err := w.Reload(t.Context()); err == nil || !strings.Contains(err.Error(), "held at generation 1") {
			t.Errorf("reload: %v, want that it is held", err)
		}
	}
	w.call(http.StatusOK, http.MethodPost, "/v1/update", `{}`)
	w.sees("updated", "next.example", true, true)
}

func (w *canaryWorld) tunnel(from string) net.Conn {
	w.t.Helper()
	c := w.connect(from)
	if c == nil {
		w.t.Fatalf("%s is not let through", from)
	}
	return c
}

// TestCanaryBeside: exemptions and rules of the API are for everybody while a
// canary runs, at once and after a restart.
func TestCanaryBeside(t *testing.T) {
	w := newCanaryWorld(t)
	w.call(http.StatusOK, http.MethodPost, "/v1/canary", `{"group":"two"}`)
	w.write("own.txt", "banned.example\nnext.example\n")
	waitFor(t, "the changed list", func() bool { return w.Status().Generation == 3 })
	w.call(http.StatusOK, http.MethodPut, "/v1/rules/block/own/urgent.example", `{"reason":"incident"}`)
	w.call(http.StatusOK, http.MethodPut, "/v1/rules/allow/www.banned.example", `{"reason":"mistake"}`)
	twice := func(check func()) {
		t.Helper()
		check()
		w.restart()
		check()
	}
	twice(func() {
		w.sees("rules", "urgent.example", true, true)
		w.sees("rules", "www.banned.example", false, false)
		w.sees("lists", "next.example", true, false)
	})
	exempt := func(device string) {
		t.Helper()
		var e Exemption
		body := fmt.Sprintf(`{"ban":"own","device":"%s/32","until":%q,"ticket":"T-1","reason":"a test"}`, device, time.Now().Add(time.Hour).Format(time.RFC3339))
		if status, text := w.as("op", http.MethodPost, "/v1/exemptions", "", body, &e); status != http.StatusCreated {
			t.Fatalf("request: %d %s", status, text)
		}
		if status, text := w.approve("boss", &e, `{}`); status != http.StatusOK {
			t.Fatalf("approve: %d %s", status, text)
		}
	}
	exempt(behind)
	twice(func() {
		w.sees("one exempt", "banned.example", true, false)
		w.sees("one exempt", "next.example", true, false)
	})
	exempt(ahead)
	twice(func() { w.sees("both exempt", "banned.example", false, false) })
	if st := w.Status(); st.Canary == nil {
		t.Errorf("the canary has ended: %+v", st)
	}
}

// TestCanaryRefused: where a canary makes no sense it is refused, says why, and
// nothing changes.
func TestCanaryRefused(t *testing.T) {
	w := newCanaryWorld(t)
	refused := func(status int, path, body, want string) {
		t.Helper()
		before := w.Status().Generation
		if text := w.call(status, http.MethodPost, path, body); !strings.Contains(text, want) {
			t.Errorf("%s %s: %s, want %s", path, body, text, want)
		}
		if got := w.Status().Generation; got != before {
			t.Errorf("%s %s: generation %d, want %d", path, body, got, before)
		}
	}
	refused(http.StatusUnprocessableEntity, "/v1/canary", `{}`, "name the group")
	refused(http.StatusConflict, "/v1/canary", `{"group":"nobody"}`, `there is no group \"nobody\" in force; there is: wide, two`)
	refused(http.StatusNotFound, "/v1/canary/promote", `{}`, "no canary runs")
	refused(http.StatusNotFound, "/v1/canary/drop", `{}`, "no canary runs")
	if status, _ := w.as("op", http.MethodGet, "/v1/canary", "", "", nil); status != http.StatusNotFound {
		t.Errorf("GET without a canary: %d", status)
	}
	if status, _ := w.as("boss", http.MethodPost, "/v1/canary", "", `{"group":"two"}`, nil); status != http.StatusForbidden {
		t.Errorf("an approver begins a canary: %d", status)
	}
	good := w.read("weir.yml")
	w.write("weir.yml", good+"nonsense: true\n")
	refused(http.StatusConflict, "/v1/canary", `{"group":"two"}`, "nonsense")
	if w.Status().Canary != nil || w.compiled.canary != nil {
		t.Error("a canary of a broken configuration runs")
	}
	w.write("weir.yml", good)
	w.call(http.StatusOK, http.MethodPost, "/v1/canary", `{"group":"two"}`)
	refused(http.StatusConflict, "/v1/canary", `{"group":"two"}`, "one canary at a time: a canary runs for group two; weir lists promote or weir lists drop ends it")
	refused(http.StatusConflict, "/v1/canary", `{"group":"wide"}`, "one canary at a time")
	refused(http.StatusConflict, "/v1/rollback", `{}`, "no rollback: a canary runs for group two")
	// A broken list leaves both as they are.
	w.write("own.txt", "\n")
	refused(http.StatusConflict, "/v1/update", `{}`, "no rules")
	w.sees("a broken list", "banned.example", true, true)
}

// TestCanaryAfterRollback: after a rollback a group can try the lists first; the
// hold is that of all others as long as it does.
func TestCanaryAfterRollback(t *testing.T) {
	w := newCanaryWorld(t)
	w.write("own.txt", "next.example\n")
	waitFor(t, "the changed list", func() bool { return w.Status().Generation == 2 })
	w.call(http.StatusOK, http.MethodPost, "/v1/rollback", `{}`)
	w.call(http.StatusOK, http.MethodPost, "/v1/canary", `{"group":"two"}`)
	w.sees("ahead", "next.example", true, false)
	w.restart()
	w.sees("ahead after a restart", "next.example", true, false)
	if st := w.Status(); st.Held != 1 || st.Canary == nil {
		t.Errorf("ahead: held %d, %+v", st.Held, st.Canary)
	}
	w.call(http.StatusOK, http.MethodPost, "/v1/canary/drop", `{}`)
	if st := w.Status(); st.Held != 1 {
		t.Errorf("dropped: held at %d, want 1", st.Held)
	}
	w.call(http.StatusOK, http.MethodPost, "/v1/canary", `{"group":"two"}`)
	w.call(http.StatusOK, http.MethodPost, "/v1/canary/promote", `{}`)
	w.sees("promoted", "next.example", true, true)
	if st := w.Status(); st.Held != 0 {
		t.Errorf("promoted: held at %d", st.Held)
	}
}

package gateway

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/gateway/admin"
)

// A caller makes requests to the API, each from another address, so that none is
// turned away for what others did.
type caller struct {
	w    *exemptWorld
	from int
}

func (c *caller) call(rt *admin.Route, method, credential string) (status int, text string) {
	c.w.t.Helper()
	c.from++
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+c.from/250), byte(1+c.from%250))}, Timeout: time.Minute}
	client := http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}}
	body := ""
	if rt.Request != nil && method == rt.Method {
		body = fullBody(rt)
	}
	req, err := http.NewRequestWithContext(c.w.t.Context(), method, "http://"+c.w.AdminAddr().String()+fullPath(rt), strings.NewReader(body))
	if err != nil {
		c.w.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if rt.Match {
		req.Header.Set("If-Match", "*")
	}
	if credential != "" {
		req.Header.Set("Authorization", credential)
	}
	resp, err := client.Do(req)
	if err != nil {
		c.w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

var pathParam = regexp.MustCompile(`\{(\w+)\}`)

// fullPath is a path of the route that names something that is there.
func fullPath(rt *admin.Route) string {
	return pathParam.ReplaceAllStringFunc(rt.Path, func(p string) string {
		switch strings.Trim(p, "{}") {
		case "id":
			return "W-1"
		case "number":
			return "1"
		case "ban":
			return "own"
		}
		return "there.example"
	})
}

// fullBody is a body that the route takes, as far as possible.
func fullBody(rt *admin.Route) string {
	switch reflect.TypeOf(rt.Request) {
	case reflect.TypeFor[ExemptionRequest]():
		return fmt.Sprintf(`{"ban":"own","device":"127.0.0.2/32","until":%q,"ticket":"T","reason":"r"}`, time.Now().Add(time.Hour).Format(time.RFC3339))
	case reflect.TypeFor[RuleRequest]():
		return `{"reason":"r"}`
	case reflect.TypeFor[CacheFlush]():
		return `{"all":true}`
	}
	return `{}`
}

// everything is all that the API can change, but for the record that somebody
// tried.
func (w *exemptWorld) everything() string {
	w.t.Helper()
	var out strings.Builder
	_ = filepath.WalkDir(w.state, func(path string, f os.DirEntry, err error) error {
		if err != nil || !f.Type().IsRegular() || strings.HasPrefix(f.Name(), "ledger") {
			return err
		}
		b, err := os.ReadFile(path)
		fmt.Fprintf(&out, "%s %d %x\n", path, len(b), digestOf(b))
		return err
	})
	st := w.Status()
	fmt.Fprintf(&out, "generation %d held %d since %v\n", st.Generation, st.Held, st.Since)
	fmt.Fprintf(&out, "%s %s\n", digestOf(w.allExemptions()), digestOf(w.local.Load().rules))
	cached, err := w.resolver.p.Load().Inspect("kept.example")
	fmt.Fprintf(&out, "cached %d %v\n", len(cached), err)
	return out.String()
}

// No request without a credential that is good for it changes anything: whatever
// the route, the method and what is shown. What is asked for would be done: the
// same requests by an operator and an approver are.
func TestNobodyChangesAnything(t *testing.T) {
	w := newExemptWorld(t)
	token := func(name, role, more string) string {
		return fmt.Sprintf("    - {name: %s, role: %s, sha256: %s%s}\n", name, role, sha(name), more)
	}
	conf := w.read("weir.yml")
	with := strings.Replace(conf, "bans:\n", token("look", "viewer", "")+token("old", "operator", ", until: 2026-01-01")+token("gone", "operator", "")+"bans:\n", 1)
	if err := w.rewrite("weir.yml", with); err != nil {
		t.Fatal(err)
	}
	if status, text := w.as("gone", "POST", "/v1/reload", "", "", nil); status != 200 {
		t.Fatalf("a token that is still good: %d %s", status, text)
	}
	if err := w.rewrite("weir.yml", strings.Replace(with, token("gone", "operator", ""), "", 1)); err != nil {
		t.Fatal(err)
	}
	w.request("op", time.Now().Add(time.Hour), "")
	for _, path := range []string{"/v1/rules/allow/there.example", "/v1/rules/block/own/there.example"} {
		if status, text := w.as("op", "PUT", path, "", `{"reason":"r"}`, nil); status != 200 {
			t.Fatalf("rule: %d %s", status, text)
		}
	}
	if got := w.rcode("kept.example"); got != "NOERROR" {
		t.Fatal(got)
	}
	before := w.everything()
	bad := map[string]string{
		"nothing": "", "a guess": "Bearer guess", "no token": "Bearer ", "another scheme": "Basic b3A6b3A=", "a digest": "Bearer " + sha("op"),
		"an expired token": "Bearer old", "a token that was taken away": "Bearer gone",
	}
	c := &caller{w: w}
	routes := w.routes()
	for i := range routes {
		rt := &routes[i]
		for what, credential := range bad {
			if status, text := c.call(rt, rt.Method, credential); status != 401 {
				t.Errorf("%s %s with %s: %d %s", rt.Method, rt.Path, what, status, text)
			}
		}
		status, text := c.call(rt, rt.Method, "Bearer look")
		if reads := rt.Method == http.MethodGet; reads && (status == 401 || status == 403) || !reads && status != 403 {
			t.Errorf("%s %s by a viewer: %d %s", rt.Method, rt.Path, status, text)
		}
		// Other methods of a path that changes things, by whoever may change them.
		methods := methodsOf(routes, rt.Path)
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPatch, http.MethodTrace, "CHANGE"} {
			if status, text := c.call(rt, method, "Bearer both"); !slices.Contains(methods, method) && status != 405 {
				t.Errorf("%s %s: %d %s", method, rt.Path, status, text)
			}
		}
	}
	if after := w.everything(); after != before {
		t.Errorf("something has changed:\n%s\nbefore:\n%s", after, before)
	}
	done := make(map[int]int)
	for i := range routes {
		if rt := &routes[i]; rt.Method != http.MethodGet && rt.Role != admin.Approver {
			status, _ := c.call(rt, rt.Method, "Bearer op")
			done[status/100]++
		}
	}
	if after := w.everything(); after == before || done[2] < 5 {
		t.Errorf("an operator's requests changed nothing: %v", done)
	}
}

// methodsOf returns the methods that a path has.
func methodsOf(routes []admin.Route, path string) (out []string) {
	for i := range routes {
		if routes[i].Path == path {
			out = append(out, routes[i].Method)
		}
	}
	if slices.Contains(out, http.MethodGet) {
		out = append(out, http.MethodHead)
	}
	return out
}

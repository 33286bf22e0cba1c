package admin

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-gateway/weir/bench/corpus"
)

// A thing is an object that the tests' routes keep.
type thing struct {
	Name    string `json:"name"`
	Version int    `json:"version"`
}

func (t thing) ETag() string { return strconv.Itoa(t.Version) }

// A shelf holds one thing and counts what was done to it.
type shelf struct {
	mu      sync.Mutex
	thing   thing
	changes atomic.Int64
	hold    chan struct{} // where not nil, changes wait for it
}

func (s *shelf) routes() []Route {
	return []Route{
		{Method: "GET", Path: "/v1/things/{name}", Role: Viewer, Summary: "look", Query: []Param{{"as", "how"}}, Response: thing{},
			Handle: func(context.Context, *Call) (any, error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.thing, nil
			}},
		{Method: "PUT", Path: "/v1/things/{name}", Role: Operator, Summary: "change", Request: thing{}, Response: thing{}, Match: true,
			Handle: func(_ context.Context, c *Call) (any, error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				if err := c.Matches(s.thing.ETag()); err != nil {
					return nil, err
				}
				s.changes.Add(1)
				s.thing = thing{c.Body.(*thing).Name, s.thing.Version + 1}
				return s.thing, nil
			}},
		{Method: "POST", Path: "/v1/things", Role: Operator, Summary: "add", Request: thing{}, Response: thing{},
			Handle: func(_ context.Context, c *Call) (any, error) {
				if s.hold != nil {
					<-s.hold
				}
				n := s.changes.Add(1)
				return Created{"/v1/things/x", thing{c.Body.(*thing).Name, int(n)}}, nil
			}},
		{Method: "POST", Path: "/v1/things/{name}/approve", Role: Approver, Summary: "approve",
			Handle: func(context.Context, *Call) (any, error) { s.changes.Add(1); return nil, nil }},
		{Method: "POST", Path: "/v1/broken", Role: Operator, Summary: "fail",
			Handle: func(context.Context, *Call) (any, error) { s.changes.Add(1); return nil, io.ErrUnexpectedEOF }},
	}
}

func digest(s string) [32]byte { return sha256.Sum256([]byte(s)) }

// A world is a server with a shelf, reached by curl.
type world struct {
	*shelf
	*Server
	t      *testing.T
	dir    string
	base   string
	socket string
}

func newWorld(t *testing.T, change func(*Options)) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{shelf: &shelf{thing: thing{"first", 1}}, t: t, dir: dir, socket: filepath.Join(dir, "admin.sock")}
	opts := Options{
		Listen: netip.MustParseAddrPort("127.0.0.1:0"), Socket: w.socket, Version: "test", Routes: w.routes(),
		Metrics: prometheus.NewRegistry(), Ready: func() error { return nil }, Status: func() any { return 1 },
		Log: slog.New(slog.DiscardHandler),
		Access: Access{Tokens: []Token{
			{"look", Viewer, digest("looking"), time.Time{}},
			{"op", Operator, digest("operating"), time.Time{}},
			{"approve", Approver, digest("approving"), time.Now().Add(time.Hour)},
			{"old", Operator | Approver, digest("expired"), time.Now().Add(-time.Second)},
		}},
	}
	if change != nil {
		change(&opts)
	}
	if w.Server, err = Listen(opts); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	w.base = "http://" + w.Addr().String()
	return w
}

// curl runs the real one and returns status, headers and body.
func (w *world) curl(args ...string) (status int, header http.Header, body string) {
	w.t.Helper()
	args = append([]string{"-sS", "-m", "120", "-D", "-", "--noproxy", "*"}, args...)
	out, err := exec.Command(corpus.Tool(w.t, "curl"), args...).CombinedOutput()
	if err != nil {
		w.t.Errorf("curl %q: %v\n%s", args, err, out)
		return 0, nil, ""
	}
	text := string(out)
	for { // 100 Continue comes before the answer
		head, rest, _ := strings.Cut(text, "\r\n\r\n")
		lines := strings.Split(head, "\r\n")
		if len(strings.Fields(lines[0])) < 2 {
			w.t.Fatalf("curl %q: %q", args, out)
		}
		status, _ = strconv.Atoi(strings.Fields(lines[0])[1])
		header = http.Header{}
		for _, l := range lines[1:] {
			k, v, _ := strings.Cut(l, ": ")
			header.Add(k, v)
		}
		if body, text = rest, rest; status != 100 {
			return status, header, body
		}
	}
}

func bearer(token string) []string { return []string{"-H", "Authorization: Bearer " + token} }

func jsonBody(s string) []string { return []string{"-H", "Content-Type: application/json", "-d", s} }

func join(parts ...[]string) (all []string) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// Nobody changes anything without a good credential of the right role.
func TestWhoMayDoWhat(t *testing.T) {
	w := newWorld(t, nil)
	add := jsonBody(`{"name":"x","version":0}`)
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		says   string
	}{
		{"no token", join(add, []string{w.base + "/v1/things"}), 401, "a credential"},
		{"no token, looking", []string{w.base + "/v1/things/x"}, 401, "a credential"},
		{"wrong token", join(bearer("guess"), add, []string{w.base + "/v1/things"}), 401, "no such token"},
		{"expired", join(bearer("expired"), add, []string{w.base + "/v1/things"}), 401, "has expired"},
		{"another scheme", join([]string{"-u", "op:operating"}, add, []string{w.base + "/v1/things"}), 401, "Bearer"},
		{"viewer", join(bearer("looking"), add, []string{w.base + "/v1/things"}), 403, "token:look is viewer; this takes the role operator"},
		{"viewer approves", join(bearer("looking"), []string{"-X", "POST", w.base + "/v1/things/x/approve"}), 403, "approver"},
		{"operator approves", join(bearer("operating"), []string{"-X", "POST", w.base + "/v1/things/x/approve"}), 403, "approver"},
		{"approver changes", join(bearer("approving"), add, []string{w.base + "/v1/things"}), 403, "operator"},
		{"socket approves", []string{"--unix-socket", w.socket, "-X", "POST", "http://weir/v1/things/x/approve"}, 403, fmt.Sprintf("uid:%d is operator", os.Getuid())},
	} {
		status, header, body := w.curl(tt.args...)
		if status != tt.status || !strings.Contains(body, tt.says) || header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %v %q, want %d with %q", tt.name, status, header, body, tt.status, tt.says)
		}
		var p Problem
		if err := json.Unmarshal([]byte(body), &p); err != nil || p.Status != tt.status || p.Title == "" {
			t.Errorf("%s: problem %+v: %v", tt.name, p, err)
		}
	}
	if n := w.changes.Load(); n != 0 {
		t.Fatalf("%d changes by those who may not", n)
	}
	for _, tt := range []struct {
		args   []string
		status int
	}{
		{join(bearer("looking"), []string{w.base + "/v1/things/x"}), 200},
		{join(bearer("approving"), []string{w.base + "/v1/things/x"}), 200},
		{join(bearer("operating"), add, []string{w.base + "/v1/things"}), 201},
		{join([]string{"--unix-socket", w.socket}, add, []string{"http://weir/v1/things"}), 201},
		{join(bearer("approving"), []string{"-X", "POST", w.base + "/v1/things/x/approve"}), 204},
		{join(bearer("approving"), []string{"--unix-socket", w.socket, "-X", "POST", "http://weir/v1/things/x/approve"}), 204},
	} {
		if status, _, body := w.curl(tt.args...); status != tt.status {
			t.Errorf("%q: %d %s, want %d", tt.args, status, body, tt.status)
		}
	}
	w.SetAccess(Access{Approvers: []uint32{uint32(os.Getuid())}})
	if status, _, _ := w.curl("--unix-socket", w.socket, "-X", "POST", "http://weir/v1/things/x/approve"); status != 204 {
		t.Errorf("an approver over the socket: %d", status)
	}
	if status, _, _ := w.curl(join(bearer("operating"), add, []string{w.base + "/v1/things"})...); status != 401 {
		t.Errorf("a token that was taken out: %d", status)
	}
	if st, err := os.Stat(w.socket); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st.Mode(), err)
	}
}

// GET and HEAD change nothing, whatever is sent along; nor does any method that
// a path does not have.
func TestLookingChangesNothing(t *testing.T) {
	w := newWorld(t, nil)
	op := bearer("operating")
	for _, path := range []string{"/v1/things", "/v1/things/x", "/v1/things/x/approve", "/v1/broken", "/v1/nothing"} {
		for _, method := range [][]string{{"-X", "GET"}, {"-I"}, {"-X", "DELETE"}, {"-X", "PATCH"}, {"-X", "TRACE"}} {
			for _, more := range [][]string{nil, {"-H", "X-HTTP-Method-Override: POST"}} {
				status, header, _ := w.curl(join(op, method, more, []string{w.base + path})...)
				if looks := path == "/v1/things/x" && method[len(method)-1] != "DELETE" && len(method[0]) == 2; status < 400 && !looks {
					t.Errorf("%s %s: %d", method, path, status)
				}
				if status == 405 && header.Get("Allow") == "" {
					t.Errorf("%s %s: no Allow", method, path)
				}
			}
		}
	}
	if n := w.changes.Load(); n != 0 {
		t.Errorf("%d changes", n)
	}
}

// What is not well formed is refused with what is wrong.
func TestStrictRequests(t *testing.T) {
	w := newWorld(t, nil)
	url := w.base + "/v1/things"
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		says   string
	}{
		{"unknown field", join(jsonBody(`{"name":"x","role":"root"}`), []string{url}), 400, `unknown field \"role\"`},
		{"two values", join(jsonBody(`{"name":"x"}{}`), []string{url}), 400, "more behind"},
		{"empty", join(jsonBody(``), []string{url}), 400, "empty"},
		{"wrong type", join(jsonBody(`{"name":7}`), []string{url}), 400, "name"},
		{"a form", []string{"-d", "name=x", url}, 415, "application/json"},
		{"a body where none is", join(jsonBody(`{}`), []string{w.base + "/v1/broken"}), 400, "no body"},
		{"unknown query", []string{w.base + "/v1/things/x?verbose=1"}, 400, "verbose"},
		{"query twice", []string{w.base + "/v1/things/x?as=1&as=2"}, 400, "as"},
		{"no If-Match", join(jsonBody(`{"name":"x"}`), []string{"-X", "PUT", url + "/x"}), 428, "If-Match"},
		{"long key", join(jsonBody(`{"name":"x"}`), []string{"-H", "Idempotency-Key: " + strings.Repeat("k", 129), url}), 400, "longer"},
		{"no such thing", []string{w.base + "/v1/nothing"}, 404, "openapi.json"},
	} {
		status, _, body := w.curl(join(bearer("operating"), tt.args)...)
		if status != tt.status || !strings.Contains(body, tt.says) {
			t.Errorf("%s: %d %s, want %d with %q", tt.name, status, body, tt.status, tt.says)
		}
	}
	big := filepath.Join(w.dir, "big")
	if err := os.WriteFile(big, []byte(`{"name":"`+strings.Repeat("x", maxBody)+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, _, body := w.curl(join(bearer("operating"), jsonBody("@"+big), []string{url})...); status != 413 {
		t.Errorf("a large body: %d %s", status, body)
	}
	if n := w.changes.Load(); n != 0 {
		t.Errorf("%d changes", n)
	}
	if status, _, body := w.curl(join(bearer("operating"), []string{"-X", "POST", w.base + "/v1/broken"})...); status != 500 || !strings.Contains(body, "unexpected EOF") {
		t.Errorf("a fault of the gateway: %d %s", status, body)
	}
}

// Of many who change the same version, one does.
func TestIfMatchRace(t *testing.T) {
	w := newWorld(t, nil)
	var won, lost atomic.Int64
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			status, header, _ := w.curl(join(bearer("operating"), jsonBody(fmt.Sprintf(`{"name":"n%d","version":0}`, i)),
				[]string{"-X", "PUT", "-H", `If-Match: "1"`, w.base + "/v1/things/x"})...)
			switch {
			case status == 200 && header.Get("ETag") == `"2"`:
				won.Add(1)
			case status == 412:
				lost.Add(1)
			default:
				t.Errorf("status %d", status)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || lost.Load() != 15 || w.changes.Load() != 1 {
		t.Errorf("%d won, %d lost, %d changes; want 1, 15, 1", won.Load(), lost.Load(), w.changes.Load())
	}
	if status, _, _ := w.curl(join(bearer("looking"), []string{"-H", `If-None-Match: "2"`, w.base + "/v1/things/x"})...); status != 304 {
		t.Errorf("a version that is known: %d", status)
	}
}

// The same request with the same key is done once, and answered alike.
func TestIdempotencyKey(t *testing.T) {
	w := newWorld(t, nil)
	send := func(token, key, body string) (int, string) {
		status, _, answer := w.curl(join(bearer(token), jsonBody(body), []string{"-H", "Idempotency-Key: " + key, w.base + "/v1/things"})...)
		return status, answer
	}
	s1, first := send("operating", "a", `{"name":"x"}`)
	s2, again := send("operating", "a", `{"name":"x"}`)
	if s1 != 201 || s2 != 201 || first != again || w.changes.Load() != 1 {
		t.Errorf("%d %q, then %d %q, %d changes", s1, first, s2, again, w.changes.Load())
	}
	if status, _ := send("operating", "a", `{"name":"y"}`); status != 422 {
		t.Errorf("the key of another request: %d", status)
	}
	if status, _, _ := w.curl(join([]string{"--unix-socket", w.socket, "-H", "Idempotency-Key: a"}, jsonBody(`{"name":"x"}`), []string{"http://weir/v1/things"})...); status != 201 || w.changes.Load() != 2 {
		t.Errorf("the key of somebody else: %d, %d changes", status, w.changes.Load())
	}
	for range 2 { // what failed is tried again
		w.curl(join(bearer("operating"), []string{"-X", "POST", "-H", "Idempotency-Key: b", w.base + "/v1/broken"})...)
	}
	if n := w.changes.Load(); n != 4 {
		t.Errorf("%d changes, want 4: a fault is no answer to keep", n)
	}
	w.hold = make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if status, _ := send("operating", "c", `{"name":"x"}`); status != 201 {
			t.Errorf("held: %d", status)
		}
	})
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		w.api.replays.mu.Lock()
		_, under := w.api.replays.of[replayKey{"token:op", "c"}]
		w.api.replays.mu.Unlock()
		if under || time.Now().After(end) {
			break
		}
	}
	if status, _ := send("operating", "c", `{"name":"x"}`); status != 409 {
		t.Errorf("while it is under way: %d", status)
	}
	close(w.hold)
	wg.Wait()
}

// The store of answers is bounded, and lets go of the oldest.
func TestReplaysBounded(t *testing.T) {
	var s replays
	now := time.Now()
	done := &reply{status: 200}
	for i := range 3 * maxReplays {
		k := replayKey{"a", strconv.Itoa(i)}
		if re, err := s.begin(k, [32]byte{}, now); re != nil || err != nil {
			t.Fatalf("%d: %v %v", i, re, err)
		}
		s.end(k, done)
		if len(s.of) > maxReplays || len(s.order) != len(s.of) {
			t.Fatalf("%d and %d are kept", len(s.of), len(s.order))
		}
	}
	if re, _ := s.begin(replayKey{"a", strconv.Itoa(3*maxReplays - 1)}, [32]byte{}, now); re != done {
		t.Error("the newest is forgotten")
	}
	if re, err := s.begin(replayKey{"a", "late"}, [32]byte{}, now.Add(25*time.Hour)); re != nil || err != nil || len(s.of) != 1 {
		t.Errorf("after a day: %v %v, %d kept", re, err, len(s.of))
	}
	var full replays
	for i := range maxReplays {
		_, _ = full.begin(replayKey{"a", strconv.Itoa(i)}, [32]byte{}, now)
	}
	if _, err := full.begin(replayKey{"a", "more"}, [32]byte{}, now); err == nil || problem(err).Status != 503 {
		t.Errorf("more under way than there is room for: %v", err)
	}
}

// Too many requests, and too many guesses, wait.
func TestLimits(t *testing.T) {
	w := newWorld(t, nil)
	get := func(token string) (int, string) {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", w.base+"/v1/things/x", nil)
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("Retry-After")
	}
	limited := false
	for i := range 4*requestBurst + 1 {
		// Who has little of a processor asks no more often than one may.
		for i == 4*requestBurst && w.api.requests.take("token:look", time.Now().Add(time.Minute)) == 0 {
		}
		if status, after := get("looking"); status == 429 {
			limited = after != ""
			break
		}
	}
	if !limited {
		t.Error("an identity may ask without end")
	}
	if status, _ := get("operating"); status != 200 {
		t.Errorf("another identity: %d", status)
	}
	for i := range failureBurst {
		if status, _ := get("guess"); status != 401 {
			t.Errorf("guess %d: %d, want 401", i, status)
		}
	}
	// A slow machine takes so long to guess that there is room for another one.
	limit := func(when string, guess func() int) {
		t.Helper()
		for range failureBurst {
			if guess() == 429 {
				return
			}
		}
		t.Errorf("%s: nobody ends the guesses", when)
	}
	limit("one guess more", func() int {
		status, after := get("guess")
		if status == 429 && after == "" {
			t.Error("no Retry-After")
		}
		return status
	})
	// Whoever guesses keeps nobody out that is at the same address.
	for range 3 * failureBurst {
		_, _ = get("guess")
	}
	if status, _ := get("operating"); status != 200 {
		t.Errorf("a good token beside guesses: %d", status)
	}
	limit("a guess after a good token", func() int { status, _ := get("guess"); return status })
	if status, _, _ := w.curl(w.base + "/v1/things/x"); status != 401 {
		t.Errorf("nothing shown beside guesses: %d", status)
	}
	// The same over the socket, where the address is the user.
	guess := []string{"--unix-socket", w.socket, "-H", "Authorization: Bearer guess", "http://weir/v1/things/x"}
	for i := range failureBurst {
		if status, _, _ := w.curl(guess...); status != 401 {
			t.Errorf("guess %d over the socket: %d", i, status)
		}
	}
	limit("over the socket", func() int { status, _, _ := w.curl(guess...); return status })
	if status, _, _ := w.curl("--unix-socket", w.socket, "http://weir/v1/things/x"); status != 200 {
		t.Errorf("over the socket: %d", status)
	}
}

func TestLimiterBounded(t *testing.T) {
	l := newLimiter(2, 1)
	now := time.Now()
	for i := range 3 * maxBuckets {
		l.take(strconv.Itoa(i), now)
	}
	if len(l.of) > maxBuckets+1 {
		t.Errorf("%d buckets", len(l.of))
	}
	if l.take("newcomer", now) == 0 {
		t.Error("newcomers do not share a bucket when there is no room")
	}
	if l.take("0", now) != 0 || l.take("0", now) == 0 || l.take("0", now.Add(time.Second)) != 0 {
		t.Error("a bucket of two is not one of two, or does not fill up again")
	}
	l.take("later", now.Add(time.Hour))
	if len(l.of) > 1 {
		t.Errorf("%d buckets that are full again are kept", len(l.of))
	}
}

// A thousand at once: each has an answer, and no more are at work than may be.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	client := http.Client{Transport: &http.Transport{MaxConnsPerHost: 0, DisableKeepAlives: true}, Timeout: 5 * time.Minute}
	began := time.Now()
	var wg sync.WaitGroup
	var answers [600]atomic.Int64
	for range 1000 {
		wg.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), "POST", w.base+"/v1/things", strings.NewReader(`{"name":"x"}`))
			req.Header.Set("Authorization", "Bearer operating")
			req.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(req)
			if err != nil {
				t.Errorf("no answer: %v", err)
				return
			}
			_ = resp.Body.Close()
			answers[resp.StatusCode].Add(1)
		})
	}
	wg.Wait()
	created, refused := answers[201].Load(), answers[429].Load()
	may := requestBurst + requestRate*time.Since(began).Seconds()
	if created+refused != 1000 || created < requestBurst/2 || float64(created) > may+1 || refused == 0 && may < 1000 || created != w.changes.Load() {
		t.Errorf("%d created, %d refused, %d changes", created, refused, w.changes.Load())
	}
	if st := w.Stats(); st.Done != uint64(created) || st.Limited != uint64(refused) {
		t.Errorf("counted %+v, want %d done and %d limited", st, created, refused)
	}
}

// The document describes every route and the types of what is sent.
func TestOpenAPI(t *testing.T) {
	w := newWorld(t, nil)
	_, _, body := w.curl(join(bearer("looking"), []string{w.base + "/v1/openapi.json"})...)
	var doc struct {
		OpenAPI    string
		Paths      map[string]map[string]struct{ Parameters []struct{ Name, In string } }
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct{ Type string }
			}
		}
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" || len(doc.Paths) != 5 {
		t.Errorf("%+v", doc)
	}
	for _, rt := range w.routes() {
		if _, there := doc.Paths[rt.Path][strings.ToLower(rt.Method)]; !there {
			t.Errorf("%s %s is not described", rt.Method, rt.Path)
		}
	}
	if got := len(doc.Paths["/v1/things/{name}"]["put"].Parameters); got != 3 {
		t.Errorf("%d parameters of PUT, want name, If-Match and Idempotency-Key", got)
	}
	if got := doc.Components.Schemas["thing"].Properties["version"].Type; got != "integer" {
		t.Errorf("version is %q", got)
	}
	for ref := range strings.SplitSeq(body, `"$ref": "#/components/schemas/`) {
		name, _, _ := strings.Cut(ref, `"`)
		if _, there := doc.Components.Schemas[name]; !there && !strings.HasPrefix(ref, "{") {
			t.Errorf("there is no schema %q", name)
		}
	}
}

// authority makes certificates: a server's and clients' of one CA.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newAuthority(t *testing.T, dir string) *authority {
	a := &authority{t: t, dir: dir}
	a.make("ca", nil, true)
	return a
}

func (a *authority) make(name string, ips []net.IP, ca bool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: []string{"Example"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: ips, IsCA: ca, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.cert == nil {
		a.cert, _ = x509.ParseCertificate(der)
		a.key = key
	}
	pkcs8, _ := x509.MarshalPKCS8PrivateKey(key)
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(filepath.Join(a.dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
}

// A client certificate is a credential, by its subject.
func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir)
	ca.make("server", []net.IP{net.IPv4(127, 0, 0, 1)}, false)
	ca.make("alice", nil, false)
	ca.make("mallory", nil, false)
	other := t.TempDir()
	newAuthority(t, other).make("alice", nil, false)
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	w := newWorld(t, func(o *Options) {
		o.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12}
		o.Access.Subjects = map[string]Roles{"CN=alice,O=Example": Operator}
	})
	url := "https://" + w.Addr().String()
	with := func(dir, name string) []string {
		return []string{"--cert", filepath.Join(dir, name+".pem"), "--key", filepath.Join(dir, name+".key")}
	}
	trust := []string{"--cacert", filepath.Join(dir, "ca.pem")}
	add := jsonBody(`{"name":"x"}`)
	if status, _, body := w.curl(join(trust, with(dir, "alice"), add, []string{url + "/v1/things"})...); status != 201 {
		t.Errorf("alice: %d %s", status, body)
	}
	if status, _, body := w.curl(join(trust, with(dir, "alice"), []string{"-X", "POST", url + "/v1/things/x/approve"})...); status != 403 || !strings.Contains(body, "cert:CN=alice,O=Example") {
		t.Errorf("alice approves: %d %s", status, body)
	}
	if status, _, body := w.curl(join(trust, with(dir, "mallory"), add, []string{url + "/v1/things"})...); status != 401 || !strings.Contains(body, "admin.tls.clients") {
		t.Errorf("mallory: %d %s", status, body)
	}
	if status, _, _ := w.curl(join(trust, add, []string{url + "/v1/things"})...); status != 401 {
		t.Errorf("nobody: %d", status)
	}
	if status, _, _ := w.curl(join(trust, []string{url + "/healthz"})...); status != 200 {
		t.Errorf("health without a certificate: %d", status)
	}
	if out, err := exec.Command(corpus.Tool(t, "curl"), join([]string{"-sS", "-m", "120"}, trust, with(other, "alice"), add, []string{url + "/v1/things"})...).CombinedOutput(); err == nil {
		t.Errorf("a certificate of somebody else's authority: %s", out)
	}
	if n := w.changes.Load(); n != 1 {
		t.Errorf("%d changes, want alice's", n)
	}
}

// A socket that an end without warning left is taken over.
func TestStaleSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "admin")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "admin.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	s, err := Listen(Options{Socket: path, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if s.Addr().IsValid() {
		t.Errorf("TCP at %s", s.Addr())
	}
	_ = s.Close()
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket is left behind")
	}
}

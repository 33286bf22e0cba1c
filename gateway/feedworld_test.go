package gateway

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
)

// An origin is a real HTTP server of a list, which does what a test says.
type origin struct {
	*httptest.Server
	handler atomic.Pointer[http.HandlerFunc]
	header  atomic.Pointer[http.Header] // of the latest request
}

func newOrigin(t *testing.T, tls bool) *origin {
	t.Helper()
	o := new(origin)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := r.Header.Clone()
		o.header.Store(&header)
		(*o.handler.Load())(w, r)
	})
	o.Server = httptest.NewUnstartedServer(h)
	o.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if tls {
		o.StartTLS()
	} else {
		o.Start()
	}
	t.Cleanup(o.Close)
	o.does(http.NotFound)
	return o
}

func (o *origin) does(h http.HandlerFunc) { o.handler.Store(&h) }

// has makes the origin a good one of that text, as text/plain with an ETag.
func (o *origin) has(text string) {
	o.does(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("ETag", fmt.Sprintf("\"%x\"", sha256.Sum256([]byte(text))))
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(text))
	})
}

// A logged is what a gateway has logged.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A feedFixture is a gateway with a list that is fetched, and its origin.
type feedFixture struct {
	fixture
	origin *origin
}

const feedBan = listeners + `
protected: [precious.example]
state: state
bans:
- id: own
  title: Own
  authority: us
  reference: "https://example.org/own"
  lists:
  - {name: own, source: "file:own.txt", format: domains}
  - {name: feed, source: "ORIGIN/list.txt", format: domains, interval: 30d, timeout: 30s EXTRA}
  vectors: "file:vectors.txt"
`

// newFeedFixture writes the files and runs a gateway on them, in whose
// configuration EXTRA is more of the list's keys.
func newFeedFixture(t *testing.T, o *origin, extra string) *feedFixture {
	t.Helper()
	f := &feedFixture{fixture: fixture{t: t, dir: t.TempDir(), version: "test"}, origin: o}
	f.file = filepath.Join(f.dir, "weir.yml")
	f.configure(extra)
	f.write("own.txt", "banned.example\n")
	f.write("vectors.txt", "block banned.example\nblock n0001.example\nallow innocent.example\n")
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.stop() })
	return f
}

func (f *feedFixture) configure(extra string) {
	f.t.Helper()
	text := strings.NewReplacer("UPSTREAM", upstream(f.t), "ORIGIN", f.origin.URL, "EXTRA", extra).Replace(feedBan)
	f.write("weir.yml", text)
}

// start runs a gateway on what the files say, and without a state folder where they
// name none.
func (f *feedFixture) start() error {
	return f.startWith(func() (*config.Config, error) { return config.Load(f.file, bans.FS) })
}

// update looks at the list and returns what came of it.
func (f *feedFixture) update() FeedResult {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	r, err := f.UpdateFeeds(ctx, "feed")
	if err != nil || len(r) != 1 {
		f.t.Fatalf("UpdateFeeds: %v, %v", r, err)
	}
	return r[0]
}

// taken looks at the list until the version that the origin has now is in force. The
// clock may have been first: after a look that failed the next is soon.
func (f *feedFixture) taken(name string) {
	f.t.Helper()
	if r := f.update(); r.Outcome != "updated" && r.Outcome != "unchanged" {
		f.t.Errorf("%+v, want it updated", r)
	}
	f.blocks(name)
}

// hurry has the fetches of the list end after that time.
func (f *feedFixture) hurry(from, to string) {
	f.t.Helper()
	if err := f.rewrite("weir.yml", strings.Replace(f.read("weir.yml"), "timeout: "+from, "timeout: "+to, 1)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *feedFixture) status() *FeedStatus {
	f.t.Helper()
	for _, l := range f.Status().Lists {
		if l.Name == "feed" && l.Feed != nil {
			return l.Feed
		}
	}
	f.t.Fatal("no list feed in the status")
	return nil
}

// connect returns the status line of a CONNECT to the name.
func (f *feedFixture) connect(name string) string {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.ProxyAddrs()[0].String())
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = fmt.Fprintf(conn, "CONNECT %[1]s:443 HTTP/1.1\r\nHost: %[1]s:443\r\n\r\n", name)
	line := make([]byte, len("HTTP/1.1 403"))
	_, _ = io.ReadFull(conn, line)
	return string(line)
}

// blocks checks that both planes hold the name back.
func (f *feedFixture) blocks(name string) {
	f.t.Helper()
	if got := f.rcode(name); got != "NXDOMAIN" {
		f.t.Errorf("DNS, %s: %s, want NXDOMAIN", name, got)
	}
	if got := f.connect(name); got != "HTTP/1.1 403" {
		f.t.Errorf("CONNECT %s: %s, want 403", name, got)
	}
}

func (f *feedFixture) allows(name string) {
	f.t.Helper()
	if got := f.rcode(name); got != "NOERROR" {
		f.t.Errorf("%s: %s, want NOERROR", name, got)
	}
}

// names returns a list of so many names, and further lines.
func names(n int, more ...string) string {
	var b strings.Builder
	for i := range n {
		_, _ = fmt.Fprintf(&b, "n%04d.example\n", i)
	}
	for _, line := range more {
		b.WriteString(line + "\n")
	}
	return b.String()
}

const base = 2000

func gzipped(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.Bytes()
}

// serves returns a handler with those headers and that body.
func serves(body []byte, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		_, _ = w.Write(body)
	}
}

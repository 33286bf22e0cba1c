package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"aead.dev/minisign"

	"github.com/weir-gateway/weir/gateway/admin"
)

// A fault is a way in which an update goes wrong.
type fault struct {
	name, reason string
	does         http.HandlerFunc
}

// faults are all of them; each would hold back bad.example if it were taken. No
// variable: the processes that TestKill starts would make it too, each time.
func faults() []fault {
	return []fault{
		{"404", "status", http.NotFound},
		{"500", "status", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }},
		{"hang", "timeout", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"slow drip", "timeout", func(w http.ResponseWriter, r *http.Request) {
			for i := 0; r.Context().Err() == nil; i++ {
				_, _ = io.WriteString(w, names(base, "bad.example")[i:i+1])
				_ = http.NewResponseController(w).Flush()
				time.Sleep(20 * time.Millisecond)
			}
		}},
		{"short of its length", "truncated", serves([]byte(names(base, "bad.example")), "Content-Length", "1000000")},
		{"gzip cut off", "truncated", serves(gzipped(names(base, "bad.example"))[:4000], "Content-Encoding", "gzip")},
		{"packed file cut off", "truncated", serves(gzipped(names(base, "bad.example"))[:4000], "Content-Type", "application/gzip")},
		{"image", "type", serves([]byte(names(base, "bad.example")), "Content-Type", "image/png")},
		{"HTML by its type", "type", serves([]byte("<html>"), "Content-Type", "text/html")},
		{"HTML", "html", serves([]byte("# a comment\n<!DOCTYPE html><html><body>bad.example</body></html>\n"))},
		{"an error page behind the list", "html", serves([]byte(names(base, "bad.example", "<html><body>502 Bad Gateway</body></html>")))},
		{"all of co.uk", "protected", serves([]byte(names(base, "bad.example", "co.uk")))},
		{"binary", "binary", serves(bytes.Repeat([]byte{1, 2, 3, 0}, 5000))},
		{"archive", "archive", serves([]byte("PK\x03\x04 and so on"))},
		{"another dialect", "dialect", serves([]byte(strings.ReplaceAll(names(base, "bad.example"), "n", "||n")))},
		{"nothing", "dialect", serves(nil)},
		{"gzip bomb", "bomb", serves(gzipped(strings.Repeat("bad.example\n", 1<<20)), "Content-Encoding", "gzip")},
		{"packed file that is a bomb", "bomb", serves(gzipped(strings.Repeat("bad.example\n", 1<<20)))},
		{"too large", "size", serves([]byte(strings.Repeat("# a comment on bad.example\n", 1<<17)))},
		{"10x growth", "growth", serves([]byte(names(10*base, "bad.example")))},
		{"90 % shrink", "shrink", serves([]byte(names(base/10, "bad.example")))},
		{"redirect to a private address", "address", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://10.0.0.1/", http.StatusFound)
		}},
		{"redirect to another port here", "address", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}},
		{"redirects without end", "redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }},
		{"google.com", "protected", serves([]byte(names(base, "bad.example", "google.com")))},
		{"all of com", "dialect", serves([]byte("com\n"))},
		{"under a protected name", "protected", serves([]byte(names(base, "bad.example", "intranet.gc.ca")))},
		{"a name of the configuration", "protected", serves([]byte(names(base, "bad.example", "precious.example")))},
		{"above a protected name", "protected", serves([]byte(names(base, "bad.example", "*.apple.com")))},
		{"against the vectors", "vectors", serves([]byte(names(base, "bad.example", "innocent.example")))},
		{"without what must be blocked", "vectors", serves([]byte(strings.Replace(names(base, "bad.example"), "n0001.", "m0001.", 1)))},
	}
}

// TestFeedFaults: whatever goes wrong with an update, the version in force stays
// on both planes, the reason is to be seen everywhere, and the next good version
// is taken.
func TestFeedFaults(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, false)
	o.has(names(base))
	f := newFeedFixture(t, o, ", max_size: 3MiB")
	if r := f.update(); r.Outcome == "failed" {
		t.Fatalf("%+v", r)
	}
	f.blocks("x.n0001.example")
	for i, tt := range faults() {
		t.Run(tt.name, func(t *testing.T) {
			f.t = t
			defer func() { f.t = nil }()
			if tt.reason == "timeout" {
				f.hurry("30s", "2s")
			}
			generation := f.Status().Generation
			refused := f.status().Refusals[tt.reason]
			o.does(tt.does)
			if r := f.update(); r.Outcome != "failed" || r.Reason != tt.reason {
				t.Errorf("%+v, want the reason %s", r, tt.reason)
			}
			f.blocks("x.n0001.example")
			f.blocks("banned.example")
			f.allows("bad.example")
			f.showsFault(tt.reason, refused)
			if got := f.Status().Generation; got != generation {
				t.Errorf("generation %d, want %d", got, generation)
			}
			if tt.reason == "timeout" {
				f.hurry("2s", "30s")
			}
			fresh := fmt.Sprintf("fresh%d.example", i)
			o.has(names(base, fresh))
			f.taken(fresh)
			if s := f.status(); s.State != "ok" || s.Refused != nil || s.Error != "" {
				t.Errorf("recovered, but %+v", s)
			}
		})
	}
	f.t = t
}

// showsFault checks that a fault is to be seen in status, metrics and log.
func (f *feedFixture) showsFault(reason string, before uint64) {
	f.t.Helper()
	s := f.status()
	if s.State != "failing" || s.Reason != reason || s.Error == "" || s.Refusals[reason] <= before {
		f.t.Errorf("status: %+v", s)
	}
	waitFor(f.t, "the metrics", func() bool { // it may be looked at again meanwhile
		want := fmt.Sprintf(`weir_feed_refused_total{list="feed",reason=%q} %d`, reason, f.status().Refusals[reason])
		return strings.Contains(f.get("/metrics"), want)
	})
	if !strings.Contains(f.log.String(), "list=feed source="+f.origin.URL+"/list.txt reason="+reason+" ") {
		f.t.Errorf("no line of the reason %s in the log", reason)
	}
	kept := slices.Contains([]string{"html", "binary", "archive", "dialect", "growth", "shrink", "protected", "vectors"}, reason)
	if kept && (s.Refused == nil || s.Refused.Reason != reason) {
		f.t.Errorf("nothing of the reason %s in quarantine: %+v", reason, s.Refused)
	}
	if f.get("/readyz") != "ready\n" {
		f.t.Errorf("not ready, though what is in force is not stale: %s", f.get("/readyz"))
	}
}

func TestFeedUpdates(t *testing.T) {
	o := newOrigin(t, false)
	o.has(names(base))
	f := newFeedFixture(t, o, "")
	f.update()
	r := f.update()
	if r.Outcome != "unchanged" || o.header.Load().Get("If-None-Match") == "" || o.header.Load().Get("User-Agent") != "weir/test" {
		t.Errorf("%+v, asked with %v", r, *o.header.Load())
	}
	took := time.Hour // which is measured again where other programs have the processors
	for round := 0; round < 5 && took > 10*time.Second; round++ {
		next := fmt.Sprintf("next%d.example", round)
		var served time.Time
		o.does(func(w http.ResponseWriter, r *http.Request) {
			serves(gzipped(names(base, next)), "Content-Encoding", "gzip")(w, r)
			served = time.Now()
		})
		f.allows(next)
		r = f.update()
		took = time.Since(served)
		f.blocks(next)
		if r.Outcome != "updated" || r.Rules != base+1 {
			t.Errorf("%+v", r)
		}
	}
	if took > 10*time.Second {
		t.Errorf("in force %v after the fetch", took)
	}
	// The operator's change of the file that came meanwhile is seen as well.
	f.write("own.txt", "banned.example\nother.example\n")
	deadline := time.Now().Add(time.Minute)
	for f.rcode("other.example") != "NXDOMAIN" && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	f.blocks("other.example")
	f.blocks("n0002.example")
}

// TestFeedScheduled: nobody has to ask.
func TestFeedScheduled(t *testing.T) {
	o := newOrigin(t, false)
	o.has(names(base))
	f := newFeedFixture(t, o, "")
	deadline := time.Now().Add(time.Minute)
	for f.status().Looks == 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	f.blocks("n0001.example")
	if next := time.Until(f.status().Next); next < 26*24*time.Hour || next > 34*24*time.Hour {
		t.Errorf("the next look is in %v, want about 30 days", next)
	}
}

// TestFeedMissing: without network and copy the others are in force, and what is
// missing is to be seen; a copy is in force after a restart without network.
func TestFeedMissing(t *testing.T) {
	o := newOrigin(t, false)
	f := newFeedFixture(t, o, "")
	f.update()
	f.blocks("banned.example")
	f.allows("n0001.example")
	if s := f.status(); s.State != "missing" || s.Reason != "status" || time.Until(s.Next) > 2*time.Minute {
		t.Errorf("%+v", s)
	}
	if got := f.get("/readyz"); !strings.Contains(got, "list feed is missing") {
		t.Errorf("/readyz: %s", got)
	}
	if !strings.Contains(f.get("/metrics"), `weir_feed_state{list="feed",state="missing"} 1`) {
		t.Error("it is not missing in the metrics")
	}
	o.has(names(base))
	f.update()
	f.blocks("n0001.example")
	if got := f.get("/readyz"); got != "ready\n" {
		t.Errorf("/readyz: %s", got)
	}
	f.stop()
	o.does(http.NotFound)
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	f.blocks("n0001.example")
	if s := f.status(); s.State != "ok" || time.Until(s.Next) < time.Hour {
		t.Errorf("after a restart: %+v", s)
	}
	// Its age makes it an alarm.
	if err := f.feeds.alarm(time.Now().Add(91 * 24 * time.Hour)); err == nil || !strings.Contains(err.Error(), "list feed is stale") {
		t.Errorf("after three months: %v", err)
	}
}

// TestFeedRequired: a list that must be there is fetched before the start, or
// there is none.
func TestFeedRequired(t *testing.T) {
	o := newOrigin(t, false)
	o.has(names(base))
	f := newFeedFixture(t, o, ", required: true")
	f.blocks("n0001.example")
	o.does(http.NotFound)
	bare := &feedFixture{fixture: fixture{t: t, dir: t.TempDir()}, origin: o}
	bare.file = filepath.Join(bare.dir, "weir.yml")
	bare.configure(", required: true")
	bare.write("own.txt", "banned.example\n")
	bare.write("vectors.txt", "block banned.example\nallow n0002.example\n")
	if err := bare.start(); err == nil || !strings.Contains(err.Error(), "it is required, was never fetched, and cannot be now: the server answers 404") || !strings.Contains(err.Error(), "weir.yml:") {
		t.Errorf("start without it: %v", err)
	}
	// What the start refused is not what the next one starts with.
	o.has(names(base))
	for range 2 {
		if err := bare.start(); err == nil || !strings.Contains(err.Error(), "vectors") {
			t.Errorf("start with one that fails the vectors: %v", err)
		}
	}
	bare.configure(", required: true, hold: true")
	if err := bare.start(); err == nil || !strings.Contains(err.Error(), "waits for approval") {
		t.Errorf("start with one that nobody approved: %v", err)
	}
	bare.configure(", required: true")
	bare.write("vectors.txt", "block banned.example\n")
	if err := bare.start(); err != nil {
		t.Fatal(err)
	}
	bare.blocks("n0001.example")
	bare.stop()
}

// TestFeedMoved: the list of another URL begins with the version of the old one.
func TestFeedMoved(t *testing.T) {
	o := newOrigin(t, false)
	o.has(names(base))
	f := newFeedFixture(t, o, "")
	f.update()
	f.origin = newOrigin(t, true) // whose certificate nobody has signed
	f.origin.has(names(base, "bad.example"))
	f.configure("")
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.blocks("n0001.example")
	if r := f.update(); r.Outcome != "failed" || r.Reason != "tls" {
		t.Errorf("%+v, want the reason tls", r)
	}
	f.showsFault("tls", 0)
	f.blocks("n0001.example")
	f.allows("bad.example")
}

func TestFeedSigned(t *testing.T) {
	public, private, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, stranger, err := minisign.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key minisign.PrivateKey, text string) []byte {
		r := minisign.NewReader(strings.NewReader(text))
		_, _ = io.Copy(io.Discard, r)
		return r.Sign(key)
	}
	text := names(base)
	o := newOrigin(t, false)
	with := func(signature []byte) {
		o.does(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case !strings.HasSuffix(r.URL.Path, ".minisig"):
				serves([]byte(text))(w, r)
			case signature == nil:
				http.NotFound(w, r)
			default:
				serves(signature)(w, r)
			}
		})
	}
	with(nil)
	f := newFeedFixture(t, o, ", minisign: "+public.String())
	for _, tt := range []struct {
		name, want string
		signature  []byte
	}{
		{"none", "there is no signature", nil},
		{"no signature at all", "is none of minisign", []byte("hello\n")},
		{"a stranger's", "not by the list's key", sign(stranger, text)},
		{"of another version", "not by the list's key", sign(private, text+"x")},
		{"of the old form", "old form", minisign.Sign(private, []byte(text))},
	} {
		with(tt.signature)
		if r := f.update(); r.Reason != "signature" || !strings.Contains(r.Error, tt.want) {
			t.Errorf("%s: %+v, want %q", tt.name, r, tt.want)
		}
		f.allows("n0001.example")
	}
	with(sign(private, text))
	f.taken("n0001.example")
}

func TestFeedPinned(t *testing.T) {
	const sum = "a7c6fd0a5a8fba6ac3e2cd2c5d5a9e76b4b0fcc4cfbeb0c2c3c7ad9a77ba5bd1" // of nothing here
	o := newOrigin(t, false)
	o.has(names(base))
	f := newFeedFixture(t, o, ", sha256: "+sum)
	if r := f.update(); r.Reason != "digest" || !strings.Contains(r.Error, "only "+sum) {
		t.Errorf("%+v, want the reason digest", r)
	}
	f.allows("n0001.example")
	f.update() // refused for the same reason: said once
	f.onRecord("gateway: feed refused")
	f.configure(", sha256: " + f.status().Refused.SHA256)
	if err := f.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := f.update(); r.Outcome == "failed" {
		t.Errorf("%+v", r)
	}
	f.blocks("n0001.example")
}

func TestFeedHeld(t *testing.T) {
	o := newOrigin(t, false)
	o.has(names(base))
	f := newFeedFixture(t, o, ", hold: true")
	if r := f.update(); r.Outcome != "held" || r.Rules != base {
		t.Fatalf("%+v, want it held", r)
	}
	f.allows("n0001.example")
	ctx := t.Context()
	if err := f.ApproveFeed(ctx, "feed", strings.Repeat("0", 64), "someone"); !errors.Is(err, ErrMoved) {
		t.Errorf("approval of another version: %v", err)
	}
	if err := f.ApproveFeed(ctx, "own", "", "someone"); !errors.Is(err, ErrNoFeed) {
		t.Errorf("approval of a file: %v", err)
	}
	if err := f.ApproveFeed(ctx, "feed", f.status().Held.SHA256, "someone"); err != nil {
		t.Fatal(err)
	}
	f.blocks("n0001.example")
	if !strings.Contains(f.log.String(), "who=someone") {
		t.Error("who approved it is not in the log")
	}
	if err := f.ApproveFeed(ctx, "feed", "", "someone"); !errors.Is(err, ErrNotHeld) {
		t.Errorf("approval of nothing: %v", err)
	}
	o.has(names(base, "next.example"))
	f.update()
	held := f.status()
	if held.State != "held" || held.Held == nil {
		t.Fatalf("%+v", held)
	}
	// It waits over a restart.
	f.stop()
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	f.allows("next.example")
	if err := f.DiscardFeed(ctx, "feed", held.Held.SHA256, "someone"); err != nil {
		t.Fatal(err)
	}
	// It is not held out again.
	if r := f.update(); r.Outcome != "refused" || r.Reason != reasonDiscarded {
		t.Errorf("%+v", r)
	}
	if s := f.status(); s.Held != nil || s.Refused == nil || s.Refused.Reason != "discarded" {
		t.Errorf("%+v", s)
	}
	o.has(names(base, "after.that.example"))
	if r := f.update(); r.Outcome != "held" {
		t.Errorf("%+v, want it held", r)
	}
	f.allows("next.example")
	f.blocks("n0001.example")
	f.onRecord("gateway: feed held", "someone: feed approved", "gateway: feed held", "someone: feed discarded", "gateway: feed held")
}

// TestFeedAPI: what takes too long goes on without the caller, and only the
// version that somebody has seen is approved.
func TestFeedAPI(t *testing.T) {
	o := newOrigin(t, false)
	o.has(names(base))
	f := newFeedFixture(t, o, ", hold: true")
	f.update()
	var approve func(context.Context, *admin.Call) (any, error)
	for _, r := range f.feedRoutes() {
		if strings.HasSuffix(r.Path, "/approve") {
			approve = r.Handle
			if r.Role != admin.Operator|admin.Approver || !r.Match {
				t.Errorf("%+v", r)
			}
		}
	}
	if approve == nil {
		t.Fatal("nothing approves")
	}
	waits := make(chan struct{})
	o.does(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-waits:
			serves([]byte(names(base, "next.example")))(w, r)
		case <-r.Context().Done():
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if r, err := f.UpdateFeeds(ctx, ""); err != nil || len(r) != 1 || r[0].Outcome != "running" {
		t.Errorf("%v, %v", r, err)
	}
	close(waits)
	deadline := time.Now().Add(time.Minute)
	for f.status().Held.Rules != base+1 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	if got := f.status().Held.Rules; got != base+1 {
		t.Errorf("%d rules wait, want %d", got, base+1)
	}
}

// TestFeedRollback: after a rollback no update is taken until somebody asks.
func TestFeedRollback(t *testing.T) {
	o := newOrigin(t, false)
	o.has(names(base))
	f := newFeedFixture(t, o, "")
	f.update()
	o.has(names(base, "next.example"))
	f.update()
	f.blocks("next.example")
	if err := f.Rollback(t.Context(), 0, "someone", "it is too much"); err != nil {
		t.Fatal(err)
	}
	f.allows("next.example")
	f.blocks("n0001.example")
	o.has(names(base, "after.example"))
	if r := f.update(); r.Outcome != "held" {
		t.Errorf("%+v, want it held", r)
	}
	f.allows("after.example")
	if err := f.Update(t.Context(), "someone", "it was not"); err != nil {
		t.Fatal(err)
	}
	f.blocks("next.example") // which is the last good version
	if r := f.update(); r.Outcome != "updated" {
		t.Errorf("%+v, want it updated", r)
	}
	f.blocks("after.example")
	f.allows("next.example")
	if s := f.status(); s.Held != nil || s.State != "ok" {
		t.Errorf("%+v", s)
	}
}

// TestFeedWithoutState: copies live as long as the gateway, and nowhere where
// somebody else would look.
func TestFeedWithoutState(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	folders := func() []string {
		found, _ := filepath.Glob(filepath.Join(tmp, "weir-feeds-*"))
		return found
	}
	o := newOrigin(t, false)
	o.has(names(base))
	f := &feedFixture{fixture: fixture{t: t, dir: t.TempDir()}, origin: o}
	f.file = filepath.Join(f.dir, "weir.yml")
	f.configure("")
	f.write("weir.yml", strings.Replace(f.read("weir.yml"), "state: state\n", "", 1))
	f.write("own.txt", "banned.example\n")
	f.write("vectors.txt", "block banned.example\n")
	if err := f.start(); err != nil {
		t.Fatal(err)
	}
	f.update()
	f.blocks("n0001.example")
	if got := folders(); len(got) != 1 {
		t.Errorf("folders: %v", got)
	}
	f.stop()
	if got := folders(); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	t.Setenv("TMPDIR", filepath.Join(tmp, "none"))
	if err := f.start(); err != nil {
		t.Fatalf("no place for files at all: %v", err)
	}
	if r := f.update(); r.Outcome != "failed" || !strings.Contains(r.Error, "no folder for fetched lists") {
		t.Errorf("%+v", r)
	}
	f.blocks("banned.example")
	f.stop()
}

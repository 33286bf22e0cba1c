package gateway

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/gateway/ledger"
)

// held returns what status says of a list in a file that waits for approval, or nil.
func (w *exemptWorld) held(list string) *FeedStatus {
	w.t.Helper()
	for _, l := range w.Status().Lists {
		if l.Name == list {
			return l.Feed
		}
	}
	w.t.Fatalf("no list %s", list)
	return nil
}

// refused waits until a version of the list is refused.
func (w *exemptWorld) refused(reason string) *FeedStatus {
	w.t.Helper()
	waitFor(w.t, "the refusal", func() bool { f := w.held("own"); return f != nil && f.Reason == reason })
	return w.held("own")
}

// TestFileGuard: a file that an editor has brought to hold back a well-known or
// protected name is not taken, over a restart, too; its old rules stay, other changes
// are in force, and somebody may approve it. One name more is simply in force.
func TestFileGuard(t *testing.T) {
	t.Parallel()
	w := newCanaryWorld(t)
	w.write("own.txt", "banned.example\none-more.example\n")
	waitFor(t, "one name more", func() bool { return w.Status().Generation == 2 })
	w.sees("one name more", "one-more.example", true, true)
	for i, name := range []string{"google.com", "=google.com", "www.precious.example"} {
		if name == "www.precious.example" {
			w.write("weir.yml", w.read("weir.yml")+"protected: [precious.example]\n")
			waitFor(t, "the protected name", func() bool { return len(w.state0().cfg.Protected) == 1 })
		}
		w.write("own.txt", fmt.Sprintf("other-%d.example\n%s\n", i, name))
		waitFor(t, "the refusal of "+name, func() bool {
			f := w.held("own")
			return f != nil && f.Held.SHA256 == sha(w.read("own.txt"))
		})
		f := w.refused(reasonProtected)
		if f.State != feedHeld || !strings.Contains(f.Error, "line 2") || !strings.Contains(f.Error, strings.TrimPrefix(name, "=")) || f.Held.Rules != 2 {
			t.Errorf("%s: %+v", name, f)
		}
		w.sees("refused", "one-more.example", true, true)
		w.sees("refused", fmt.Sprintf("other-%d.example", i), false, false)
	}
	w.write("own.txt", "banned.example\ngoogle.com\n")
	waitFor(t, "the next refusal", func() bool { return w.held("own").Held.SHA256 == sha(w.read("own.txt")) })
	w.call(http.StatusOK, http.MethodPut, "/v1/rules/block/own/urgent.example", `{"reason":"incident"}`)
	w.sees("a rule beside it", "urgent.example", true, true)
	w.restart()
	w.refused(reasonProtected)
	w.sees("after a restart", "one-more.example", true, true)
	w.sees("after a restart", "google.com", false, false)
	if text := w.get("/metrics"); !strings.Contains(text, `weir_list_file_refused{list="own",reason="protected"} 1`) {
		t.Error("the metrics do not say it")
	}
	if err := w.feeds.alarm(time.Now()); err != nil {
		t.Errorf("an alarm at once: %v", err)
	}
	if err := w.feeds.alarm(time.Now().Add(fileAlarm + time.Hour)); err == nil || !strings.Contains(err.Error(), "list own has changed, and waits for approval") {
		t.Errorf("a day later: %v", err)
	}
	w.ledgerRefused()
	w.approveHeld(http.StatusPreconditionFailed, "0000")
	w.approveHeld(http.StatusOK, w.held("own").Held.SHA256)
	w.sees("approved", "google.com", true, true)
	w.sees("approved", "one-more.example", false, false)
	// What is in force already is no news.
	w.write("own.txt", "banned.example\ngoogle.com\nthird.example\n")
	waitFor(t, "one name more", func() bool { return w.held("own") == nil && w.askBoth(behind, "third.example") == "NXDOMAIN, 403" })
}

func (w *canaryWorld) state0() *state { return w.Gateway.state.Load() }

func (w *canaryWorld) approveHeld(want int, digest string) {
	w.t.Helper()
	status, text := w.as("op", http.MethodPost, "/v1/lists/own/approve", `"`+digest+`"`, "", nil)
	if status != want {
		w.t.Fatalf("approve: %d, want %d: %s", status, want, text)
	}
}

func (w *canaryWorld) ledgerRefused() {
	w.t.Helper()
	entries, _, err := ledger.Page(w.exemptWorld.state, 0, 100)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if e.What == "list refused" && e.Object == "list own" && e.After != "" && strings.Contains(e.Why, "google.com") {
			return
		}
	}
	w.t.Errorf("the record of changes does not say it: %+v", entries)
}

// TestFileGuardSize: a file that has become another list by its size is not taken, by
// whichever way it would be compiled; one that was put right is.
func TestFileGuardSize(t *testing.T) {
	t.Parallel()
	w := newCanaryWorld(t)
	for _, tt := range []struct {
		rules  int
		reason string
	}{{3000, ""}, {1000, reasonShrink}, {2500, ""}, {30_000, reasonGrowth}, {9000, ""}} {
		w.write("own.txt", "banned.example\n"+text(bigList(tt.rules-1)))
		err := w.Reload(t.Context())
		f := w.held("own")
		if tt.reason == "" && (err != nil || f != nil) || tt.reason != "" && (f == nil || f.Reason != tt.reason) {
			t.Fatalf("%d rules: %v, %+v, want %q", tt.rules, err, f, tt.reason)
		}
		w.sees(fmt.Sprintf("%d rules", tt.rules), "banned.example", true, true)
	}
	w.write("own.txt", "\n"+text(bigList(100)))
	_ = w.Reload(t.Context())
	if status, text := w.as("op", http.MethodPost, "/v1/lists/own/discard", `"`+w.refused(reasonShrink).Held.SHA256+`"`, "", nil); status != http.StatusConflict || !strings.Contains(text, "put ") {
		t.Errorf("discard: %d %s", status, text)
	}
	w.approveHeld(http.StatusOK, w.held("own").Held.SHA256)
	w.sees("approved", "banned.example", false, false)
}

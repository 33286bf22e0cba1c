package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists/source"
)

// newFeedCanary is a canary's world with a list that the origin has, whose first version
// the group has.
func newFeedCanary(t *testing.T, o *origin) *canaryWorld {
	w := newCanaryWorld(t)
	const own = `  - {name: own, source: "file:own.txt", format: domains}`
	if err := w.rewrite("weir.yml", strings.Replace(w.read("weir.yml"), own, own+"\n  - {name: feed, source: \""+o.URL+"/list.txt\", format: domains, interval: 30d, canary: two}", 1)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the first version", func() bool { return w.Status().Canary != nil })
	return w
}

// fetch looks at the list, and returns what came of it.
func (w *canaryWorld) fetch() FeedResult {
	w.t.Helper()
	var out []FeedResult
	if err := json.Unmarshal([]byte(w.call(http.StatusOK, http.MethodPost, "/v1/lists/fetch", `{}`)), &out); err != nil || len(out) != 1 {
		w.t.Fatalf("%+v, %v", out, err)
	}
	return out[0]
}

func (w *canaryWorld) feed() *FeedStatus {
	w.t.Helper()
	for _, l := range w.Status().Lists {
		if l.Name == "feed" {
			return l.Feed
		}
	}
	w.t.Fatal("there is no list feed")
	return nil
}

// dropped checks that the version is refused with its canary, and that the copy in
// force is what others had.
func (w *canaryWorld) dropped(when, version, others string) {
	w.t.Helper()
	f := w.feed()
	if f.SHA256 != digestText(others) || f.Held != nil || f.Refused == nil ||
		f.Refused.SHA256 != digestText(version) || f.Refused.Reason != reasonDropped || f.Refused.Message != "canary dropped by token:op: too much" {
		w.t.Errorf("%s: %+v, refused %+v", when, f, f.Refused)
	}
}

func digestText(text string) string {
	if text == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// TestFeedCanaryDropped: a version that was dropped with its canary stays refused,
// whoever asks for an update, until the source has another or somebody approves it.
func TestFeedCanaryDropped(t *testing.T) {
	o := newOrigin(t, false)
	first, second := names(base), names(base, "second.example")
	o.has(first)
	w := newFeedCanary(t, o)
	drop := func() { w.call(http.StatusOK, http.MethodPost, "/v1/canary/drop", `{"why":"too much"}`) }
	update := func() { w.call(http.StatusOK, http.MethodPost, "/v1/update", `{}`) }
	nowhere := func(when, name string) {
		t.Helper()
		w.sees(when, name, false, false)
		if c := w.Status().Canary; c != nil {
			t.Errorf("%s: a canary %+v", when, c)
		}
	}

	drop()
	w.dropped("the first version, dropped", first, "")
	if s := w.feed(); s.State != feedMissing {
		t.Errorf("without a version: %+v", s)
	}
	update()
	if r := w.fetch(); r.Outcome != "refused" || r.Reason != reasonDropped || r.Error != "" {
		t.Errorf("%+v, want it refused", r)
	}
	nowhere("the first version after an update", "n0001.example")

	var held FeedVersion
	status, text := w.as("op", http.MethodGet, "/v1/lists/feed/held", "", "", &held)
	if status != http.StatusOK || held.Reason != reasonDropped {
		t.Fatalf("what can be approved: %d %s", status, text)
	}
	if status, text = w.as("op", http.MethodPost, "/v1/lists/feed/discard", `"`+held.SHA256+`"`, "", nil); status != http.StatusConflict {
		t.Errorf("discarded twice: %d %s", status, text)
	}
	w.as("op", http.MethodPost, "/v1/lists/feed/approve", `"`+held.SHA256+`"`, "", nil)
	w.sees("approved: the group has it first", "n0001.example", true, false)
	if f := w.feed(); f.Refused != nil || f.SHA256 != digestText(first) {
		t.Errorf("approved: %+v", f)
	}
	w.call(http.StatusOK, http.MethodPost, "/v1/canary/promote", `{}`)

	o.has(second)
	w.fetch()
	w.sees("the second version", "second.example", true, false)
	o.has(names(base, "second.example", "third.example"))
	w.fetch()
	w.sees("the third version", "third.example", true, false)
	o.has(second)
	w.fetch()
	w.sees("the second version once more", "third.example", false, false)
	drop()
	w.dropped("the second version, dropped", second, first)
	// The gateway itself has put the older copy back: that is no change of a file.
	w.restart()
	w.dropped("after a restart", second, first)
	update()
	w.fetch()
	nowhere("after an update", "second.example")
	w.sees("after an update", "n0001.example", true, true)
	// An error page in between is no other version.
	o.has("<!DOCTYPE html><html>\n")
	if r := w.fetch(); r.Outcome != "failed" || w.feed().Refused.Reason == reasonDropped {
		t.Errorf("%+v, %+v", r, w.feed().Refused)
	}
	o.has(second)
	if r := w.fetch(); r.Outcome != "refused" {
		t.Errorf("%+v, want it refused after an error page", r)
	}
	w.dropped("after an error page", second, first)
	// What comes next is a version like any other, and so is the same after it.
	o.has(names(base, "fourth.example"))
	if r := w.fetch(); r.Outcome != "updated" || w.feed().Refused != nil {
		t.Errorf("%+v, %+v", r, w.feed().Refused)
	}
	w.sees("another version", "fourth.example", true, false)

	var record []string
	for _, e := range w.changes() {
		if e.Object == "list feed" && e.What == notedRefused {
			record = append(record, e.Who+": "+e.Why+" "+e.After)
		}
	}
	const why = "token:op: dropped: canary dropped by token:op: too much "
	if len(record) != 3 || record[0] != why+digestText(first) || record[1] != why+digestText(second) || !strings.HasPrefix(record[2], "gateway: html") {
		t.Errorf("on the record:\n%s", strings.Join(record, "\n"))
	}
}

// TestFeedCanaryDroppedMeanwhile: a look at the list that is under way when its canary
// is dropped does not bring back what was in force when it began.
func TestFeedCanaryDroppedMeanwhile(t *testing.T) {
	o := newOrigin(t, false)
	first, second := names(base), names(base, "second.example")
	o.has(first)
	w := newFeedCanary(t, o)
	w.call(http.StatusOK, http.MethodPost, "/v1/canary/promote", `{}`)
	o.has(second)
	w.fetch()
	w.sees("ahead", "second.example", true, false)
	asked, answer := make(chan struct{}), make(chan struct{})
	o.does(func(rw http.ResponseWriter, r *http.Request) {
		close(asked)
		<-answer
		serves([]byte(second))(rw, r)
	})
	done := make(chan FeedResult)
	go func() {
		r, _ := w.UpdateFeeds(t.Context(), "feed")
		done <- append(r, FeedResult{})[0]
	}()
	<-asked
	w.call(http.StatusOK, http.MethodPost, "/v1/canary/drop", `{"why":"too much"}`)
	close(answer)
	if r := <-done; r.Error != "" {
		t.Errorf("%+v", r)
	}
	w.dropped("after the look", second, first)
	o.has(second)
	w.call(http.StatusOK, http.MethodPost, "/v1/update", `{}`)
	w.fetch()
	w.sees("after an update", "second.example", false, false)
	w.restart()
	w.dropped("after a restart", second, first)
	w.sees("after a restart", "second.example", false, false)
	w.sees("after a restart", "n0001.example", true, true)
}

// TestFeedCanary: each new version of a list with a canary is in force for its group
// first, over a restart, too; a broken one begins none.
func TestFeedCanary(t *testing.T) {
	o := newOrigin(t, false)
	o.has(names(base))
	w := newFeedCanary(t, o)
	w.sees("the first version", "n0001.example", true, false)
	if c := w.Status().Canary; c.Group != "two" || c.Who != whoGateway || c.Why != "update of list feed" {
		t.Errorf("canary %+v", c)
	}
	w.restart()
	w.sees("after a restart", "n0001.example", true, false)
	o.has(names(base, "second.example"))
	w.call(http.StatusOK, http.MethodPost, "/v1/lists/fetch", `{}`)
	w.sees("the next version", "second.example", true, false)
	w.call(http.StatusOK, http.MethodPost, "/v1/canary/promote", `{}`)
	w.sees("promoted", "second.example", true, true)
	w.sees("promoted", "n0001.example", true, true)
	before := w.Status().Generation
	o.has(names(base, "second.example", "google.com"))
	w.call(http.StatusOK, http.MethodPost, "/v1/lists/fetch", `{}`)
	o.has("wechat.com\n")
	w.call(http.StatusOK, http.MethodPost, "/v1/lists/fetch", `{}`)
	if st := w.Status(); st.Canary != nil || st.Generation != before || w.compiled.canary != nil {
		t.Errorf("a version that is refused: generation %d, canary %+v", st.Generation, st.Canary)
	}
	o.has(names(base, "third.example"))
	w.call(http.StatusOK, http.MethodPost, "/v1/lists/fetch", `{}`)
	w.sees("another", "third.example", true, false)
	w.call(http.StatusOK, http.MethodPost, "/v1/canary/drop", `{}`)
	w.sees("dropped", "third.example", false, false)
	w.sees("dropped", "second.example", true, true)
}

// TestFeedCanaryKilledInDrop: whoever is killed while the canary's version is being
// dropped finds the canary running, and drops it again.
func TestFeedCanaryKilledInDrop(t *testing.T) {
	first, second := names(base), names(base, "second.example")
	for _, tt := range []struct {
		name  string
		kill  func(t *testing.T, store source.Store, c source.Copy)
		ahead bool // the group has the version after the start
	}{
		{"the version is in quarantine", func(t *testing.T, store source.Store, c source.Copy) {
			if err := store.Duplicate("feed", source.Good, source.Unwanted, c); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"the older copy is back", func(t *testing.T, store source.Store, c source.Copy) {
			before, err := store.Load("feed", source.Before)
			err = errors.Join(err, store.Duplicate("feed", source.Good, source.Unwanted, c),
				store.Install("feed", source.Good, store.Path("feed", source.Before), before))
			if err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrigin(t, false)
			o.has(first)
			w := newFeedCanary(t, o)
			w.call(http.StatusOK, http.MethodPost, "/v1/canary/promote", `{}`)
			o.has(second)
			w.fetch()
			w.stop()
			store := source.Store{Dir: filepath.Join(w.state, feedsFolder)}
			c, err := store.Load("feed", source.Good)
			if err != nil {
				t.Fatal(err)
			}
			c.Reason, c.Message, c.Checked = reasonDropped, "canary dropped by token:op: too much", time.Time{}
			tt.kill(t, store, c)
			if err := w.start(); err != nil {
				t.Fatal(err)
			}
			if st := w.Status(); st.Canary == nil || st.Held != 0 {
				t.Fatalf("after the start: canary %+v, held %d", st.Canary, st.Held)
			}
			w.sees("after the start", "second.example", tt.ahead, false)
			w.fetch()
			w.sees("after a look", "second.example", tt.ahead, false)
			w.call(http.StatusOK, http.MethodPost, "/v1/canary/drop", `{"why":"too much"}`)
			w.dropped("dropped again", second, first)
			w.call(http.StatusOK, http.MethodPost, "/v1/update", `{}`)
			if r := w.fetch(); r.Outcome != "refused" {
				t.Errorf("%+v, want it refused", r)
			}
			w.sees("at last", "second.example", false, false)
			w.sees("at last", "n0001.example", true, true)
		})
	}
}

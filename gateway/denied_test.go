package gateway

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/gateway/admin"
	"github.com/weir-gateway/weir/gateway/ledger"
)

// Of many denied requests a bounded number is on the record, and all are counted.
func TestDenialsBounded(t *testing.T) {
	var d denials
	began := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var entries []ledger.Entry
	for i := range 10_000 {
		x := &admin.Denial{From: fmt.Sprintf("192.0.2.%d", i%100), Method: "POST", Path: "/v1/reload", Status: 401, Why: "no such token" + strings.Repeat("!", 1000)}
		entries = append(entries, d.see(x, began.Add(time.Duration(i)*time.Millisecond))...)
	}
	// After a kill, too, the record says about how many there were.
	if want := 2*maxDenied + 3; len(entries) != want || d.coalesced.Load() != 10_000-maxDenied || len(entries[0].Why) > maxDenial+10 {
		t.Errorf("%d entries, want %d; %d coalesced", len(entries), want, d.coalesced.Load())
	}
	for _, want := range []string{"10 times more so far since ", "1000 others so far since "} {
		if !slices.ContainsFunc(entries, func(e ledger.Entry) bool { return strings.HasPrefix(e.Why, want) }) {
			t.Errorf("no entry says %q", want)
		}
	}
	if more := d.flush(began.Add(deniedEvery-1), false); more != nil {
		t.Errorf("too soon: %v", more)
	}
	rest := d.flush(began.Add(deniedEvery), false)
	if len(rest) != maxDenied+1 || !strings.Contains(rest[0].Why, "99 times more since 2026-01-01T00:00:00Z; 401: no such token") || !strings.Contains(rest[maxDenied].Why, "8400 others") {
		t.Errorf("the rest: %v", rest)
	}
	if more := d.flush(began.Add(9*deniedEvery), true); more != nil {
		t.Errorf("twice: %v", more)
	}
	x := &admin.Denial{Who: "token:a", Roles: admin.Viewer, Method: "POST", Path: "/v1/reload", Status: 403, Why: "no"}
	if got := d.see(x, began.Add(deniedEvery)); len(got) != 1 || got[0].Who != "token:a" || got[0].Role != "viewer" {
		t.Errorf("a new one: %+v", got)
	}
	d.see(x, began.Add(deniedEvery))
	if got := d.flush(time.Time{}, true); len(got) != 1 || !strings.Contains(got[0].Why, "1 times more") {
		t.Errorf("at the end: %+v", got)
	}
}

// changes returns the record of changes as the API shows it, oldest first.
func (w *exemptWorld) changes() []ledger.Entry {
	w.t.Helper()
	var all []ledger.Entry
	path := "/v1/audit?limit=3"
	for {
		var page Changes
		if status, text := w.as("op", "GET", path, "", "", &page); status != 200 {
			w.t.Fatalf("%d %s", status, text)
		}
		all = append(page.reversed(), all...)
		if page.Next == 0 {
			if page.Head.Seq != uint64(len(all)) || page.Head != *w.Status().Ledger {
				w.t.Errorf("head %+v, %d entries", page.Head, len(all))
			}
			return all
		}
		path = fmt.Sprintf("/v1/audit?limit=3&before=%d", page.Next)
	}
}

func (p *Changes) reversed() (out []ledger.Entry) {
	for _, e := range p.Entries {
		out = append([]ledger.Entry{e}, out...)
	}
	return out
}

// Who was denied what is on the record, and so are pins and flushes; many of one
// kind are one entry, and the record verifies.
func TestDeniedOnRecord(t *testing.T) {
	w := newExemptWorld(t)
	e := w.request("both", time.Now().Add(time.Hour), "")
	for range 3 {
		if status, _ := w.approve("both", &e, `{}`); status != 403 {
			t.Fatalf("one's own request: %d", status)
		}
		if status, _ := w.as("boss", "POST", "/v1/reload", "", "", nil); status != 403 {
			t.Fatalf("without the role: %d", status)
		}
		if status, _ := w.as("wrong", "PUT", "/v1/rules/allow/a.example", "", `{"reason":"r"}`, nil); status != 401 {
			t.Fatalf("a bad token: %d", status)
		}
	}
	for _, body := range []string{`{"pinned":true}`, `{"pinned":false}`} {
		if status, text := w.as("op", "POST", "/v1/generations/1/pin", "", body, nil); status != 200 {
			t.Fatalf("pin: %d %s", status, text)
		}
	}
	if status, text := w.as("op", "POST", "/v1/cache/flush", "", `{"under":"a.example"}`, nil); status != 200 {
		t.Fatalf("flush: %d %s", status, text)
	}
	want := []string{
		"gateway|start|", "token:both|exemption requested|exemption W-1",
		"token:both|request denied|POST /v1/exemptions/{id}/approve", "token:boss|request denied|POST /v1/reload",
		"nobody known (127.0.0.1)|request denied|PUT /v1/rules/allow/{name}",
		"token:op|generation pinned|generation 1", "token:op|generation unpinned|generation 1", "token:op|cache flushed|answers under a.example",
	}
	var got []string
	for _, e := range w.changes() {
		got = append(got, e.Who+"|"+e.What+"|"+e.Object)
		if e.What == string(changeDenied) && (e.Why == "" || e.Generation != 1) {
			t.Errorf("entry %+v", e)
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := w.record.denials.coalesced.Load(); n != 6 {
		t.Errorf("%d coalesced, want 6", n)
	}
	w.stop()
	files, _ := ledger.Files(w.state)
	if head, err := ledger.Verify(files, ""); err != nil || head.Seq != uint64(len(want)+3) {
		t.Errorf("after the end: %v %v, want three entries more that say how often", head, err)
	}
}

// A flood of requests that are denied leaves a few lines: the first of each kind, and
// one where it has become ten times as many.
func TestDeniedFlood(t *testing.T) {
	w := newExemptWorld(t)
	statuses := make(map[int]int)
	for range 500 {
		status, _ := w.as("boss", "POST", "/v1/reload", "", "", nil)
		statuses[status]++
	}
	for i := range 500 {
		status, _ := w.as(fmt.Sprint("guess", i), "POST", "/v1/update", "", "", nil)
		statuses[status]++
	}
	if statuses[http.StatusForbidden] < 100 || statuses[http.StatusUnauthorized] == 0 || statuses[http.StatusOK] > 0 {
		t.Errorf("statuses %v", statuses)
	}
	if head := w.Status().Ledger; head.Seq > 12 {
		t.Errorf("%d entries of %v", head.Seq, statuses)
	}
}

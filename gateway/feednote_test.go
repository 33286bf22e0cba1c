package gateway

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/gateway/ledger"
)

// onRecord checks what the record of changes says of the list, beside that its
// updates are in force.
func (f *feedFixture) onRecord(want ...string) {
	f.t.Helper()
	entries, _, err := ledger.Page(f.folder.path, 0, 1000)
	if err != nil {
		f.t.Fatal(err)
	}
	slices.Reverse(entries)
	var got []string
	for _, e := range entries {
		if e.Object != "list feed" || e.What == string(changeFeed) {
			continue
		}
		if got = append(got, e.Who+": "+e.What); e.Why == "" || e.Before+e.After == "" {
			f.t.Errorf("entry %+v", e)
		}
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		f.t.Errorf("the record says %q, want %q", got, want)
	}
}

// A source that is broken all the time is on the record once a day for each
// reason, with how often that was.
func TestRefusalsOnRecord(t *testing.T) {
	f, fd := new(feeds), &feed{name: "feed"}
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	status := &source.FetchError{Reason: source.ReasonStatus, Msg: "the server answers 500"}
	var got []string
	for i, err := range []error{status, nil, status, &refusal{reasonShrink, "too few"}, errors.New("disk full"), status} {
		if e := f.refusal(fd, &visit{}, err, at.Add(time.Duration(i)*time.Hour)); e != nil {
			got = append(got, e.Why)
		}
	}
	if e := f.refusal(fd, &visit{refused: &source.Copy{SHA256: "x"}}, status, at.Add(noteAgain)); e != nil && e.After == "x" {
		got = append(got, e.Why)
	}
	want := "status: the server answers 500|shrink: too few|status: the server answers 500 (and 2 times more since 2026-01-01T00:00:00Z)"
	if strings.Join(got, "|") != want {
		t.Errorf("got %q\nwant %q", strings.Join(got, "|"), want)
	}
}

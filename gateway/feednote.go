package gateway

import (
	"fmt"
	"time"

	"github.com/weir-gateway/weir/gateway/ledger"
)

// noteAgain is how often one reason of one list is put on the record of changes: a
// source that is broken is looked at all the time, and reasons are few.
const noteAgain = 24 * time.Hour

// A noted is when a reason was last put on the record, and how often it came
// again since.
type noted struct {
	at   time.Time
	more int
}

// remember puts an update that was refused on the record of changes.
func (f *feeds) remember(fd *feed, v *visit, err error) {
	if e := f.refusal(fd, v, err, time.Now()); e != nil {
		f.g.note(*e)
	}
}

func (f *feeds) refusal(fd *feed, v *visit, err error, now time.Time) *ledger.Entry {
	if err == nil || reasonOf(err) == reasonOther {
		return nil // nothing that the list is to blame for
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	reason := reasonOf(err)
	last := fd.noted[reason]
	if !last.at.IsZero() && now.Sub(last.at) < noteAgain {
		last.more++
		fd.noted[reason] = last
		return nil
	}
	e := ledger.Entry{Who: whoGateway, What: notedRefused, Object: "list " + fd.name, Why: clipped(reason + ": " + err.Error())}
	if v.refused != nil {
		e.After = v.refused.SHA256 // what is in quarantine
	}
	if last.more > 0 {
		e.Why = fmt.Sprintf("%s (and %d times more since %s)", e.Why, last.more, last.at.UTC().Format(time.RFC3339))
	}
	if fd.noted == nil {
		fd.noted = make(map[string]noted)
	}
	fd.noted[reason] = noted{at: now}
	return &e
}

package gateway

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-gateway/weir/gateway/admin"
	"github.com/weir-gateway/weir/gateway/ledger"
)

// changeDenied is what the record of changes calls a request that was not done.
const changeDenied changeKind = "request denied"

// The record of changes keeps every change for years, and whoever floods the API
// must neither fill the disk nor push changes out of it: in deniedEvery, so many
// kinds of denied requests get an entry each, and what comes beyond is counted.
const (
	deniedEvery = 10 * time.Minute
	maxDenied   = 16
	maxDenial   = 300 // bytes of a reason
)

// denials are the requests that were denied since began. The zero denials is
// ready.
type denials struct {
	mu        sync.Mutex
	began     time.Time
	kinds     []deniedKind
	others    int
	coalesced atomic.Uint64 // that got no entry of their own
}

// A deniedKind is what was denied to somebody, and how often after the first.
type deniedKind struct {
	entry ledger.Entry
	more  int
}

// see takes a denied request, and returns what belongs on the record now.
func (d *denials) see(x *admin.Denial, now time.Time) []ledger.Entry {
	who := x.Who
	if who == "" {
		who = "nobody known (" + x.From + ")"
	}
	e := ledger.Entry{
		Who: who, Role: x.Roles.String(), What: string(changeDenied), Object: x.Method + " " + x.Path,
		Why: fmt.Sprintf("%d: %s", x.Status, clipped(x.Why)),
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.due(now)
	for i := range d.kinds {
		if k := &d.kinds[i]; k.entry == e {
			k.more++
			d.coalesced.Add(1)
			if marks(k.more) {
				out = append(out, k.again(d.began, " so far"))
			}
			return out
		}
	}
	if len(d.kinds) == maxDenied {
		d.others++
		d.coalesced.Add(1)
		if marks(d.others) {
			out = append(out, d.several(" so far"))
		}
		return out
	}
	if len(d.kinds) == 0 {
		d.began = now
	}
	d.kinds = append(d.kinds, deniedKind{entry: e})
	return append(out, e)
}

// flush returns what the record lacks, if it is time; at the end it always is.
func (d *denials) flush(now time.Time, end bool) []ledger.Entry {
	d.mu.Lock()
	defer d.mu.Unlock()
	if end {
		now = d.began.Add(deniedEvery)
	}
	return d.due(now)
}

// due returns how often what has an entry came again, once the time is over, and
// begins anew.
func (d *denials) due(now time.Time) (out []ledger.Entry) {
	if now.Sub(d.began) < deniedEvery {
		return nil
	}
	for _, k := range d.kinds {
		if k.more > 0 {
			out = append(out, k.again(d.began, ""))
		}
	}
	if d.others > 0 {
		out = append(out, d.several(""))
	}
	d.kinds, d.others = nil, 0
	return out
}

// marks reports whether so many are a power of ten, from ten on: those have an entry
// at once, so that a kill leaves on the record how many there were about.
func marks(n int) bool {
	tens := 0
	for ; n >= 10 && n%10 == 0; tens++ {
		n /= 10
	}
	return n == 1 && tens > 0
}

func (k *deniedKind) again(began time.Time, sofar string) ledger.Entry {
	e := k.entry
	e.Why = fmt.Sprintf("%d times more%s since %s; %s", k.more, sofar, began.UTC().Format(time.RFC3339), e.Why)
	return e
}

func (d *denials) several(sofar string) ledger.Entry {
	return ledger.Entry{
		Who: "several", What: string(changeDenied), Object: "requests to the API",
		Why: fmt.Sprintf("%d others%s since %s, too many for an entry each", d.others, sofar, d.began.UTC().Format(time.RFC3339)),
	}
}

// Other things that are no change of the policy, and are on the record.
const (
	notedRefused   = "feed refused"
	notedHeld      = "feed held"
	notedDiscarded = "feed discarded"
	notedPinned    = "generation pinned"
	notedUnpinned  = "generation unpinned"
	notedFlushed   = "cache flushed"
)

// denied puts a denied request on the record, before it is answered.
func (g *Gateway) denied(x *admin.Denial) { g.note(g.record.denials.see(x, time.Now())...) }

// note puts what is no change of the policy on the record of changes.
func (g *Gateway) note(entries ...ledger.Entry) {
	for _, e := range entries {
		if e.Generation == 0 {
			if s := g.store.Load(); s != nil {
				e.Generation = s.Generation()
			}
		}
		if err := g.record.append(e); err != nil {
			g.log.Error("not on the record of changes", "what", e.What, "who", e.Who, "object", e.Object, "error", err)
		}
	}
}

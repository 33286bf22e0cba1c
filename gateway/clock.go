package gateway

import (
	"context"
	"time"
)

// clockEvery is how often is looked whether time alone has changed what may
// pass.
const clockEvery = 200 * time.Millisecond

// clock ends what has become forbidden by time alone: open tunnels under an
// exemption that has ended, or to what a ban that has begun holds back. New
// questions and connections are judged by the time as they come. It also keeps
// the counts of uses and of denied requests.
func (g *Gateway) clock(ctx context.Context) error {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	var of uint64    // the snapshot
	var at time.Time // when it says something else
	kept := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s := g.store.Load()
			switch {
			case s.ID() != of: // whoever put it in force has looked at the tunnels
				of, at = s.ID(), s.NextChange(now)
			case !at.IsZero() && !now.Before(at):
				if g.proxy != nil {
					g.proxy.Recheck()
				}
				at = s.NextChange(now)
			}
			if now.Sub(kept) >= keepUsesEvery {
				kept = now
				g.keepUses()
				g.note(g.record.denials.flush(now, false)...)
			}
		}
	}
}

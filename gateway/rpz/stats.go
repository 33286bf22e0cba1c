package rpz

import (
	"sync/atomic"
	"time"
)

// Stats count what the server does. All of them only grow but took.
type Stats struct {
	requests, refused, badSignature, overload, notified      atomic.Uint64
	versions, notifies, unheard, full, changes, same, failed atomic.Uint64
	took                                                     atomic.Int64
}

// Counts are the Stats at one time, and the zone that is served.
type Counts struct {
	Requests     uint64 // of all kinds, but for what is no DNS request
	Refused      uint64 // answered with an error
	BadSignature uint64 // of these, because of their signature
	Overload     uint64 // connections and transfers beyond the limits
	Notified     uint64 // NOTIFYs taken from primaries of zones that are followed

	Versions uint64 // of the zone
	Notifies uint64 // NOTIFYs that a secondary has answered
	Unheard  uint64 // NOTIFYs given up
	Full     uint64 // whole zones sent
	Changes  uint64 // changes sent
	Same     uint64 // askers that had the newest version
	Failed   uint64 // transfers that did not come to their end

	Serial  uint32
	Records int           // that say the policy
	LeftOut int           // owners that the zone has no room for
	Took    time.Duration // to make the latest version
}

func (s *Stats) transferred(kind string, err error) {
	switch {
	case err != nil:
		s.failed.Add(1)
	case kind == kindFull:
		s.full.Add(1)
	case kind == kindChanges:
		s.changes.Add(1)
	default:
		s.same.Add(1)
	}
}

// Counts returns what has been counted so far.
func (s *Server) Counts() Counts {
	st := &s.stats
	c := Counts{
		Requests: st.requests.Load(), Refused: st.refused.Load(), BadSignature: st.badSignature.Load(),
		Overload: st.overload.Load(), Notified: st.notified.Load(), Versions: st.versions.Load(),
		Notifies: st.notifies.Load(), Unheard: st.unheard.Load(), Full: st.full.Load(), Changes: st.changes.Load(),
		Same: st.same.Load(), Failed: st.failed.Load(), Took: time.Duration(st.took.Load()),
	}
	if e := s.current.Load(); e != nil {
		c.Serial, c.Records, c.LeftOut = e.serial, e.records, e.unfit
	}
	return c
}

package proxy

import "sync/atomic"

// Stats are the counters of a Server since Listen; Conns and Tunnels are how
// many are open, or about to be, now.
type Stats struct {
	Conns           int64 // client connections that are open
	Accepted        uint64
	RefusedConns    uint64 // client connections beyond MaxConns or MaxConnsPerClient
	Requests        uint64 // requests that the front understood
	Malformed       uint64 // requests that the front refused
	Blocked         uint64 // requests that a ban held back
	Denied          uint64 // requests refused for their port, a special address, a loop
	Undecided       uint64 // requests refused because there was no verdict
	Failed          uint64 // requests whose origin could not be reached or did not answer
	Forwarded       uint64 // plain HTTP requests that an origin answered
	Tunnels         int64  // tunnels and upgraded connections that are open
	TunnelsOpened   uint64
	RefusedTunnels  uint64 // beyond MaxTunnels
	CutByPolicy     uint64 // tunnels and exchanges that a new policy ended
	CutIdle         uint64 // tunnels that were idle too long
	CutAtDrain      uint64 // tunnels that were open when the time to drain was over
	BytesToOrigin   uint64 // through tunnels
	BytesFromOrigin uint64 // through tunnels
	Panics          uint64 // handlers that panicked and were recovered
}

type counters struct {
	conns                                               atomic.Int64
	accepted, refusedConns, requests, malformed         atomic.Uint64
	blocked, denied, undecided, failed, forwarded       atomic.Uint64
	tunnelsOpened, refusedTunnels                       atomic.Uint64
	cutByPolicy, cutIdle, cutAtDrain, bytesIn, bytesOut atomic.Uint64
	panics                                              atomic.Uint64
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	c := &s.stats
	return Stats{
		Conns:           c.conns.Load(),
		Accepted:        c.accepted.Load(),
		RefusedConns:    c.refusedConns.Load(),
		Requests:        c.requests.Load(),
		Malformed:       c.malformed.Load(),
		Blocked:         c.blocked.Load(),
		Denied:          c.denied.Load(),
		Undecided:       c.undecided.Load(),
		Failed:          c.failed.Load(),
		Forwarded:       c.forwarded.Load(),
		Tunnels:         int64(s.flows.openTunnels()),
		TunnelsOpened:   c.tunnelsOpened.Load(),
		RefusedTunnels:  c.refusedTunnels.Load(),
		CutByPolicy:     c.cutByPolicy.Load(),
		CutIdle:         c.cutIdle.Load(),
		CutAtDrain:      c.cutAtDrain.Load(),
		BytesToOrigin:   c.bytesOut.Load(),
		BytesFromOrigin: c.bytesIn.Load(),
		Panics:          c.panics.Load(),
	}
}

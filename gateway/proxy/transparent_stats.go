package proxy

import "sync/atomic"

// TransparentStats are the counters of the transparent listeners. What becomes
// of a connection then is in Stats, like everything else.
type TransparentStats struct {
	TLS, HTTP, Unknown uint64 // connections by what they began with
	Abandoned          uint64 // that ended before they said anything
	Direct             uint64 // that were made to the listener itself
	Unseen             uint64 // exchanges with a name at an address that it was never said to have
	Peeking            int64  // connections of which it is not known yet what they are
	RefusedPeeks       uint64 // beyond MaxPeeks or MaxPeeksPerClient
}

type divertedCounters struct {
	tls, http, unknown, abandoned, direct, unseen atomic.Uint64
}

// TransparentStats returns the counters since Listen.
func (s *Server) TransparentStats() TransparentStats {
	t := &s.diverting
	c := &t.stats
	return TransparentStats{
		TLS: c.tls.Load(), HTTP: c.http.Load(), Unknown: c.unknown.Load(),
		Abandoned: c.abandoned.Load(), Direct: c.direct.Load(), Unseen: c.unseen.Load(),
		Peeking: t.peeking.conns.Load(), RefusedPeeks: t.peeking.refusedConns.Load(),
	}
}

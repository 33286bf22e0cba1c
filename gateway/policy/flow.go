package policy

import (
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// Flow judges a connection by how it begins, for what speaks neither TLS nor
// HTTP. While more is true nothing is decided, and the verdict is the zero one:
// further bytes may tell; whoever has no further bytes to come, asks FlowEnd.
func (s *Snapshot) Flow(sub Subject, first []byte, now time.Time) (v Verdict, more bool) {
	s = s.Of(sub)
	var room [few]blocklists.Match
	ms, more := s.spec.Set.AppendFlow(room[:0], first)
	if more {
		if s.judge(&v, sub, ms, now); v.Blocked() {
			return v, false // whatever else it may become
		}
		return Verdict{}, true
	}
	s.judge(&v, sub, ms, now)
	return v, false
}

// FlowEnd is Flow for a connection that says no more.
func (s *Snapshot) FlowEnd(sub Subject, first []byte, now time.Time) (v Verdict) {
	s = s.Of(sub)
	var room [few]blocklists.Match
	ms, _ := s.spec.Set.AppendFlow(room[:0], first)
	s.judge(&v, sub, ms, now)
	return v
}

// Fields judges a plain HTTP request whole: by host and canonical path as URL
// does, or by address, and by the signatures of its path and its fields, nil
// for none. What lets the host through (a rule of the operator, a protected
// name) lets the request through.
func (s *Snapshot) Fields(sub Subject, host blocklists.Host, path string, fields blocklists.Fields, now time.Time) (v Verdict) {
	s = s.Of(sub)
	q := asked{name: host.Name, path: path, addr: host.Addr}
	if host.Addr.IsValid() {
		q.name, q.path = "", ""
	}
	var room [few]blocklists.Match
	ms := s.find(room[:0], sub, q)
	ms = s.spec.Set.AppendFields(ms, path, fields)
	s.judge(&v, sub, ms, now)
	s.lift(&v, sub, host.Name, now)
	return v
}

package policy

import (
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/hello"
)

// A HelloPolicy says what happens to connections whose first bytes do not say
// plainly where they go, each case on its own: Allow, Report or Block. What is
// Undecided blocks, so the zero HelloPolicy is the strictest.
type HelloPolicy struct {
	Missing   Action // a ClientHello without a server name
	Mismatch  Action // another server name than the one that was asked for
	ECH       Action // the same, with an encrypted ClientHello behind it
	NotTLS    Action // something else than TLS
	Malformed Action // what begins like TLS and is not, or a name that is none
	Timeout   Action // not enough bytes in time
}

// Hello judges the beginning of a connection. want is the canonical name that
// was asked for, by CONNECT or by a question; empty where there is none, as for
// a CONNECT to an address: then the server name is judged, but it differs from
// nothing. A Hello that is Incomplete is one that time ran out for.
//
// The server name is judged like every other name. What it leads to beyond
// itself is not: an encrypted ClientHello shows by an outer name that is not
// the one asked for, or that is the public name of a provider, which is a list's
// to name. The extension alone shows nothing, because browsers always send one.
func (s *Snapshot) Hello(sub Subject, want string, h hello.Hello, now time.Time) Verdict {
	s = s.Of(sub)
	rules := s.helloPolicy(sub)
	switch h.Kind {
	case hello.Found:
	case hello.Missing:
		return s.unusual(sub, ReasonNoServerName, rules.Missing)
	case hello.NotTLS:
		return s.unusual(sub, ReasonNotTLS, rules.NotTLS)
	case hello.Incomplete:
		return s.unusual(sub, ReasonNoHello, rules.Timeout)
	default:
		return s.unusual(sub, ReasonMalformed, rules.Malformed)
	}
	host, err := blocklists.ParseHost(h.Name)
	switch {
	case err != nil:
		return s.unusual(sub, ReasonMalformed, rules.Malformed)
	case host.Addr.IsValid(): // no name (RFC 6066, section 3)
		return s.unusual(sub, ReasonNoServerName, rules.Missing)
	}
	v := s.Name(sub, host.Name, now)
	if !v.Allowed() || want == "" || host.Name == want {
		return v
	}
	reason, action := ReasonOtherServerName, rules.Mismatch
	if h.ECH {
		reason, action = ReasonECH, rules.ECH
	}
	if u := s.unusual(sub, reason, action); !u.Allowed() || u.Action == Report && v.Action == Allow {
		return u
	}
	return v
}

// helloPolicy returns the one of the subject's group, or everybody's.
func (s *Snapshot) helloPolicy(sub Subject) *HelloPolicy {
	if i, ok := s.groupIndex(sub); ok && s.spec.Groups[i].Hello != nil {
		return s.spec.Groups[i].Hello
	}
	return &s.spec.Hello
}

// unusual is the verdict on what has no name that could be judged. No ban
// stands behind it: its evidence is the reason, and whose group's rule it was.
func (s *Snapshot) unusual(sub Subject, r Reason, a Action) Verdict {
	if a == Undecided {
		a = Block
	}
	v := Verdict{Action: a, Reason: r, Generation: s.spec.Generation, Group: s.Group(sub)}
	if a == Block {
		v.Answer = s.spec.Answer
	}
	return v
}

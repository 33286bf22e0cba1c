// Package blocklists is the vocabulary of what is banned and the compiled
// matcher for it: bans, rules, and one immutable Set that answers for all
// lists at once.
//
// A list says, policy decides, the gateway acts. This package only says: it
// knows names, addresses and URLs, and which line of which list speaks about
// them. It never learns who asks, what time it is, or what will be done; that
// is package policy. Reading list files is package parse; this package never
// does I/O.
//
// The zero Action, Kind and Mode mean "not said". None of them ever means
// "allowed".
package blocklists

import (
	"fmt"
	"net/netip"
	"strings"
)

// An Action is what a rule says about what it matches.
type Action uint8

const (
	None  Action = iota // says nothing; the state of a zero Rule
	Block               // hold it back
	Allow               // let it through, against Block rules of the same list
)

// String returns the action's word in explanations and logs.
func (a Action) String() string {
	switch a {
	case Block:
		return "block"
	case Allow:
		return "allow"
	}
	return "none"
}

// A Kind is the shape of what a rule matches.
type Kind uint8

const (
	Suffix Kind = iota + 1 // the name and everything under it, label-aligned
	Exact                  // the name only
	Under                  // everything under the name, but not the name
	Prefix                 // an address prefix
	Bytes                  // a signature: how a connection begins
	Field                  // a signature: a field of a plain HTTP request
	Target                 // a signature: the path of a plain HTTP request, whatever its host
	Client                 // the address of who asks, whatever for
)

// A Mode is a way to answer a blocked DNS question.
type Mode uint8

const (
	ModeDefault Mode = iota // whatever the next wider scope says
	NXDOMAIN                // the name does not exist (RFC 8020)
	NODATA                  // the name exists without data of that type (RFC 2308, section 2.2)
	Null                    // 0.0.0.0 and ::, no data for other types
	Refused                 // rcode REFUSED
	Drop                    // no answer at all
	Addresses               // given addresses, no data for other types

	// Of rules of response policy zones, which say more than whether.

	Passthru  // of an Allow rule: as if there were no zone
	TCPOnly   // truncated over UDP, and let through over TCP
	LocalData // the records in Rule.Data, and others of the same name
)

var modeNames = [...]string{"default", "nxdomain", "nodata", "null", "refused", "drop", "addresses", "passthru", "tcp-only", "local-data"}

// String returns the mode's word in the configuration.
func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode returns the mode of a word of the configuration. Addresses has no
// word: it is written as a mapping of addresses. What only rules say has none
// either.
func ParseMode(s string) (Mode, bool) {
	for m := NXDOMAIN; m < Addresses; m++ {
		if modeNames[m] == s {
			return m, true
		}
	}
	return ModeDefault, false
}

// An Answer is how a blocked DNS question is answered. The addresses are used
// with mode Addresses only; an invalid one means no data of that family.
type Answer struct {
	Mode Mode
	IPv4 netip.Addr
	IPv6 netip.Addr
}

// A Rule is one statement of a list. Name rules have a canonical Name (see
// CanonicalName); prefix rules have a Prefix. A name rule with a Path matches
// only plain HTTP requests to such a host whose path the pattern matches (see
// CanonicalPath), and says nothing about DNS questions. A signature has its
// pattern in Path, and the name of a field in Name.
type Rule struct {
	Kind   Kind
	Action Action
	// Mode overrides how a block is answered, for dialects whose rules say so
	// (RPZ). ModeDefault leaves it to the list, the ban and the configuration.
	Mode Mode
	// Priority decides before specificity between the rules of one list, for
	// dialects in which some rules win wherever they stand (the ABP exception
	// "@@" and "$important"). Others leave it zero.
	Priority uint8
	// Data is a record of local data, for mode LocalData; each of several is a
	// rule of its own.
	Data   Data
	Name   string
	Prefix netip.Prefix
	Path   string
	// Line is the rule's line in its list, counted from 1.
	Line int
}

// String returns the rule in the spelling of the domains dialect, with "@@"
// before an allow rule, or a signature in that of its own.
func (r Rule) String() string {
	var b strings.Builder
	if r.Action == Allow {
		b.WriteString("@@")
	}
	switch r.Kind {
	case Prefix:
		b.WriteString(r.Prefix.String())
		return b.String()
	case Client:
		b.WriteString("client " + r.Prefix.String())
		return b.String()
	case Bytes:
		b.WriteString("bytes ")
	case Field:
		b.WriteString("field " + r.Name + " " + r.Path)
		return b.String()
	case Target:
		b.WriteString("path ")
	case Exact:
		b.WriteByte('=')
	case Under:
		b.WriteString("*.")
	}
	b.WriteString(r.Name)
	b.WriteString(r.Path)
	return b.String()
}

// Policy returns the trigger and the action of a rule of a response policy zone,
// as "qname nxdomain". It is empty for a rule that leaves the action to others.
func (r Rule) Policy() string {
	switch {
	case r.Mode == ModeDefault:
		return ""
	case r.Kind == Prefix:
		return "response-ip " + r.Mode.String()
	case r.Kind == Client:
		return "client-ip " + r.Mode.String()
	}
	return "qname " + r.Mode.String()
}

// A Ref is where a rule stands: the index of its list in the Set, and its line.
type Ref struct {
	List int
	Line int
}

// A Match is the rule that decides for one list, and the list.
type Match struct {
	List int
	Rule Rule
}

// Ref returns where the rule of the match stands.
func (m Match) Ref() Ref { return Ref{m.List, m.Rule.Line} }

// outranks reports whether m decides over o, both being rules of one list that
// match the same question: who asks before what for, then by priority, then by the longer name or prefix,
// then exact over wide, then the longer path; between equals allow wins, and
// then the first line.
func (m *Match) outranks(o *Match) bool {
	a, b := &m.Rule, &o.Rule
	switch {
	case (a.Kind == Client) != (b.Kind == Client):
		return a.Kind == Client
	case a.Priority != b.Priority:
		return a.Priority > b.Priority
	case len(a.Name) != len(b.Name):
		return len(a.Name) > len(b.Name)
	case a.Prefix.Bits() != b.Prefix.Bits():
		return a.Prefix.Bits() > b.Prefix.Bits()
	case (a.Kind == Exact) != (b.Kind == Exact):
		return a.Kind == Exact
	case len(a.Path) != len(b.Path):
		return len(a.Path) > len(b.Path)
	case a.Action != b.Action:
		return a.Action == Allow || b.Action == None
	}
	return a.Line < b.Line
}

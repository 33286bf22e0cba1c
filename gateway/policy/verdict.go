// Package policy decides: given who asks, for what, and when, it says whether
// to hold it back, and with what evidence.
//
// A Snapshot is the whole compiled policy of one generation. It is immutable;
// a change is a new Snapshot swapped into the Store. Decisions are pure: the
// package does no I/O, starts no goroutine and reads no clock. Names, URLs and
// addresses of the DNS plane and of the proxy plane are judged by the same
// Snapshot, so both planes give one verdict with one rule.
package policy

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// An Action is what the gateway must do.
type Action uint8

const (
	// Undecided is the zero Action: nothing was decided. It never means
	// allowed; whoever acts must treat it as a fault.
	Undecided Action = iota
	// Allow lets it through.
	Allow
	// Report lets it through and records it: a ban that is not yet in force.
	Report
	// Block holds it back.
	Block
)

var actionNames = [...]string{"undecided", "allow", "report", "block"}

// String returns the action's word in explanations and audit records.
func (a Action) String() string { return actionNames[a] }

// A Reason says which step of the order of precedence decided.
type Reason uint8

const (
	ReasonNone      Reason = iota
	ReasonNoRule           // no rule in force speaks about it
	ReasonListAllow        // only allow rules of the bans' own lists speak about it
	ReasonOperator         // an allow rule of the operator
	ReasonProtected        // a protected name

	// With these and those that follow, it is not enough to let it through.

	ReasonExemption // a live exemption of the subject
	ReasonTCPOnly   // a rule that lets it through, but not over UDP
	ReasonNotYet    // a ban whose effective time is still to come
	ReasonBan       // a ban in force

	// Of the first bytes of a connection, which have no name to be judged by.

	ReasonNoServerName    // a ClientHello without a server name
	ReasonOtherServerName // a server name that is not the name asked for
	ReasonECH             // the same, with an encrypted ClientHello
	ReasonNotTLS          // something else than TLS
	ReasonMalformed       // broken TLS, or a server name that is none
	ReasonNoHello         // not enough bytes in time
)

var reasonNames = [...]string{"none", "no rule", "list allows", "operator allows", "protected", "exemption", "tcp only", "not yet effective", "ban",
	"no server name", "other server name", "encrypted hello", "not TLS", "malformed TLS", "no hello in time"}

// String returns the reason's words in explanations and audit records.
func (r Reason) String() string { return reasonNames[r] }

// A Subject is who asks.
type Subject struct {
	Addr netip.Addr // the device's address on the VPN; invalid for unknown
}

// A Verdict is a decision with its evidence. The zero Verdict means that
// nothing was decided.
type Verdict struct {
	Action     Action
	Reason     Reason
	Generation uint64
	Group      string // the subject's group, empty for none
	// Ban is whose rule decided; nil where no ban took part.
	Ban  *blocklists.Ban
	List string
	// Rule is the zero Rule where no rule decided. Its Name is a part of the name
	// that was judged.
	Rule blocklists.Rule
	// Exemption is the one that let it through, for ReasonExemption.
	Exemption *Exemption
	// Answer is how a blocked DNS question is answered; never ModeDefault in a
	// Block verdict.
	Answer blocklists.Answer
	// Signal is what the match proves about the device.
	Signal blocklists.Signal
}

// Blocked reports whether it must be held back.
func (v *Verdict) Blocked() bool { return v.Action == Block }

// Ends returns when what may pass now may pass no longer by time alone: the
// exemption ends, or the ban takes effect. It is zero for never.
func (v *Verdict) Ends() time.Time {
	switch {
	case v.Reason == ReasonExemption && v.Exemption != nil:
		return v.Exemption.Until
	case v.Reason == ReasonNotYet && v.Ban != nil:
		return v.Ban.Effective
	}
	return time.Time{}
}

// Allowed reports whether it may pass. It is not the negation of Blocked: an
// undecided verdict is neither.
func (v *Verdict) Allowed() bool { return v.Action == Allow || v.Action == Report }

// An Exemption is a dated, ticketed, expiring permission for a device or a
// group to use what one ban holds back, or one name, whatever bans hold it back.
type Exemption struct {
	ID  string
	Ban string // empty for a name
	// Name is canonical and stands for itself and all that is under it; empty for
	// a ban. What the name leads to (aliases, addresses) is judged by itself.
	Name        string
	Device      netip.Prefix // the device's address, or invalid for a group
	Group       string
	From        time.Time // zero: at once
	Until       time.Time
	Ticket      string
	RequestedBy string
	ApprovedBy  string
	Reason      string
}

// Live reports whether the exemption holds at that time: from From on, and no
// longer at Until itself.
func (e *Exemption) Live(now time.Time) bool {
	return !now.Before(e.From) && now.Before(e.Until)
}

// A Group is a set of devices and the bans that hold for them.
type Group struct {
	Name    string
	Devices []netip.Prefix
	// Bans are the ids of the bans that hold for the group. Nil means all.
	Bans []string
	// Hello holds for the group instead of Spec.Hello; nil: that one.
	Hello *HelloPolicy
}

// RuleID names the rule that decided as list:line, the same on both planes. It
// is empty where no rule decided.
func (v *Verdict) RuleID() string {
	if v.List == "" {
		return ""
	}
	return v.List + ":" + strconv.Itoa(v.Rule.Line)
}

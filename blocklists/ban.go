package blocklists

import (
	"slices"
	"time"
)

// A Text is a text in both official languages of Canada.
type Text struct {
	EN, FR string
}

// An Official is an office, and who held it at the time of the act.
type Official struct {
	Office Text
	Holder string
}

// A Strength is how binding a ban is.
type Strength string

const (
	Ordered     Strength = "ordered"
	Recommended Strength = "recommended"
)

// A Coverage is how far a ban reaches beyond the app.
type Coverage string

const (
	CoverApp             Coverage = "app"
	CoverAppWeb          Coverage = "app+web"
	CoverAppWebDownloads Coverage = "app+web+downloads"
	CoverVendor          Coverage = "vendor"
)

// A Tier is how much beyond the banned app a list reaches.
type Tier string

const (
	// TierExclusive is what only the banned app uses. It is on by default.
	TierExclusive Tier = "exclusive"
	// TierVendor reaches other products of the same vendor. It is opt-in.
	TierVendor Tier = "vendor"
)

// A Signal is what a match with a list proves about the device.
type Signal string

const (
	SignalNone Signal = ""    // nothing: the name may be embedded in a page
	SignalApp  Signal = "app" // the banned app itself is on the device
)

// A Deadline is a dated duty of a ban.
type Deadline struct {
	What Text
	When time.Time
}

// A Ban is what is banned and by whose authority: one record for each legal
// instrument. It carries everything that a block must be justified with.
type Ban struct {
	ID           string
	Title        Text
	Jurisdiction string
	// Authority is who ordered it, in a line that a person who is blocked reads.
	Authority Text
	// Reference is where the instrument can be read.
	Reference string
	// Instrument is the title of the legal text, empty where none is public.
	Instrument Text
	Citation   string
	// Office issued the instrument; Decider made the determination; Announcer
	// told the public.
	Office    Official
	Decider   Official
	Announcer Official
	Reason    Text
	Strength  Strength
	// Implementer is who must carry it out: "enterprise" or "department".
	Implementer  string
	Announced    time.Time
	Effective    time.Time // before it the ban only reports; zero means always in force
	Review       time.Time
	Deadlines    []Deadline
	SupersededBy string
	Devices      []string // device classes: issued-mobile, enrolled-personal, other-it, contractor-it
	Coverage     Coverage
	Successors   bool // whether successor applications are covered
	EmbeddedCode bool // whether third-party products with embedded code are covered
	// MaxExemption is how long an exemption from it may last that is not in the
	// configuration; 0 leaves it to the configuration.
	MaxExemption time.Duration
	// Contact is where a person who is blocked may turn to.
	Contact Text
	// Answer is how the ban's blocked questions are answered; ModeDefault
	// leaves it to the configuration.
	Answer Answer
	// EDE is the extended DNS error code sent with blocked answers (RFC 8914):
	// 15, 16 or 17, or 0 for none.
	EDE     uint16
	Tiers   []Tier // the tiers that are switched on
	Lists   []List
	Vectors string // source of the must-block and must-allow checks, empty for none
}

// A List is a named collection of rules of a ban and where its bytes come from.
type List struct {
	Name   string
	Source string // embedded:PATH, file:PATH or the URL of a feed
	Format string // a dialect of package parse
	Tier   Tier
	Signal Signal
	// Embeds says that the names are mirrors, translators and caches, which show
	// others' sites under names of their own: what those embed is judged.
	Embeds bool
	// Answer overrides the ban's answer for this list, for names that need one
	// kind of answer (canary names must be NXDOMAIN or NODATA).
	Answer Answer
	Feed   *Feed // of a source that is a URL; nil for the others
}

// InForce reports whether the ban blocks at that time, not only reports.
func (b *Ban) InForce(now time.Time) bool { return !now.Before(b.Effective) }

// Enabled reports whether the ban's decision has switched the tier on.
func (b *Ban) Enabled(t Tier) bool { return slices.Contains(b.Tiers, t) }

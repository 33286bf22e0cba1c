package blocklists

import (
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// A Feed says how the bytes of a list are got over the network, and which
// updates of it are not taken.
type Feed struct {
	Interval   time.Duration // between looks for a new version
	Timeout    time.Duration // of one look
	MaxSize    int64         // bytes, unpacked
	StaleAfter time.Duration // without a good look; 0 for never
	Proxy      *url.URL      // nil for none
	// Networks are special-use networks that the source may be in. One that is
	// written as an address may be at that address anyway.
	Networks []netip.Prefix
	SHA256   string // hex digest of the one version that is taken; empty for any
	Minisign string // public key whose signature each version has; empty for none
	Growth   Drift
	Shrink   Drift
	Hold     bool   // each new version waits for somebody to approve it
	Required bool   // the gateway does not start without the list
	Canary   string // group that has each new version ahead of all others; empty for none
	Key      string // name of the key that signs the transfer of a zone; empty for none
}

// A Drift bounds by how many rules one version may differ from the next: by as
// many per cent, or by that many rules, whichever is more.
type Drift struct {
	Percent int
	Rules   int
}

// Allows reports whether a list of so many rules may change by so many.
func (c Drift) Allows(rules, by int) bool {
	return by <= c.Rules || int64(by)*100 <= int64(c.Percent)*int64(rules)
}

// IsURL reports whether a source is one that is fetched over HTTP or HTTPS, or
// by zone transfer.
func IsURL(source string) bool {
	return strings.HasPrefix(source, "https://") || strings.HasPrefix(source, "http://") || IsZone(source)
}

// IsZone reports whether a source is a response policy zone at its primary.
func IsZone(source string) bool {
	return strings.HasPrefix(source, "rpz://") || strings.HasPrefix(source, "rpzs://")
}

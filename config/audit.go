package config

import (
	"net/netip"
	"strings"
)

// An AuditPrivacy is what the audit record says of the device that asked.
type AuditPrivacy string

const (
	PrivacyFull      AuditPrivacy = "full"      // its address, and its key where it is known
	PrivacyTruncated AuditPrivacy = "truncated" // the /24 or /48 that it is in
	PrivacyHashed    AuditPrivacy = "hashed"    // a pseudonym that holds until the next start
	PrivacyNone      AuditPrivacy = "none"
)

// Rotate says when the audit file is put away, and how long it is kept.
type Rotate struct {
	Megabytes int // 0: whatever its size
	Hours     int // 0: whatever its age
	Keep      int // files beside the one in use; 0: any number
	Days      int // how long a file is kept after its last record; 0: for ever
}

func (v value) audit(c *Audit) {
	v.object(fields{
		"file":    set(&c.File, value.filePath),
		"privacy": set(&c.Privacy, word(PrivacyFull, PrivacyTruncated, PrivacyHashed, PrivacyNone)),
		"rotate": func(v value) {
			v.object(fields{
				"megabytes": set(&c.Rotate.Megabytes, number(0, 1_000_000)),
				"hours":     set(&c.Rotate.Hours, number(0, 24*366)),
				"keep":      set(&c.Rotate.Keep, number(0, 100_000)),
				"days":      set(&c.Rotate.Days, number(0, 36_600)),
			})
		},
	})
}

// checkAudit reports files that would be kept for longer than was said.
func (d *decoder) checkAudit(c *Audit) {
	if v, given := d.at("audit", "rotate", "days"); given && c.Rotate.Days > 0 && c.Rotate.Megabytes == 0 && c.Rotate.Hours == 0 {
		v.fail("nothing is put away, so nothing is removed after %d days; give audit.rotate.hours or megabytes, too", c.Rotate.Days)
	}
}

// Dnstap configures the copy of what clients ask and get.
type Dnstap struct {
	To       string // unix:/path or tcp:address:port; empty: none
	Identity string // of this gateway; empty: the host's name
}

func (v value) dnstap(c *Dnstap) {
	v.object(fields{"to": set(&c.To, value.collector), "identity": set(&c.Identity, value.scalar)})
}

// collector returns where dnstap frames go: the empty text is nowhere.
func (v value) collector() (string, bool) {
	s, ok := v.scalar()
	if !ok || s == "" {
		return "", ok
	}
	network, address, _ := strings.Cut(s, ":")
	switch {
	case network == "unix" && strings.HasPrefix(address, "/"):
		return s, true
	case network == "tcp":
		ap, err := netip.ParseAddrPort(address)
		if err == nil && ap.Port() != 0 && v.reachable(ap.Addr()) {
			return s, true
		}
		if err == nil && ap.Port() != 0 {
			return "", false
		}
	}
	v.fail("want unix:/path or tcp:192.0.2.1:6000, got %s", quote(s))
	return "", false
}

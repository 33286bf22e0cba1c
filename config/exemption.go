package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/net/publicsuffix"

	"github.com/weir-gateway/weir/blocklists"
)

var termForm = regexp.MustCompile(`^([1-9][0-9]{0,4})([dh])$`)

// maxTerm bounds the term of an exemption: what lasts longer is no exemption.
const maxTerm = 3660 * 24 * time.Hour

// term returns how long something may last, in days or hours.
func (v value) term() (time.Duration, bool) {
	s, ok := v.text()
	if !ok {
		return 0, false
	}
	m := termForm.FindStringSubmatch(s)
	if m == nil {
		v.fail("want days or hours such as 90d or 36h, got %s", quote(s))
		return 0, false
	}
	n, _ := strconv.Atoi(m[1]) // digits, few
	unit := time.Hour
	if m[2] == "d" {
		unit *= 24
	}
	d := time.Duration(n) * unit
	if d > maxTerm {
		v.fail("%s is too long; ten years (3660d) at the most", s)
		return 0, false
	}
	return d, true
}

// Term returns how long an exemption from that ban may last. Without a ban, it is
// one for a name, which any of them may hold back: the shortest of all.
func (c *Config) Term(ban string) time.Duration {
	if ban == "" {
		shortest := c.MaxExemption
		for i := range c.Bans {
			if m := c.Bans[i].MaxExemption; m > 0 {
				shortest = min(shortest, m)
			}
		}
		return shortest
	}
	i := slices.IndexFunc(c.Bans, func(b blocklists.Ban) bool { return b.ID == ban })
	if i >= 0 && c.Bans[i].MaxExemption > 0 {
		return c.Bans[i].MaxExemption
	}
	return c.MaxExemption
}

// checkTerm holds an exemption that begins then to its term.
func (c *Config) checkTerm(e *Exemption, begin time.Time) error {
	if e.Until.Sub(begin) <= c.Term(e.Ban) {
		return nil
	}
	hours := int(c.Term(e.Ban) / time.Hour)
	if e.Ban == "" {
		return fmt.Errorf("for a name, an exemption may last %d hours at the most, as from the ban with the least (max_exemption)", hours)
	}
	return fmt.Errorf("from %s, an exemption may last %d hours at the most (max_exemption)", e.Ban, hours)
}

// ExemptName returns the canonical form of the name that an exemption is for. It
// is somebody's name: one that everybody's names are under would exempt from
// everything there.
func ExemptName(s string) (string, error) {
	h, err := blocklists.ParseHost(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s is not a name: %w", quote(s), err)
	case h.Addr.IsValid():
		return "", fmt.Errorf("%s is an address; an exemption is for a name, or from a ban", h.Addr)
	}
	if suffix, official := publicsuffix.PublicSuffix(h.Name); suffix == h.Name && (official || !strings.Contains(suffix, ".")) {
		return "", fmt.Errorf("names of everybody are under %s; blanket exemptions are not permitted", quote(h.Name))
	}
	return h.Name, nil
}

func (v value) exemptName() (string, bool) {
	s, ok := v.text()
	if !ok {
		return "", false
	}
	name, err := ExemptName(s)
	if err != nil {
		v.fail("%v", err)
	}
	return name, err == nil
}

// CheckExemption holds an exemption that is not in the file to what one in the
// file is held to, and to its term. It begins at that time at the earliest.
func (c *Config) CheckExemption(e *Exemption, now time.Time) error {
	begin := e.From
	if begin.Before(now) {
		begin = now
	}
	switch {
	case e.Device.IsValid() == (e.Group != ""):
		return errors.New("an exemption is for a device or for a group, and for one of them only")
	case (e.Ban != "") == (e.Name != ""):
		return errors.New("an exemption is from a ban or for a name, and for one of them only")
	case e.Ban != "" && !slices.ContainsFunc(c.Bans, func(b blocklists.Ban) bool { return b.ID == e.Ban }):
		return fmt.Errorf("no ban %s is configured", quote(e.Ban))
	case e.Device.IsValid() && wider(e.Device, deviceBits4, deviceBits6):
		return fmt.Errorf("%s is wider than a device: /%d or longer, /%d or longer for IPv6; for many devices make a group", e.Device, deviceBits4, deviceBits6)
	case e.Device.IsValid() && e.Device != e.Device.Masked():
		return fmt.Errorf("%s has bits set beyond the length of the network; write %s", e.Device, e.Device.Masked())
	case e.Until.IsZero():
		return errors.New("there is no end; an exemption always has one")
	case !e.Until.After(begin):
		return errors.New("the exemption ends before it begins")
	}
	if err := c.checkTerm(e, begin); err != nil {
		return err
	}
	for _, of := range []struct{ key, text string }{{"ticket", e.Ticket}, {"reason", e.Reason}} {
		if of.text == "" {
			return fmt.Errorf("there is no %s; an exemption needs one", of.key)
		}
	}
	return c.checkExemptGroup(e.Group)
}

func (c *Config) checkExemptGroup(name string) error {
	if name == "" {
		return nil
	}
	i := slices.IndexFunc(c.Groups, func(g Group) bool { return g.Name == name })
	if i < 0 {
		return fmt.Errorf("there is no group %s", quote(name))
	}
	if n := slices.IndexFunc(c.Groups[i].Devices, isBlanket); n >= 0 {
		return fmt.Errorf("group %s holds %s; blanket exemptions are not permitted", quote(name), c.Groups[i].Devices[n])
	}
	return nil
}

// SamePerson reports whether the two are the names of one person.
func SamePerson(a, b string) bool { return samePerson(a, b) }

// CheckText reports why a text cannot be shown in one line, for texts that are
// not from the file.
func CheckText(s string) error {
	if len(s) > maxText {
		return fmt.Errorf("the text is longer than %d bytes", maxText)
	}
	for _, r := range s {
		if unicode.IsControl(r) || isBidi(r) || r == unicode.ReplacementChar || r == 0x2028 || r == 0x2029 {
			return fmt.Errorf("the text has the character U+%04X, which cannot be shown in a line", r)
		}
	}
	return nil
}

package config

import (
	"math"
	"net/url"
)

// A Language is what words to devices are in.
type Language string

const (
	English Language = "en"
	French  Language = "fr"
)

// StructuredErrors has blocked answers say why in a form that programs read, to
// those that ask for it (draft-ietf-dnsop-structured-dns-error).
type StructuredErrors struct {
	Enabled      bool
	Option       uint16   // by which clients ask; 0: none is assigned yet
	Contact      []string // mailto and tel URIs
	Organization string   // that blocks
	Language     Language
}

const (
	maxContacts     = 4
	maxContact      = 100 // octets; answers over UDP have little room
	maxOrganization = 100
)

func (v value) structuredErrors(s *StructuredErrors) {
	v.object(fields{
		"enabled":      set(&s.Enabled, value.boolean),
		"option":       set(&s.Option, value.optionCode),
		"contact":      set(&s.Contact, value.contacts),
		"organization": set(&s.Organization, value.organization),
		"language":     set(&s.Language, word(English, French)),
	})
}

func (v value) optionCode() (uint16, bool) {
	n, ok := number(0, math.MaxUint16)(v)
	return uint16(n), ok
}

func (v value) contacts() ([]string, bool) {
	list, ok := listOf(value.contact)(v)
	if ok && len(list) > maxContacts {
		v.fail("want %d contacts at the most, got %d", maxContacts, len(list))
		return nil, false
	}
	return list, ok
}

// contact is a URI of a scheme that clients may show.
func (v value) contact() (string, bool) {
	s, ok := v.text()
	if !ok {
		return "", false
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "mailto" && u.Scheme != "tel" || u.Opaque == "" || len(s) > maxContact {
		v.fail("want mailto:ADDRESS or tel:NUMBER of %d octets at the most, got %q", maxContact, s)
		return "", false
	}
	return s, true
}

func (v value) organization() (string, bool) {
	s, ok := v.scalar()
	if ok && len(s) > maxOrganization {
		v.fail("want %d octets at the most, got %d", maxOrganization, len(s))
		return "", false
	}
	return s, ok
}

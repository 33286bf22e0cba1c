package dnsserver

import (
	"encoding/json"
	"strings"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/resolver"
)

// Structured has blocked answers say why in a form that programs read, to clients
// that ask for it (draft-ietf-dnsop-structured-dns-error-22): whom to turn to, why,
// and who blocks. Nil is never.
type Structured struct {
	// Option is the code of the option by which clients ask (section 5.4 of the
	// draft), which IANA has not assigned yet; 0: none. Clients of earlier drafts send
	// an extended error with nothing in it, which is understood always.
	Option uint16
	// Contact are tel and mailto URIs; what a ban names as its contact comes first.
	Contact      []string
	Organization string // that blocks
	French       bool   // the words are in French, where there are any
}

// An explanation is the I-JSON object that stands in EXTRA-TEXT.
type explanation struct {
	Contact       []string `json:"c,omitempty"`
	Justification string   `json:"j,omitempty"`
	SubError      int      `json:"s,omitempty"`
	Organization  string   `json:"o,omitempty"`
	Language      string   `json:"l,omitempty"` // of the texts; required where there is one
}

// networkPolicy is the sub-error of what the operator of the network forbids. It
// goes with Blocked only.
const networkPolicy = 5

// asked reports whether the client can read it.
func (s *Structured) asked(opt *dns.OPT) bool {
	if s == nil || opt == nil {
		return false
	}
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok && e.InfoCode == 0 && e.ExtraText == "" {
			return true
		}
		if s.Option != 0 && o.Option() == s.Option {
			return true // whatever is in it
		}
	}
	return false
}

// explain puts the reasons of a blocked answer in place of the extended error's
// text.
func (s *Structured) explain(e *dns.EDNS0_EDE, d *decision) {
	x := explanation{Contact: s.Contact, Justification: cut(e.ExtraText, maxText+maxVia), Organization: s.Organization, Language: "en"}
	if e.InfoCode == dns.ExtendedErrorCodeBlocked {
		x.SubError = networkPolicy
	}
	if b := d.Ban; b != nil {
		contact := b.Contact.EN
		if s.French && b.Title.FR != "" {
			x.Justification, x.Language, contact = errorText(d, b.Title.FR), "fr", b.Contact.FR
		}
		if isContact(contact) {
			x.Contact = append([]string{contact}, x.Contact...)
		}
	}
	x.into(e)
}

// isContact reports whether it is of a scheme that clients may show (section 11.3
// of the draft).
func isContact(s string) bool {
	return strings.HasPrefix(s, "mailto:") || strings.HasPrefix(s, "tel:")
}

// into writes the explanation as the text, nothing if it would say nothing (section
// 5.3 of the draft, step 5).
func (x *explanation) into(e *dns.EDNS0_EDE) {
	e.ExtraText = ""
	if x.Justification == "" && x.Organization == "" {
		x.Language = ""
	}
	if len(x.Contact) == 0 && x.Justification == "" && x.SubError == 0 {
		return
	}
	var b strings.Builder
	w := json.NewEncoder(&b)
	w.SetEscapeHTML(false) // every octet counts
	if w.Encode(x) == nil {
		e.ExtraText = strings.TrimSuffix(b.String(), "\n")
	}
}

// shorten leaves the words out, and what is left where there are none: half an
// object is none (section 5.2 of the draft).
func shorten(e *dns.EDNS0_EDE) {
	var x explanation
	if json.Unmarshal([]byte(e.ExtraText), &x) != nil || x.Justification+x.Organization == "" {
		e.ExtraText = ""
		return
	}
	x.Justification, x.Organization = "", ""
	x.into(e)
}

// saidUpstream is the extended error of an upstream, which knows best, as the
// client gets it. Its words are no object of ours.
func (q *question) saidUpstream(said resolver.Extended) *dns.EDNS0_EDE {
	if q.structured && said.Code == dns.ExtendedErrorCodeForgedAnswer {
		said.Code = dns.ExtendedErrorCodeOther // section 5.2 of the draft
	}
	q.structured = false
	return ede(said.Code, said.Text)
}

package gateway

import (
	"path/filepath"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// A Rule is one that an operator has added by the API: it lets a name through,
// or holds it back under the authority of a ban.
type Rule struct {
	Number int       `json:"number"` // by which it is cited, as list:number
	Name   string    `json:"name"`   // name, =name or *.name, as in a list of domains
	Ban    string    `json:"ban,omitempty"`
	Ticket string    `json:"ticket,omitempty"`
	Reason string    `json:"reason"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`

	rule blocklists.Rule
}

// ETag implements admin.Tagged. A rule is never edited, so its number is its
// version.
func (r *Rule) ETag() string { return digestOf(r)[:16] }

// compiled is the rule as the lists take it.
func (r *Rule) compiled() blocklists.Rule {
	c := r.rule
	c.Line, c.Action = r.Number, blocklists.Block
	if r.Ban == "" {
		c.Action = blocklists.Allow
	}
	return c
}

// keptRules is the file of all rules.
type keptRules struct {
	Numbered int     `json:"numbered"` // the last number that was given
	Rules    []*Rule `json:"rules"`
}

// maxRules bounds the rules of the API: so few are put in force by an edit of
// the compiled lists.
const maxRules = 2000

func (g *Gateway) keepRules(l *local) error {
	if g.folder == nil {
		return nil
	}
	return writeJSON(filepath.Join(g.folder.path, rulesFile), keptRules{l.numbered, l.rules})
}

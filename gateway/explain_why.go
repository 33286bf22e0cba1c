package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/parse"
	"github.com/weir-gateway/weir/gateway/generation"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// A Voice is a rule that speaks about the target, whatever comes of it.
type Voice struct {
	Says      string     `json:"says"` // what comes of it, by itself
	Ban       string     `json:"ban,omitempty"`
	List      string     `json:"list"`
	Line      int        `json:"line"`
	Rule      string     `json:"rule"`
	Source    string     `json:"source,omitempty"`
	Exemption string     `json:"exemption,omitempty"`
	Until     *time.Time `json:"exempt_until,omitempty"`
}

// A Client is what is known of who asks, and what holds for it.
type Client struct {
	Group      string           `json:"group"`
	Network    string           `json:"network,omitempty"` // by which it is in the group
	Bans       []string         `json:"bans"`
	Exemptions []ClientExempted `json:"exemptions"`
}

// A ClientExempted is an exemption of the device or its group.
type ClientExempted struct {
	Exemption
	Live     bool `json:"live"`
	Concerns bool `json:"concerns"` // the target: it is for that name, or from a ban that mentions it
}

// A Between is what two generations say about the target for the device, now.
type Between struct {
	From  GenerationSays `json:"from"`
	To    GenerationSays `json:"to"`
	Rules []RuleChange   `json:"rules"` // that speak about it in one of the two only
}

// A GenerationSays is what one generation says.
type GenerationSays struct {
	Generation uint64    `json:"generation"`
	Time       time.Time `json:"time"`
	Who        string    `json:"who"`
	Kind       string    `json:"kind"`
	Why        string    `json:"why,omitempty"`
	Blocked    bool      `json:"blocked"`
	Says       string    `json:"says"`
}

// A Cache is what the answer cache of a running gateway holds for a name.
type Cache struct {
	Answers []CachedAnswer `json:"answers"`
}

// A CachedAnswer is one of them, and under which policy it was judged last.
type CachedAnswer struct {
	resolver.Cached
	Judged string `json:"judged"`
}

// maxVoices bounds how many rules and exemptions an explanation shows.
const maxVoices = 100

func (t target) host() blocklists.Host { return blocklists.Host{Name: t.name, Addr: t.addr} }

// before adds what is known before anything is asked.
func (e *Explainer) before(x *Explanation, t target, sub policy.Subject, now time.Time) error {
	x.Voices = []Voice{}
	for _, v := range e.snapshot.Voices(sub, t.host(), t.path, now) {
		x.Voices = append(x.Voices, e.voice(&v))
	}
	x.Voices = append(x.Voices, e.offVoices(t)...)
	x.Voices = x.Voices[:min(len(x.Voices), maxVoices)]
	x.Client = e.client(x, t, sub, now)
	if e.resolver != nil && t.name != "" {
		x.Cache = e.cached(t.name)
	}
	if e.From == 0 && e.To == 0 {
		return nil
	}
	var err error
	x.Between, err = e.between(t, sub, now)
	return err
}

func (e *Explainer) voice(v *policy.Voice) Voice {
	out := Voice{Says: v.Fate.String(), List: v.List, Line: v.Rule.Line, Rule: v.Rule.String(), Source: e.sourceOf(v.List)}
	if v.Ban != nil {
		out.Ban = v.Ban.ID
	}
	if v.Exemption != nil {
		out.Exemption, out.Until = v.Exemption.ID, &v.Exemption.Until
	}
	return out
}

// offVoices are what lists say that are not loaded, because their tier is off.
func (e *Explainer) offVoices(t target) (out []Voice) {
	copies := newCopies(e.cfg)
	for i := range e.cfg.Bans {
		ban := &e.cfg.Bans[i]
		for _, l := range ban.Lists {
			from, missing := copies.locate(&l)
			if ban.Enabled(l.Tier) || missing {
				continue
			}
			for _, m := range mentions(from, parse.Format(l.Format), t) {
				out = append(out, Voice{
					Says: fmt.Sprintf("the list is off: tier %s", l.Tier), Ban: ban.ID, List: l.Name, Line: m.Rule.Line, Rule: m.Rule.String(), Source: l.Source,
				})
			}
		}
	}
	return out
}

// mentions returns the rules of one source that speak about the target; none for
// a source that cannot be read, which nobody asked for.
func mentions(from string, format parse.Format, t target) []blocklists.Match {
	r, err := opener.Open(from)
	if err != nil {
		return nil
	}
	defer func() { _ = r.Close() }()
	var b blocklists.Builder
	if _, err := parse.Load(format, r, parse.Limits{}, func(r blocklists.Rule) error { return b.Add(0, r) }); err != nil {
		return nil
	}
	switch set := b.Build(); {
	case t.addr.IsValid():
		return set.AppendAddr(nil, t.addr)
	case t.path != "":
		return set.AppendURL(nil, t.name, t.path)
	default:
		return set.AppendName(nil, t.name)
	}
}

func (e *Explainer) client(x *Explanation, t target, sub policy.Subject, now time.Time) Client {
	m := e.snapshot.Membership(sub)
	c := Client{Group: m.Group, Bans: append([]string{}, m.Bans...), Exemptions: []ClientExempted{}}
	if m.Network.IsValid() {
		c.Network = m.Network.String()
	}
	bans := make(map[string]bool)
	for _, v := range x.Voices {
		bans[v.Ban] = true
	}
	for _, of := range allExemptions(e.cfg, e.beside) {
		p := of.policy()
		if p.Covers(sub, m.Group) && len(c.Exemptions) < maxVoices {
			c.Exemptions = append(c.Exemptions, ClientExempted{*of, of.Live(now), p.Concerns(t.name, bans)})
		}
	}
	// Those that matter come first.
	slices.SortStableFunc(c.Exemptions, func(a, b ClientExempted) int { return rank(a) - rank(b) })
	return c
}

func rank(e ClientExempted) int {
	n := 0
	if !e.Live {
		n += 2
	}
	if !e.Concerns {
		n++
	}
	return n
}

func (e *Explainer) cached(name string) *Cache {
	c := &Cache{Answers: []CachedAnswer{}}
	all, err := e.resolver.Inspect(name)
	if err != nil {
		return c // a name of no question has no answers
	}
	slices.SortFunc(all, func(a, b resolver.Cached) int { return strings.Compare(a.Type, b.Type) })
	for _, a := range all {
		judged := "not under the policy in force yet: at the next question"
		if a.Snapshot == e.whole {
			judged = fmt.Sprintf("under generation %d: a list speaks about what it leads to, so with each question", e.snapshot.Generation())
			if a.Free {
				judged = fmt.Sprintf("under generation %d: no list speaks about what it leads to", e.snapshot.Generation())
			}
		}
		c.Answers = append(c.Answers, CachedAnswer{a, judged})
	}
	return c
}

var errNoGenerationsYet = errors.New("there are no generations in the state folder: a gateway keeps them; without one nothing can be compared")

func (e *Explainer) between(t target, sub policy.Subject, now time.Time) (*Between, error) {
	if e.gens == nil {
		return nil, errNoGenerationsYet
	}
	var sets [2]*policySet
	var says [2]GenerationSays
	history := e.gens.History()
	for i, n := range []uint64{e.From, e.To} {
		set, err := loadGeneration(e.gens, n)
		if err != nil {
			return nil, fmt.Errorf("%w; weir lists history shows those that are kept", err)
		}
		sets[i], says[i] = set, generationSays(set.snapshot, t, sub, now)
		if at := slices.IndexFunc(history, func(h generation.Header) bool { return h.Number == n }); at >= 0 {
			h := &history[at]
			says[i].Generation, says[i].Time, says[i].Who, says[i].Kind, says[i].Why = h.Number, h.Time, h.Who, h.Kind, h.Why
		}
	}
	b := &Between{From: says[0], To: says[1], Rules: []RuleChange{}}
	from, to := sets[0].snapshot.Voices(sub, t.host(), t.path, now), sets[1].snapshot.Voices(sub, t.host(), t.path, now)
	b.Rules = append(changes("removed", from, to), changes("added", to, from)...)
	return b, nil
}

func generationSays(s *policy.Snapshot, t target, sub policy.Subject, now time.Time) GenerationSays {
	var v policy.Verdict
	switch {
	case t.addr.IsValid():
		v = s.Addr(sub, t.addr, now)
	case t.path != "":
		v = s.URL(sub, t.name, t.path, now)
	default:
		v = s.Name(sub, t.name, now)
	}
	says := tell(&v)
	if v.Exemption != nil {
		says += " by exemption " + v.Exemption.ID
	}
	return GenerationSays{Blocked: v.Blocked(), Says: says}
}

// changes are the rules that are among these and not among those. That a rule
// stands on another line is no change.
func changes(what string, these, those []policy.Voice) []RuleChange {
	key := func(v *policy.Voice) string { return v.List + "\x00" + v.Rule.String() + "\x00" + v.Rule.Policy() }
	there := make(map[string]bool)
	for i := range those {
		there[key(&those[i])] = true
	}
	out := []RuleChange{}
	for i := range these {
		v := &these[i]
		if there[key(v)] {
			continue
		}
		c := RuleChange{Change: what, List: v.List, Rule: v.Rule.String(), Line: v.Rule.Line}
		if v.Ban != nil {
			c.Ban = v.Ban.ID
		}
		out = append(out, c)
	}
	return out
}

// why says why the target is not held back; empty where it is.
func (x *Explanation) why(onDNS, onProxy *policy.Verdict) string {
	v := onDNS
	if onProxy.Reason > v.Reason {
		v = onProxy
	}
	switch v.Reason {
	case policy.ReasonNoRule:
		return x.unmentioned()
	case policy.ReasonListAllow:
		return fmt.Sprintf("an exception of the ban's own list lets it through: %s (%s)", v.Rule, v.RuleID())
	case policy.ReasonOperator:
		return fmt.Sprintf("a rule of the operator lets it through: %s (%s)", v.Rule, v.RuleID())
	case policy.ReasonProtected:
		return fmt.Sprintf("it is protected, so that no ban can hold it back: %s (%s)", v.Rule, v.RuleID())
	case policy.ReasonExemption:
		return exemptedWhy(v.Exemption)
	case policy.ReasonTCPOnly:
		return fmt.Sprintf("its rule only sends it to TCP: %s (%s)", v.Rule, v.RuleID())
	case policy.ReasonNotYet:
		return fmt.Sprintf("the ban %s only takes effect on %s", v.Ban.ID, v.Ban.Effective.Format(time.RFC3339))
	}
	return ""
}

func exemptedWhy(e *policy.Exemption) string {
	from := "ban " + e.Ban
	if e.Name != "" {
		from = "name " + e.Name
	}
	return fmt.Sprintf("exemption %s (%s) lets it through until %s; approved by %s, ticket %s", e.ID, from, e.Until.Format(time.RFC3339), e.ApprovedBy, e.Ticket)
}

// unmentioned says why no rule decides.
func (x *Explanation) unmentioned() string {
	if len(x.Voices) == 0 {
		return "no list mentions it"
	}
	var says []string
	for _, v := range x.Voices {
		what := fmt.Sprintf("list %s of ban %s mentions it, but: %s", v.List, v.Ban, v.Says)
		if v.Says == policy.FateElsewhere.String() {
			what = fmt.Sprintf("list %s mentions it, but ban %s does not hold for group %s", v.List, v.Ban, x.Group)
		}
		if !slices.Contains(says, what) {
			says = append(says, what)
		}
	}
	return strings.Join(says, "; ")
}

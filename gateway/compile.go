package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/blocklists/parse"
	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/policy"
)

// verdictCache is how many URLs the cache in front of the rules with a path
// remembers. Names have none: it never pays (gateway/policy/BENCHMARKS.md).
const verdictCache = 16384

// protectedSource holds the names that no ban may hold back.
const protectedSource = "embedded:protected.txt"

// opener opens the sources of lists: files and the built-in bundles.
var opener = source.Opener{Bundles: bans.FS}

// ListStatus is what is loaded of one list, for status and metrics.
type ListStatus struct {
	Name    string          `json:"name"`
	Ban     string          `json:"ban,omitempty"` // empty for the operator's and the protected names
	Role    string          `json:"role"`          // ban, operator or protected
	Tier    blocklists.Tier `json:"tier,omitempty"`
	Enabled bool            `json:"enabled"` // lists of a tier that is off are not loaded
	Source  string          `json:"source"`
	Format  parse.Format    `json:"format,omitempty"`
	Digest  string          `json:"sha256,omitempty"` // of the bytes as read, gzip or not
	Report  *parse.Report   `json:"report,omitempty"`
	Rules   int             `json:"rules"`
	Missing bool            `json:"missing,omitempty"` // never fetched yet: the gateway runs without it
	Feed    *FeedStatus     `json:"feed,omitempty"`    // of a list with a URL, of a running gateway
}

// A policySet is a compiled policy: the snapshot, and what it was made of.
type policySet struct {
	snapshot *policy.Snapshot
	set      *blocklists.Set
	spec     policy.Spec // of the snapshot
	built    bool        // and not taken over, edited or not
	heap     *heapBound
	bans     []*blocklists.Ban
	lists    []ListStatus
	parts    []part    // by the list indexes of set
	off      []offList // that are not loaded
	read     revisions // of all sources, from just before they were read
	canary   *canary   // a group that goes ahead; nil for none
	refused  []*fileRefusal
}

// A part is one list of a set: what it is, and what was in it.
type part struct {
	status ListStatus
	source string // what is opened: the status has the URL where this is a copy
	list   policy.List
	inline []blocklists.Rule // of a list that stands in the configuration itself
	read   revision          // of any other; from just before it was read
	at     time.Time         // when that was
	// outline is of the text, to find what changes in it; nil for a short list.
	outline *outline
	patched bool // the outline and the digest are still to be made
	same    bool // nothing of it has changed
}

// compile builds the whole policy of a configuration, or says why not. It
// touches nothing that is in force. Of the old policy, nil for none, it takes
// over what has not changed: so a change of who may do what, of the operator's
// rules or of a short list is in force at once, however long the other lists.
func compile(cfg *config.Config, generation uint64, old *policySet) (*policySet, error) {
	from := newCopies(cfg)
	from.was = old
	return compileWith(cfg, nil, generation, old, from)
}

// compileWith is compile together with what holds beside the configuration, and
// with the copies of fetched lists from elsewhere.
func compileWith(cfg *config.Config, beside *local, generation uint64, old *policySet, copies copies) (_ *policySet, err error) {
	c := compiler{cfg: cfg, local: beside, copies: copies, read: revisions{}, beside: old != nil}
	if c.beside {
		c.pace.begin()
	}
	defer func() {
		if err != nil {
			c.heap.lift()
		}
	}()
	if err := c.plan(); err != nil {
		return nil, err
	}
	set, built, err := c.rules(old)
	if err != nil {
		return nil, err
	}
	c.spec.Generation, c.spec.Set = generation, set
	c.spec.Answer = cfg.DNS.Blocked
	c.spec.CacheEntries = verdictCache
	c.subjects()
	snapshot, err := policy.NewSnapshot(c.spec)
	if err != nil {
		return nil, err
	}
	return &policySet{snapshot: snapshot, set: set, spec: c.spec, built: built, heap: c.heap, bans: c.spec.Bans, lists: statuses(c.parts, c.off), parts: c.parts, off: c.off, read: c.read, refused: c.refused}, nil
}

// A compiler carries one compilation.
type compiler struct {
	cfg     *config.Config
	local   *local // nil for none
	copies  copies
	spec    policy.Spec
	parts   []part
	off     []offList
	read    revisions
	beside  bool // a policy is in force meanwhile
	pace    pacer
	heap    *heapBound
	stays   map[int]int     // lists that are what they were, to their indexes there
	spared  map[string]bool // bans that are what they were, whatever their vectors say now
	refused []*fileRefusal
}

// An offList is a list that is not loaded, before the part of that index.
type offList struct {
	before int
	status ListStatus
}

// plan says which lists there are. The two of the configuration itself are
// there even when they are empty, so that the others keep their indexes.
func (c *compiler) plan() error {
	c.inline("allow", "operator", policy.RoleOperator, c.cfg.Allow)
	c.inline("protected-config", "protected", policy.RoleProtected, c.cfg.Protected)
	st := ListStatus{Name: "protected", Role: "protected", Enabled: true, Source: protectedSource, Format: parse.Domains}
	c.add(part{status: st, source: st.Source, list: policy.List{Name: st.Name, Role: policy.RoleProtected}})
	for i := range c.cfg.Bans {
		ban := &c.cfg.Bans[i]
		c.spec.Bans = append(c.spec.Bans, ban)
		for _, l := range ban.Lists {
			st := ListStatus{Name: l.Name, Ban: ban.ID, Role: "ban", Tier: l.Tier, Source: l.Source, Format: parse.Format(l.Format)}
			if st.Enabled = ban.Enabled(l.Tier); !st.Enabled {
				c.off = append(c.off, offList{len(c.parts), st})
				continue
			}
			from, missing := c.copies.locate(&l)
			if missing {
				c.read[from] = look(from)
			}
			c.add(part{status: st, source: from, list: policy.List{Name: l.Name, Role: policy.RoleBan, Ban: i, Signal: l.Signal, Answer: l.Answer, Embeds: l.Embeds, Zone: st.Format == parse.RPZ}})
			last := len(c.parts) - 1
			if missing && !c.stay(last, c.failure(last, fmt.Errorf("list %s (%s): its last version is gone from the state folder: %w", l.Name, l.Source, fs.ErrNotExist))) {
				st.Missing = true
				c.parts, c.spec.Lists = c.parts[:last], c.spec.Lists[:last]
				c.off = append(c.off, offList{last, st})
			}
		}
	}
	c.localRules()
	if len(c.parts) > blocklists.MaxLists {
		return blocklists.ErrSetFull
	}
	return nil
}

func (c *compiler) inline(name, role string, r policy.Role, rules []blocklists.Rule) {
	st := ListStatus{Name: name, Role: role, Enabled: true, Source: c.cfg.File, Rules: len(rules)}
	c.add(part{status: st, list: policy.List{Name: name, Role: r}, inline: rules})
}

func (c *compiler) add(p part) {
	c.parts = append(c.parts, p)
	c.spec.Lists = append(c.spec.Lists, p.list)
}

// statuses returns those of all lists, in the order of the configuration.
func statuses(parts []part, off []offList) []ListStatus {
	var out []ListStatus
	for i := 0; i <= len(parts); i++ {
		for ; len(off) > 0 && off[0].before == i; off = off[1:] {
			out = append(out, off[0].status)
		}
		if i < len(parts) && (parts[i].status.Format != "" || parts[i].status.Rules > 0) {
			out = append(out, parts[i].status)
		}
	}
	return out
}

// rules returns the old set with what has changed, or a new one, whose vectors
// hold. What cannot be taken stays as it was, and it begins anew with that.
func (c *compiler) rules(old *policySet) (set *blocklists.Set, built bool, err error) {
	for {
		set, err = c.edit(old)
		if built = set == nil && err == nil; built {
			set, err = c.build()
		}
		if err == nil {
			err = c.checkVectors(set, built, old)
		}
		if !c.stayWithVectors(err) && !c.spareBan(err) {
			return set, built, err
		}
		c.heap.lift()
	}
}

// build compiles all lists.
func (c *compiler) build() (*blocklists.Set, error) {
	c.heap = boundHeap(c.beside)
	stay := len(c.stays)
	b := blocklists.Builder{Pace: c.pace.pause}
	for i := range c.parts {
		if _, stays := c.stays[i]; stays {
			continue
		}
		guard, err := c.guard(i)
		if err != nil {
			return nil, err
		}
		add := func(r blocklists.Rule) error {
			c.pace.step()
			guard.see(r)
			return b.Add(i, r)
		}
		if err := c.load(i, add); err != nil {
			if !c.stay(i, c.failure(i, err)) {
				return nil, err
			}
		} else if r := guard.verdict(c.parts[i].status.Rules); r != nil {
			c.stay(i, r)
		}
	}
	if len(c.stays) > stay {
		return nil, errStays // some of what it has says is not to be in it
	}
	if err := c.addOld(&b); err != nil {
		return nil, err
	}
	if !c.beside {
		defer c.heap.lift()
	}
	return b.Build(), nil
}

// load gives the rules of a list to add, and notes what was in it. A list
// without a rule is an error: it would look like a list that nothing matches.
func (c *compiler) load(index int, add func(blocklists.Rule) error) error {
	p := &c.parts[index]
	if p.status.Format == "" {
		for _, rule := range p.inline {
			// The configuration has validated them; a set with room for nothing
			// yet takes them all.
			_ = add(rule)
		}
		return nil
	}
	if err := c.loadSource(p, add); err != nil {
		if p.list.Role != policy.RoleBan {
			return err
		}
		return &listError{p.status.Name, c.cfg.At(p.status.Source, fmt.Errorf("ban %s: %w", p.status.Ban, err))}
	}
	return nil
}

func (c *compiler) loadSource(p *part, add func(blocklists.Rule) error) error {
	st := &p.status
	p.at = time.Now()
	r, err := c.open(p.source)
	if err != nil {
		return fmt.Errorf("list %s: %w", st.Name, err)
	}
	defer func() { _ = r.Close() }()
	p.read = c.read[p.source]
	sum, text := sha256.New(), newOutline()
	report, err := parse.Load(st.Format, io.TeeReader(pacedReader{r, &c.pace}, io.MultiWriter(sum, text)), parse.Limits{}, add)
	if err != nil {
		return fmt.Errorf("list %s (%s): %w", st.Name, st.Source, err)
	}
	if report.Rules == 0 {
		return fmt.Errorf("list %s (%s): %w", st.Name, st.Source, &refusal{reasonDialect, emptyList(report).Error()})
	}
	st.Report, st.Rules, st.Digest = &report, report.Rules, hex.EncodeToString(sum.Sum(nil))
	if text.close(); report.Rules > maxEdit && isFile(p.source) {
		p.outline = text
	}
	return nil
}

// finish reads lists again of which only what has changed was read, for their
// digest and to find the next change. A list that has changed meanwhile is left
// without: the next reload reads all of it. It reports whether there were any.
func (set *policySet) finish() bool {
	changed := set.canary != nil && set.canary.policy.finish()
	var pace pacer
	pace.begin()
	for i := range set.parts {
		p := &set.parts[i]
		if !p.patched {
			continue
		}
		p.patched, changed = false, true
		p.outline, p.status.Digest = digest(p.source, p.read, &pace)
	}
	if changed {
		set.lists = statuses(set.parts, set.off)
	}
	return changed
}

// digest returns the outline and the digest of a source of that revision.
func digest(source string, at revision, pace *pacer) (*outline, string) {
	r, err := opener.Open(source)
	if err != nil {
		return nil, ""
	}
	defer func() { _ = r.Close() }()
	sum, text := sha256.New(), newOutline()
	if _, err := io.Copy(io.MultiWriter(sum, text), pacedReader{r, pace}); err != nil || look(source) != at {
		return nil, ""
	}
	text.close()
	return text, hex.EncodeToString(sum.Sum(nil))
}

// open opens a source and remembers its revision from before, so that a change
// while it is read is noticed afterwards.
func (c *compiler) open(source string) (io.ReadCloser, error) {
	c.read[source] = look(source)
	return opener.Open(source)
}

func emptyList(r parse.Report) error {
	if len(r.Skips) == 0 {
		return errors.New("no rules; give it rules or remove the list")
	}
	return fmt.Errorf("no rules, all lines were skipped; is it really %s? (weir lists lint says why each line was skipped)", r.Format)
}

// subjects translates who is in which group and who is exempt.
func (c *compiler) subjects() {
	c.spec.Hello = helloPolicy(c.cfg.Proxy.SNI, policy.HelloPolicy{})
	for _, g := range c.cfg.Groups {
		group := policy.Group{Name: g.Name, Devices: g.Devices, Bans: g.Bans}
		if g.SNI != (config.SNI{}) {
			own := helloPolicy(g.SNI, c.spec.Hello)
			group.Hello = &own
		}
		c.spec.Groups = append(c.spec.Groups, group)
	}
	for _, e := range c.cfg.Exemptions {
		c.spec.Exemptions = append(c.spec.Exemptions, policy.Exemption(e))
	}
	c.spec.Exemptions = append(c.spec.Exemptions, c.local.inForce(&c.spec, time.Now())...)
}

// helloPolicy translates what happens to unusual first bytes; what is empty is
// as in base.
func helloPolicy(c config.SNI, base policy.HelloPolicy) policy.HelloPolicy {
	for _, of := range []struct {
		to   *policy.Action
		word config.SNIAction
	}{
		{&base.Missing, c.Missing}, {&base.Mismatch, c.Mismatch}, {&base.ECH, c.ECH},
		{&base.NotTLS, c.NotTLS}, {&base.Malformed, c.Malformed}, {&base.Timeout, c.Timeout},
	} {
		switch of.word {
		case config.SNIAllow:
			*of.to = policy.Allow
		case config.SNIReport:
			*of.to = policy.Report
		case config.SNIBlock:
			*of.to = policy.Block
		}
	}
	return base
}

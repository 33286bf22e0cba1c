package gateway

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/blocklists/parse"
	"github.com/weir-gateway/weir/blocklists/source"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/policy"
)

// verdictCache is how many names the cache in front of the trie remembers: the
// names that a few thousand devices ask for again and again, in a few megabytes.
const verdictCache = 16384

// compileGCPercent is how much the heap may grow between two collections while
// a policy is compiled.
const compileGCPercent = 25

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
}

// A policySet is a compiled policy: the snapshot, and what it was made of.
type policySet struct {
	snapshot *policy.Snapshot
	lists    []ListStatus
	read     revisions // of all sources, from just before they were read
}

// compile builds the whole policy of a configuration, or says why not. It
// touches nothing that is in force.
func compile(cfg *config.Config, generation uint64) (*policySet, error) {
	// Compiling leaves garbage of several times the policy's size, and next to
	// no pointers to follow: collecting often is cheap and halves the peak.
	defer debug.SetGCPercent(debug.SetGCPercent(compileGCPercent))
	c := compiler{cfg: cfg, read: revisions{}}
	c.operator()
	if err := c.protected(); err != nil {
		return nil, err
	}
	if err := c.bans(); err != nil {
		return nil, err
	}
	set := c.builder.Build()
	c.spec.Generation, c.spec.Set = generation, set
	c.spec.Answer = cfg.DNS.Blocked
	c.spec.CacheEntries = verdictCache
	c.subjects()
	if err := c.checkVectors(set); err != nil {
		return nil, err
	}
	snapshot, err := policy.NewSnapshot(c.spec)
	if err != nil {
		return nil, err
	}
	return &policySet{snapshot: snapshot, lists: c.lists, read: c.read}, nil
}

// A compiler carries one compilation.
type compiler struct {
	cfg     *config.Config
	builder blocklists.Builder
	spec    policy.Spec
	lists   []ListStatus
	read    revisions
}

// operator adds the operator's allow rules, which stand in the configuration.
func (c *compiler) operator() {
	c.inline("allow", "operator", policy.RoleOperator, c.cfg.Allow)
}

func (c *compiler) inline(name, role string, r policy.Role, rules []blocklists.Rule) {
	if len(rules) == 0 {
		return
	}
	for _, rule := range rules {
		// The configuration has validated them; a set with room for nothing yet
		// takes them all.
		_ = c.builder.Add(len(c.spec.Lists), rule)
	}
	c.spec.Lists = append(c.spec.Lists, policy.List{Name: name, Role: r})
	c.lists = append(c.lists, ListStatus{Name: name, Role: role, Enabled: true, Source: c.cfg.File, Rules: len(rules)})
}

func (c *compiler) protected() error {
	c.inline("protected-config", "protected", policy.RoleProtected, c.cfg.Protected)
	st := ListStatus{Name: "protected", Role: "protected", Source: protectedSource, Format: parse.Domains}
	return c.load(st, policy.List{Name: st.Name, Role: policy.RoleProtected})
}

func (c *compiler) bans() error {
	for i := range c.cfg.Bans {
		ban := &c.cfg.Bans[i]
		c.spec.Bans = append(c.spec.Bans, ban)
		for _, l := range ban.Lists {
			st := ListStatus{Name: l.Name, Ban: ban.ID, Role: "ban", Tier: l.Tier, Source: l.Source, Format: parse.Format(l.Format)}
			if !ban.Enabled(l.Tier) {
				c.lists = append(c.lists, st)
				continue
			}
			pl := policy.List{Name: l.Name, Role: policy.RoleBan, Ban: i, Signal: l.Signal, Answer: l.Answer}
			if err := c.load(st, pl); err != nil {
				return c.cfg.At(l.Source, fmt.Errorf("ban %s: %w", ban.ID, err))
			}
		}
	}
	return nil
}

// load reads one list into the builder. A list without a rule is an error: it
// would look like a list that nothing matches.
func (c *compiler) load(st ListStatus, l policy.List) error {
	r, err := c.open(st.Source)
	if err != nil {
		return fmt.Errorf("list %s: %w", st.Name, err)
	}
	defer func() { _ = r.Close() }()
	sum := sha256.New()
	index := len(c.spec.Lists)
	report, err := parse.Load(st.Format, io.TeeReader(r, sum), parse.Limits{}, func(rule blocklists.Rule) error {
		return c.builder.Add(index, rule)
	})
	if err != nil {
		return fmt.Errorf("list %s (%s): %w", st.Name, st.Source, err)
	}
	if report.Rules == 0 {
		return fmt.Errorf("list %s (%s): %w", st.Name, st.Source, emptyList(report))
	}
	st.Enabled, st.Report, st.Rules, st.Digest = true, &report, report.Rules, hex.EncodeToString(sum.Sum(nil))
	c.spec.Lists = append(c.spec.Lists, l)
	c.lists = append(c.lists, st)
	return nil
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
	for _, g := range c.cfg.Groups {
		c.spec.Groups = append(c.spec.Groups, policy.Group(g))
	}
	for _, e := range c.cfg.Exemptions {
		c.spec.Exemptions = append(c.spec.Exemptions, policy.Exemption(e))
	}
}

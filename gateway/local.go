package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/durable"
	"github.com/weir-gateway/weir/gateway/ledger"
	"github.com/weir-gateway/weir/gateway/policy"
)

// A local is what the admin API has decided and what holds beside the
// configuration. It is immutable: a change is another one. Nil is none.
type local struct {
	exemptions []*Exemption // by their numbers
	rules      []*Rule      // by their numbers
	numbered   int          // the last number of a rule
	damaged    []error      // exemptions that cannot be read
	lastID     int          // the last number of an exemption, of those too
}

// In the state folder.
const (
	exemptionsFolder = "exemptions"
	rulesFile        = "rules.json"
)

// loadLocal reads what is kept in the state folder. Rules that cannot be read are an
// error, because nobody would notice what they do not hold back any more.
func (g *Gateway) loadLocal() error {
	g.local.Store(new(local))
	if g.folder == nil {
		return nil
	}
	if err := g.openLedger(); err != nil {
		return err
	}
	folder, err := g.folder.folder(exemptionsFolder)
	if err == nil {
		err = errors.Join(durable.Sweep(folder), durable.Sweep(g.folder.path))
	}
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	l, err := readLocal(g.folder.path)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	g.local.Store(l)
	for _, err := range l.damaged {
		g.log.Error("an exemption is damaged and does not hold; put its file right, or request it anew", "error", err)
		g.note(ledger.Entry{Who: whoGateway, What: "exemption damaged", Object: "exemptions", Why: err.Error()})
	}
	return g.uses.load(filepath.Join(folder, usesFile))
}

// readLocal reads what is kept in a state folder, and changes nothing there.
func readLocal(path string) (l *local, err error) {
	l = new(local)
	l.exemptions, l.damaged, l.lastID, err = readExemptions(filepath.Join(path, exemptionsFolder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var kept keptRules
	if err := readJSON(filepath.Join(path, rulesFile), &kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: take the file from a backup, or remove it and add the rules anew (weir audit has them)", err)
	}
	l.rules, l.numbered = kept.Rules, kept.Numbered
	for _, r := range l.rules {
		if r.rule, err = config.ParseRule(r.Name); err != nil {
			return nil, fmt.Errorf("%s: %w", rulesFile, err)
		}
	}
	return l, nil
}

// readJSON reads a file that was written by writeJSON.
func readJSON(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteBytes(path, append(b, '\n'))
}

// inForce returns the exemptions that hold, or will, under that policy. One from
// a ban or for a group that is not there any more waits for it.
func (l *local) inForce(spec *policy.Spec, now time.Time) (out []policy.Exemption) {
	if l == nil {
		return nil
	}
	bans, groups := make(map[string]bool), make(map[string]bool)
	for _, b := range spec.Bans {
		bans[b.ID] = true
	}
	for i := range spec.Groups {
		groups[spec.Groups[i].Name] = true
	}
	for _, e := range l.exemptions {
		if e.State == stateApproved && now.Before(e.Until) && (e.Name != "" || bans[e.Ban]) && (e.Group == "" || groups[e.Group]) {
			out = append(out, e.policy())
		}
	}
	return out
}

// localRules adds the lists of the rules of the admin API: one that allows, and
// one for each ban. They are there even when they are empty, so that the first
// rule does not change which lists there are. No list of a file can have their
// names.
func (c *compiler) localRules() {
	of := c.local.rulesByBan()
	c.inline(localAllow, "operator", policy.RoleOperator, of[""])
	for i := range c.cfg.Bans {
		id := c.cfg.Bans[i].ID
		st := ListStatus{Name: id + "+rules", Ban: id, Role: "ban", Enabled: true, Source: rulesSource, Rules: len(of[id])}
		c.add(part{status: st, list: policy.List{Name: st.Name, Role: policy.RoleBan, Ban: i}, inline: of[id]})
	}
}

// localAllow is the list of the names that the API lets through.
const localAllow = "allow+rules"

// isLocal reports whether the list is one of rules of the API.
func (p *part) isLocal() bool {
	return p.status.Format == "" && (p.status.Source == rulesSource || p.status.Name == localAllow)
}

// rulesByBan are the rules as the lists take them; those that allow have no ban.
func (l *local) rulesByBan() map[string][]blocklists.Rule {
	of := make(map[string][]blocklists.Rule)
	if l != nil {
		for _, r := range l.rules {
			of[r.Ban] = append(of[r.Ban], r.compiled())
		}
	}
	return of
}

// rulesSource is where status says that those rules come from.
const rulesSource = "api:rules"

// apply makes the next local outlive the process by store, and puts it in force
// with a policy that next makes; or it returns an error and nothing has changed.
// It is for the goroutine that owns the policy.
func (g *Gateway) apply(beside *local, next func(*local) (*policySet, error), store func() error) error {
	began := time.Now()
	set, err := next(beside)
	if err != nil {
		return err
	}
	defer set.heap.lift()
	if err := store(); err != nil {
		return err
	}
	g.local.Store(beside)
	g.publish(set, began)
	if g.proxy != nil {
		g.proxy.Recheck()
	}
	settleMemory(set)
	return nil
}

// withRules compiles the policy anew with other rules; lists that have not
// changed are taken over. What a rollback holds stays as it was, so there is none
// then; next to a canary, all others get the rules as well.
func (g *Gateway) withRules(beside *local) (*policySet, error) {
	c := g.compiled.canary
	if g.gens.hold != 0 {
		return nil, heldError{g.gens.hold}
	}
	set, err := compileWith(g.cfg, beside, g.next(), g.compiled.ahead(), copies{store: g.feeds.store, was: g.compiled.ahead()})
	if err != nil || c == nil {
		return set, err
	}
	others, err := g.compiled.withRules(beside)
	if err != nil {
		return nil, err
	}
	ahead := *c
	ahead.policy = set
	out := others.with(&ahead)
	out.heap = set.heap
	return out, out.number(set.spec.Generation)
}

// withExemptions is the policy in force, whatever it is, with other exemptions.
func (g *Gateway) withExemptions(beside *local) (*policySet, error) {
	set := g.exempting(g.compiled, beside)
	set.built, set.heap = false, nil
	return set, set.number(g.next())
}

package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/policy"
)

// Kinds of changes that are about a canary.
const (
	changeCanary  changeKind = "canary"          // a group goes ahead
	changePromote changeKind = "canary promoted" // all others follow it
	changeDrop    changeKind = "canary dropped"  // it goes back
)

// A canary is the policy of a group that goes ahead of all others. As long as it
// runs, whatever changes of the configuration's bans and lists is for the group
// alone, and all others keep what was in force when it began; exemptions and the
// rules of the API, which are about the moment, are for both (while a rollback is
// held beside it there are no changes of rules, as ever). It is a part of the
// policy in force, and so of each generation, on disk, too: there is no instant at
// which one of the two is there without the other.
type canary struct {
	group  string
	policy *policySet // of the group; it has no canary itself
	from   uint64     // the generation in force when it began
	since  time.Time
	who    string
	why    string
}

// CanaryStatus is what status shows of a canary.
type CanaryStatus struct {
	Group string    `json:"group"`
	From  uint64    `json:"from"` // the generation in force when it began, whose rules all others keep
	Since time.Time `json:"since"`
	Who   string    `json:"who"`
	Why   string    `json:"why,omitempty"`
	Rules int       `json:"rules"` // of the group
}

func (c *canary) status() *CanaryStatus {
	if c == nil {
		return nil
	}
	return &CanaryStatus{Group: c.group, From: c.from, Since: c.since, Who: c.who, Why: c.why, Rules: c.policy.set.Rules()}
}

// A canaryError refuses what cannot be while a canary runs.
type canaryError struct {
	group string
	what  string
}

func (e canaryError) Error() string {
	return fmt.Sprintf("%s: a canary runs for group %s; weir lists promote or weir lists drop ends it", e.what, e.group)
}

var errNoCanary = errors.New("no canary runs; weir lists update --canary GROUP begins one")

// Canary has a group go ahead: it gets the configuration and lists as they are now
// and whatever changes of them, and all others keep what is in force, until Promote
// or Drop. A hold of a rollback holds for the others.
func (g *Gateway) Canary(ctx context.Context, group, who, why string) error {
	c := change{who: who, why: why, kind: changeCanary, note: &note{object: "canary of group " + group}}
	c.do = func() error { return g.beginCanary(group, c) }
	return g.change(ctx, c)
}

// Promote has everybody follow the canary, and ends the hold of a rollback.
func (g *Gateway) Promote(ctx context.Context, who, why string) error {
	return g.change(ctx, g.canaryEnd(changePromote, who, why))
}

// Drop has the group of the canary go back to what all others have, and holds
// that: the configuration and the lists as they are now were not wanted. A version
// of a list that begins canaries is refused from then on.
func (g *Gateway) Drop(ctx context.Context, who, why string) error {
	return g.change(ctx, g.canaryEnd(changeDrop, who, why))
}

func (g *Gateway) canaryEnd(kind changeKind, who, why string) change {
	c := change{who: who, why: why, kind: kind, note: &note{}}
	c.do = func() error {
		ran := g.compiled.canary
		if ran == nil {
			return errNoCanary
		}
		c.note.object = "canary of group " + ran.group
		return g.endCanary(ran, kind == changePromote, who, why)
	}
	return c
}

// beginCanary makes the canary of what is in force, and then has it take the
// configuration and the lists. Where those are broken there is none.
func (g *Gateway) beginCanary(group string, c change) error {
	old := g.compiled
	if old.canary != nil {
		return canaryError{old.canary.group, "there is one canary at a time"}
	}
	var names []string
	for i := range old.spec.Groups {
		names = append(names, old.spec.Groups[i].Name)
	}
	if !slices.Contains(names, group) {
		return fmt.Errorf("there is no group %q in force; there is: %s", group, orNone(names))
	}
	g.feeds.forgetBefore()
	g.compiled = old.goingAhead(group, c)
	err := g.reload(c)
	if g.compiled.snapshot == nil {
		g.compiled = old // it was not put in force
	}
	return err
}

// goingAhead returns the policy with a canary that says the same yet; it has no
// snapshot.
func (set *policySet) goingAhead(group string, c change) *policySet {
	ahead := *set
	return set.with(&canary{group: group, policy: &ahead, from: set.snapshot.Generation(), since: time.Now(), who: c.who, why: c.why})
}

// adoptAhead has the group of a list's canary have an update first: it begins a canary
// where none runs, and is a part of the one that does.
func (g *Gateway) adoptAhead(u *feedUpdate, c change) error {
	old, group := g.compiled, u.list.Feed.Canary
	known := slices.ContainsFunc(old.spec.Groups, func(of policy.Group) bool { return of.Name == group })
	if old.canary == nil && known {
		g.feeds.forgetBefore()
		g.compiled = old.goingAhead(group, c)
	}
	if g.compiled.canary != nil {
		if err := g.feeds.setAside(&u.list); err != nil {
			g.compiled = old
			return err
		}
	}
	err := g.adopt(g.cfg, g.watched.seenFile(g.cfg.File), u, time.Now())
	if g.compiled.snapshot == nil {
		g.compiled = old // it was not put in force
	}
	return err
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

func (g *Gateway) endCanary(c *canary, promote bool, who, why string) error {
	began := time.Now()
	set := *g.compiled
	if promote {
		set = *c.policy
	}
	set.canary, set.built, set.heap = nil, false, nil
	if err := set.number(g.next()); err != nil {
		return err
	}
	if promote {
		g.feeds.forgetBefore()
	} else if err := g.feeds.dropVersions(&set, who, why); err != nil {
		return err
	}
	// What the group has came with all that is being watched: a change since then
	// is one to be taken.
	g.gens.hold = cmp.Or(g.gens.hold, c.from)
	if promote {
		g.gens.hold = 0
	}
	g.publish(&set, began)
	if g.proxy != nil {
		g.proxy.Recheck()
	}
	settleMemory(&set)
	g.log.Info("canary ended", "who", who, "why", why, "group", c.group, "promoted", promote,
		"generation", set.snapshot.Generation(), "held", g.gens.hold, "took", time.Since(began))
	return nil
}

// ahead is the policy that changes of the configuration and the lists are made to:
// that of the canary, if one runs.
func (set *policySet) ahead() *policySet {
	if set != nil && set.canary != nil {
		return set.canary.policy
	}
	return set
}

// with returns the policy with that canary, without a snapshot yet.
func (set *policySet) with(c *canary) *policySet {
	out := *set
	out.canary, out.snapshot, out.built, out.heap = c, nil, c.policy.built, nil
	return &out
}

// whole returns what is in force once this is what was compiled: that, or where a
// canary runs the policy of all others with this as the canary's.
func (g *Gateway) whole(set *policySet) (*policySet, error) {
	if g.compiled == nil || g.compiled.canary == nil {
		return set, nil
	}
	c := *g.compiled.canary
	c.policy = set
	out := g.compiled.with(&c)
	return out, out.number(set.spec.Generation)
}

// withRules returns the policy with the rules of the API as they are now, and
// everything else as it is, whatever the files say. It has no snapshot.
func (set *policySet) withRules(beside *local) (*policySet, error) {
	out, of := *set, beside.rulesByBan()
	out.parts = slices.Clone(set.parts)
	var e blocklists.Edit
	for i := range out.parts {
		p := &out.parts[i]
		if !p.isLocal() || slices.Equal(p.inline, of[p.status.Ban]) {
			continue
		}
		p.inline = of[p.status.Ban]
		p.status.Rules = len(p.inline)
		e.Drop = append(e.Drop, i)
		for _, r := range p.inline {
			e.Add = append(e.Add, blocklists.Change{List: i, Rule: r})
		}
	}
	if len(e.Drop) == 0 {
		return &out, nil
	}
	out.lists = statuses(out.parts, out.off)
	var err error
	out.set, err = set.set.Edit(e)
	out.spec.Set = out.set
	return &out, err
}

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/generation"
	"github.com/weir-gateway/weir/gateway/policy"
)

// Kinds of changes that are about generations.
const (
	changeRollback changeKind = "rollback" // back to what was in force before
	changeUpdate   changeKind = "update"   // everything is taken again
)

// A generationState is what is known of the generations on disk. It is owned as
// the rest of the list state is.
type generationState struct {
	store *generation.Store // nil for none
	now   generation.Header // of the policy in force, as it is or will be on disk
	hold  uint64            // the generation that was rolled back to and is held, 0 for none
	again time.Time         // when to try again what could not be written; zero for not
}

// next returns the number of the next generation.
func (g *Gateway) next() uint64 {
	n := g.gens.now.Number + 1
	if g.gens.store != nil {
		n = max(n, g.gens.store.Next())
	}
	return n
}

// begin returns the policy to start with. What the newest generation has in
// common with the configuration is not compiled again; where the configuration
// or a list is broken, that generation is in force until it is mended; and after
// a rollback it is, until somebody asks for more.
func (g *Gateway) begin() (*policySet, error) {
	old, header, version := g.newest()
	mine := old != nil && header.Config == g.cfg.File
	same := version == g.opts.Version // its parsers read the lists as ours do
	if old != nil {
		old.distrust(same)
	}
	if mine && header.Held && header.Canary == "" {
		return g.take(old, header)
	}
	if mine {
		g.compiled = old // whose canary goes on
	} else if header.Canary != "" {
		g.log.Warn("the canary of another configuration has ended", "group", header.Canary, "generation", header.Number, "config", header.Config)
	}
	from := old.ahead()
	if from != nil && same {
		from.fresh()
	} else {
		from = nil
	}
	var was *policySet
	if mine {
		was = old.ahead()
	}
	set, err := g.compileFirst(from, was, header.Held)
	switch {
	case err == nil && mine && set.says(old):
		set.heap.lift()
		return g.take(set, header)
	case err == nil:
		g.gens.now = header // what it follows
		if header.Held && set.canary != nil {
			g.gens.hold = header.Of
		}
		return set, nil
	case mine:
		g.failed(change{who: whoGateway, why: "started", kind: changeStart}, err, header.Number)
		g.retry = time.Now().Add(retryEvery)
		return g.take(old, header)
	}
	return nil, err
}

// compileFirst compiles what the configuration says now: for everybody, or where a
// canary goes on for its group. All others get the exemptions of the API that had
// not reached them before the end, and the rules if nothing is held.
func (g *Gateway) compileFirst(from, was *policySet, held bool) (*policySet, error) {
	set, err := compileWith(g.cfg, g.local.Load(), g.next(), from, copies{store: g.feeds.store, was: was})
	if err != nil || g.compiled == nil || g.compiled.canary == nil {
		return set, err
	}
	others := g.exempting(g.compiled, g.local.Load())
	if !held {
		if others, err = others.withRules(g.local.Load()); err != nil {
			return nil, err
		}
	}
	c := *g.compiled.canary
	c.policy = set
	out := others.with(&c)
	out.heap = set.heap
	return out, out.number(set.spec.Generation)
}

// newest reads the newest generation, and says in the log what cannot be read.
func (g *Gateway) newest() (*policySet, generation.Header, string) {
	if g.gens.store == nil {
		return nil, generation.Header{}, ""
	}
	gen, set, err := g.gens.store.Newest()
	if err != nil {
		g.log.Error("a generation cannot be read, an older one is looked for", "error", err)
	}
	if gen == nil {
		return nil, generation.Header{}, ""
	}
	old, version, err := restore(gen, set)
	if err != nil {
		g.log.Error("a generation cannot be used", "generation", gen.Number, "error", err)
		return nil, generation.Header{}, ""
	}
	g.gens.store.Adopt(gen, set)
	return old, gen.Header, version
}

// take has a policy be the generation that is on disk under that header, or the
// next one, where who is exempt has changed since.
func (g *Gateway) take(old *policySet, header generation.Header) (*policySet, error) {
	set := g.exempting(old, g.local.Load())
	g.gens.now = header
	if header.Held {
		g.gens.hold = header.Of
	}
	if set.says(old) {
		return set, set.number(header.Number)
	}
	return set, set.number(g.next())
}

// exempting returns the policy with the exemptions that hold now, without a
// snapshot.
func (g *Gateway) exempting(set *policySet, beside *local) *policySet {
	return exemptingFor(g.cfg, set, beside)
}

func exemptingFor(cfg *config.Config, set *policySet, beside *local) *policySet {
	out := *set
	out.spec.Exemptions = exemptionsFor(cfg, set, beside)
	if set.canary != nil {
		c := *set.canary
		c.policy = exemptingFor(cfg, c.policy, beside)
		out.canary = &c
	}
	return &out
}

// exemptionsFor are those that hold now, as far as the policy has their bans: who is
// exempt is nothing that comes back with an old list.
func exemptionsFor(cfg *config.Config, set *policySet, beside *local) []policy.Exemption {
	bans := make(map[string]bool)
	for _, b := range set.spec.Bans {
		bans[b.ID] = true
	}
	var out []policy.Exemption
	for _, e := range cfg.Exemptions {
		if e.Name != "" || bans[e.Ban] {
			out = append(out, policy.Exemption(e))
		}
	}
	return append(out, beside.inForce(&set.spec, time.Now())...)
}

// keep writes the policy that has come into force as a generation, and returns
// when it outlives the process.
func (g *Gateway) keep(c change) error {
	g.gens.again = time.Time{}
	n := g.compiled.snapshot.Generation()
	if n != g.gens.now.Number {
		g.gens.now = generation.Header{
			Number: n, Parent: g.gens.now.Number, Time: time.Now(), Who: c.who, Why: c.why, Kind: string(c.kind),
			Of: g.gens.hold, Held: g.gens.hold != 0, Config: g.cfg.File,
		}
		if ahead := g.compiled.canary; ahead != nil {
			g.gens.now.Canary = ahead.group
		}
	}
	g.showChange()
	if g.gens.store == nil {
		return nil
	}
	text, err := json.Marshal(g.compiled.kept(g.opts.Version))
	if err == nil {
		var pace pacer
		pace.begin()
		err = g.gens.store.Write(g.gens.now, text, g.compiled.set, g.compiled.canarySet(), pace.pause)
	}
	if err != nil {
		g.counts.unkept.Add(1)
		g.gens.again = time.Now().Add(retryEvery)
		g.log.Error("policy in force but not on disk: it does not outlive this process", "generation", n, "error", err)
		return fmt.Errorf("%w, but not on disk: %w", errInForce, err)
	}
	if g.compiled.built {
		settleMemory(g.compiled) // once more: writing all names leaves some garbage
	}
	if err := g.gens.store.Prune(); err != nil {
		g.log.Warn("old generations not removed", "error", err)
	}
	return nil
}

// canarySet are the rules of the canary, nil for none.
func (set *policySet) canarySet() *blocklists.Set {
	if set.canary == nil {
		return nil
	}
	return set.canary.policy.set
}

// showChange has the status say what brought the policy in force.
func (g *Gateway) showChange() {
	st := *g.state.Load()
	st.change = g.gens.now
	g.state.Store(&st)
}

// errNoGenerations is for a gateway without a folder for its state.
var errNoGenerations = errors.New("there are no generations: the gateway has no folder for its state (state:)")

var errNoneBefore = errors.New("there is no generation before the one in force")

// A heldError refuses changes after a rollback, or after a canary was dropped.
type heldError struct{ of uint64 }

func (e heldError) Error() string {
	return fmt.Sprintf("held at generation %d since a rollback or the end of a canary: weir lists update takes the configuration and the lists again", e.of)
}

// Rollback puts a generation in force again, as a new one, and holds it: changes
// of files are not taken until Update. Zero is the one before that in force.
// Exemptions do not come back, nor do they go. Of a generation with a canary it is
// what all others had; while one runs there is no rollback.
func (g *Gateway) Rollback(ctx context.Context, number uint64, who, why string) error {
	return g.change(ctx, change{who: who, why: why, kind: changeRollback, do: func() error { return g.rollBack(number, who, why) }})
}

// Update takes the configuration and all lists, as Reload does, and ends the hold
// of a rollback.
func (g *Gateway) Update(ctx context.Context, who, why string) error {
	return g.change(ctx, change{who: who, why: why, kind: changeUpdate})
}

func (g *Gateway) rollBack(number uint64, who, why string) error {
	began := time.Now()
	if g.gens.store == nil {
		return errNoGenerations
	}
	if c := g.compiled.canary; c != nil {
		return canaryError{c.group, "no rollback"}
	}
	if number == 0 {
		if number = g.before(); number == 0 {
			return errNoneBefore
		}
	}
	gen, rules, err := g.gens.store.Load(number)
	if err != nil {
		return err
	}
	set, _, err := restore(gen, rules)
	if err == nil {
		set.canary = nil // what all others had
		set = g.exempting(set, g.local.Load())
		err = set.number(g.next())
	}
	if err != nil {
		return fmt.Errorf("generation %d: %w", number, err)
	}
	g.gens.store.Adopt(gen, rules)
	g.gens.hold = number
	g.publish(set, began)
	if g.proxy != nil {
		g.proxy.Recheck()
	}
	settleMemory(set)
	g.log.Info("rolled back; changes of files are not taken until weir lists update",
		"who", who, "why", why, "to", number, "generation", set.snapshot.Generation(), "took", time.Since(began))
	return nil
}

// before returns the generation before the one in force that is kept, going on
// from where earlier rollbacks went.
func (g *Gateway) before() uint64 {
	at := g.gens.now
	history := g.gens.store.History()
	parents := make(map[uint64]generation.Header, len(history))
	for _, h := range history {
		parents[h.Number] = h
	}
	for at.Of != 0 {
		next, ok := parents[at.Of]
		if !ok || next.Number >= at.Number {
			return 0
		}
		at = next
	}
	if _, ok := parents[at.Parent]; !ok {
		return 0
	}
	return at.Parent
}

// History returns what is known of the generations that are kept, the newest
// first.
func (g *Gateway) History() ([]generation.Header, error) {
	if g.gens.store == nil {
		return nil, errNoGenerations
	}
	return g.gens.store.History(), nil
}

// openGenerations opens the folder of generations, if there is a state.
func (g *Gateway) openGenerations() error {
	if g.folder == nil {
		return nil
	}
	dir, err := g.folder.folder("generations")
	if err == nil {
		g.gens.store, err = generation.Open(dir, generation.DefaultLimits)
	}
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// keepFirst keeps the policy that the gateway has started with, unless it is on
// disk already. Nothing is answered before.
func (g *Gateway) keepFirst() error {
	if g.gens.now.Number == g.compiled.snapshot.Generation() {
		g.showChange()
		return nil
	}
	return g.keep(change{who: whoGateway, why: "started", kind: changeStart})
}

// watchAll watches what was read, and what the configuration names beside it:
// the policy may be an older one.
func (g *Gateway) watchAll(file revisions, set *policySet) {
	all := maps.Clone(set.read)
	for i := range g.cfg.Bans {
		for _, l := range g.cfg.Bans[i].Lists {
			if _, known := all[l.Source]; !known && g.cfg.Bans[i].Enabled(l.Tier) {
				all[l.Source] = look(l.Source)
			}
		}
	}
	g.watched.watch(file, all)
}

// failed reports a change that was refused.
func (g *Gateway) failed(c change, err error, inForce uint64) {
	text := err.Error()
	g.counts.failed.Add(1)
	level := slog.LevelError
	if last := g.counts.lastError.Swap(&text); c.kind == changeRetry && last != nil && *last == text {
		level = slog.LevelDebug // said once
	}
	g.log.Log(context.Background(), level, "reload rejected, the policy in force stays", "who", c.who, "why", c.why, "generation", inForce, "error", err)
}

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

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
	if mine && header.Held {
		return g.take(old, header, g.exemptions(old))
	}
	from := old
	if old != nil {
		if version != g.opts.Version {
			from = nil // its parsers may have read the lists otherwise
		} else {
			old.fresh()
		}
	}
	set, err := compileWith(g.cfg, g.local.Load(), g.next(), from, copies{store: g.feeds.store})
	switch {
	case err == nil && mine && set.says(old):
		set.heap.lift()
		return g.take(set, header, set.spec.Exemptions)
	case err == nil:
		g.gens.now = header // what it follows
		return set, nil
	case mine:
		g.failed(change{who: whoGateway, why: "started", kind: changeStart}, err, header.Number)
		g.retry = time.Now().Add(retryEvery)
		return g.take(old, header, g.exemptions(old))
	}
	return nil, err
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
	old, version, err := restore(gen.Policy, set)
	if err != nil {
		g.log.Error("a generation cannot be used", "generation", gen.Number, "error", err)
		return nil, generation.Header{}, ""
	}
	g.gens.store.Adopt(gen, set)
	return old, gen.Header, version
}

// take has a policy be the generation that is on disk under that header.
func (g *Gateway) take(set *policySet, header generation.Header, exempt []policy.Exemption) (*policySet, error) {
	set.spec.Exemptions = exempt
	g.gens.now = header
	if header.Held {
		g.gens.hold = header.Of
	}
	return set, set.number(header.Number)
}

// exemptions are those that hold now, as far as the policy has their bans: who is
// exempt is nothing that comes back with an old list.
func (g *Gateway) exemptions(set *policySet) []policy.Exemption {
	return g.exemptionsWith(set, g.local.Load())
}

func (g *Gateway) exemptionsWith(set *policySet, beside *local) []policy.Exemption {
	return exemptionsFor(g.cfg, set, beside)
}

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
	}
	g.showChange()
	if g.gens.store == nil {
		return nil
	}
	text, err := json.Marshal(g.compiled.kept(g.opts.Version))
	if err == nil {
		var pace pacer
		pace.begin()
		err = g.gens.store.Write(g.gens.now, text, g.compiled.set, pace.pause)
	}
	if err != nil {
		g.counts.unkept.Add(1)
		g.gens.again = time.Now().Add(retryEvery)
		g.log.Error("policy in force but not on disk: it does not outlive this process", "generation", n, "error", err)
		return fmt.Errorf("in force, but not on disk: %w", err)
	}
	if g.compiled.built {
		settleMemory(g.compiled) // once more: writing all names leaves some garbage
	}
	if err := g.gens.store.Prune(); err != nil {
		g.log.Warn("old generations not removed", "error", err)
	}
	return nil
}

// showChange has the status say what brought the policy in force.
func (g *Gateway) showChange() {
	st := *g.state.Load()
	st.change = g.gens.now
	g.state.Store(&st)
}

// errNoGenerations is for a gateway without a folder for its state.
var errNoGenerations = errors.New("there are no generations: the gateway has no folder for its state (state:)")

// A heldError refuses changes after a rollback.
type heldError struct{ of uint64 }

func (e heldError) Error() string {
	return fmt.Sprintf("held at generation %d since a rollback: weir lists update takes the configuration and the lists again", e.of)
}

// Rollback puts a generation in force again, as a new one, and holds it: changes
// of files are not taken until Update. Zero is the one before that in force.
// Exemptions do not come back, nor do they go.
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
	if number == 0 {
		if number = g.before(); number == 0 {
			return errors.New("there is no generation before the one in force")
		}
	}
	gen, rules, err := g.gens.store.Load(number)
	if err != nil {
		return err
	}
	set, _, err := restore(gen.Policy, rules)
	if err == nil {
		set.spec.Exemptions = g.exemptions(set)
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

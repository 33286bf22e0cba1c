package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/generation"
)

// NewExplainer makes the policy that a gateway with that configuration would
// start with, rules and exemptions of its state folder too. It changes nothing
// there, so a gateway may be running meanwhile.
func NewExplainer(cfg *config.Config) (*Explainer, error) {
	e := &Explainer{cfg: cfg, Resolve: true, Timeout: explainTimeout, basis: "the configuration"}
	if err := e.lookIntoState(); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	set, err := e.policy()
	if err != nil {
		return nil, err
	}
	e.snapshot, e.lists, e.ahead = set.snapshot, set.lists, set.ahead().lists
	return e, nil
}

// lookIntoState reads what is kept beside the configuration. What is somebody
// else's, in the default folder, is not looked into.
func (e *Explainer) lookIntoState() error {
	path, explicit, err := stateFolder(e.cfg)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil && (!explicit || errors.Is(err, fs.ErrNotExist)) {
		return nil // no gateway was there yet
	}
	e.beside, err = readLocal(path)
	if err == nil {
		e.gens, err = generation.Look(filepath.Join(path, "generations"), generation.DefaultLimits)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && !explicit {
		return nil
	}
	return err
}

// policy returns the policy to start with, as begin does.
func (e *Explainer) policy() (*policySet, error) {
	old, header := e.newest()
	if old != nil && old.canary != nil {
		e.basis = fmt.Sprintf("generation %d, group %s ahead", header.Number, header.Canary)
		old = exemptingFor(e.cfg, old, e.beside)
		return old, old.number(header.Number)
	}
	if old != nil && header.Held {
		e.basis = fmt.Sprintf("generation %d, held since a rollback", header.Number)
		old.spec.Exemptions = exemptionsFor(e.cfg, old, e.beside)
		return old, old.number(header.Number)
	}
	number := uint64(1)
	if e.gens != nil {
		number = e.gens.Next()
		e.basis = "the configuration, with the rules and exemptions of the state folder"
	}
	from := newCopies(e.cfg)
	from.was = old
	set, err := compileWith(e.cfg, e.beside, number, nil, from)
	if err != nil || old == nil {
		return set, err
	}
	for _, r := range set.refused {
		e.basis += fmt.Sprintf(", and the old rules of list %s, whose file is not taken (%s)", r.list, r.why.reason)
	}
	// The digests of all lists are part of the essence: their rules are the same.
	if bytes.Equal(set.essence(), old.essence()) {
		return set, set.number(header.Number)
	}
	return set, nil
}

// newest returns the newest generation if it is of this configuration, or nil.
func (e *Explainer) newest() (*policySet, generation.Header) {
	if e.gens == nil {
		return nil, generation.Header{}
	}
	gen, rules, _ := e.gens.Newest() // what cannot be read, a gateway would not use either
	if gen == nil || gen.Config != e.cfg.File {
		return nil, generation.Header{}
	}
	set, _, err := restore(gen, rules)
	if err != nil {
		return nil, generation.Header{}
	}
	return set, gen.Header
}

package gateway

import (
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"github.com/weir-gateway/weir/gateway/audit"
)

// usesFile is in the folder of exemptions.
const usesFile = "uses.json"

// keepUsesEvery is how often the counts are written down.
const keepUsesEvery = time.Minute

// uses count how often exemptions were used. They are told by the writer of the
// audit record, and so cost a decision nothing.
type uses struct {
	mu    sync.Mutex
	of    map[string]use // by the exemption's id
	dirty bool
}

// A use is how often an exemption was used.
type use struct {
	Count uint64    `json:"count"`
	Last  time.Time `json:"last"`
}

// see counts a record. The end of a tunnel is no use of its own.
func (u *uses) see(r *audit.Record) {
	if r.Exemption == "" || r.Event == "close" {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.of == nil {
		u.of = make(map[string]use)
	}
	u.of[r.Exemption] = use{u.of[r.Exemption].Count + 1, r.Time}
	u.dirty = true
}

func (u *uses) get(id string) use {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.of[id]
}

func (u *uses) load(path string) error {
	err := readJSON(path, &u.of)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// take returns a copy to write down, or nil where nothing is new. Only what is
// known of is kept.
func (u *uses) take(known func(id string) bool) map[string]use {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.dirty {
		return nil
	}
	u.dirty = false
	maps.DeleteFunc(u.of, func(id string, _ use) bool { return !known(id) })
	return maps.Clone(u.of)
}

// keepUses writes down how often exemptions were used. What is lost with a kill
// is the count of a minute; the audit record has each use.
func (g *Gateway) keepUses() {
	if g.folder == nil || g.state.Load() == nil {
		return
	}
	known := make(map[string]bool)
	for _, e := range g.allExemptions() {
		known[e.ID] = true
	}
	all := g.uses.take(func(id string) bool { return known[id] })
	if all == nil {
		return
	}
	if err := writeJSON(filepath.Join(g.folder.path, exemptionsFolder, usesFile), all); err != nil {
		g.log.Error("how often exemptions were used is not kept", "error", err)
	}
}

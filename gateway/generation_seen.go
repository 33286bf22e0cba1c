package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
)

const (
	seenBytes = 128 << 20 // of the audit record, its end
	seenPairs = 1 << 19   // of a device and a name that are judged
)

// A SeenChange is a name that devices have asked for, and that is blocked under
// one generation and not under the other.
type SeenChange struct {
	Name    string `json:"name"`
	From    string `json:"from"`
	To      string `json:"to"`
	Devices int    `json:"devices"` // for which that is so
}

// Seen is what a difference would have meant for what was asked lately.
type Seen struct {
	Since   time.Time    `json:"since"` // how far the audit record that was read goes back
	Names   int          `json:"names"` // that were asked for
	Devices int          `json:"devices"`
	Changed int          `json:"changed"` // names of another verdict
	Changes []SeenChange `json:"changes"` // the first of them, those of most devices
	Partial bool         `json:"partial,omitempty"`
}

// errNoAudit: nothing records what is asked.
var errNoAudit = errors.New("what was asked is not recorded: audit.file names no file")

// A seer judges what was asked under two policies, each device and name once.
type seer struct {
	from, to *policy.Snapshot
	now      time.Time
	pairs    map[seenPair]struct{}
	names    map[string]struct{}
	devices  map[seenDevice]struct{}
	changes  map[string]*SeenChange
	partial  bool
}

// A seenDevice is a device as the audit record tells it from others: by its
// address, or where that is not recorded by what is. One that is recorded as its
// network is counted as that, and one without an address judged as in no group.
type seenDevice struct {
	addr netip.Addr
	id   string
}

type seenPair struct {
	device seenDevice
	name   string
}

// seen reads the audit record.
func (g *Gateway) seen(from, to *policySet, window time.Duration, limit int) (*Seen, error) {
	file := g.state.Load().cfg.Audit.File
	if file == "" {
		return nil, errNoAudit
	}
	s := seer{
		from: from.snapshot, to: to.snapshot, now: time.Now(), pairs: make(map[seenPair]struct{}),
		names: make(map[string]struct{}), devices: make(map[seenDevice]struct{}), changes: make(map[string]*SeenChange),
	}
	since, err := audit.Recent(file, s.now.Add(-window), seenBytes, s.see)
	if err != nil {
		return nil, fmt.Errorf("audit record: %w", err)
	}
	out := &Seen{Since: since, Names: len(s.names), Devices: len(s.devices), Changed: len(s.changes), Partial: s.partial, Changes: []SeenChange{}}
	for _, c := range s.changes {
		out.Changes = append(out.Changes, *c)
	}
	slices.SortFunc(out.Changes, func(a, b SeenChange) int {
		return cmp.Or(cmp.Compare(b.Devices, a.Devices), cmp.Compare(a.Name, b.Name))
	})
	out.Changes = out.Changes[:min(limit, len(out.Changes))]
	return out, nil
}

func (s *seer) see(a audit.Asked) {
	name, err := blocklists.CanonicalName(a.Name)
	if err != nil {
		return // an address, or what no rule can name
	}
	device := seenDevice{addr: a.Device}
	if !a.Device.IsValid() {
		device.id = a.DeviceID
	}
	p := seenPair{device, name}
	if _, known := s.pairs[p]; known {
		return
	}
	if len(s.pairs) == seenPairs {
		s.partial = true
		return
	}
	s.pairs[p], s.names[name], s.devices[device] = struct{}{}, struct{}{}, struct{}{}
	sub := policy.Subject{Addr: a.Device}
	was, is := s.from.Name(sub, name, s.now), s.to.Name(sub, name, s.now)
	if was.Blocked() == is.Blocked() {
		return
	}
	c := s.changes[name]
	if c == nil {
		c = &SeenChange{Name: name, From: tell(&was), To: tell(&is)}
		s.changes[name] = c
	}
	c.Devices++
}

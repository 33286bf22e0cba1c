package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weir-gateway/weir/gateway/policy"
)

// What has become of an exemption. That it has ended is a matter of the clock
// and not written down.
const (
	stateRequested = "requested"
	stateApproved  = "approved"
	stateRevoked   = "revoked"
)

// sourceFile is the source of exemptions that stand in the configuration.
const sourceFile, sourceAPI = "file", "api"

// An Exemption is a dated, ticketed permission for a device or a group to use
// what one ban holds back, or one name, with all that was decided about it. As
// kept it is never edited.
type Exemption struct {
	ID          string       `json:"id"`
	State       string       `json:"state"`          // requested, approved, revoked
	Ban         string       `json:"ban"`            // empty where there is a name
	Name        string       `json:"name,omitempty"` // it and all under it, whatever holds it back
	Device      netip.Prefix `json:"device,omitzero"`
	Group       string       `json:"group,omitempty"`
	From        time.Time    `json:"from,omitzero"` // zero: as soon as it is approved
	Until       time.Time    `json:"until"`
	Ticket      string       `json:"ticket"`
	Reason      string       `json:"reason"`
	RequestedBy Decision     `json:"requested_by,omitzero"`
	ApprovedBy  Decision     `json:"approved_by,omitzero"`
	RevokedBy   Decision     `json:"revoked_by,omitzero"`
	Version     int          `json:"version"`
	Source      string       `json:"source"` // api, or file for one of the configuration
}

// A Decision is what somebody did, when and why.
type Decision struct {
	Name     string    `json:"name"`               // of the person
	Identity string    `json:"identity,omitempty"` // by which the gateway knew them
	At       time.Time `json:"at,omitzero"`
	Why      string    `json:"why,omitempty"`
}

// ETag implements admin.Tagged.
func (e *Exemption) ETag() string { return strconv.Itoa(e.Version) }

// Live reports whether it holds at that time.
func (e *Exemption) Live(now time.Time) bool {
	return e.State == stateApproved && !now.Before(e.From) && now.Before(e.Until)
}

// policy returns it as policy knows it.
func (e *Exemption) policy() policy.Exemption {
	return policy.Exemption{
		ID: e.ID, Ban: e.Ban, Name: e.Name, Device: e.Device, Group: e.Group, From: e.From, Until: e.Until,
		Ticket: e.Ticket, RequestedBy: e.RequestedBy.Name, ApprovedBy: e.ApprovedBy.Name, Reason: e.Reason,
	}
}

// number is that of an exemption that the API has made, 0 for any other.
func (e *Exemption) number() int {
	n, _ := strconv.Atoi(strings.TrimPrefix(e.ID, numberedPrefix))
	return n
}

// numberedPrefix begins the ids of exemptions that the API has made.
const numberedPrefix = "W-"

var exemptionFile = regexp.MustCompile(`^W-[1-9][0-9]{0,8}\.json$`)

// readExemptions reads all of a folder, one file for each.
//
// One that is damaged does not hold: it is no reason for a gateway not to start. Its
// file stays where it is.
func readExemptions(folder string) (all []*Exemption, damaged []error, last int, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, nil, 0, err
	}
	for _, f := range entries {
		if !exemptionFile.MatchString(f.Name()) {
			continue
		}
		e := new(Exemption)
		last = max(last, (&Exemption{ID: strings.TrimSuffix(f.Name(), ".json")}).number())
		err := readJSON(filepath.Join(folder, f.Name()), e)
		if _, ok := errors.AsType[*fs.PathError](err); ok {
			return nil, nil, 0, err
		}
		if err == nil && e.ID+".json" != f.Name() {
			err = fmt.Errorf("%s holds exemption %q", f.Name(), e.ID)
		}
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *Exemption) int { return cmp.Compare(a.number(), b.number()) })
	return all, damaged, last, nil
}

// maxExemptions bounds how many are kept. Those that ended or were revoked
// longest ago make room: the record of changes still has them.
const maxExemptions = 10000

// find returns the exemption with that id, or nil.
func (l *local) find(id string) *Exemption {
	for _, e := range l.exemptions {
		if e.ID == id {
			return e
		}
	}
	return nil
}

// with returns a local in which that exemption stands in place of the one with
// its id, or behind all others; and which one had to make room, if any.
func (l *local) with(e *Exemption, now time.Time) (next *local, gone *Exemption, err error) {
	n := *l
	if i := slices.IndexFunc(l.exemptions, func(old *Exemption) bool { return old.ID == e.ID }); i >= 0 {
		n.exemptions = slices.Clone(l.exemptions)
		n.exemptions[i] = e
		return &n, nil, nil
	}
	all := l.exemptions
	if len(all) >= maxExemptions {
		i := slices.IndexFunc(all, func(e *Exemption) bool { return e.State == stateRevoked || !now.Before(e.Until) })
		if i < 0 {
			return nil, nil, fmt.Errorf("there are %d exemptions that have not ended; revoke some", len(all))
		}
		gone = all[i]
		all = slices.Delete(slices.Clone(all), i, i+1)
	}
	n.exemptions = append(slices.Clip(all), e)
	return &n, gone, nil
}

// keepExemption makes an exemption outlive the process.
func (g *Gateway) keepExemption(e, gone *Exemption) error {
	if g.folder == nil {
		return nil
	}
	folder, err := g.folder.folder(exemptionsFolder)
	if err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(folder, e.ID+".json"), e); err != nil || gone == nil {
		return err
	}
	return os.Remove(filepath.Join(folder, gone.ID+".json"))
}

// nextID is the id of the next exemption. Numbers are not used twice: what has
// made room is older than what is there.
func (l *local) nextID() string {
	last := l.lastID
	for _, e := range l.exemptions {
		last = max(last, e.number())
	}
	return numberedPrefix + strconv.Itoa(last+1)
}

package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/admin"
)

// Kinds of changes of exemptions.
const (
	changeRequest changeKind = "exemption requested"
	changeApprove changeKind = "exemption approved"
	changeRevoke  changeKind = "exemption revoked"
)

// An ExemptionRequest asks for an exemption.
type ExemptionRequest struct {
	Ban         string    `json:"ban,omitempty"`
	Name        string    `json:"name,omitempty"` // instead of a ban: it and all under it, whatever holds it back
	Device      Device    `json:"device,omitzero"`
	Group       string    `json:"group,omitempty"`
	From        time.Time `json:"from,omitzero"` // zero: as soon as it is approved
	Until       time.Time `json:"until"`
	Ticket      string    `json:"ticket"`
	Reason      string    `json:"reason"`
	RequestedBy string    `json:"requested_by,omitempty"` // name of the person; empty: that of the credential
}

// A Device is one address, or a small network of one device: 10.8.0.7, or
// 2001:db8:1:2::/64.
type Device netip.Prefix

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Device) UnmarshalText(text []byte) error {
	if a, err := netip.ParseAddr(string(text)); err == nil && a.Zone() == "" {
		a = a.Unmap()
		*d = Device(netip.PrefixFrom(a, a.BitLen()))
		return nil
	}
	p, err := netip.ParsePrefix(string(text))
	if err != nil {
		return fmt.Errorf("device: want an address such as 10.8.0.7, got %q", text)
	}
	*d = Device(p)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Device) MarshalText() ([]byte, error) { return netip.Prefix(d).MarshalText() }

// An ExemptionDecision approves or revokes one.
type ExemptionDecision struct {
	Name string `json:"name,omitempty"` // of the person; empty: that of the credential
	Why  string `json:"why,omitempty"`
}

// An ExemptionReport is an exemption, and how it is used.
type ExemptionReport struct {
	Exemption
	Live     bool      `json:"live"`
	Uses     uint64    `json:"uses"` // as the audit record has them; not counted without one
	LastUsed time.Time `json:"last_used,omitzero"`
}

// Exemptions are all there are.
type Exemptions struct {
	Exemptions []ExemptionReport `json:"exemptions"`
}

func (g *Gateway) exemptRoutes() []admin.Route {
	const one = "/v1/exemptions/{id}"
	return []admin.Route{
		{Method: http.MethodGet, Path: "/v1/exemptions", Role: admin.Viewer, Response: Exemptions{},
			Summary: "All exemptions, those of the configuration too: who is exempt, until when, and how often it was used",
			Handle:  func(context.Context, *admin.Call) (any, error) { return g.reportExemptions(time.Now()), nil }},
		{Method: http.MethodPost, Path: "/v1/exemptions", Role: admin.Operator, Request: ExemptionRequest{}, Response: Exemption{},
			Summary: "Request an exemption; it holds when an approver, who is another person, has approved it", Handle: g.requestExemption},
		{Method: http.MethodGet, Path: one, Role: admin.Viewer, Response: Exemption{},
			Summary: "One exemption", Handle: func(_ context.Context, c *admin.Call) (any, error) { return g.oneExemption(c.Param("id")) }},
		{Method: http.MethodPost, Path: one + "/approve", Role: admin.Approver, Request: ExemptionDecision{}, Response: Exemption{}, Match: true,
			Summary: "Approve an exemption that somebody else has requested", Handle: g.approveExemption},
		{Method: http.MethodPost, Path: one + "/revoke", Role: admin.Operator | admin.Approver, Request: ExemptionDecision{}, Response: Exemption{}, Match: true,
			Summary: "End an exemption now, or refuse one that was requested", Handle: g.revokeExemption},
	}
}

// allExemptions returns all of them, those of the configuration first.
func (g *Gateway) allExemptions() []*Exemption {
	return allExemptions(g.state.Load().cfg, g.local.Load())
}

func allExemptions(cfg *config.Config, beside *local) []*Exemption {
	var all []*Exemption
	for _, e := range cfg.Exemptions {
		all = append(all, &Exemption{
			ID: e.ID, State: stateApproved, Ban: e.Ban, Name: e.Name, Device: e.Device, Group: e.Group, From: e.From, Until: e.Until, Ticket: e.Ticket,
			Reason: e.Reason, RequestedBy: Decision{Name: e.RequestedBy}, ApprovedBy: Decision{Name: e.ApprovedBy}, Source: sourceFile,
		})
	}
	if beside == nil {
		return all
	}
	return append(all, beside.exemptions...)
}

func (g *Gateway) reportExemptions(now time.Time) Exemptions {
	all := Exemptions{Exemptions: []ExemptionReport{}}
	for _, e := range g.allExemptions() {
		u := g.uses.get(e.ID)
		all.Exemptions = append(all.Exemptions, ExemptionReport{*e, e.Live(now), u.Count, u.Last})
	}
	return all
}

func (g *Gateway) oneExemption(id string) (*Exemption, error) {
	all := g.allExemptions()
	if i := slices.IndexFunc(all, func(e *Exemption) bool { return e.ID == id }); i >= 0 {
		return all[i], nil
	}
	return nil, admin.Errorf(http.StatusNotFound, "there is no exemption %q; see weir exempt list", id)
}

// changed answers for a change of an object.
func changed(v any, err error) (any, error) {
	switch {
	case err == nil:
		return v, nil
	case errors.Is(err, errStopped):
		return nil, admin.Errorf(http.StatusServiceUnavailable, "%v; ask again when it is back", err)
	}
	return nil, err
}

func (g *Gateway) requestExemption(ctx context.Context, c *admin.Call) (any, error) {
	in := c.Body.(*ExemptionRequest)
	n := &note{role: c.Identity.Roles.String()}
	var out *Exemption
	err := g.change(ctx, change{who: c.Identity.Name, why: in.Reason, kind: changeRequest, note: n, do: func() error {
		l, now := g.local.Load(), time.Now()
		e, err := g.newExemption(in, c.Identity, now)
		if err != nil {
			return admin.Errorf(http.StatusUnprocessableEntity, "%v", err)
		}
		next, gone, err := l.with(e, now)
		if err != nil {
			return admin.Errorf(http.StatusConflict, "%v", err)
		}
		if err := g.keepExemption(e, gone); err != nil {
			return err
		}
		g.local.Store(next)
		n.object, n.after, out = "exemption "+e.ID, digestOf(e), e
		return nil
	}})
	if err != nil {
		return changed(nil, err)
	}
	return admin.Created{Location: "/v1/exemptions/" + out.ID, Value: out}, nil
}

// newExemption makes one of a request.
func (g *Gateway) newExemption(in *ExemptionRequest, by admin.Identity, now time.Time) (*Exemption, error) {
	e := &Exemption{
		ID: g.local.Load().nextID(), State: stateRequested, Ban: in.Ban, Device: netip.Prefix(in.Device), Group: in.Group, From: in.From, Until: in.Until,
		Ticket: strings.TrimSpace(in.Ticket), Reason: strings.TrimSpace(in.Reason), Version: 1, Source: sourceAPI,
	}
	var err error
	if in.Name != "" {
		if e.Name, err = config.ExemptName(in.Name); err != nil {
			return nil, err
		}
	}
	if e.RequestedBy, err = decision(by, in.RequestedBy, "", now); err != nil {
		return nil, err
	}
	for _, text := range []string{e.Ticket, e.Reason} {
		if err := config.CheckText(text); err != nil {
			return nil, err
		}
	}
	return e, g.cfg.CheckExemption(e.configured(), now)
}

// configured is the exemption as the configuration would have it.
func (e *Exemption) configured() *config.Exemption {
	c := config.Exemption(e.policy())
	return &c
}

// decision is what somebody does now. Who says no name is called what their
// credential is called.
func decision(by admin.Identity, name, why string, now time.Time) (Decision, error) {
	d := Decision{Name: strings.TrimSpace(name), Identity: by.Name, At: now.UTC(), Why: strings.TrimSpace(why)}
	if d.Name == "" {
		d.Name = person(by.Name)
	}
	return d, errors.Join(config.CheckText(d.Name), config.CheckText(d.Why))
}

// person is the name in an identity: of a token, of a user, or the common name
// of a certificate.
func person(identity string) string {
	if name, ok := strings.CutPrefix(identity, "token:"); ok {
		return name
	}
	subject, ok := strings.CutPrefix(identity, "cert:")
	if !ok {
		return identity
	}
	for part := range strings.SplitSeq(subject, ",") {
		if cn, ok := strings.CutPrefix(part, "CN="); ok {
			return cn
		}
	}
	return subject
}

// separate says why the approver is not another person than the requester:
// neither by what they are known by, nor by the names that they give.
func separate(requested, approved Decision) error {
	if requested.Identity == approved.Identity {
		return admin.Errorf(http.StatusForbidden, "%s requested it, and cannot approve it; another person must", requested.Identity)
	}
	for _, a := range []string{requested.Name, person(requested.Identity)} {
		for _, b := range []string{approved.Name, person(approved.Identity)} {
			if config.SamePerson(a, b) {
				return admin.Errorf(http.StatusForbidden, "%s requested it, and cannot approve it under another credential; another person must", a)
			}
		}
	}
	return nil
}

// decide changes an exemption that the caller knows: what edits it gets a copy.
// The policy is compiled anew where it is in force before or after.
func (g *Gateway) decide(ctx context.Context, c *admin.Call, kind changeKind, edit func(e *Exemption, by Decision) error) (any, error) {
	in := c.Body.(*ExemptionDecision)
	n := &note{role: c.Identity.Roles.String(), object: "exemption " + c.Param("id")}
	var out *Exemption
	err := g.change(ctx, change{who: c.Identity.Name, why: in.Why, kind: kind, note: n, do: func() error {
		old, err := g.oneExemption(c.Param("id"))
		if err != nil {
			return err
		}
		if old.Source == sourceFile {
			return admin.Errorf(http.StatusConflict, "exemption %s stands in the configuration; change it there", old.ID)
		}
		if err := c.Matches(old.ETag()); err != nil {
			return err
		}
		now := time.Now()
		by, err := decision(c.Identity, in.Name, in.Why, now)
		if err != nil {
			return admin.Errorf(http.StatusUnprocessableEntity, "%v", err)
		}
		e := *old
		if err := edit(&e, by); err != nil {
			return err
		}
		e.Version++
		next, _, err := g.local.Load().with(&e, now)
		if err != nil {
			return err
		}
		n.before, n.after, out = digestOf(old), digestOf(&e), &e
		if e.State == stateRevoked && old.State == stateRequested {
			if err := g.keepExemption(&e, nil); err != nil {
				return err
			}
			g.local.Store(next)
			return nil
		}
		return g.apply(next, g.withExemptions, func() error { return g.keepExemption(&e, nil) })
	}})
	return changed(out, err)
}

func (g *Gateway) approveExemption(ctx context.Context, c *admin.Call) (any, error) {
	return g.decide(ctx, c, changeApprove, func(e *Exemption, by Decision) error {
		if e.State != stateRequested {
			return admin.Errorf(http.StatusConflict, "exemption %s is %s already", e.ID, e.State)
		}
		if err := separate(e.RequestedBy, by); err != nil {
			return err
		}
		if err := g.cfg.CheckExemption(e.configured(), by.At); err != nil {
			return admin.Errorf(http.StatusConflict, "it cannot be approved any more: %v", err)
		}
		e.State, e.ApprovedBy = stateApproved, by
		return nil
	})
}

func (g *Gateway) revokeExemption(ctx context.Context, c *admin.Call) (any, error) {
	return g.decide(ctx, c, changeRevoke, func(e *Exemption, by Decision) error {
		if e.State == stateRevoked {
			return admin.Errorf(http.StatusConflict, "exemption %s is revoked already", e.ID)
		}
		e.State, e.RevokedBy = stateRevoked, by
		return nil
	})
}

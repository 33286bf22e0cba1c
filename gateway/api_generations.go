package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/weir-gateway/weir/gateway/admin"
	"github.com/weir-gateway/weir/gateway/generation"
	"github.com/weir-gateway/weir/gateway/ledger"
)

// Generations is what the API shows of the generations that are kept, the newest
// first.
type Generations struct {
	InForce     uint64              `json:"in_force"`
	HeldAt      uint64              `json:"held_at,omitempty"`
	Generations []generation.Header `json:"generations"`
}

// A RollbackRequest asks for an earlier generation. Zero is the one before.
type RollbackRequest struct {
	Generation uint64 `json:"generation,omitempty"`
	Why        string `json:"why,omitempty"`
}

// An UpdateRequest asks for the configuration and lists to be taken again.
type UpdateRequest struct {
	Why string `json:"why,omitempty"`
}

// A PinRequest says whether a generation is kept beyond the limits.
type PinRequest struct {
	Pinned bool `json:"pinned"`
}

func (g *Gateway) generationRoutes() []admin.Route {
	return []admin.Route{{
		Method: http.MethodGet, Path: "/v1/generations", Role: admin.Viewer,
		Summary: "The generations of the policy that are kept", Response: Generations{},
		Handle: func(context.Context, *admin.Call) (any, error) { return g.generations() },
	}, {
		Method: http.MethodGet, Path: "/v1/generations/diff", Role: admin.Viewer,
		Summary: "What differs between two generations", Response: GenerationDiff{},
		Query: []admin.Param{
			{Name: "from", About: "the earlier generation; the one before to, if it is left out"},
			{Name: "to", About: "the later one; the newest, if it is left out"},
			{Name: "limit", About: "how many rules are shown; all are counted"},
			{Name: "name", About: "a name to judge under both"},
			{Name: "seen", About: "how far to look back, such as 24h, for names that devices asked for and that are blocked under one of the two only"},
		},
		Handle: func(_ context.Context, c *admin.Call) (any, error) { return g.askDiff(c) },
	}, {
		Method: http.MethodPost, Path: "/v1/rollback", Role: admin.Operator,
		Summary: "Put an earlier generation in force and hold it", Request: RollbackRequest{}, Response: Status{},
		Handle: func(ctx context.Context, c *admin.Call) (any, error) {
			r := c.Body.(*RollbackRequest)
			return g.afterChange(g.Rollback(ctx, r.Generation, c.Identity.Name, r.Why))
		},
	}, {
		Method: http.MethodPost, Path: "/v1/update", Role: admin.Operator,
		Summary: "Take the configuration and all lists again, and end the hold of a rollback; a list that cannot be taken keeps its old rules, and is an error with in_force", Request: UpdateRequest{}, Response: Status{},
		Handle: func(ctx context.Context, c *admin.Call) (any, error) {
			return g.afterChange(g.Update(ctx, c.Identity.Name, c.Body.(*UpdateRequest).Why))
		},
	}, {
		Method: http.MethodPost, Path: "/v1/generations/{number}/pin", Role: admin.Operator,
		Summary: "Keep a generation whatever the limits, or let it go", Request: PinRequest{}, Response: Generations{},
		Handle: func(_ context.Context, c *admin.Call) (any, error) { return g.pin(c) },
	}}
}

func (g *Gateway) generations() (any, error) {
	history, err := g.History()
	if err != nil {
		return nil, admin.Errorf(http.StatusNotFound, "%v", err)
	}
	st := g.Status()
	return Generations{InForce: st.Generation, HeldAt: st.Held, Generations: history}, nil
}

// afterChange answers a change with what is in force now.
func (g *Gateway) afterChange(err error) (any, error) {
	switch {
	case err == nil:
		return g.Status(), nil
	case errors.Is(err, errInForce):
		return nil, &admin.Problem{Status: http.StatusConflict, Title: http.StatusText(http.StatusConflict), Detail: err.Error(), InForce: true}
	case errors.Is(err, generation.ErrNotKept) || errors.Is(err, errNoGenerations):
		return nil, admin.Errorf(http.StatusNotFound, "%v", err)
	case errors.Is(err, errStopped):
		return nil, admin.Errorf(http.StatusServiceUnavailable, "%v", err)
	}
	return nil, admin.Errorf(http.StatusConflict, "%v", err)
}

func (g *Gateway) askDiff(c *admin.Call) (any, error) {
	q := diffQuery{limit: diffRules}
	var limit uint64
	for name, to := range map[string]*uint64{"from": &q.from, "to": &q.to, "limit": &limit} {
		s := c.Query(name)
		if s == "" {
			continue
		}
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return nil, admin.Errorf(http.StatusBadRequest, "%s: %q is not a number", name, s)
		}
		*to = n
		if name == "limit" {
			q.limit = int(min(n, maxDiffRules))
		}
	}
	var err error
	if q.name, err = canonicalName(c.Query("name")); err != nil {
		return nil, admin.Errorf(http.StatusBadRequest, "name: %v", err)
	}
	if s := c.Query("seen"); s != "" {
		if q.seen, err = time.ParseDuration(s); err != nil || q.seen <= 0 {
			return nil, admin.Errorf(http.StatusBadRequest, "seen: %q is not a duration such as 24h", s)
		}
	}
	d, err := g.diff(q)
	if err != nil {
		return nil, admin.Errorf(http.StatusNotFound, "%v", err)
	}
	return d, nil
}

func (g *Gateway) pin(c *admin.Call) (any, error) {
	n, err := strconv.ParseUint(c.Param("number"), 10, 64)
	if err != nil {
		return nil, admin.Errorf(http.StatusNotFound, "%q is not the number of a generation", c.Param("number"))
	}
	if g.gens.store == nil {
		return nil, admin.Errorf(http.StatusNotFound, "%v", errNoGenerations)
	}
	if err := g.gens.store.Pin(n, c.Body.(*PinRequest).Pinned); err != nil {
		_, err = g.afterChange(err)
		return nil, err
	}
	what := notedUnpinned
	if c.Body.(*PinRequest).Pinned {
		what = notedPinned
	}
	g.note(ledger.Entry{Who: c.Identity.Name, Role: c.Identity.Roles.String(), What: what, Object: "generation " + strconv.FormatUint(n, 10)})
	return g.generations()
}

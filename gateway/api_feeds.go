package gateway

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/weir-gateway/weir/gateway/admin"
)

// feedPatience is how long a request waits for sources. What takes longer goes
// on without it.
const feedPatience = 20 * time.Second

// A FetchRequest asks for a look at the sources of lists.
type FetchRequest struct {
	List string `json:"list,omitempty"` // empty: all
}

// ETag implements admin.Tagged: a version is known by its digest.
func (v *FeedVersion) ETag() string { return v.SHA256 }

func (g *Gateway) feedRoutes() []admin.Route {
	return []admin.Route{{
		Method: http.MethodPost, Path: "/v1/lists/fetch", Role: admin.Operator,
		Summary: "Look at the sources of fetched lists now, and put new versions in force",
		Request: FetchRequest{}, Response: []FeedResult{},
		Handle: func(ctx context.Context, c *admin.Call) (any, error) {
			ctx, cancel := context.WithTimeout(ctx, feedPatience)
			defer cancel()
			results, err := g.UpdateFeeds(ctx, c.Body.(*FetchRequest).List)
			return results, feedProblem(err)
		},
	}, {
		Method: http.MethodGet, Path: "/v1/lists/{name}/held", Role: admin.Viewer,
		Summary: "The version of a list that waits for approval, or that a person has refused", Response: &FeedVersion{},
		Handle: func(_ context.Context, c *admin.Call) (any, error) {
			v, err := g.HeldFeed(c.Param("name"))
			if err != nil {
				return nil, feedProblem(err)
			}
			return v, nil
		},
	}, {
		Method: http.MethodPost, Path: "/v1/lists/{name}/approve", Role: admin.Operator | admin.Approver, Match: true,
		Summary: "Put the version of a list in force that waits for approval, or that a person has refused", Response: Status{},
		Handle: g.settleRoute(g.ApproveFeed),
	}, {
		Method: http.MethodPost, Path: "/v1/lists/{name}/discard", Role: admin.Operator | admin.Approver, Match: true,
		Summary: "Drop the version of a list that waits for approval", Response: Status{},
		Handle: g.settleRoute(g.DiscardFeed),
	}}
}

// settleRoute decides over the version that the caller has seen.
func (g *Gateway) settleRoute(settle func(ctx context.Context, name, digest, who string) error) func(context.Context, *admin.Call) (any, error) {
	return func(ctx context.Context, c *admin.Call) (any, error) {
		name := c.Param("name")
		v, err := g.HeldFeed(name)
		if err != nil {
			return nil, feedProblem(err)
		}
		if err := c.Matches(v.SHA256); err != nil {
			return nil, err
		}
		if err := settle(ctx, name, v.SHA256, c.Identity.Name); err != nil {
			return nil, feedProblem(err)
		}
		return g.Status(), nil
	}
}

// feedProblem says an error of an operation on feeds as the API does.
func feedProblem(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNoFeed):
		return admin.Errorf(http.StatusNotFound, "%v", err)
	case errors.Is(err, ErrMoved):
		return admin.Errorf(http.StatusPreconditionFailed, "%v", err)
	case errors.Is(err, ErrNotHeld):
		return admin.Errorf(http.StatusConflict, "%v", err)
	case errors.Is(err, errStopped):
		return admin.Errorf(http.StatusServiceUnavailable, "%v", err)
	}
	return admin.Errorf(http.StatusConflict, "the version in force stays: %v", err)
}

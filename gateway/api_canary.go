package gateway

import (
	"context"
	"errors"
	"net/http"

	"github.com/weir-gateway/weir/gateway/admin"
)

// A CanaryRequest asks for a canary.
type CanaryRequest struct {
	Group string `json:"group"` // that goes ahead
	Why   string `json:"why,omitempty"`
}

// A CanaryEnd asks for its end.
type CanaryEnd struct {
	Why string `json:"why,omitempty"`
}

func (g *Gateway) canaryRoutes() []admin.Route {
	return []admin.Route{{
		Method: http.MethodGet, Path: "/v1/canary", Role: admin.Viewer, Response: &CanaryStatus{},
		Summary: "The group that goes ahead of all others",
		Handle: func(context.Context, *admin.Call) (any, error) {
			if c := g.state.Load().canary; c != nil {
				return c, nil
			}
			return nil, admin.Errorf(http.StatusNotFound, "%v", errNoCanary)
		},
	}, {
		Method: http.MethodPost, Path: "/v1/canary", Role: admin.Operator, Request: CanaryRequest{}, Response: Status{},
		Summary: "Take the configuration and all lists again for one group; all others keep what is in force",
		Handle: func(ctx context.Context, c *admin.Call) (any, error) {
			in := c.Body.(*CanaryRequest)
			if in.Group == "" {
				return nil, admin.Errorf(http.StatusUnprocessableEntity, "group: name the group that goes ahead")
			}
			return g.afterChange(g.Canary(ctx, in.Group, c.Identity.Name, in.Why))
		},
	}, {
		Method: http.MethodPost, Path: "/v1/canary/promote", Role: admin.Operator, Request: CanaryEnd{}, Response: Status{},
		Summary: "Put what the group has in force for everybody",
		Handle: func(ctx context.Context, c *admin.Call) (any, error) {
			return g.afterCanary(g.Promote(ctx, c.Identity.Name, c.Body.(*CanaryEnd).Why))
		},
	}, {
		Method: http.MethodPost, Path: "/v1/canary/drop", Role: admin.Operator, Request: CanaryEnd{}, Response: Status{},
		Summary: "Have the group go back to what all others have, and hold that; versions of lists with a canary are refused from then on",
		Handle: func(ctx context.Context, c *admin.Call) (any, error) {
			return g.afterCanary(g.Drop(ctx, c.Identity.Name, c.Body.(*CanaryEnd).Why))
		},
	}}
}

func (g *Gateway) afterCanary(err error) (any, error) {
	if errors.Is(err, errNoCanary) {
		return nil, admin.Errorf(http.StatusNotFound, "%v", err)
	}
	return g.afterChange(err)
}

package gateway

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/weir-gateway/weir/gateway/admin"
)

func (g *Gateway) explainRoutes() []admin.Route {
	return []admin.Route{{
		Method: http.MethodGet, Path: "/v1/explain", Role: admin.Viewer, Response: Explanation{},
		Summary: "What happens to a name, URL or address under the policy in force, and why; and what the cache holds of it",
		Query: []admin.Param{
			{Name: "target", About: "the name, URL or address"},
			{Name: "device", About: "address of the device that asks; without it, one in no group"},
			{Name: "resolve", About: "true: ask the upstreams for a name that passes, and judge the answers"},
			{Name: "between", About: "two generations, as 7,9: what each of them says"},
		},
		Handle: g.askExplain,
	}}
}

func (g *Gateway) askExplain(ctx context.Context, c *admin.Call) (any, error) {
	bad := func(name string, err error) error { return admin.Errorf(http.StatusBadRequest, "%s: %v", name, err) }
	e := g.explainer()
	var device netip.Addr
	var err error
	if s := c.Query("device"); s != "" {
		if device, err = netip.ParseAddr(s); err != nil {
			return nil, bad("device", err)
		}
	}
	if s := c.Query("resolve"); s != "" {
		if e.Resolve, err = strconv.ParseBool(s); err != nil {
			return nil, bad("resolve", err)
		}
	}
	if s := c.Query("between"); s != "" {
		if e.From, e.To, err = ParseBetween(s); err != nil {
			return nil, bad("between", err)
		}
		g.diffing.Lock()
		defer g.diffing.Unlock()
	}
	x, err := e.Explain(ctx, c.Query("target"), device, time.Now())
	if err != nil {
		return nil, bad("target", err)
	}
	return x, nil
}

// explainer returns one for the policy in force.
func (g *Gateway) explainer() *Explainer {
	st := g.state.Load()
	return &Explainer{
		cfg: st.cfg, snapshot: g.store.Load(), lists: st.lists, ahead: st.ahead, beside: g.local.Load(), basis: "the policy in force",
		gens: g.gens.store, resolver: g.resolver.p.Load(), Timeout: explainTimeout,
	}
}

// ParseBetween reads two generations, as 7,9.
func ParseBetween(s string) (from, to uint64, err error) {
	a, b, _ := strings.Cut(s, ",")
	from, err = strconv.ParseUint(strings.TrimSpace(a), 10, 64)
	if err == nil {
		to, err = strconv.ParseUint(strings.TrimSpace(b), 10, 64)
	}
	if err != nil || from == 0 || to == 0 {
		return 0, 0, fmt.Errorf("want two generations such as 7,9, got %q; weir lists history shows those that are kept", s)
	}
	return from, to, nil
}

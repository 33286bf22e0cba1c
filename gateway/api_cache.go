package gateway

import (
	"context"
	"fmt"
	"net/http"

	"github.com/weir-gateway/weir/gateway/admin"
	"github.com/weir-gateway/weir/gateway/ledger"
)

// A CacheFlush says what is to be taken out of the answer cache: one of these.
type CacheFlush struct {
	Name  string `json:"name,omitempty"`
	Under string `json:"under,omitempty"` // this name and all under it
	All   bool   `json:"all,omitempty"`
}

// String says what.
func (f *CacheFlush) String() string {
	switch {
	case f.All:
		return "all answers"
	case f.Under != "":
		return "answers under " + clipped(f.Under)
	}
	return "answers for " + clipped(f.Name)
}

// clipped is a text of the record of changes that somebody else chooses.
func clipped(s string) string { return s[:min(len(s), maxDenial)] }

// A CacheFlushed says what was taken out.
type CacheFlushed struct {
	Removed int `json:"removed"` // answers
}

func (g *Gateway) cacheRoutes() []admin.Route {
	return []admin.Route{{
		Method: http.MethodPost, Path: "/v1/cache/flush", Role: admin.Operator,
		Summary: "Take the answers of a name, of all names under one, or all, out of the cache",
		Request: CacheFlush{}, Response: CacheFlushed{},
		Handle: func(_ context.Context, c *admin.Call) (any, error) {
			done, err := g.FlushCache(*c.Body.(*CacheFlush))
			if err != nil {
				return nil, admin.Errorf(http.StatusUnprocessableEntity, "%v", err)
			}
			f := c.Body.(*CacheFlush)
			g.note(ledger.Entry{Who: c.Identity.Name, Role: c.Identity.Roles.String(), What: notedFlushed, Object: f.String()})
			return done, nil
		},
	}}
}

// FlushCache takes answers out of the cache, stale ones too, so that the next
// question about them is asked upstream. No restart brings them back.
func (g *Gateway) FlushCache(f CacheFlush) (CacheFlushed, error) {
	given := 0
	for _, is := range []bool{f.Name != "", f.Under != "", f.All} {
		if is {
			given++
		}
	}
	r := g.resolver.p.Load()
	switch {
	case given != 1:
		return CacheFlushed{}, fmt.Errorf("give one of name, under and all")
	case f.All:
		defer g.answers.forget()
		return CacheFlushed{r.Flush()}, nil
	}
	name, under := f.Name, false
	if f.Under != "" {
		name, under = f.Under, true
	}
	n, err := r.Forget(name, under)
	if err == nil {
		g.answers.forget()
	}
	return CacheFlushed{n}, err
}

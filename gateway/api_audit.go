package gateway

import (
	"context"
	"net/http"
	"strconv"

	"github.com/weir-gateway/weir/gateway/admin"
	"github.com/weir-gateway/weir/gateway/ledger"
)

// Changes is a page of the record of changes, the newest first.
type Changes struct {
	Entries []ledger.Entry `json:"entries"`
	Head    ledger.Head    `json:"head"`           // the end of the record
	Next    uint64         `json:"next,omitempty"` // before which entry the next page begins; none: this is the last
}

// Entries of a page.
const (
	changesPage    = 100
	maxChangesPage = 1000
)

func (g *Gateway) auditRoutes() []admin.Route {
	return []admin.Route{{
		Method: http.MethodGet, Path: "/v1/audit", Role: admin.Viewer, Response: Changes{},
		Summary: "The record of changes, the newest first: who changed what, when and why, and who was denied it",
		Query: []admin.Param{
			{Name: "before", About: "only entries before that number, such as next of the page before"},
			{Name: "limit", About: "how many entries; 100 if it is left out, 1000 at the most"},
		},
		Handle: func(_ context.Context, c *admin.Call) (any, error) { return g.askAudit(c) },
	}}
}

func (g *Gateway) askAudit(c *admin.Call) (any, error) {
	head := g.record.head()
	if head == nil {
		return nil, admin.Errorf(http.StatusNotFound, "there is no record of changes: the gateway has no folder for its state (state:)")
	}
	var before uint64
	limit := uint64(changesPage)
	for name, to := range map[string]*uint64{"before": &before, "limit": &limit} {
		s := c.Query(name)
		if s == "" {
			continue
		}
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil || n == 0 {
			return nil, admin.Errorf(http.StatusBadRequest, "%s: %q is not a number from 1", name, s)
		}
		*to = n
	}
	entries, more, err := ledger.Page(g.folder.path, before, int(min(limit, maxChangesPage)))
	if err != nil {
		return nil, err
	}
	page := Changes{Entries: append([]ledger.Entry{}, entries...), Head: *head}
	if n := len(entries); more && n > 0 {
		page.Next = entries[n-1].Seq
	}
	return page, nil
}

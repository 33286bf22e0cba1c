package gateway

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/admin"
)

// Kinds of changes of the operator's rules.
const (
	changeAddRule    changeKind = "rule added"
	changeRemoveRule changeKind = "rule removed"
)

// A RuleRequest says why a rule is wanted.
type RuleRequest struct {
	Reason string `json:"reason"`
	Ticket string `json:"ticket,omitempty"`
}

// Rules are all that were added by the API.
type Rules struct {
	Rules []*Rule `json:"rules"`
}

func (g *Gateway) ruleRoutes() []admin.Route {
	routes := []admin.Route{{
		Method: http.MethodGet, Path: "/v1/rules", Role: admin.Viewer, Response: Rules{},
		Summary: "The rules that were added by the API",
		Handle: func(context.Context, *admin.Call) (any, error) {
			return Rules{append([]*Rule{}, g.local.Load().rules...)}, nil
		},
	}}
	for path, what := range map[string]string{
		"/v1/rules/allow/{name}":       "lets the name through for everybody",
		"/v1/rules/block/{ban}/{name}": "holds the name back under that ban",
	} {
		routes = append(routes,
			admin.Route{Method: http.MethodGet, Path: path, Role: admin.Viewer, Response: Rule{},
				Summary: "The rule that " + what, Handle: g.getRule},
			admin.Route{Method: http.MethodPut, Path: path, Role: admin.Operator, Request: RuleRequest{}, Response: Rule{},
				Summary: "Add a rule that " + what, Handle: g.addRule},
			admin.Route{Method: http.MethodDelete, Path: path, Role: admin.Operator, Match: true,
				Summary: "Remove the rule that " + what, Handle: g.removeRule})
	}
	return routes
}

// place is which rule a call is about, and where it is in the list, or -1.
func (l *local) place(c *admin.Call) (name string, rule blocklists.Rule, at int, err error) {
	name = c.Param("name")
	rule, err = config.ParseRule(name)
	if err != nil {
		return "", rule, -1, admin.Errorf(http.StatusUnprocessableEntity, "%v", err)
	}
	return name, rule, slices.IndexFunc(l.rules, func(r *Rule) bool {
		return r.Ban == c.Param("ban") && r.rule.Kind == rule.Kind && r.rule.Name == rule.Name
	}), nil
}

// errThere: somebody has added the same rule meanwhile.
var errThere = errors.New("the rule is there already")

var errNoRule = admin.Errorf(http.StatusNotFound, "there is no such rule; see weir rules list")

func (g *Gateway) getRule(_ context.Context, c *admin.Call) (any, error) {
	l := g.local.Load()
	_, _, at, err := l.place(c)
	if err != nil {
		return nil, err
	}
	if at < 0 {
		return nil, errNoRule
	}
	return l.rules[at], nil
}

// addRule adds a rule, or finds it there: adding it again changes nothing.
func (g *Gateway) addRule(ctx context.Context, c *admin.Call) (any, error) {
	in, ban := c.Body.(*RuleRequest), c.Param("ban")
	in.Reason, in.Ticket = strings.TrimSpace(in.Reason), strings.TrimSpace(in.Ticket)
	if err := errors.Join(config.CheckText(in.Reason), config.CheckText(in.Ticket)); err != nil || in.Reason == "" {
		return nil, admin.Errorf(http.StatusUnprocessableEntity, "a rule needs a reason, in one line")
	}
	if _, _, at, err := g.local.Load().place(c); err != nil || at >= 0 {
		return g.getRule(ctx, c)
	}
	n := &note{role: c.Identity.Roles.String()}
	var out *Rule
	err := g.change(ctx, change{who: c.Identity.Name, why: in.Reason, kind: changeAddRule, note: n, do: func() error {
		l := g.local.Load()
		name, rule, at, err := l.place(c)
		switch {
		case err != nil:
			return err
		case at >= 0:
			return errThere
		case ban != "" && !slices.ContainsFunc(g.cfg.Bans, func(b blocklists.Ban) bool { return b.ID == ban }):
			return admin.Errorf(http.StatusUnprocessableEntity, "no ban %q is configured", ban)
		case len(l.rules) >= maxRules:
			return admin.Errorf(http.StatusConflict, "there are %d rules; put them into a list of their own", len(l.rules))
		}
		next := *l
		next.numbered++
		out = &Rule{Number: next.numbered, Name: name, Ban: ban, Ticket: in.Ticket, Reason: in.Reason, By: c.Identity.Name, At: time.Now().UTC(), rule: rule}
		next.rules = append(slices.Clip(l.rules), out)
		n.object, n.after = "rule "+ruleWords(ban, name), digestOf(out)
		return g.applyRules(&next)
	}})
	if errors.Is(err, errThere) {
		return g.getRule(ctx, c)
	}
	return changed(out, err)
}

func (g *Gateway) removeRule(ctx context.Context, c *admin.Call) (any, error) {
	n := &note{role: c.Identity.Roles.String()}
	err := g.change(ctx, change{who: c.Identity.Name, kind: changeRemoveRule, note: n, do: func() error {
		l := g.local.Load()
		name, _, at, err := l.place(c)
		if err != nil {
			return err
		}
		if at < 0 {
			return errNoRule
		}
		if err := c.Matches(l.rules[at].ETag()); err != nil {
			return err
		}
		next := *l
		next.rules = slices.Delete(slices.Clone(l.rules), at, at+1)
		n.object, n.before = "rule "+ruleWords(c.Param("ban"), name), digestOf(l.rules[at])
		return g.applyRules(&next)
	}})
	return changed(nil, err)
}

// applyRules puts rules in force. What the vectors of a ban do not stand, such
// as a rule that blocks a name which must not be, is refused.
func (g *Gateway) applyRules(next *local) error {
	var kept error
	err := g.apply(next, g.withRules, func() error { kept = g.keepRules(next); return kept })
	if err != nil && kept == nil {
		return admin.Errorf(http.StatusConflict, "the policy in force stays: %v", err)
	}
	return err
}

func ruleWords(ban, name string) string {
	if ban == "" {
		return "allow " + name
	}
	return "block " + ban + " " + name
}

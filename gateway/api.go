package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/admin"
)

// routes are what the admin API does. Each part has its own in a file api_*.go.
func (g *Gateway) routes() []admin.Route {
	return slices.Concat(g.statusRoutes(), g.generationRoutes(), g.canaryRoutes(), g.feedRoutes(), g.cacheRoutes(),
		g.exemptRoutes(), g.ruleRoutes(), g.explainRoutes(), g.auditRoutes())
}

func (g *Gateway) statusRoutes() []admin.Route {
	return []admin.Route{{
		Method: http.MethodGet, Path: "/v1/status", Role: admin.Viewer,
		Summary: "The policy in force and what it was made of", Response: Status{},
		Handle: func(context.Context, *admin.Call) (any, error) { return g.Status(), nil },
	}, {
		Method: http.MethodPost, Path: "/v1/reload", Role: admin.Operator,
		Summary: "Read the configuration and all lists again, and put them in force; a list that cannot be taken keeps its old rules, and is an error with in_force", Response: Status{},
		Handle: func(ctx context.Context, c *admin.Call) (any, error) {
			err := g.change(ctx, change{who: c.Identity.Name, why: "asked", kind: changeReload, note: &note{role: c.Identity.Roles.String()}})
			if err != nil && !errors.Is(err, errInForce) {
				err = fmt.Errorf("the policy in force stays: %w", err)
			}
			return g.afterChange(err)
		},
	}}
}

// listenAdmin binds the admin listeners: TCP where it is configured, and the
// socket where there is a state folder.
func (g *Gateway) listenAdmin() error {
	c := &g.cfg.Admin
	socket := g.folder.socket(g.log)
	if !c.Listen.IsValid() && socket == "" {
		return nil
	}
	tlsConfig, err := adminTLS(&c.TLS)
	if err != nil {
		return err
	}
	g.admin, err = admin.Listen(admin.Options{
		Listen: c.Listen, TLS: tlsConfig, Socket: socket, Version: g.opts.Version,
		Metrics: g.metrics, Ready: g.ready, Status: func() any { return g.Status() },
		Routes: g.routes(), Access: adminAccess(c), Denied: g.denied, Log: g.log,
	})
	return err
}

// adminAccess translates who may do what.
func adminAccess(c *config.Admin) admin.Access {
	roles := func(names []config.Role) (r admin.Roles) {
		for _, name := range names {
			r |= admin.RoleByName(string(name))
		}
		return r
	}
	a := admin.Access{Subjects: make(map[string]admin.Roles), Approvers: c.Approvers}
	for _, t := range c.Tokens {
		a.Tokens = append(a.Tokens, admin.Token{Name: t.Name, Roles: roles(t.Roles), SHA256: t.SHA256, Until: t.Until})
	}
	for _, client := range c.TLS.Clients {
		a.Subjects[client.Subject] = roles(client.Roles)
	}
	return a
}

// adminTLS reads the certificates, or returns nil where there are none.
func adminTLS(c *config.AdminTLS) (*tls.Config, error) {
	if c.Cert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("admin.tls: %w", err)
	}
	t := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if c.ClientCA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(c.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("admin.tls.client_ca: %w", err)
	}
	t.ClientCAs = x509.NewCertPool()
	if !t.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New("admin.tls.client_ca: there is no certificate in " + c.ClientCA)
	}
	// Monitors have none, and see what is open to everybody.
	t.ClientAuth = tls.VerifyClientCertIfGiven
	return t, nil
}

package config

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"net/netip"
	"regexp"
	"time"

	"go.yaml.in/yaml/v3"
)

// Admin configures the listener for health, metrics, status and the API. Its
// socket in the state folder needs no configuration.
type Admin struct {
	Listen    netip.AddrPort // invalid: none over TCP
	Tokens    []AdminToken
	TLS       AdminTLS
	Approvers []uint32 // users who may approve over the socket
}

// A Role is what somebody may do by the API.
type Role string

const (
	RoleViewer   Role = "viewer"
	RoleOperator Role = "operator"
	RoleApprover Role = "approver"
)

// An AdminToken lets whoever has the secret use the API.
type AdminToken struct {
	Name   string
	Roles  []Role
	SHA256 [sha256.Size]byte // of the secret
	Until  time.Time         // zero: no end
}

// AdminTLS makes the TCP listener one of TLS. The zero one does not.
type AdminTLS struct {
	Cert, Key string // files, PEM
	ClientCA  string // file, PEM; empty: no client certificates
	Clients   []AdminClient
}

// An AdminClient is the subject of a client certificate and what it may do.
type AdminClient struct {
	Subject string // distinguished name (RFC 2253)
	Roles   []Role
}

func (v value) admin(a *Admin) {
	v.object(fields{
		"listen":    set(&a.Listen, value.listenOrNone),
		"tokens":    set(&a.Tokens, listOf(value.adminToken)),
		"approvers": set(&a.Approvers, listOf(value.userID)),
		"tls":       func(v value) { v.adminTLS(&a.TLS) },
	})
}

var tokenName = identifier(regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`),
	"letters, digits, dots, hyphens, underscores and @, 64 at the most, a letter or digit first")

func (v value) adminToken() (AdminToken, bool) {
	var t AdminToken
	v.object(fields{
		"name":   set(&t.Name, tokenName),
		"role":   set(&t.Roles, value.roles),
		"sha256": set(&t.SHA256, value.digest),
		"until":  set(&t.Until, value.end),
	}, "name", "role", "sha256")
	return t, true
}

func (v value) adminTLS(t *AdminTLS) {
	v.object(fields{
		"cert":      set(&t.Cert, value.filePath),
		"key":       set(&t.Key, value.filePath),
		"client_ca": set(&t.ClientCA, value.filePath),
		"clients":   set(&t.Clients, listOf(value.adminClient)),
	})
}

func (v value) adminClient() (AdminClient, bool) {
	var c AdminClient
	v.object(fields{"subject": set(&c.Subject, value.text), "role": set(&c.Roles, value.roles)}, "subject", "role")
	return c, true
}

// roles returns one role or a list of them.
func (v value) roles() ([]Role, bool) {
	role := word(RoleViewer, RoleOperator, RoleApprover)
	if v.n.Kind != yaml.SequenceNode {
		r, ok := role(v)
		return []Role{r}, ok
	}
	list, ok := listOf(role)(v)
	if ok && len(list) == 0 {
		v.fail("there is no role; want viewer, operator or approver")
		return nil, false
	}
	v.unique(len(list), func(i int) any { return string(list[i]) })
	return list, ok
}

// userID returns the number of a user of this machine.
func (v value) userID() (uint32, bool) {
	n, ok := number(0, math.MaxUint32-1)(v)
	return uint32(n), ok
}

// digest returns a SHA-256 in hexadecimal digits.
func (v value) digest() (sum [sha256.Size]byte, ok bool) {
	s, ok := v.text()
	if !ok {
		return sum, false
	}
	b, err := hex.DecodeString(s)
	switch {
	case err != nil || len(b) != sha256.Size:
		v.fail("want a SHA-256, which is 64 hexadecimal digits, got %s", quote(s))
		return sum, false
	case [sha256.Size]byte(b) == sha256.Sum256(nil):
		v.fail("this is the SHA-256 of nothing: the secret was empty when it was made")
		return sum, false
	}
	return [sha256.Size]byte(b), true
}

// checkAdmin checks the parts of the admin listener against each other.
func (d *decoder) checkAdmin(c *Config) {
	a := &c.Admin
	at, _ := d.at("admin")
	if tokens, ok := d.at("admin", "tokens"); ok {
		tokens.unique(len(a.Tokens), func(i int) any { return a.Tokens[i].Name })
		tokens.unique(len(a.Tokens), func(i int) any {
			if a.Tokens[i].SHA256 == [sha256.Size]byte{} {
				return ""
			}
			return hex.EncodeToString(a.Tokens[i].SHA256[:])
		})
	}
	if clients, ok := d.at("admin", "tls", "clients"); ok {
		clients.unique(len(a.TLS.Clients), func(i int) any { return a.TLS.Clients[i].Subject })
	}
	t := &a.TLS
	switch {
	case (t.Cert == "") != (t.Key == ""):
		at.fail("admin.tls needs both cert and key")
	case t.ClientCA != "" && t.Cert == "":
		at.fail("admin.tls.client_ca needs cert and key too: without TLS there are no client certificates")
	case len(t.Clients) > 0 && t.ClientCA == "":
		at.fail("admin.tls.clients needs client_ca, which says whose client certificates are good")
	case len(a.Tokens) > 0 && t.Cert == "" && a.Listen.IsValid() && !a.Listen.Addr().IsLoopback():
		at.fail("tokens would cross the network readable: give admin.tls a cert and a key, or listen on loopback")
	}
}

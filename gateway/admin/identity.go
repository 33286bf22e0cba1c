package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Roles is a set of roles. The zero Roles may do nothing.
type Roles uint8

const (
	// Viewer may look.
	Viewer Roles = 1 << iota
	// Operator may change things, and look.
	Operator
	// Approver may approve what others have requested, and look.
	Approver
)

var roleNames = []struct {
	role Roles
	name string
}{{Viewer, "viewer"}, {Operator, "operator"}, {Approver, "approver"}}

// RoleByName returns the role with that name, or none.
func RoleByName(name string) Roles {
	for _, r := range roleNames {
		if r.name == name {
			return r.role
		}
	}
	return 0
}

// Has reports whether one of the roles may do what a route for that role does.
// Whoever may change or approve something may look at it.
func (r Roles) Has(role Roles) bool {
	return r&role != 0 || role == Viewer && r != 0
}

// String returns the names, with commas between them.
func (r Roles) String() string {
	var names []string
	for _, of := range roleNames {
		if r&of.role != 0 {
			names = append(names, of.name)
		}
	}
	return strings.Join(names, ",")
}

// An Identity is who makes a request, as the listener has found out. The zero
// Identity is nobody, who may do nothing.
type Identity struct {
	Name  string // token:NAME, uid:N, or cert:SUBJECT
	Roles Roles
}

// A Token is a credential. Its secret is known by its digest only.
type Token struct {
	Name   string
	Roles  Roles
	SHA256 [sha256.Size]byte
	Until  time.Time // zero: no end
}

// Access says who may do what. The zero Access lets nobody in over TCP.
type Access struct {
	Tokens []Token
	// Subjects are the roles of client certificates, by the subject's
	// distinguished name (RFC 2253).
	Subjects map[string]Roles
	// Approvers are the users who may approve over the socket. Whoever can
	// connect to it is an operator.
	Approvers []uint32
}

// identify returns who makes the request. Nobody and no reason: no credential
// was shown; a reason: one that is no good.
func (a *Access) identify(r *http.Request, now time.Time) (id Identity, wrong string) {
	// A token comes first: over the socket too, it says as whom the user acts.
	if h := r.Header["Authorization"]; len(h) > 0 {
		return a.bearer(h, now)
	}
	if uid, ok := r.Context().Value(peerKey{}).(peerAddr); ok {
		return a.user(uint32(uid)), ""
	}
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return Identity{}, ""
	}
	subject := r.TLS.VerifiedChains[0][0].Subject.String()
	if roles := a.Subjects[subject]; roles != 0 {
		return Identity{"cert:" + subject, roles}, ""
	}
	return Identity{}, "the certificate's subject " + strconv.Quote(subject) + " has no role here; add it to admin.tls.clients"
}

func (a *Access) user(uid uint32) Identity {
	id := Identity{peerAddr(uid).String(), Operator}
	for _, approver := range a.Approvers {
		if approver == uid {
			id.Roles |= Approver
		}
	}
	return id
}

// bearer finds the token (RFC 6750, section 2.1). All of them are compared, in
// constant time, so that the time taken says nothing about any.
func (a *Access) bearer(header []string, now time.Time) (Identity, string) {
	scheme, secret, ok := strings.Cut(header[0], " ")
	if !ok || len(header) != 1 || !strings.EqualFold(scheme, "Bearer") {
		return Identity{}, "want one header Authorization: Bearer TOKEN"
	}
	sum := sha256.Sum256([]byte(strings.TrimSpace(secret)))
	found := -1
	for i := range a.Tokens {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(sum[:], a.Tokens[i].SHA256[:]), i, found)
	}
	if found < 0 {
		return Identity{}, "no such token; compare its SHA-256 with admin.tokens"
	}
	t := &a.Tokens[found]
	if !t.Until.IsZero() && !now.Before(t.Until) {
		return Identity{}, "the token " + strconv.Quote(t.Name) + " has expired; ask for a new one"
	}
	return Identity{"token:" + t.Name, t.Roles}, ""
}

// A peerAddr is the address of a caller over the socket: the user.
type peerAddr uint32

// Network implements net.Addr.
func (peerAddr) Network() string { return "unix" }

// String implements net.Addr.
func (p peerAddr) String() string { return "uid:" + strconv.FormatUint(uint64(p), 10) }

type peerKey struct{}

// A peerConn is a connection whose remote address is the user behind it.
type peerConn struct {
	*net.UnixConn
	peer peerAddr
}

// RemoteAddr implements net.Conn.
func (c peerConn) RemoteAddr() net.Addr { return c.peer }

// A peerListener says who connects.
type peerListener struct{ *net.UnixListener }

// Accept implements net.Listener. A caller of whom the kernel does not say who
// it is, is turned away.
func (l peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(c)
		if err == nil {
			return peerConn{c, peerAddr(uid)}, nil
		}
		_ = c.Close()
	}
}

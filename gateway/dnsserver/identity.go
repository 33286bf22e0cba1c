package dnsserver

import (
	"crypto/tls"
	"net/netip"
	"strings"
)

// Identities say which device asks over an encrypted transport, whatever address
// it asks from: the device is judged, and recorded, by the address given here.
// Limits stay with the address it asks from. Nil is none.
type Identities struct {
	// Certificates are devices by a name of the certificate that they prove
	// themselves with: its common name or one of its DNS names, in lower case.
	Certificates map[string]netip.Addr
	// Tokens are devices by a word that they know: the first label of the server
	// name that they ask for (WORD.name), or the last step of the path of DNS over
	// HTTPS (/dns-query/WORD). In the server name whoever is on the way can read it.
	Tokens map[string]netip.Addr
}

// SetIdentities replaces the identities, from the next question on.
func (s *Server) SetIdentities(ids *Identities) { s.identities.Store(ids) }

// A claim is by what a connection says which device it is.
type claim struct {
	names []string // of a certificate that was verified
	token string   // of the server name, empty for none
}

// A client is who is at the other end of a connection.
type client struct {
	claim claim
	addr  netip.Addr
}

// claimOf reads the claim of a connection. name is what the resolver itself is
// called, empty where nothing is under it.
func claimOf(st *tls.ConnectionState, name string) claim {
	var c claim
	if len(st.VerifiedChains) > 0 {
		leaf := st.PeerCertificates[0]
		c.names = append(c.names, strings.ToLower(leaf.Subject.CommonName))
		for _, n := range leaf.DNSNames {
			c.names = append(c.names, strings.ToLower(n))
		}
	}
	token, under, found := strings.Cut(strings.ToLower(st.ServerName), ".")
	if found && name != "" && under == name {
		c.token = token
	}
	return c
}

// device returns who asks: what is proven before what is only said, and the
// address that the question came from where nothing is known.
func (s *Server) device(c *claim, from netip.Addr) netip.Addr {
	ids := s.identities.Load()
	if ids == nil {
		return from
	}
	for _, n := range c.names {
		if a, ok := ids.Certificates[n]; ok {
			return a
		}
	}
	if a, ok := ids.Tokens[c.token]; ok {
		return a
	}
	return from
}

// known reports whether a token is somebody's.
func (s *Server) known(token string) bool {
	ids := s.identities.Load()
	if ids == nil {
		return false
	}
	_, ok := ids.Tokens[token]
	return ok
}

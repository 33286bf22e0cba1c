package resolver

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	clientCookie = 8 // RFC 7873, section 4.1
	cookieSecret = 16
	// cookieTurn is for how long a secret makes new cookies (section 7.1: for no more
	// than 36 days, and better for no more than 26 hours).
	cookieTurn = 24 * time.Hour
	// With the server's, of 8 to 32 bytes (section 4.2), in hexadecimal digits.
	clientCookieHex            = 2 * clientCookie
	minCookieHex, maxCookieHex = clientCookieHex + 2*8, clientCookieHex + 2*32
)

// A cookieJar keeps the cookies that we and one upstream know each other by (RFC
// 7873): a response without ours was made by somebody who has not seen the query.
// The zero cookieJar is ready.
type cookieJar struct {
	mu     sync.Mutex
	secret [cookieSecret]byte
	drawn  time.Time // zero: there is none yet
	client string    // hexadecimal, as all here; it depends on the address that we ask from
	server string    // of the last response to that client cookie; empty: none yet
}

// A sentCookie is what went with a query.
type sentCookie struct {
	client string
	// expected is whether the upstream has returned cookies before.
	expected bool
}

// add adds our cookie to the query, and the upstream's where that is known. Ours
// is another one for each of our addresses, so that it does not tell that two of
// them are one (RFC 7873, section 4.1).
func (j *cookieJar) add(q *dns.Msg, from net.Addr, now time.Time) *sentCookie {
	udp, ok := from.(*net.UDPAddr)
	opt := q.IsEdns0()
	if !ok || opt == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if now.Sub(j.drawn) >= cookieTurn {
		_, _ = rand.Read(j.secret[:]) // never fails
		j.drawn = now
	}
	h := sha256.Sum256(append(j.secret[:], udp.IP.To16()...))
	if client := hex.EncodeToString(h[:clientCookie]); client != j.client {
		j.client, j.server = client, ""
	}
	opt.Option = append(opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: j.client + j.server})
	return &sentCookie{j.client, j.server != ""}
}

// check looks at a response's cookie, and keeps the upstream's (RFC 7873, section
// 5.3). Another one than ours, or one of no length that there is, is a forgery. None, from an upstream that had one,
// may be: it is asked over TCP, and known as one without from then on.
func (j *cookieJar) check(sent *sentCookie, m *dns.Msg) error {
	if sent == nil {
		return nil
	}
	got := cookieOf(m)
	whole := len(got) >= minCookieHex && len(got) <= maxCookieHex
	if got != "" && (!whole && len(got) != clientCookieHex || got[:clientCookieHex] != sent.client) {
		return errMismatch
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if !whole {
		if !sent.expected {
			return nil
		}
		j.server = ""
		return errDoubt
	}
	if j.client == sent.client {
		j.server = got[clientCookieHex:]
	}
	if m.Rcode == dns.RcodeBadCookie {
		return errBadCookie
	}
	return nil
}

// cookieOf returns the cookie of a message, empty for none.
func cookieOf(m *dns.Msg) string {
	opt := m.IsEdns0()
	if opt == nil {
		return ""
	}
	for _, o := range opt.Option {
		if c, ok := o.(*dns.EDNS0_COOKIE); ok {
			return c.Cookie
		}
	}
	return ""
}

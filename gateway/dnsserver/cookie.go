package dnsserver

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dchest/siphash"
	"github.com/miekg/dns"
)

const (
	clientCookie = 8         // RFC 7873, section 4.1
	serverCookie = 16        // RFC 9018, section 4
	maxCookie    = 40        // RFC 7873, section 4.2
	cookieLife   = time.Hour // RFC 9018, section 4.3
	cookieRenew  = 30 * time.Minute
	cookieAhead  = 5 * time.Minute // by how much another server's clock may be wrong
	// secretLife is how long a secret of our own makes cookies; it is known for as
	// long again (RFC 7873, section 7.1, recommends about a day).
	secretLife = 26 * time.Hour
	// secretLook is how often a file of secrets is looked at.
	secretLook = 10 * time.Second
	maxSecrets = 4
)

// Cookies makes and checks the cookies by which clients prove that they are at
// the address that their questions come from (RFC 7873), in the construction
// that servers of different makers share (RFC 9018). It is safe for concurrent
// use, and off the hot path: only a client that sends the option pays for it.
type Cookies struct {
	// Require is whether a question over UDP with a cookie that is not ours is
	// answered BADCOOKIE, and the right cookie, in place of an answer. Clients
	// that know nothing of cookies are served as always.
	Require bool

	file string // of secrets; empty: our own
	log  *slog.Logger

	mu      sync.Mutex
	secrets [][16]byte // the first makes cookies, all check them
	since   time.Time  // of our own: when the first was drawn
	looked  time.Time  // of a file
	read    time.Time  // its time when it was read
}

// NewCookies returns cookies with secrets from the file, or of our own: random,
// and changed from time to time. The file is what the servers behind one address
// share: a secret on each line, 32 hexadecimal digits. The first makes cookies,
// the others are still, or already, known (RFC 9018, section 5). A change of it
// is noticed within seconds.
func NewCookies(file string, log *slog.Logger) (*Cookies, error) {
	c := &Cookies{file: file, log: log}
	if file == "" {
		return c, nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("cookie secrets: %w", err)
	}
	if c.secrets, err = readSecrets(file); err != nil {
		return nil, err
	}
	c.read, c.looked = info.ModTime(), time.Now()
	return c, nil
}

func readSecrets(file string) (secrets [][16]byte, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cookie secrets: %w", err)
	}
	for i, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		var s [16]byte
		if n, err := hex.Decode(s[:], []byte(line[:min(len(line), 33)])); err != nil || n != len(s) || len(line) != 32 {
			return nil, fmt.Errorf("cookie secrets: %s:%d: want 32 hexadecimal digits", file, i+1)
		}
		secrets = append(secrets, s)
	}
	if len(secrets) == 0 || len(secrets) > maxSecrets {
		return nil, fmt.Errorf("cookie secrets: %s has %d secrets, want 1 to %d", file, len(secrets), maxSecrets)
	}
	return secrets, nil
}

// current returns the secrets that hold now.
func (c *Cookies) current(now time.Time) [][16]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.file != "" && now.Sub(c.looked) >= secretLook:
		c.looked = now
		c.reread()
	case c.file == "" && (len(c.secrets) == 0 || now.Sub(c.since) >= secretLife):
		var s [16]byte
		_, _ = rand.Read(s[:]) // never fails
		if now.Sub(c.since) >= 2*secretLife {
			c.secrets = nil // nobody has asked for so long
		}
		c.secrets = append([][16]byte{s}, c.secrets[:min(len(c.secrets), 1)]...)
		c.since = now
	}
	return c.secrets
}

// reread takes a changed file over. One that is wrong changes nothing.
func (c *Cookies) reread() {
	info, err := os.Stat(c.file)
	if err == nil && info.ModTime().Equal(c.read) {
		return
	}
	var secrets [][16]byte
	if err == nil {
		c.read = info.ModTime()
		secrets, err = readSecrets(c.file)
	}
	if err != nil {
		c.log.Error("cookie secrets not read again, the old ones stay in use", "error", err)
		return
	}
	c.secrets = secrets
}

// A cookieState is what a client's cookie is worth.
type cookieState uint8

const (
	cookieNew   cookieState = iota // the client has none of ours yet
	cookieValid                    // ours, for this client
	cookieBad                      // none that we made, or too old
	cookieStates
)

// check returns the option for the reply, which is the client's own as long as
// that is young and made with the first secret, and what the client's is worth. It is not ok for an option of
// the wrong length (RFC 7873, section 5.2.2).
func (c *Cookies) check(option []byte, from netip.Addr, now time.Time) (reply []byte, state cookieState, ok bool) {
	n := len(option) - clientCookie
	if n != 0 && (n < 8 || len(option) > maxCookie) {
		return nil, 0, false
	}
	secrets := c.current(now)
	if n == serverCookie {
		age := time.Duration(int32(uint32(now.Unix())-binary.BigEndian.Uint32(option[12:]))) * time.Second // RFC 1982
		if by := maker(secrets, option, from); by >= 0 && age <= cookieLife && age >= -cookieAhead {
			if by == 0 && age < cookieRenew {
				return option, cookieValid, true
			}
			return newCookie(secrets[0], option, from, now), cookieValid, true
		}
	}
	state = cookieBad
	if n == 0 {
		state = cookieNew
	}
	return newCookie(secrets[0], option, from, now), state, true
}

// maker returns which of the secrets has made the cookie, or -1.
func maker(secrets [][16]byte, option []byte, from netip.Addr) int {
	if option[8] != 1 {
		return -1
	}
	for i, s := range secrets {
		// An attacker who could measure how far two cookies agree would see the
		// reply, and need not forge one.
		if h := cookieHash(s, option[:16], from); bytes.Equal(h[:], option[16:]) {
			return i
		}
	}
	return -1
}

// newCookie returns the client's cookie with a new one of ours: version, three
// octets that are reserved, the time, and the hash of all of them and of the
// client's address (RFC 9018, section 4).
func newCookie(secret [16]byte, client []byte, from netip.Addr, now time.Time) []byte {
	b := make([]byte, 0, clientCookie+serverCookie)
	b = append(append(b, client[:clientCookie]...), 1, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(now.Unix()))
	h := cookieHash(secret, b, from)
	return append(b, h[:]...)
}

// cookieHash is SipHash-2-4 of the first 16 octets of the option and the address.
func cookieHash(secret [16]byte, b []byte, from netip.Addr) (h [8]byte) {
	var in [32]byte
	n := copy(in[:], b[:16])
	n += copy(in[n:], from.AsSlice())
	k0, k1 := binary.LittleEndian.Uint64(secret[:8]), binary.LittleEndian.Uint64(secret[8:])
	binary.LittleEndian.PutUint64(h[:], siphash.Hash(k0, k1, in[:n]))
	return h
}

// bake looks at the cookie of the message, and puts ours into its reply. The
// rcode is not zero for a message that is answered by it and no more.
func (c *core) bake(q *question, opt *dns.OPT) (rcode int) {
	if c.cookies == nil || opt == nil || opt.Version() != 0 {
		return dns.RcodeSuccess
	}
	for _, o := range opt.Option {
		o, is := o.(*dns.EDNS0_COOKIE)
		if !is {
			continue
		}
		option, _ := hex.DecodeString(o.Cookie) // which the library has encoded
		reply, state, ok := c.cookies.check(option, q.from.Addr, q.arrived)
		if !ok {
			return dns.RcodeFormatError
		}
		c.stats.cookies[state].Add(1)
		q.cookie = hex.EncodeToString(reply)
		switch {
		case len(q.msg.Question) == 0:
			// All that was asked for is the cookie (RFC 7873, section 5.4).
			return rcodeCookieOnly
		case state != cookieValid && c.cookies.Require && q.transport == udp:
			return dns.RcodeBadCookie
		}
		return dns.RcodeSuccess // only the first counts (RFC 7873, section 5.2)
	}
	return dns.RcodeSuccess
}

// rcodeCookieOnly is no rcode: the reply is NOERROR with the cookie in it.
const rcodeCookieOnly = -1

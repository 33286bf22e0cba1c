package source

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"hash"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// tsigFudge is by how many seconds clocks may differ (RFC 8945, section 10).
const tsigFudge = 300

func (k *ZoneKey) secret() string { return base64.StdEncoding.EncodeToString(k.Secret) }

func (k *ZoneKey) hash() hash.Hash {
	switch k.Algorithm {
	case "hmac-sha384":
		return hmac.New(sha512.New384, k.Secret)
	case "hmac-sha512":
		return hmac.New(sha512.New, k.Secret)
	}
	return hmac.New(sha256.New, k.Secret)
}

// A verifier checks the signatures of the messages of one answer. Of many
// messages not all need be signed, but the first and the last (RFC 8945, section
// 5.3.1): what is not is covered by the next signature.
type verifier struct {
	mac   string // of the request, then of the last signature
	later bool
	bare  []byte // messages since the last signature
	bares int
}

// maxBare is how many messages may follow each other without a signature, and
// maxBareBytes how large they may be together.
const (
	maxBare      = 100
	maxBareBytes = maxBare << 16
)

func tsigError(format string, args ...any) error {
	return zoneError("signature: "+format, args...)
}

// verify checks a message, of which wire is the bytes and m what they say.
func (v *verifier) verify(key *ZoneKey, m *dns.Msg, wire []byte) error {
	t, ok := TSIGOf(m)
	switch {
	case !ok:
		return tsigError("there are two, or it is not the last record")
	case key == nil && t != nil:
		return tsigError("the answer to an unsigned question has one")
	case key == nil:
		return nil
	case t == nil && !v.later:
		return tsigError("the answer has none (%s)", dns.RcodeToString[m.Rcode])
	case t == nil:
		if v.bares++; v.bares >= maxBare || len(v.bare)+len(wire) > maxBareBytes {
			return tsigError("%d messages in a row have none", v.bares)
		}
		v.bare = append(v.bare, wire...)
		return nil
	case dns.CanonicalName(t.Hdr.Name) != dns.CanonicalName(key.Name) || !strings.EqualFold(strings.TrimSuffix(t.Algorithm, "."), key.Algorithm):
		return tsigError("it is by another key, %s with %s", t.Hdr.Name, t.Algorithm)
	case t.Error != 0:
		return tsigError("the primary says %s", dns.RcodeToString[int(t.Error)])
	}
	// The library takes the record out of the bytes it is given.
	err := dns.TsigVerifyWithProvider(slices.Clone(wire), chain{key, v}, v.mac, v.later)
	switch {
	case errors.Is(err, dns.ErrTime):
		return tsigError("its time is more than %d s from ours", tsigFudge)
	case err != nil:
		return tsigError("it is wrong")
	}
	v.mac, v.later, v.bare, v.bares = t.MAC, true, nil, 0
	return nil
}

// signed reports whether all that came is covered by a signature.
func (e *exchange) signed() error {
	if e.key != nil && (e.bares > 0 || !e.later) {
		return tsigError("the last message has none")
	}
	return nil
}

// A chain computes signatures over all messages since the last one.
type chain struct {
	key *ZoneKey
	v   *verifier
}

// Generate implements dns.TsigProvider.
func (c chain) Generate(msg []byte, _ *dns.TSIG) ([]byte, error) {
	h := c.key.hash()
	// What is given begins with the last signature and its length, then comes the
	// message; those between belong between.
	prefix := min(2+len(c.v.mac)/2, len(msg))
	_, _ = h.Write(msg[:prefix]) // never fails
	_, _ = h.Write(c.v.bare)
	_, _ = h.Write(msg[prefix:])
	return h.Sum(nil), nil
}

// Verify implements dns.TsigProvider.
func (c chain) Verify(msg []byte, t *dns.TSIG) error {
	want, err := c.Generate(msg, t)
	if err != nil {
		return err
	}
	// A signature that was cut short is not taken: nobody needs one.
	if got, err := hex.DecodeString(t.MAC); err != nil || !hmac.Equal(got, want) {
		return dns.ErrSig
	}
	return nil
}

// TSIGOf returns the TSIG record of a message, nil for none. There may be one
// only, as the last record of all (RFC 8945, section 5.1): the library would
// verify what stands before the first and show what stands before the last.
func TSIGOf(m *dns.Msg) (*dns.TSIG, bool) {
	var found *dns.TSIG
	for _, rrs := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range rrs {
			if t, ok := rr.(*dns.TSIG); ok {
				if found != nil {
					return nil, false
				}
				found = t
			}
		}
	}
	return found, found == nil || m.IsTsig() == found
}

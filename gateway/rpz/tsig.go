package rpz

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A Key is a secret shared with a peer (RFC 8945). Algorithm is one of
// Algorithms.
type Key struct {
	Name      string // canonical name
	Algorithm string
	Secret    []byte
}

// Algorithms are those that messages may be signed with; SHA-1 and MD5 are not
// among them (RFC 8945, section 6).
var Algorithms = []string{"hmac-sha256", "hmac-sha384", "hmac-sha512"}

func (k *Key) fqdn() string   { return dns.CanonicalName(k.Name) }
func (k *Key) secret() string { return base64.StdEncoding.EncodeToString(k.Secret) }

// fudge is by how many seconds clocks may differ (RFC 8945, section 10).
const fudge = 300

// stub returns the TSIG record that is to be filled.
func (k *Key) stub(id uint16, now time.Time) *dns.TSIG {
	return &dns.TSIG{
		Hdr:       dns.RR_Header{Name: k.fqdn(), Rrtype: dns.TypeTSIG, Class: dns.ClassANY},
		Algorithm: dns.Fqdn(k.Algorithm), TimeSigned: uint64(now.Unix()), Fudge: fudge, OrigId: id,
	}
}

// A signer signs the messages of one answer, each after the one before. The nil
// signer leaves them unsigned.
type signer struct {
	key   *Key
	mac   string // of the request, then of the message before
	later bool   // not the first message
	// fault is what was wrong with the request's signature, and with it the
	// time that it had.
	fault  uint16
	theirs uint64
	tsig   *dns.TSIG // of the request, where its key is not known
}

// pack returns the message as bytes, signed.
func (s *signer) pack(m *dns.Msg) ([]byte, error) {
	if s == nil {
		return m.Pack()
	}
	var t *dns.TSIG
	switch {
	case s.key != nil:
		t = s.key.stub(m.Id, time.Now())
	default:
		t = &dns.TSIG{Hdr: s.tsig.Hdr, Algorithm: s.tsig.Algorithm, TimeSigned: s.tsig.TimeSigned, Fudge: fudge, OrigId: m.Id}
		t.Hdr.Ttl = 0
	}
	t.Error = s.fault
	if s.fault == dns.RcodeBadTime { // RFC 8945, section 5.2.3
		t.TimeSigned = s.theirs
		t.OtherLen, t.OtherData = 6, hex.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(time.Now().Unix()))[2:])
	}
	m.Extra = append(m.Extra, t)
	secret := ""
	if s.key != nil {
		secret = s.key.secret()
	}
	out, mac, err := dns.TsigGenerate(m, secret, s.mac, s.later)
	s.mac, s.later = mac, true
	return out, err
}

// verify looks at the signature of a request and returns what signs the answer.
// Where that has a fault, the answer must be an error. An unsigned request has
// no signer.
func (s *Server) verify(m *dns.Msg, wire []byte) *signer {
	t := m.IsTsig()
	if t == nil {
		return nil
	}
	k, ok := s.keys[dns.CanonicalName(t.Hdr.Name)]
	if !ok || !strings.EqualFold(strings.TrimSuffix(t.Algorithm, "."), k.Algorithm) {
		return &signer{tsig: t, fault: dns.RcodeBadKey} // section 5.2.1
	}
	out := &signer{key: &k, mac: t.MAC, tsig: t}
	// The library takes the record out of the bytes it is given.
	err := dns.TsigVerify(slices.Clone(wire), k.secret(), "", false)
	switch {
	case errors.Is(err, dns.ErrTime):
		out.fault, out.theirs = dns.RcodeBadTime, t.TimeSigned
	case err != nil:
		out.fault, out.mac = dns.RcodeBadSig, "" // section 5.2.2: not signed
	}
	return out
}

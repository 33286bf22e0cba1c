package source

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// A Zone is a response policy zone at its primary, written as
// rpz://HOST[:PORT]/ZONE, or as rpzs://… for zone transfer over TLS (RFC 9103).
// It is followed by asking for its SOA and taking what has changed by IXFR (RFC
// 1995), or all of it by AXFR (RFC 5936).
//
// What comes is a zone file, a record a line, the SOA first. It is also what the
// next transfer starts from: no state is kept beside it.
type Zone struct {
	URL  string
	Key  *ZoneKey    // signs all messages, both ways; nil for none
	TLS  *tls.Config // for rpzs: whom to trust; nil: the system's authorities
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	ZoneLimits
}

// A ZoneKey is a secret shared with the primary (RFC 8945).
type ZoneKey struct {
	Name, Algorithm string
	Secret          []byte
}

// ZoneLimits bound a transfer. A field that is zero means its default.
type ZoneLimits struct {
	Bytes   int64         // of the zone as text; default 256 MiB
	Changes int           // records of an IXFR; default 1,000,000
	Total   time.Duration // for everything; default 10 minutes
	Idle    time.Duration // between two messages; default 15 s
}

func (l ZoneLimits) withDefaults() ZoneLimits {
	if l.Bytes <= 0 {
		l.Bytes = 256 << 20
	}
	if l.Changes <= 0 {
		l.Changes = 1_000_000
	}
	if l.Total <= 0 {
		l.Total = 10 * time.Minute
	}
	if l.Idle <= 0 {
		l.Idle = 15 * time.Second
	}
	return l
}

// A ZoneState is what the SOA of a zone says.
type ZoneState struct {
	Serial                 uint32
	Refresh, Retry, Expire time.Duration
}

func stateOf(soa *dns.SOA) ZoneState {
	seconds := func(n uint32) time.Duration { return time.Duration(n) * time.Second }
	return ZoneState{soa.Serial, seconds(soa.Refresh), seconds(soa.Retry), seconds(soa.Expire)}
}

// A ZoneUpdate is what came of a transfer.
type ZoneUpdate struct {
	ZoneState
	Newest  bool  // the copy is the newest version: nothing was written
	Bytes   int64 // written
	Changes int   // records that came and went; -1 for the whole zone
}

// Errors of zones that are not the network's.
var (
	// ErrZone is wrapped by errors about what the primary has sent.
	ErrZone = errors.New("zone transfer")
	// ErrSerial is wrapped where the primary has an older version than the copy.
	ErrSerial = errors.New("the serial has gone back")
	// errNotExact is of changes that do not fit the copy: all of the zone does.
	errNotExact = errors.New("the changes do not fit the copy")
	errTooLarge = errors.New("the zone is too large")
)

func zoneError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrZone, fmt.Sprintf(format, args...))
}

// ParseZone returns the address and the zone of a URL; the zone is canonical and
// has its final dot.
func ParseZone(text string) (addr, host, zone string, secure bool, err error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", "", "", false, err
	}
	secure = u.Scheme == "rpzs"
	name := strings.TrimPrefix(u.Path, "/")
	if _, ok := dns.IsDomainName(name); !ok || name == "" || strings.Contains(name, "/") || u.Hostname() == "" || !secure && u.Scheme != "rpz" {
		return "", "", "", false, fmt.Errorf("%q is not of the form rpz://HOST[:PORT]/ZONE", text)
	}
	port := u.Port()
	if port == "" {
		if port = "53"; secure {
			port = "853" // RFC 9103, section 7.1
		}
	}
	return net.JoinHostPort(u.Hostname(), port), u.Hostname(), dns.CanonicalName(name), secure, nil
}

// Fetch writes the zone to w if the primary has a newer version than the copy,
// which is what an earlier Fetch wrote, nil for none. It is read twice at the
// most. After an error, what was written is a part of the zone at best.
func (z *Zone) Fetch(ctx context.Context, copied io.ReadSeeker, w io.Writer) (ZoneUpdate, error) {
	f, err := z.fetcher(w)
	if err != nil {
		return ZoneUpdate{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.limits.Total)
	defer cancel()
	have, err := firstSOA(copied)
	if err != nil {
		have, copied = nil, nil // whatever it is, it is no zone
	}
	f.have = have
	soa, err := f.askSOA(ctx)
	if err != nil {
		return ZoneUpdate{}, err
	}
	switch {
	case have != nil && soa.Serial == have.Serial:
		return ZoneUpdate{ZoneState: stateOf(soa), Newest: true}, nil
	case have != nil && !serialNewer(soa.Serial, have.Serial):
		return ZoneUpdate{}, fmt.Errorf("%w: from %d to %d; the copy stays until the primary has a later one, or until its folder in feeds/ of the state folder is removed", ErrSerial, have.Serial, soa.Serial)
	case have != nil:
		u, err := f.changes(ctx, copied)
		u.Bytes = f.written
		if err == nil || !errors.Is(err, ErrZone) && !errors.Is(err, errNotExact) {
			return u, err
		}
		// What has been written is nothing: changes are applied when they are whole.
		if f.written > 0 {
			return ZoneUpdate{}, err
		}
	}
	u, err := f.whole(ctx)
	u.Bytes = f.written
	return u, err
}

// serialNewer reports whether serial a is after b (RFC 1982, section 3.2).
func serialNewer(a, b uint32) bool { return a != b && a-b < 1<<31 }

// A zoneFetcher is one Fetch.
type zoneFetcher struct {
	zone    *Zone
	addr    string
	name    string // with the final dot
	tls     *tls.Config
	limits  ZoneLimits
	w       io.Writer
	have    *dns.SOA // of the copy, nil for none
	written int64
	line    []byte
}

func (z *Zone) fetcher(w io.Writer) (*zoneFetcher, error) {
	addr, host, name, secure, err := ParseZone(z.URL)
	if err != nil {
		return nil, err
	}
	f := &zoneFetcher{zone: z, addr: addr, name: name, limits: z.withDefaults(), w: w}
	if secure {
		if f.tls = z.TLS.Clone(); f.tls == nil {
			f.tls = new(tls.Config)
		}
		f.tls.MinVersion = tls.VersionTLS13 // RFC 9103, section 7.2
		f.tls.NextProtos = []string{"dot"}
		f.tls.ServerName = host
	}
	return f, nil
}

// connect opens a connection, which ends with the context.
func (f *zoneFetcher) connect(ctx context.Context) (*exchange, error) {
	dial := f.zone.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	short, cancel := context.WithTimeout(ctx, f.limits.Idle)
	defer cancel()
	c, err := dial(short, "tcp", f.addr)
	if err != nil {
		return nil, err
	}
	if f.tls != nil {
		t := tls.Client(c, f.tls)
		if err := t.HandshakeContext(short); err != nil {
			_ = c.Close()
			return nil, err
		}
		c = t
	}
	e := &exchange{conn: c, key: f.zone.Key, idle: f.limits.Idle, name: f.name}
	e.stop = context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	return e, nil
}

// ask sends a question of that type on a new connection.
func (f *zoneFetcher) ask(ctx context.Context, qtype uint16) (*exchange, error) {
	e, err := f.connect(ctx)
	if err != nil {
		return nil, err
	}
	m := new(dns.Msg)
	m.SetQuestion(f.name, qtype)
	m.RecursionDesired = false
	if qtype == dns.TypeIXFR {
		m.Ns = []dns.RR{f.have}
	}
	if err := e.send(m); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (f *zoneFetcher) askSOA(ctx context.Context) (*dns.SOA, error) {
	e, err := f.ask(ctx, dns.TypeSOA)
	if err != nil {
		return nil, err
	}
	defer e.close()
	m, err := e.read()
	if err != nil {
		return nil, err
	}
	if err := e.signed(); err != nil {
		return nil, err
	}
	for _, rr := range m.Answer {
		if soa, ok := rr.(*dns.SOA); ok && strings.EqualFold(soa.Hdr.Name, f.name) {
			return soa, nil
		}
	}
	return nil, zoneError("the primary does not say what version of the zone it has")
}

// An exchange is a question and the messages of its answer.
type exchange struct {
	conn net.Conn
	stop func() bool
	key  *ZoneKey
	idle time.Duration
	name string
	id   uint16
	got  int
	verifier
}

func (e *exchange) close() {
	e.stop()
	_ = e.conn.Close()
}

func (e *exchange) send(m *dns.Msg) error {
	var out []byte
	var err error
	if e.key == nil {
		out, err = m.Pack()
	} else {
		m.SetTsig(dns.CanonicalName(e.key.Name), dns.Fqdn(e.key.Algorithm), tsigFudge, time.Now().Unix())
		out, e.mac, err = dns.TsigGenerate(m, e.key.secret(), "", false)
	}
	if err != nil {
		return err
	}
	e.id = m.Id
	if err := e.conn.SetDeadline(time.Now().Add(e.idle)); err != nil {
		return err
	}
	_, err = e.conn.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, len(out)+2), uint16(len(out))), out...))
	return err
}

// read returns the next message of the answer, verified.
func (e *exchange) read() (*dns.Msg, error) {
	if err := e.conn.SetReadDeadline(time.Now().Add(e.idle)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(e.conn, size[:]); err != nil {
		return nil, unexpected(err)
	}
	wire := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(e.conn, wire); err != nil {
		return nil, unexpected(err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(wire); err != nil {
		return nil, zoneError("a message cannot be read: %v", err)
	}
	e.got++
	if !m.Response || m.Id != e.id || m.Opcode != dns.OpcodeQuery || m.Truncated {
		return nil, zoneError("a message is not an answer to the question")
	}
	// Only the first has to repeat it (RFC 5936, section 2.2.1).
	if len(m.Question) > 0 && !strings.EqualFold(m.Question[0].Name, e.name) || len(m.Question) == 0 && e.got == 1 {
		return nil, zoneError("a message is not an answer to the question")
	}
	if err := e.verify(e.key, m, wire); err != nil {
		return nil, err
	}
	if m.Rcode != dns.RcodeSuccess {
		return nil, zoneError("the primary answers %s", dns.RcodeToString[m.Rcode])
	}
	return m, nil
}

// unexpected makes a clean end between two messages one that is not: a zone ends
// with its SOA.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

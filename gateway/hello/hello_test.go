package hello

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"
)

// errRead stops the oracle once it has read a ClientHello.
var errRead = errors.New("read")

// readOnly is a connection with nothing but what was recorded.
type readOnly struct{ io.Reader }

func (readOnly) Write(p []byte) (int, error)      { return len(p), nil }
func (readOnly) Close() error                     { return nil }
func (readOnly) LocalAddr() net.Addr              { return nil }
func (readOnly) RemoteAddr() net.Addr             { return nil }
func (readOnly) SetDeadline(time.Time) error      { return nil }
func (readOnly) SetReadDeadline(time.Time) error  { return nil }
func (readOnly) SetWriteDeadline(time.Time) error { return nil }

// oracle is what crypto/tls reads of the bytes; ok is false where it takes them
// for no ClientHello.
func oracle(b []byte) (name string, ok bool) {
	s := tls.Server(readOnly{bytes.NewReader(b)}, &tls.Config{
		MinVersion: tls.VersionTLS10,
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name, ok = h.ServerName, true
			return nil, errRead
		},
	})
	_ = s.Handshake()
	return name, ok
}

// client returns what a crypto/tls client sends first.
func client(tb testing.TB, cfg *tls.Config) []byte {
	tb.Helper()
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_ = tls.Client(far, cfg).HandshakeContext(ctx)
		_ = far.Close()
	}()
	head := make([]byte, recordHeader)
	if _, err := io.ReadFull(near, head); err != nil {
		tb.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(near, body); err != nil {
		tb.Fatal(err)
	}
	return append(head, body...)
}

// clients are hellos of real clients, by the name that they ask for.
func clients(tb testing.TB) map[string][]byte {
	many := make([]string, 120)
	for i := range many {
		many[i] = strings.Repeat("p", 80) + string(rune('a'+i%26)) + string(rune('a'+i/26))
	}
	all := map[string][]byte{}
	for name, cfg := range map[string]*tls.Config{
		"plain.example":     {},
		"old.example":       {MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12},
		"classic.example":   {CurvePreferences: []tls.CurveID{tls.X25519}},
		"alpn.example":      {NextProtos: []string{"h2", "http/1.1"}},
		"large.example":     {NextProtos: many},
		"xn--bcher-kva.com": {},
		strings.Repeat("a23456789.", 24) + "example": {},
	} {
		cfg.ServerName = name
		all[name] = client(tb, cfg)
	}
	all[""] = client(tb, &tls.Config{InsecureSkipVerify: true})
	return all
}

// handshake returns the message that stands in records.
func handshake(tb testing.TB, records []byte) []byte {
	tb.Helper()
	var msg []byte
	for len(records) > 0 {
		n := int(binary.BigEndian.Uint16(records[3:]))
		msg = append(msg, records[recordHeader:recordHeader+n]...)
		records = records[recordHeader+n:]
	}
	return msg
}

// records cuts a message into records of these sizes, the last repeated.
func records(msg []byte, sizes ...int) []byte {
	var b []byte
	for i := 0; len(msg) > 0; i++ {
		n := min(sizes[min(i, len(sizes)-1)], len(msg))
		b = append(b, recordHandshake, 3, 1, byte(n>>8), byte(n))
		b = append(b, msg[:n]...)
		msg = msg[n:]
	}
	return b
}

// feed gives the reader all of b in pieces of that size.
func feed(b []byte, size int) Hello {
	var r Reader
	for len(b) > 0 && r.Hello().Kind == Incomplete {
		n := min(size, len(b))
		r.Feed(b[:n])
		b = b[n:]
	}
	return r.Hello()
}

func kindOf(name string) Kind {
	if name == "" {
		return Missing
	}
	return Found
}

func TestRealClients(t *testing.T) {
	for name, b := range clients(t) {
		want := Hello{Kind: kindOf(name), Name: name}
		if got, ok := oracle(b); !ok || got != name {
			t.Fatalf("the oracle reads %q, %v of %q", got, ok, name)
		}
		msg := handshake(t, b)
		if got := ParseHandshake(msg); got != want {
			t.Errorf("ParseHandshake of %q: %+v", name, got)
		}
		for _, size := range []int{1, 2, 5, 6, 100, 1 << 20} {
			if got := feed(b, size); got != want {
				t.Errorf("%q in pieces of %d: %+v", name, size, got)
			}
			if got := feed(records(msg, 1), size); got != want {
				t.Errorf("%q in records of 1 and pieces of %d: %+v", name, size, got)
			}
		}
		for n := range len(b) {
			if got := feed(b[:n], n); got.Kind != Incomplete {
				t.Fatalf("%q cut at %d of %d: %+v", name, n, len(b), got)
			}
		}
	}
}

// TestRandomSplits splits real hellos into records and segments at random: no
// split may change what is read.
func TestRandomSplits(t *testing.T) {
	rounds := 100_000
	if testing.Short() {
		rounds = 5_000
	}
	rng := rand.New(rand.NewPCG(1, 2))
	all := clients(t)
	names := make([]string, 0, len(all))
	for name, b := range all {
		names = append(names, name)
		all[name] = handshake(t, b)
	}
	for i := range rounds {
		name := names[rng.IntN(len(names))]
		sizes := make([]int, 1+rng.IntN(20))
		for j := range sizes {
			sizes[j] = 1 + rng.IntN(1+rng.IntN(2000))
		}
		b := append(records(all[name], sizes...), "what follows"...)
		var r Reader
		for rest := b; len(rest) > 0 && r.Hello().Kind == Incomplete; {
			n := min(1+rng.IntN(1+rng.IntN(3000)), len(rest))
			r.Feed(rest[:n])
			rest = rest[n:]
		}
		if got, want := r.Hello(), (Hello{Kind: kindOf(name), Name: name}); got != want {
			t.Fatalf("round %d, %q in records of %v: %+v", i, name, sizes, got)
		}
	}
}

func TestOtherProtocols(t *testing.T) {
	for _, c := range []struct {
		what  string
		bytes string
		want  Kind
	}{
		{"nothing", "", Incomplete},
		{"HTTP", "G", NotTLS},
		{"SSH", "SSH-2.0-x\r\n", NotTLS},
		{"SSL 2.0", "\x80\x2e\x01\x00\x02", NotTLS},
		{"mmtls", "\x16\xf1", NotTLS},
		{"mmtls with early data", "\x19\xf1\x04", NotTLS},
		{"alert", "\x15\x03\x01\x00\x02\x01\x00", NotTLS},
		{"application data", "\x17\x03\x03\x00\x20", NotTLS},
		{"first byte", "\x16", Incomplete},
		{"header", "\x16\x03\x01\x02\x00", Incomplete},
		{"odd version", "\x16\x05\x09\x02\x00", Incomplete},
		{"ServerHello", "\x16\x03\x03\x00\x05\x02", Malformed},
		{"empty record", "\x16\x03\x01\x00\x00", Malformed},
		{"large record", "\x16\x03\x01\x40\x01", Malformed},
		{"large message", "\x16\x03\x01\x00\x04\x01\x01\x00\x01", Malformed},
		{"empty message", "\x16\x03\x01\x00\x04\x01\x00\x00\x00", Malformed},
		{"alert within", "\x16\x03\x01\x00\x01\x01\x15", Malformed},
	} {
		for size := 1; size <= max(len(c.bytes), 1); size++ {
			if got := feed([]byte(c.bytes), size); got.Kind != c.want {
				t.Errorf("%s in pieces of %d: %v, want %v", c.what, size, got.Kind, c.want)
			}
		}
	}
}

// extension returns one extension.
func extension(kind uint16, data string) string {
	b := binary.BigEndian.AppendUint16(nil, kind)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return string(b) + data
}

// serverNames returns the extension with these names, of a type and a name each.
func serverNames(names ...string) string {
	list := ""
	for _, n := range names {
		list += n[:1] + string(binary.BigEndian.AppendUint16(nil, uint16(len(n)-1))) + n[1:]
	}
	return extension(extServerName, string(binary.BigEndian.AppendUint16(nil, uint16(len(list))))+list)
}

// message returns a ClientHello with these extensions.
func message(extensions string) []byte {
	body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + "\x00\x02\x13\x01" + "\x01\x00"
	body += string(binary.BigEndian.AppendUint16(nil, uint16(len(extensions)))) + extensions
	return append([]byte{messageClientHello, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

func TestMessages(t *testing.T) {
	long := extension(51, strings.Repeat("k", 20_000))
	for _, c := range []struct {
		what       string
		extensions string
		want       Hello
	}{
		{"none", "", Hello{Kind: Missing}},
		{"name", serverNames("\x00a.example"), Hello{Kind: Found, Name: "a.example"}},
		{"final dot", serverNames("\x00a.example."), Hello{Kind: Found, Name: "a.example."}},
		{"address", serverNames("\x00192.0.2.1"), Hello{Kind: Found, Name: "192.0.2.1"}},
		{"other type", serverNames("\x01a.example"), Hello{Kind: Missing}},
		{"other type first", serverNames("\x01b.example", "\x00a.example"), Hello{Kind: Found, Name: "a.example"}},
		{"two names", serverNames("\x00a.example", "\x00b.example"), Hello{Kind: Malformed}},
		{"two extensions", serverNames("\x00a.example") + serverNames("\x00b.example"), Hello{Kind: Malformed}},
		{"empty name", serverNames("\x00"), Hello{Kind: Malformed}},
		{"empty list", extension(extServerName, "\x00\x00"), Hello{Kind: Malformed}},
		{"empty extension", extension(extServerName, ""), Hello{Kind: Malformed}},
		{"more after the list", extension(extServerName, "\x00\x04\x00\x00\x01ax"), Hello{Kind: Malformed}},
		{"cut short", extension(extServerName, "\x00\x09\x00\x00\x01a"), Hello{Kind: Malformed}},
		{"ECH", extension(extECH, "\x00") + serverNames("\x00a.example"), Hello{Kind: Found, Name: "a.example", ECH: true}},
		{"behind 20 KB", long + serverNames("\x00a.example"), Hello{Kind: Found, Name: "a.example"}},
		{"cut in an extension", "\x00\x33\x00", Hello{Kind: Malformed}},
	} {
		msg := message(c.extensions)
		if got := ParseHandshake(msg); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.what, got, c.want)
		}
		for _, size := range []int{1, 700, maxFragment} {
			if got := feed(records(msg, size), 1400); got != c.want {
				t.Errorf("%s in records of %d: %+v, want %+v", c.what, size, got, c.want)
			}
		}
	}
}

func TestManyExtensions(t *testing.T) {
	all := ""
	for kind := range uint16(5000) {
		all += extension(1000+kind, "")
	}
	if got := ParseHandshake(message(all)); got.Kind != Missing {
		t.Errorf("5,000 extensions: %+v", got)
	}
	if got := ParseHandshake(message(all + extension(5999, ""))); got.Kind != Malformed {
		t.Errorf("5,000 extensions and one again: %+v", got)
	}
}

// TestBounds: what never ends is given up, and nothing of it is kept.
func TestBounds(t *testing.T) {
	msg := message(extension(51, strings.Repeat("k", 60_000)))
	var r Reader
	fed := 0
	for _, b := range records(msg, 1) {
		if r.Feed([]byte{b}) != Incomplete {
			break
		}
		fed++
	}
	if r.Hello().Kind != Malformed || fed > maxWire || r.msg != nil {
		t.Errorf("%+v after %d bytes, %d of them kept", r.Hello(), fed, len(r.msg))
	}
	if r.Feed(records(message(""), 100)); r.Hello().Kind != Malformed {
		t.Errorf("what was decided became %+v", r.Hello())
	}
}

func TestReadAllocatesTheName(t *testing.T) {
	b := clients(t)["plain.example"]
	got := testing.AllocsPerRun(100, func() {
		var r Reader
		if r.Feed(b) != Found {
			t.Fatal(r.Hello())
		}
	})
	if got > 1 { // the name
		t.Errorf("%v allocations", got)
	}
}

// FuzzReader holds the reader against crypto/tls: what that accepts, and the
// name in it, must be read alike, in one piece or byte by byte. It also
// refuses what the reader has no reason to look at, and passes over warnings
// before and within the message, which the reader may refuse.
func FuzzReader(f *testing.F) {
	for _, b := range clients(f) {
		f.Add(b)
		f.Add(records(b[recordHeader:], 100, 7))
	}
	f.Add(records(message(serverNames("\x01b.example", "\x00a.example")), 50))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxMessage/2 {
			return // how much is too much, each of the two has its own limits for
		}
		whole, single := feed(b, len(b)+1), feed(b, 1)
		if whole != single {
			t.Fatalf("in one piece %+v, byte by byte %+v", whole, single)
		}
		name, ok := oracle(b)
		if warned(b) && (whole.Kind == NotTLS || whole.Kind == Malformed) {
			return
		}
		if ok && whole != (Hello{Kind: kindOf(name), Name: name, ECH: whole.ECH}) {
			t.Errorf("crypto/tls reads %q, the reader %+v", name, whole)
		}
	})
}

// warned reports whether one of the records is an alert (RFC 8446, section 6).
func warned(b []byte) bool {
	const recordAlert = 21
	for len(b) >= recordHeader {
		if b[0] == recordAlert {
			return true
		}
		b = b[min(recordHeader+int(binary.BigEndian.Uint16(b[3:])), len(b)):]
	}
	return false
}

func BenchmarkReader(b *testing.B) {
	hello := clients(b)["plain.example"]
	b.ReportAllocs()
	b.SetBytes(int64(len(hello)))
	for b.Loop() {
		var r Reader
		if r.Feed(hello) != Found {
			b.Fatal(r.Hello())
		}
	}
}

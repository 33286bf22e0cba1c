package hello

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// The examples of RFC 9001, appendix A.1, and RFC 9369, appendix A.1.
func TestInitialKeys(t *testing.T) {
	dcid := []byte{0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08}
	for _, c := range []struct {
		version uint32
		of      side
		iv      string
	}{
		{quicV1, ofClient, "fa044b2f42a3fd3b46fb255c"},
		{quicV1, ofServer, "0ac1493ca1905853b0bba03e"},
		{quicV2, ofClient, "91f73e2351d8fa91660e909f"},
		{quicV2, ofServer, "dd13c276499c0249d3310652"},
	} {
		k, err := deriveKeys(c.version, dcid, c.of)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(k.iv[:]); got != c.iv {
			t.Errorf("version %#x, side %d: iv %s, want %s", c.version, c.of, got, c.iv)
		}
	}
}

// capture returns the datagrams with which a real client begins.
func capture(tb testing.TB, name string, v quic.Version, cfg *tls.Config) [][]byte {
	tb.Helper()
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	defer func() { cancel(); <-done }()
	go func() {
		defer close(done)
		c := cfg.Clone()
		c.ServerName, c.InsecureSkipVerify = name, true
		_, _ = quic.DialAddr(ctx, server.LocalAddr().String(), c, &quic.Config{Versions: []quic.Version{v}, HandshakeIdleTimeout: time.Minute})
	}()
	var out [][]byte
	var f Flight
	b := make([]byte, 2048)
	_ = server.SetReadDeadline(time.Now().Add(time.Minute))
	for f.Hello().Kind == Incomplete {
		n, err := server.Read(b)
		if err != nil {
			tb.Fatalf("%q: the client says no more, known is %+v of %d datagrams", name, f.Hello(), len(out))
		}
		f.Feed(b[:n])
		out = append(out, bytes.Clone(b[:n]))
	}
	return out
}

func longProtocols() []string {
	many := []string{"h3"}
	for i := range 30 {
		many = append(many, fmt.Sprintf("%s-%d", strings.Repeat("p", 80), i))
	}
	return many
}

func TestFlightOfRealClients(t *testing.T) {
	for _, v := range []quic.Version{quic.Version1, quic.Version2} {
		for _, c := range []struct {
			name      string
			protocols []string
			least     int // datagrams
		}{
			{"www.tiktok.com", []string{"h3"}, 1},
			{"a.example", longProtocols(), 3},
			{strings.Repeat("a23456789.", 24) + "example", []string{"h3"}, 1},
		} {
			flight := capture(t, c.name, v, &tls.Config{NextProtos: c.protocols})
			if len(flight) < c.least {
				t.Errorf("%v %q: %d datagrams, want at least %d", v, c.name, len(flight), c.least)
			}
			want := Hello{Kind: Found, Name: c.name}
			// In order, in the other order, and each twice.
			other := slices.Clone(flight)
			slices.Reverse(other)
			for _, order := range [][][]byte{flight, other, slices.Concat(flight, flight), slices.Concat(other[:1], other)} {
				var f Flight
				for i, b := range order {
					if f.Hello().Kind == Incomplete && !f.Feed(b) {
						t.Errorf("%v %q: datagram %d is not taken", v, c.name, i)
					}
				}
				if f.Hello() != want {
					t.Errorf("%v %q: %+v", v, c.name, f.Hello())
				}
				conn := f.Conn()
				for i, b := range flight {
					if !conn.Owns(b) {
						t.Errorf("%v %q: datagram %d is not owned by its connection", v, c.name, i)
					}
					if initial, foreign := Begins(b); !initial || foreign {
						t.Errorf("%v %q: Begins of datagram %d: %v, %v", v, c.name, i, initial, foreign)
					}
				}
			}
		}
	}
}

// A real client that is refused gives up at once.
func TestRefuse(t *testing.T) {
	for _, v := range []quic.Version{quic.Version1, quic.Version2} {
		server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			var f Flight
			b := make([]byte, 2048)
			for {
				n, from, err := server.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				if f.Feed(b[:n]); f.Hello().Kind == Found {
					r := f.Refuse()
					if len(r) > n {
						t.Errorf("%d bytes refuse %d", len(r), n)
					}
					_, _ = server.WriteToUDPAddrPort(r, from)
				}
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_, err = quic.DialAddr(ctx, server.LocalAddr().String(), &tls.Config{ServerName: "a.example", NextProtos: []string{"h3"}},
			&quic.Config{Versions: []quic.Version{v}, HandshakeIdleTimeout: time.Minute})
		var refused *quic.TransportError
		if !errors.As(err, &refused) || refused.ErrorCode != quic.ConnectionRefused || !refused.Remote {
			t.Errorf("%v: %v, want CONNECTION_REFUSED from the other side", v, err)
		}
		cancel()
		_ = server.Close()
	}
}

// A sealer makes the datagrams of a client.
type sealer struct {
	version    uint32
	dcid, scid []byte
	token      []byte
	keys       *initialKeys
}

func newSealer(tb testing.TB, version uint32, dcid string) *sealer {
	tb.Helper()
	keys, err := deriveKeys(version, []byte(dcid), ofClient)
	if err != nil {
		tb.Fatal(err)
	}
	return &sealer{version: version, dcid: []byte(dcid), scid: []byte("client"), keys: keys}
}

func appendVarint(b []byte, n uint64) []byte {
	switch {
	case n < 1<<6:
		return append(b, byte(n))
	case n < 1<<14:
		return append(b, 0x40|byte(n>>8), byte(n))
	}
	return append(b, 0x80|byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
}

// packet returns an Initial packet with that number, in so many bytes.
func (s *sealer) packet(number uint64, size int, frames []byte) []byte {
	kind := byte(0)
	if s.version == quicV2 {
		kind = 1
	}
	head := []byte{0xc0 | kind<<4 | byte(size-1), byte(s.version >> 24), byte(s.version >> 16), byte(s.version >> 8), byte(s.version)}
	head = appendIDs(head, s.dcid, s.scid)
	head = append(appendVarint(head, uint64(len(s.token))), s.token...)
	head = appendVarint(head, uint64(size+len(frames)+tagSize))
	at := len(head)
	for i := range size {
		head = append(head, byte(number>>(8*(size-1-i))))
	}
	b := s.keys.aead.Seal(head, s.keys.nonce(number), frames, head)
	var mask [16]byte
	s.keys.mask.Encrypt(mask[:], b[at+4:at+4+sampleSize])
	b[0] ^= mask[0] & 0x0f
	for i := range size {
		b[at+i] ^= mask[1+i]
	}
	return b
}

// datagram returns one that is large enough, with one packet.
func (s *sealer) datagram(number uint64, frames []byte) []byte {
	return s.packet(number, 4, append(slices.Clone(frames), make([]byte, max(minDatagram-len(frames), 20))...))
}

func cryptoFrame(offset int, data []byte) []byte {
	b := appendVarint(appendVarint([]byte{frameCrypto}, uint64(offset)), uint64(len(data)))
	return append(b, data...)
}

// TestFlightSplits cuts hellos into CRYPTO frames, packets and datagrams at
// random, in any order, with what else may stand between: nothing of it may
// change what is read.
func TestFlightSplits(t *testing.T) {
	rounds := 100_000
	if testing.Short() {
		rounds = 3_000
	}
	rng := rand.New(rand.NewPCG(3, 4))
	all := clients(t)
	var names []string
	for name := range all {
		if all[name] = handshake(t, all[name]); len(all[name]) < maxCrypto {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for i := range rounds {
		name := names[rng.IntN(len(names))]
		version := []uint32{quicV1, quicV2}[rng.IntN(2)]
		s := newSealer(t, version, fmt.Sprintf("dcid%08x", rng.Uint32()))
		s.token = make([]byte, rng.IntN(3)*40)
		datagrams := randomDatagrams(rng, s, all[name])
		var f Flight
		for j, b := range datagrams {
			if f.Hello().Kind == Incomplete && !f.Feed(b) {
				t.Fatalf("round %d: datagram %d of %d was not taken", i, j, len(datagrams))
			}
		}
		if got, want := f.Hello(), (Hello{Kind: kindOf(name), Name: name}); got != want {
			t.Fatalf("round %d, %q in %d datagrams: %+v", i, name, len(datagrams), got)
		}
	}
}

func randomDatagrams(rng *rand.Rand, s *sealer, msg []byte) [][]byte {
	var frames [][]byte
	least := 1 + len(msg)/20
	for at := 0; at < len(msg); {
		n := min(least+rng.IntN(1+rng.IntN(900)), len(msg)-at)
		frames = append(frames, cryptoFrame(at, msg[at:at+n]))
		if rng.IntN(4) == 0 { // once more, and a little of what is around
			from, to := max(at-rng.IntN(9), 0), min(at+n+rng.IntN(9), len(msg))
			frames = append(frames, cryptoFrame(from, msg[from:to]))
		}
		at += n
	}
	rng.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	others := [][]byte{{framePing}, {framePadding, framePadding}, {frameACK, 1, 0, 1, 0, 0, 0}, {frameACKECN, 1, 0, 0, 0, 1, 1, 1}}
	var datagrams [][]byte
	number := uint64(rng.IntN(200))
	for len(frames) > 0 {
		var b []byte
		for n := 1 + rng.IntN(3); n > 0 && len(frames) > 0; n-- {
			if rng.IntN(2) == 0 {
				b = append(b, others[rng.IntN(len(others))]...)
			}
			b = append(b, frames[0]...)
			frames = frames[1:]
		}
		datagrams = append(datagrams, s.datagram(number, b))
		number += uint64(1 + rng.IntN(3))
	}
	return datagrams
}

func TestFlightRefusesWhatIsUnclear(t *testing.T) {
	msg := message(serverNames("\x00a.example"))
	s := newSealer(t, quicV1, "12345678")
	whole := cryptoFrame(0, msg)
	long := message(serverNames("\x00a.example") + extension(51, strings.Repeat("k", maxCrypto)))
	early := append([]byte{0xd0, 0, 0, 0, 1}, appendIDs(nil, s.dcid, s.scid)...)
	early = append(early, 20)
	early = append(early, make([]byte, 20)...)
	foreign := newSealer(t, quicV1, "abcdefgh")
	version := s.datagram(0, whole)
	version[4] = 9
	short := s.packet(0, 1, append(slices.Clone(whole), make([]byte, 20)...))
	broken := s.datagram(0, whole)
	broken[len(broken)-1] ^= 1
	for _, c := range []struct {
		what      string
		datagrams [][]byte
		taken     []bool
		want      Kind
	}{
		{"all of it", [][]byte{s.datagram(0, whole)}, []bool{true}, Found},
		{"with 0-RTT behind", [][]byte{append(s.datagram(0, whole), early...)}, []bool{true}, Found},
		{"0-RTT in its own", [][]byte{s.datagram(0, cryptoFrame(0, msg[:9])), early, s.datagram(1, cryptoFrame(9, msg[9:]))}, []bool{true, true, true}, Found},
		{"0-RTT first", [][]byte{early}, []bool{false}, Incomplete},
		{"no QUIC", [][]byte{[]byte("\x16\xfe\xfd a datagram of DTLS")}, []bool{false}, NotTLS},
		{"short header", [][]byte{[]byte("\x40 of a connection from before")}, []bool{false}, NotTLS},
		{"nothing", [][]byte{{}}, []bool{false}, NotTLS},
		{"another version", [][]byte{version}, []bool{false}, NotTLS},
		{"too small for a server", [][]byte{short, s.datagram(0, whole)}, []bool{false, true}, Found},
		{"broken, then whole", [][]byte{broken, s.datagram(0, whole)}, []bool{false, true}, Found},
		{"two connections", [][]byte{s.datagram(0, cryptoFrame(0, msg[:9])), foreign.datagram(0, whole)}, []bool{true, false}, Incomplete},
		{"two connections in one", [][]byte{append(s.datagram(0, cryptoFrame(0, msg[:9])), foreign.datagram(0, whole)...)}, []bool{false}, Incomplete},
		{"one byte twice", [][]byte{s.datagram(0, append(cryptoFrame(0, msg[:9]), cryptoFrame(8, []byte{msg[8] + 1})...))}, []bool{true}, Malformed},
		{"another message", [][]byte{s.datagram(0, cryptoFrame(0, []byte("\x02\x00\x00\x01x")))}, []bool{true}, Malformed},
		{"more after it", [][]byte{s.datagram(0, cryptoFrame(0, append(slices.Clone(msg), 1, 2)))}, []bool{true}, Found},
		{"STREAM frame", [][]byte{s.datagram(0, []byte{0x08, 0, 0})}, []bool{true}, Malformed},
		{"frame cut off", [][]byte{s.packet(0, 1, append(make([]byte, minDatagram), frameCrypto, 0, 60, 1))}, []bool{true}, Malformed},
		{"too long", [][]byte{s.datagram(0, cryptoFrame(0, long[:minDatagram]))}, []bool{true}, Malformed},
		{"too far", [][]byte{s.datagram(0, cryptoFrame(maxCrypto, []byte{1}))}, []bool{true}, Malformed},
		{"name that is none", [][]byte{s.datagram(0, cryptoFrame(0, message("")))}, []bool{true}, Missing},
	} {
		var f Flight
		for i, b := range c.datagrams {
			if got := f.Feed(b); got != c.taken[i] {
				t.Errorf("%s: datagram %d taken: %v, want %v", c.what, i, got, c.taken[i])
			}
		}
		if got := f.Hello().Kind; got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

func TestFlightIsBounded(t *testing.T) {
	s := newSealer(t, quicV1, "12345678")
	var f Flight
	for i := range maxDatagrams {
		if !f.Feed(s.datagram(uint64(i), []byte{framePing})) {
			t.Fatalf("datagram %d was not taken", i)
		}
	}
	if f.Feed(s.datagram(maxDatagrams, []byte{framePing})); f.Hello().Kind != Malformed {
		t.Errorf("after %d datagrams: %+v", maxDatagrams+1, f.Hello())
	}
}

// Of a version that is not known, the client hears which are (RFC 9000,
// section 17.2.1), and a connection of its own versions is told apart.
func TestVersions(t *testing.T) {
	s := newSealer(t, quicV1, "12345678")
	b := s.datagram(0, cryptoFrame(0, message(serverNames("\x00a.example"))))
	b[1], b[2], b[3], b[4] = 0x1a, 0x2a, 0x3a, 0x4a
	var f Flight
	f.Feed(b)
	want := "c0" + "00000000" + "06" + hex.EncodeToString(s.scid) + "08" + hex.EncodeToString(s.dcid) + "00000001" + "6b3343cf"
	if got := hex.EncodeToString(f.Refuse()); got != want {
		t.Errorf("version negotiation %s, want %s", got, want)
	}
	if initial, foreign := Begins(b); initial || !foreign {
		t.Errorf("Begins: %v, %v", initial, foreign)
	}
	// One that tries again with a version that is known begins anew.
	if conn := f.Conn(); conn.Owns(s.datagram(0, cryptoFrame(0, message(serverNames("\x00a.example"))))) {
		t.Error("a connection of a version that is not known owns a packet that can be read")
	}
	var small Flight
	if small.Feed(b[:100]); small.Refuse() != nil {
		t.Error("a small datagram is answered with a larger one")
	}
	// A server may go on with version 2 of the same connection (RFC 9368).
	f = Flight{}
	f.Feed(s.datagram(0, cryptoFrame(0, message(serverNames("\x00a.example")))))
	conn := f.Conn()
	second := newSealer(t, quicV2, "12345678")
	second.dcid = []byte("chosen by the server")
	if !conn.Owns(second.datagram(1, []byte{framePing})) {
		t.Error("a packet of version 2 of the same connection is not known")
	}
	if conn.Owns(newSealer(t, quicV2, "87654321").datagram(1, []byte{framePing})) {
		t.Error("a packet of another connection is taken for its own")
	}
	// The same connection with another name is what a server would read that never
	// had the first.
	other := s.datagram(1, cryptoFrame(0, message(serverNames("\x00b.example"))))
	if conn.Owns(other) {
		t.Error("another ClientHello is taken for the one that was read")
	}
	if again := s.datagram(2, cryptoFrame(0, message(serverNames("\x00a.example")))); !conn.Owns(again) {
		t.Error("the same ClientHello is not known again")
	}
	var none Conn
	if none.Owns(b) {
		t.Error("the zero connection owns a packet")
	}
}

func FuzzFlight(f *testing.F) {
	s := newSealer(f, quicV1, "12345678")
	msg := message(serverNames("\x00a.example"))
	f.Add([]byte{}, []byte{})
	f.Add(cryptoFrame(0, msg), cryptoFrame(0, msg))
	f.Add(cryptoFrame(0, msg[:20]), cryptoFrame(20, msg[20:]))
	foreign := s.datagram(0, cryptoFrame(0, msg))
	foreign[4]++
	f.Add(foreign, s.datagram(0, cryptoFrame(0, msg)))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		// As frames, which must not depend on their order …
		ab, ba := new(Flight), new(Flight)
		a, b := s.datagram(0, one), s.datagram(1, two)
		ab.Feed(a)
		ab.Feed(b)
		ba.Feed(b)
		ba.Feed(a)
		if x, y := ab.Hello(), ba.Hello(); x.Kind == Found && y.Kind == Found && x != y {
			// Each was whole by itself: who lets one pass must not let the other.
			if c := ab.Conn(); c.Owns(b) {
				t.Errorf("%+v in one order, %+v in the other", x, y)
			}
		}
		// … and as datagrams.
		var raw Flight
		raw.Feed(one)
		raw.Feed(two)
		raw.Refuse()
		Begins(one)
		for _, c := range []Conn{ab.Conn(), raw.Conn()} {
			for _, p := range [][]byte{one, two, a} {
				c.Owns(p)
			}
		}
	})
}

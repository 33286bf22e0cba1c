package tap

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	dnstap "github.com/dnstap/golang-dnstap"
	"google.golang.org/protobuf/proto"
)

var mute = slog.New(slog.DiscardHandler)

// collect takes one connection after the other and returns what comes.
func collect(t *testing.T, network, address string) (net.Addr, <-chan *dnstap.Dnstap) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	frames, out := make(chan []byte, 100), make(chan *dnstap.Dnstap, 100)
	go dnstap.NewFrameStreamSockInput(l).ReadInto(frames)
	go func() {
		for b := range frames {
			d := new(dnstap.Dnstap)
			if err := proto.Unmarshal(b, d); err != nil {
				t.Errorf("a frame that is none: %v", err)
			}
			out <- d
		}
	}()
	return l.Addr(), out
}

func next(t *testing.T, frames <-chan *dnstap.Dnstap) *dnstap.Dnstap {
	t.Helper()
	select {
	case d := <-frames:
		return d
	case <-time.After(2 * time.Minute):
		t.Fatal("no frame within two minutes")
	}
	return nil
}

func TestFrames(t *testing.T) {
	asked := time.Unix(1700000000, 123456789)
	for _, network := range []string{"unix", "tcp"} {
		address := "127.0.0.1:0"
		if network == "unix" {
			address = filepath.Join(t.TempDir(), "sock")
		}
		at, frames := collect(t, network, address)
		tap := Open(Options{Network: network, Address: at.String(), Identity: "gw", Version: "weir 1", Log: mute})
		tap.Put(Message{Asked: asked, Answered: asked.Add(time.Millisecond), Client: netip.MustParseAddr("::ffff:10.8.0.7"), Transport: "udp", Query: []byte("query"), Reply: []byte("reply")})
		tap.Put(Message{Asked: asked, Client: netip.MustParseAddr("2001:db8::7"), Transport: "dot", Query: []byte("dropped")})
		d := next(t, frames)
		m := d.GetMessage()
		if string(d.GetIdentity()) != "gw" || string(d.GetVersion()) != "weir 1" || d.GetType() != dnstap.Dnstap_MESSAGE {
			t.Errorf("%s: frame %v", network, d)
		}
		if m.GetType() != dnstap.Message_CLIENT_RESPONSE || string(m.GetQueryMessage()) != "query" || string(m.GetResponseMessage()) != "reply" ||
			m.GetSocketFamily() != dnstap.SocketFamily_INET || !bytes.Equal(m.GetQueryAddress(), []byte{10, 8, 0, 7}) || m.GetSocketProtocol() != dnstap.SocketProtocol_UDP ||
			m.GetQueryTimeSec() != 1700000000 || m.GetQueryTimeNsec() != 123456789 || m.GetResponseTimeNsec() != 124456789 {
			t.Errorf("%s: message %v", network, m)
		}
		m = next(t, frames).GetMessage()
		if m.GetType() != dnstap.Message_CLIENT_QUERY || m.ResponseMessage != nil || m.GetSocketProtocol() != dnstap.SocketProtocol_DOT || m.GetSocketFamily() != dnstap.SocketFamily_INET6 {
			t.Errorf("%s: message without a reply %v", network, m)
		}
		if err := tap.Close(); err != nil {
			t.Fatal(err)
		}
		if st := tap.Stats(); st.Written != 2 || st.Dropped != 0 || st.Failed != 0 {
			t.Errorf("%s: stats %+v", network, st)
		}
	}
}

func TestShow(t *testing.T) {
	at, frames := collect(t, "tcp", "127.0.0.1:0")
	tap := Open(Options{Network: "tcp", Address: at.String(), Log: mute, Show: func(netip.Addr) netip.Addr { return netip.Addr{} }})
	tap.Put(Message{Client: netip.MustParseAddr("10.8.0.7"), Query: []byte("q")})
	if m := next(t, frames).GetMessage(); m.QueryAddress != nil || m.SocketFamily != nil {
		t.Errorf("the address is there: %v", m)
	}
	_ = tap.Close()
}

// A collector that comes late, and one that comes back.
func TestReconnects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	tap := Open(Options{Network: "unix", Address: path, Log: mute})
	tap.Put(Message{Query: []byte("early")})
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close() // it goes away at once
	_ = l.Close()
	_, frames := collect(t, "unix", path)
	if m := next(t, frames).GetMessage(); string(m.GetQueryMessage()) != "early" {
		t.Errorf("message %v", m)
	}
	_ = tap.Close()
}

// A collector that takes nothing: the buffer is bounded, drops are counted, and
// nobody waits.
func TestStuckCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // never accepts
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	tap := Open(Options{Network: "tcp", Address: l.Addr().String(), Log: mute})
	begin := time.Now()
	for range 3 * maxMessages {
		tap.Put(Message{Query: []byte("q")})
	}
	if got := tap.Stats().Dropped; got != 2*maxMessages {
		t.Errorf("%d dropped, want %d", got, 2*maxMessages)
	}
	large := Open(Options{Network: "unix", Address: filepath.Join(t.TempDir(), "none"), Log: mute})
	for range 200 {
		large.Put(Message{Query: make([]byte, 60_000)})
	}
	if got := large.Stats().Dropped; got != 200-maxBytes/60_000 || large.bytes.Load() > maxBytes {
		t.Errorf("%d large ones dropped with %d bytes waiting, want at most %d", got, large.bytes.Load(), maxBytes)
	}
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("Put took %v", d)
	}
	_ = large.Close()
	begin = time.Now()
	_ = tap.Close()
	if d := time.Since(begin); d > 10*timeout {
		t.Errorf("Close took %v", d)
	}
}

func TestParseAddress(t *testing.T) {
	for s, want := range map[string][2]string{"unix:/run/x": {"unix", "/run/x"}, "tcp:[::1]:6000": {"tcp", "[::1]:6000"}, "udp:x": {}, "unix:": {}, "x": {}, "": {}} {
		network, address, err := ParseAddress(s)
		if network != want[0] || address != want[1] || (err == nil) != (want[0] != "") {
			t.Errorf("%q: %q, %q, %v", s, network, address, err)
		}
	}
}

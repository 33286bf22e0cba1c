package dnsserver

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A rawH2 is a client that may say what no client says.
type rawH2 struct {
	*http2.Framer
	t    *testing.T
	conn *tls.Conn
	head bytes.Buffer
	enc  *hpack.Encoder
}

func (r *rig) rawH2(t *testing.T, ca *testCA, settings ...http2.Setting) *rawH2 {
	t.Helper()
	return newRawH2(t, dialTLS(t, r.DoHAddrs()[0].String(), ca.client("h2")), settings...)
}

func newRawH2(t *testing.T, conn *tls.Conn, settings ...http2.Setting) *rawH2 {
	t.Helper()
	c := &rawH2{t: t, conn: conn}
	c.enc = hpack.NewEncoder(&c.head)
	c.Framer = http2.NewFramer(c.conn, c.conn)
	c.AllowIllegalWrites = true
	c.must(func() error { _, err := io.WriteString(c.conn, h2Preface); return err }())
	c.must(c.WriteSettings(settings...))
	return c
}

func (c *rawH2) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func post(length int) []string {
	return []string{":method", "POST", ":scheme", "https", ":path", dohPath, ":authority", "x", "content-type", dohType, "content-length", strconv.Itoa(length)}
}

func (c *rawH2) block(fields ...string) []byte {
	c.head.Reset()
	for i := 0; i < len(fields); i += 2 {
		c.must(c.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return bytes.Clone(c.head.Bytes())
}

func (c *rawH2) open(stream uint32, end bool, fields ...string) error {
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block(fields...), EndStream: end, EndHeaders: true})
}

func (c *rawH2) ask(stream uint32, p []byte) error {
	return errors.Join(c.open(stream, false, post(len(p))...), c.WriteData(stream, true, p))
}

// until reads frames until one is as wanted; nil is the end of the connection.
func (c *rawH2) until(want func(http2.Frame) bool) http2.Frame {
	_ = c.conn.SetReadDeadline(time.Now().Add(secs(30)))
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return nil
		}
		if want(f) {
			return f
		}
	}
}

// ended reads to the end and returns how it was explained.
func (c *rawH2) ended() (code http2.ErrCode) {
	code = 0xff
	c.until(func(f http2.Frame) bool {
		if g, ok := f.(*http2.GoAwayFrame); ok {
			code = g.ErrCode
		}
		return false
	})
	return code
}

// What a client may not do ends the connection, with the code of RFC 9113; and the
// server goes on.
func TestH2Errors(t *testing.T) {
	r, ca := startAll(t, "", Options{})
	good := pack(t, query("wechat.com", dns.TypeA))
	for label, tc := range map[string]struct {
		do   func(c *rawH2) error
		want http2.ErrCode
	}{
		"pings": {func(c *rawH2) error {
			return many(2*maxCalm, func(int) error { return c.WritePing(false, [8]byte{}) })
		}, http2.ErrCodeEnhanceYourCalm},
		"settings": {func(c *rawH2) error {
			return many(2*maxCalm, func(int) error { return c.WriteSettings(http2.Setting{ID: 99, Val: 1}) })
		}, http2.ErrCodeEnhanceYourCalm},
		"empty pieces of a header": {func(c *rawH2) error {
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
			return many(2*maxCalm, func(int) error { return c.WriteContinuation(1, false, nil) })
		}, http2.ErrCodeEnhanceYourCalm},
		"a header without end": {func(c *rawH2) error {
			_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
			return many(100, func(int) error { return c.WriteContinuation(1, false, bytes.Repeat([]byte{0x82}, 1000)) })
		}, http2.ErrCodeEnhanceYourCalm},
		"empty content": {func(c *rawH2) error {
			_ = c.open(1, false, post(10)...)
			return many(2*maxCalm, func(int) error { return c.WriteData(1, false, nil) })
		}, http2.ErrCodeEnhanceYourCalm},
		"resets of requests without content": {func(c *rawH2) error {
			return many(2*maxCalm, func(i int) error {
				return errors.Join(c.open(uint32(2*i+1), false, post(10)...), c.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel))
			})
		}, http2.ErrCodeEnhanceYourCalm},
		"more content than the window": {func(c *rawH2) error {
			_ = c.open(1, false, post(60_000)...)
			_ = c.open(3, false, post(60_000)...)
			return many(8, func(i int) error { return c.WriteData(uint32(1+2*(i%2)), false, make([]byte, maxFrame)) })
		}, http2.ErrCodeFlowControl},
		"a long frame": {func(c *rawH2) error { return c.WriteRawFrame(0x20, 0, 0, make([]byte, maxFrame+1)) }, http2.ErrCodeFrameSize},
		"a header broken": {func(c *rawH2) error {
			return c.WriteRawFrame(http2.FrameHeaders, 5, 1, []byte{0xff, 0xff, 0xff, 0xff, 0xff})
		}, http2.ErrCodeCompression},
		"a window too large": {func(c *rawH2) error {
			return many(2, func(int) error { return c.WriteWindowUpdate(0, 1<<31-1) })
		}, http2.ErrCodeFlowControl},
	} {
		c := r.rawH2(t, ca)
		go func() { _ = tc.do(c) }() // it fails when the server has closed
		// Who goes on writing may see no more than that the connection has ended.
		if got := c.ended(); got != tc.want && got != 0xff {
			t.Errorf("%s: %v, want %v", label, got, tc.want)
		}
	}
	c := r.rawH2(t, ca)
	c.must(c.ask(1, good))
	if c.until(isData) == nil {
		t.Fatal("no answer")
	}
	c.must(c.open(1, true, post(0)...))
	if got := c.ended(); got != http2.ErrCodeStreamClosed {
		t.Errorf("a request again: %v", got)
	}
	if got := r.Stats().Dropped["http2_protocol"]; got < 10 {
		t.Errorf("%d connections counted as ended for an error", got)
	}
}

func many(n int, f func(i int) error) error {
	for i := range n {
		if err := f(i); err != nil {
			return err
		}
	}
	return nil
}

func isData(f http2.Frame) bool {
	_, ok := f.(*http2.DataFrame)
	return ok
}

// answers reads the content of that many streams.
func (c *rawH2) answers(n int) map[uint32][]byte {
	got, ended := map[uint32][]byte{}, 0
	c.until(func(f http2.Frame) bool {
		if d, ok := f.(*http2.DataFrame); ok {
			got[d.StreamID] = append(got[d.StreamID], d.Data()...)
			if d.StreamEnded() {
				ended++
			}
		}
		return ended == n
	})
	if ended != n {
		c.t.Fatalf("%d answers, want %d", ended, n)
	}
	return got
}

// Whatever the cuts between reads, and whoever has to wait for the resolver: each
// request has its answer.
func TestH2Pieces(t *testing.T) {
	r, ca := startAll(t, zones, Options{})
	close(r.up.gate)
	names := []string{"wechat.com", "good.example", "a.slow.example", "cloak.example", "nx.example"}
	var all bytes.Buffer
	c := &rawH2{t: t, Framer: http2.NewFramer(&all, nil)}
	c.enc = hpack.NewEncoder(&c.head)
	all.WriteString(h2Preface)
	c.must(c.WriteSettings())
	for i := range 40 {
		c.must(c.ask(uint32(2*i+1), pack(t, query(names[i%5], dns.TypeA))))
	}
	for _, piece := range []int{all.Len(), 4096, 100, 7} {
		conn := dialTLS(t, r.DoHAddrs()[0].String(), ca.client("h2"))
		go func() {
			for part := range slices.Chunk(all.Bytes(), piece) {
				_, _ = conn.Write(part)
			}
		}()
		in := &rawH2{t: t, conn: conn, Framer: http2.NewFramer(nil, conn)}
		for stream, p := range in.answers(40) {
			var m dns.Msg
			want := []int{dns.RcodeNameError, 0, 0, dns.RcodeNameError, dns.RcodeNameError}[(stream-1)/2%5]
			if err := m.Unpack(p); err != nil || m.Rcode != want {
				t.Errorf("in pieces of %d, stream %d: %v, %v, want rcode %d", piece, stream, &m, err, want)
			}
		}
	}
}

// A client with a small window gets its answer piece by piece, and none that waits
// holds another's up for ever.
func TestH2SmallWindow(t *testing.T) {
	r, ca := startAll(t, zones, Options{})
	c := r.rawH2(t, ca, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
	c.must(c.ask(1, pack(t, query("wechat.com", dns.TypeA))))
	c.must(c.ask(3, pack(t, query("good.example", dns.TypeA))))
	got, ended := map[uint32][]byte{}, 0
	c.until(func(f http2.Frame) bool {
		d, ok := f.(*http2.DataFrame)
		if !ok {
			return false
		}
		if len(d.Data()) > 10 {
			t.Errorf("%d octets for a window of 10", len(d.Data()))
		}
		got[d.StreamID] = append(got[d.StreamID], d.Data()...)
		if d.StreamEnded() {
			ended++
		} else {
			c.must(c.WriteWindowUpdate(d.StreamID, 10))
		}
		return ended == 2
	})
	for stream, rcode := range map[uint32]int{1: dns.RcodeNameError, 3: dns.RcodeSuccess} {
		var m dns.Msg
		if err := m.Unpack(got[stream]); err != nil || m.Rcode != rcode {
			t.Errorf("stream %d: %v, %v", stream, &m, err)
		}
	}
}

// A request that is malformed ends its stream and no other (RFC 9113, section
// 8.1.1), and a response says when it was made (RFC 9110, section 6.6.1).
func TestH2Malformed(t *testing.T) {
	r, ca := startAll(t, "", Options{})
	good := pack(t, query("wechat.com", dns.TypeA))
	with := func(more ...string) []string { return append(post(len(good)), more...) }
	c := r.rawH2(t, ca)
	stream := uint32(1)
	for label, fields := range map[string][]string{
		"upper case":            with("X-Upper", "x"),
		"of HTTP/1.1":           with("connection", "close"),
		"te":                    with("te", "gzip"),
		"a request line behind": with(":method", "GET"),
		"unknown pseudo field":  append([]string{":what", "x"}, with()...),
		"no path":               {":method", "POST", ":scheme", "https", "content-type", dohType},
		"two methods":           append([]string{":method", "GET"}, with()...),
		"another length":        post(len(good) + 1),
		"two lengths":           with("content-length", "1"),
		"no length":             with("content-length", "x"),
	} {
		c.must(errors.Join(c.open(stream, false, fields...), c.WriteData(stream, true, good)))
		f := c.until(func(f http2.Frame) bool { return f.Header().StreamID == stream })
		if reset, ok := f.(*http2.RSTStreamFrame); !ok || reset.ErrCode != http2.ErrCodeProtocol {
			t.Errorf("%s: %v, want PROTOCOL_ERROR", label, f)
		}
		stream += 2
	}
	c.must(c.ask(stream, good))
	c.answers(1)
	for _, url := range []string{r.dohURL(), r.dohURL() + "/nobody"} {
		resp, _ := webAsk(t, webClients(t, ca)["HTTP/2.0"], request(t, "POST", url, good))
		if at, err := http.ParseTime(resp.Header.Get("Date")); err != nil || time.Since(at).Abs() > time.Minute {
			t.Errorf("%s: date %q, %v", url, resp.Header.Get("Date"), err)
		}
	}
}

// Who takes no replies, or does not send what was announced, is not waited for.
func TestH2Stalls(t *testing.T) {
	r, ca := startAll(t, zones, Options{WriteTimeout: secs(1)})
	c := r.rawH2(t, ca, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	c.must(c.ask(1, pack(t, query("wechat.com", dns.TypeA))))
	if c.ended(); r.Stats().Dropped["write_error"] != 1 {
		t.Errorf("dropped %v, want a write error", r.Stats().Dropped)
	}
	r, ca = startAll(t, zones, Options{ReadTimeout: secs(1)})
	c = r.rawH2(t, ca)
	c.must(c.open(1, false, post(30)...))
	f := c.until(func(f http2.Frame) bool { _, ok := f.(*http2.RSTStreamFrame); return ok })
	if f == nil || f.(*http2.RSTStreamFrame).ErrCode != http2.ErrCodeCancel {
		t.Fatalf("content that does not come: %v", f)
	}
	f = nil
	for stream := uint32(3); !isData(f) && stream < 50; stream += 2 { // the content may be late again
		c.must(c.ask(stream, pack(t, query("wechat.com", dns.TypeA))))
		f = c.until(func(f http2.Frame) bool {
			_, reset := f.(*http2.RSTStreamFrame)
			return reset || isData(f)
		})
	}
	if !isData(f) {
		t.Errorf("the connection after it: %v, want an answer", f)
	}
}

// Requests that are reset keep their place until they are answered, so that no
// more of them wait than may (CVE-2023-44487).
func TestH2RapidReset(t *testing.T) {
	r, ca := startAll(t, zones, Options{MaxPipeline: 8})
	c := r.rawH2(t, ca)
	p := pack(t, query("a.slow.example", dns.TypeA))
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = many(300, func(i int) error {
			return errors.Join(c.ask(uint32(2*i+1), p), c.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel))
		})
	})
	eventually(t, "questions wait", func() bool { return r.Stats().Inflight == 8 })
	if got := r.Stats().Inflight; got > 8 {
		t.Errorf("%d questions wait, want at most 8", got)
	}
	close(r.up.gate)
	wg.Wait()
	c = r.rawH2(t, ca)
	c.must(c.ask(1, pack(t, query("wechat.com", dns.TypeA))))
	c.answers(1)
}

// A request beyond those that may be open is refused, and can be made again: where
// replies wait for a window, and where content has not come.
func TestH2TooManyStreams(t *testing.T) {
	const most = 8
	r, ca := startAll(t, zones, Options{MaxPipeline: most})
	p := pack(t, query("wechat.com", dns.TypeA))
	refused := func(c *rawH2, stream uint32) {
		t.Helper()
		f := c.until(func(f http2.Frame) bool { _, ok := f.(*http2.RSTStreamFrame); return ok })
		if f == nil || f.Header().StreamID != stream || f.(*http2.RSTStreamFrame).ErrCode != http2.ErrCodeRefusedStream {
			t.Fatalf("got %v, want stream %d refused", f, stream)
		}
	}
	c := r.rawH2(t, ca, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	for i := range uint32(most + 1) {
		c.must(c.ask(2*i+1, p))
	}
	refused(c, 2*most+1)
	c.must(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 16}))
	c.answers(most)
	c.must(c.ask(101, p))
	c.answers(1)

	c = r.rawH2(t, ca)
	for i := range uint32(most + 1) {
		c.must(c.open(2*i+1, false, post(len(p))...))
	}
	refused(c, 2*most+1)
	c.must(c.WriteData(1, true, p))
	c.answers(1)
	c.must(c.ask(101, p))
	c.answers(1)
}

// Large answers at once go out as the client takes them; what is beyond what may
// wait is refused, and the connection goes on.
func TestH2LargeAnswers(t *testing.T) {
	r, ca := startAll(t, zones+hugeZone(), Options{})
	c := r.rawH2(t, ca)
	for i := range 20 {
		c.must(c.ask(uint32(2*i+1), pack(t, query("huge.example", dns.TypeTXT))))
	}
	got, ended, refused := map[uint32]int{}, 0, 0
	c.until(func(f http2.Frame) bool {
		if d, ok := f.(*http2.DataFrame); ok {
			got[d.StreamID] += len(d.Data())
			if len(d.Data()) > 0 {
				c.must(c.WriteWindowUpdate(0, uint32(len(d.Data()))))
			}
			if d.StreamEnded() {
				ended++
			}
		}
		if _, ok := f.(*http2.RSTStreamFrame); ok {
			refused++
		}
		return ended+refused == 20
	})
	sizes := map[int]int{}
	for _, n := range got {
		sizes[n]++
	}
	if ended < 3 || ended+refused != 20 || len(sizes) != 1 {
		t.Errorf("%d answers of sizes %v, %d refused, want 20 in all", ended, sizes, refused)
	}
	c.must(c.ask(101, pack(t, query("wechat.com", dns.TypeA))))
	c.answers(1)
}

// A client that widens one stream after the other while a reply waits for a window
// makes us neither keep all of those windows nor send more of that reply.
func TestH2WindowsAreBounded(t *testing.T) {
	o := h2Out{window: h2Window, initial: 1, size: 1000, pending: []h2Pending{{1, make([]byte, 1000)}}}
	sent := len(o.pump(nil))
	for i := range uint32(4 * maxExtra) {
		o.widen(2*i+3, 1)
		sent += len(o.pump(nil))
		if len(o.extra) > maxExtra+1 {
			t.Fatalf("%d windows are kept after %d streams, want at most %d", len(o.extra), i+1, maxExtra+1)
		}
	}
	if want := h2Head + 1; sent != want {
		t.Errorf("%d octets were sent of a stream that takes one, want %d with the frame's head", sent, want)
	}
	if o.widen(1, 999); len(o.pump(nil)) != h2Head+999 || len(o.pending) != 0 {
		t.Errorf("%d octets wait for a window that is there", o.size)
	}
}

// A nowhere is a connection that takes everything.
type nowhere struct{ net.Conn }

func (nowhere) Write(p []byte) (int, error)      { return len(p), nil }
func (nowhere) SetWriteDeadline(time.Time) error { return nil }
func (nowhere) SetReadDeadline(time.Time) error  { return nil }
func (nowhere) Close() error                     { return nil }

// pieces are read as small as a network may bring them.
type pieces struct{ *strings.Reader }

func (p pieces) Read(b []byte) (int, error) { return p.Reader.Read(b[:min(len(b), 100)]) }

// FuzzH2: whatever comes, nothing panics, and what is kept of it is bounded.
func FuzzH2(f *testing.F) {
	good := pack(f, query("wechat.com", dns.TypeA))
	var all bytes.Buffer
	c := &rawH2{Framer: http2.NewFramer(&all, nil), t: &testing.T{}}
	c.enc = hpack.NewEncoder(&c.head)
	c.AllowIllegalWrites = true
	for i, say := range []func() error{
		func() error { return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 3}) },
		func() error { return c.ask(1, good) },
		func() error {
			return c.open(3, true, ":method", "GET", ":scheme", "https", ":path", dohPath+"?dns=AAAB")
		},
		func() error { return c.WriteWindowUpdate(1, 100) },
		func() error { return c.open(5, false, post(100)...) },
		func() error { return c.WriteDataPadded(5, false, good, make([]byte, 9)) },
		func() error { return c.WriteRSTStream(5, 8) },
		func() error { return c.WritePing(false, [8]byte{1}) },
		func() error { return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) },
		func() error { return c.ask(7, good) },
		func() error { return c.open(999, false, post(100)...) },
		func() error {
			return many(300, func(i int) error { return c.WriteWindowUpdate(uint32(2*i+9), 1) })
		},
	} {
		if err := say(); err != nil {
			f.Fatal(i, err)
		}
		f.Add(bytes.Clone(all.Bytes()))
	}
	r := start(f, "", Options{})
	f.Fuzz(func(t *testing.T, p []byte) {
		conn := &stream{
			server: r.Server, from: &streamListener{transport: doh, places: &r.places[doh]}, conn: nowhere{},
			tokens: make(chan struct{}, 64),
		}
		h := newH2(conn)
		conn.proto = h
		in := pieces{strings.NewReader(h2Preface + string(p))}
		for first, err := in.ReadByte(); err == nil && conn.burst(in, first); first, err = in.ReadByte() {
		}
		conn.open.Wait()
		held := len(h.block.p)
		for _, u := range h.uploads {
			held += len(u.body)
		}
		if held > maxHeaders+h2AllWindow || h.out.size > maxPending || len(h.out.extra) > maxExtra+len(h.out.pending) {
			t.Fatalf("%d octets held, %d pending, %d windows", held, h.out.size, len(h.out.extra))
		}
	})
}

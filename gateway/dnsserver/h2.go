package dnsserver

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/http2/hpack"
)

// maxCalm is how many frames that ask for nothing a client may send between two
// questions: pings, settings, resets, empty content, and the pieces of a header
// (CVE-2019-9512, 9515, 9518; CVE-2023-44487; CVE-2024-27316).
const maxCalm = 1000

// An h2conn is DNS over HTTPS on one connection over HTTP/2 (RFC 9113, RFC 8484):
// what a server for one path needs of it, in the reader's goroutine, because the
// general server of net/http spends ten times on a request what DNS spends on a
// question. Requests that the hot path cannot answer go the way that those over
// DoT go.
//
// What a client can make it keep is bounded: content that has not all come by the
// window of the connection, headers by maxHeaders, questions that wait by tokens,
// replies that the client does not take by maxPending.
//
// The reader owns all of it but out, which whoever holds the stream's lock for
// writing does.
type h2conn struct {
	c       *stream
	dec     *hpack.Decoder
	req     h2Request
	started bool // the preface has come
	left    bool // GOAWAY was sent
	last    uint32
	block   h2Block
	uploads map[uint32]*h2Upload
	window  int // what the client may send still
	used    int // of it, what it can have back
	calm    int
	ctl     []byte // frames to be written
	out     h2Out
}

// An h2Block is a header that comes in several frames.
type h2Block struct {
	stream uint32 // 0: none
	end    bool   // and the request ends with it
	p      []byte
}

// An h2Upload is a request whose content has not all come.
type h2Upload struct {
	began  time.Time
	from   netip.Addr
	code   int // the status that it gets, whatever comes; 0: none
	length int // -1: not said
	size   int // of what has come
	body   []byte
}

// An h2Request is what of a header counts.
type h2Request struct {
	method, scheme, path, kind string
	length                     int
	size                       int  // of all fields, RFC 9113, section 6.5.2
	pseudo                     bool // it has fields of the request line
	regular                    bool // and those are over
	malformed                  bool
}

func newH2(c *stream) *h2conn {
	h := &h2conn{c: c, window: h2AllWindow, out: h2Out{window: h2Window, initial: h2Window}}
	if c.server.opts.HTTP3 {
		h.out.alt = altService(c.from.addrPort().Port())
	}
	h.dec = hpack.NewDecoder(4096, h.req.field)
	h.dec.SetMaxStringLength(maxHeaders)
	return h
}

// hello is what the server says first.
func (h *h2conn) hello() {
	h.ctl = appendSettings(h.ctl,
		[2]uint32{h2SettingStreams, uint32(h.c.server.opts.MaxPipeline)},
		[2]uint32{h2SettingWindow, h2UploadWindow},
		[2]uint32{h2SettingHeaderList, maxHeaders})
	h.ctl = appendWindowUpdate(h.ctl, h2AllWindow-h2Window)
	h.flush()
}

// bye says that no further request is looked at.
func (h *h2conn) bye() {
	if !h.left {
		h.ctl = appendGoAway(h.ctl, h.last, h2NoError)
		h.flush()
	}
}

// flush writes what is to be said but replies.
func (h *h2conn) flush() {
	h.c.writing.Lock()
	defer h.c.writing.Unlock()
	h.ctl = h.out.pump(h.ctl)
	h.c.send(h.ctl)
	if h.ctl = h.ctl[:0]; cap(h.ctl) > 4*maxFrame {
		h.ctl = nil
	}
}

// fail ends the connection, and says why.
func (h *h2conn) fail(code h2Code) bool {
	h.c.server.core.stats.drop(dropHTTP2)
	h.ctl = appendGoAway(h.ctl, h.last, code)
	h.left = true
	return false
}

// take implements protocol.
func (h *h2conn) take(b *burst) (used int, ok bool) {
	if used, ok = h.preface(b.in); !ok || used == 0 && !h.started {
		return used, ok
	}
	for ok {
		f, size, whole := readH2(b.in[used:])
		if size > h2Head+maxFrame {
			ok = h.fail(h2FrameSize)
			break
		}
		if !whole {
			break
		}
		used += size
		ok = h.frame(b, &f)
	}
	h.expire(time.Now())
	if len(h.ctl) > 0 {
		h.flush()
	}
	return used, h.c.serveAll(b) && ok
}

// preface reads what a client says first (section 3.4).
func (h *h2conn) preface(p []byte) (used int, ok bool) {
	if h.started {
		return 0, true
	}
	if len(p) < len(h2Preface) {
		return 0, strings.HasPrefix(h2Preface, string(p))
	}
	h.started = bytes.HasPrefix(p, []byte(h2Preface))
	return len(h2Preface), h.started
}

// frame takes one frame; it is false when the connection has to end.
func (h *h2conn) frame(b *burst, f *h2Frame) bool {
	if (h.block.stream != 0) != (f.kind == h2Continuation) || h.block.stream != 0 && f.stream != h.block.stream {
		return h.fail(h2ProtocolError) // section 6.10
	}
	if h.calm++; h.calm > maxCalm {
		return h.fail(h2EnhanceYourCalm)
	}
	switch f.kind {
	case h2Headers, h2Continuation:
		return h.headers(b, f)
	case h2Data:
		return h.data(b, f)
	case h2Settings:
		return h.settings(f)
	case h2WindowUpdate:
		return h.widen(f)
	case h2Ping:
		if f.stream != 0 {
			return h.fail(h2ProtocolError)
		}
		if len(f.payload) != 8 {
			return h.fail(h2FrameSize)
		}
		if f.flags&h2Ack == 0 {
			h.ctl = append(appendFrameHead(h.ctl, 8, h2Ping, h2Ack, 0), f.payload...)
		}
	case h2Priority: // of no consequence, but for its form
		if f.stream == 0 {
			return h.fail(h2ProtocolError)
		}
		if len(f.payload) != 5 {
			h.reset(f.stream, h2FrameSize)
		}
	case h2GoAway:
		if f.stream != 0 {
			return h.fail(h2ProtocolError)
		}
	case h2Reset:
		if f.stream == 0 || f.stream > h.last {
			return h.fail(h2ProtocolError)
		}
		if len(f.payload) != 4 {
			return h.fail(h2FrameSize)
		}
		h.forget(f.stream) // a question that waits is answered all the same, and keeps its token until then
	case h2Push:
		return h.fail(h2ProtocolError) // section 8.4
	}
	return true // kinds that we do not know are passed over (section 5.5)
}

func (h *h2conn) settings(f *h2Frame) bool {
	p := f.payload
	switch {
	case f.stream != 0:
		return h.fail(h2ProtocolError)
	case len(p)%6 != 0 || f.flags&h2Ack != 0 && len(p) != 0:
		return h.fail(h2FrameSize)
	case f.flags&h2Ack != 0:
		return true
	}
	h.calm += len(p) / 6
	for ; len(p) > 0; p = p[6:] {
		if code := h.set(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])); code != h2NoError {
			return h.fail(code)
		}
	}
	h.ctl = appendFrameHead(h.ctl, 0, h2Settings, h2Ack, 0)
	return true
}

// set takes one of the client's settings (section 6.5.2).
func (h *h2conn) set(what uint16, v uint32) h2Code {
	switch what {
	case h2SettingPush:
		if v > 1 {
			return h2ProtocolError
		}
	case h2SettingWindow:
		if v > h2MaxWindow {
			return h2FlowControl
		}
		h.c.writing.Lock()
		defer h.c.writing.Unlock()
		h.out.initial = int(v)
	case h2SettingFrame: // we send none that is longer than the least that it may be
		if v < maxFrame || v >= 1<<24 {
			return h2ProtocolError
		}
	}
	return h2NoError
}

// widen lets us send more (section 6.9).
func (h *h2conn) widen(f *h2Frame) bool {
	if len(f.payload) != 4 {
		return h.fail(h2FrameSize)
	}
	n := int(binary.BigEndian.Uint32(f.payload) &^ (1 << 31))
	if n == 0 || f.stream > h.last {
		return h.fail(h2ProtocolError)
	}
	h.c.writing.Lock()
	defer h.c.writing.Unlock()
	switch {
	case h.out.widen(f.stream, n):
	case f.stream == 0:
		return h.fail(h2FlowControl)
	default:
		h.reset(f.stream, h2FlowControl)
	}
	h.ctl = h.out.pump(h.ctl)
	return true
}

// headers takes a header, or a piece of one.
func (h *h2conn) headers(b *burst, f *h2Frame) bool {
	p, end := f.payload, h.block.end
	if f.kind == h2Headers {
		var ok bool
		if p, ok = f.content(); !ok || f.stream%2 == 0 {
			return h.fail(h2ProtocolError)
		}
		end = f.flags&h2EndStream != 0
	}
	if len(h.block.p)+len(p) > maxHeaders {
		return h.fail(h2EnhanceYourCalm)
	}
	if f.flags&h2EndHeaders == 0 {
		h.block = h2Block{f.stream, end, append(h.block.p, p...)}
		return true
	}
	if h.block.stream != 0 {
		p = append(h.block.p, p...)
		h.block = h2Block{}
	}
	h.req = h2Request{length: -1}
	if _, err := h.dec.Write(p); err != nil {
		return h.fail(h2Compression)
	}
	if err := h.dec.Close(); err != nil {
		return h.fail(h2Compression)
	}
	if f.stream <= h.last {
		return h.trailer(b, f.stream, end)
	}
	h.last = f.stream
	h.begin(b, f.stream, end)
	return true
}

// trailer takes a second header, which ends the request.
func (h *h2conn) trailer(b *burst, stream uint32, end bool) bool {
	u := h.uploads[stream]
	switch {
	case u == nil:
		return h.fail(h2StreamClosed) // section 5.1
	case !end || h.req.pseudo || h.req.malformed:
		h.reset(stream, h2ProtocolError) // section 8.1
	default:
		h.finish(b, stream, u, u.body)
	}
	return true
}

// begin takes a request.
func (h *h2conn) begin(b *burst, stream uint32, end bool) {
	r := &h.req
	switch {
	case r.malformed || r.method == "" || r.path == "" || r.scheme == "":
		h.reset(stream, h2ProtocolError) // section 8.1.1
		return
	case end && r.length > 0:
		h.reset(stream, h2ProtocolError)
		return
	case h.full(b):
		h.reset(stream, h2RefusedStream) // section 5.1.2
		return
	}
	m := message{to: ticket{stream, r.method == http.MethodHead}}
	code := h.look(&m)
	switch {
	case !end:
		h.upload(stream, m.from, code)
		return
	case code == 0:
		code = h.ask(b, m)
	}
	if code != 0 {
		h.refuse(stream, true, code)
	}
}

// full reports whether as many requests are open as the client was told that there may
// be: their content has not all come, or their reply waits for a window. Those that
// wait for an upstream are not among them: as long as they are too many, the next is
// not read, which costs a client less than a refusal.
func (h *h2conn) full(b *burst) bool {
	open := len(b.msgs) + len(h.uploads)
	if h.out.stalled.Load() != 0 {
		h.c.writing.Lock()
		open += len(h.out.pending)
		h.c.writing.Unlock()
	}
	return open >= h.c.server.opts.MaxPipeline
}

// look reads what the header says of the message, or returns the status that the
// request gets.
func (h *h2conn) look(m *message) (code int) {
	r := &h.req
	if r.size > maxHeaders {
		return http.StatusRequestHeaderFieldsTooLarge
	}
	if m.from, code = h.device(); code != 0 {
		return code
	}
	switch r.method {
	case http.MethodGet, http.MethodHead:
		m.p, code = r.query()
	case http.MethodPost:
		if kind, _, err := mime.ParseMediaType(r.kind); r.kind != dohType && (err != nil || kind != dohType) {
			return http.StatusUnsupportedMediaType
		}
	default:
		return http.StatusMethodNotAllowed
	}
	return code
}

// upload waits for the content of a request, be it for nothing.
func (h *h2conn) upload(stream uint32, from netip.Addr, code int) {
	switch {
	case h.req.length > dns.MaxMsgSize:
		h.refuse(stream, false, http.StatusRequestEntityTooLarge)
		return
	case code == 0 && h.req.method != http.MethodPost:
		code = http.StatusBadRequest // content means nothing there
	}
	if h.uploads == nil {
		h.uploads = make(map[uint32]*h2Upload)
	}
	h.uploads[stream] = &h2Upload{began: time.Now(), from: from, code: code, length: h.req.length}
}

// device returns who asks, see web.device, or the status for a path that nobody
// has.
func (h *h2conn) device() (from netip.Addr, code int) {
	s, claim := h.c.server, &h.c.claim
	path, _, _ := strings.Cut(h.req.path, "?")
	if path == dohPath {
		return s.device(claim, h.c.client), 0
	}
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return from, http.StatusNotFound
	}
	if u.Path != dohPath {
		token, ok := strings.CutPrefix(u.Path, dohPath+"/")
		if !ok || !s.known(token) {
			return from, http.StatusNotFound
		}
		named := *claim
		named.token, claim = token, &named
	}
	return s.device(claim, h.c.client), 0
}

// query is the message of a request without content.
func (r *h2Request) query() (msg []byte, code int) {
	_, raw, _ := strings.Cut(r.path, "?")
	text, plain := strings.CutPrefix(raw, "dns=")
	if !plain || strings.ContainsAny(text, "&;%+") {
		params, err := url.ParseQuery(raw)
		if err != nil || len(params["dns"]) != 1 {
			return nil, http.StatusBadRequest
		}
		text = params["dns"][0]
	}
	msg, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, http.StatusBadRequest
	}
	return msg, 0
}

// data takes content (section 6.1).
func (h *h2conn) data(b *burst, f *h2Frame) bool {
	p, ok := f.content()
	if !ok || f.stream == 0 || f.stream > h.last {
		return h.fail(h2ProtocolError)
	}
	if h.window -= len(f.payload); h.window < 0 {
		return h.fail(h2FlowControl)
	}
	h.giveBack(len(f.payload) - len(p))
	u := h.uploads[f.stream]
	if u == nil { // of a request that is over
		h.giveBack(len(p))
		h.ctl = appendReset(h.ctl, f.stream, h2StreamClosed)
		return true
	}
	end := f.flags&h2EndStream != 0
	u.size += len(p)
	switch {
	case u.size > dns.MaxMsgSize:
		h.giveBack(len(p))
		h.refuse(f.stream, end, http.StatusRequestEntityTooLarge)
		return true
	case u.code != 0 || end && len(u.body) == 0:
		h.giveBack(len(p))
	default: // it is given back with the request
		u.body = append(u.body, p...)
		p = u.body
	}
	if end {
		h.finish(b, f.stream, u, p)
	}
	return true
}

// giveBack lets the client send so much again, and tells it in large steps.
func (h *h2conn) giveBack(n int) {
	if h.used += n; h.used >= h2Window/2 {
		h.ctl = appendWindowUpdate(h.ctl, h.used)
		h.window += h.used
		h.used = 0
	}
}

// forget drops a request whose content has not all come.
func (h *h2conn) forget(stream uint32) {
	if u := h.uploads[stream]; u != nil {
		h.giveBack(len(u.body))
		delete(h.uploads, stream)
	}
}

// finish takes a request whose content is there.
func (h *h2conn) finish(b *burst, stream uint32, u *h2Upload, body []byte) {
	h.forget(stream)
	if u.length >= 0 && u.length != u.size {
		h.reset(stream, h2ProtocolError) // section 8.1.1
		return
	}
	code := u.code
	if code == 0 {
		code = h.ask(b, message{p: body, from: u.from, to: ticket{stream: stream}})
	}
	if code != 0 {
		h.refuse(stream, true, code)
	}
}

// ask puts a question to the others of the burst, or says what is wrong with it.
func (h *h2conn) ask(b *burst, m message) (code int) {
	h.calm = 0
	d, ok := h.c.server.turn(h.c.client)
	if !ok {
		d = maxDelay / 4 // or a client that does not mind would be read as fast as it can
	}
	if d > 0 {
		h.c.serveAll(b)
		h.flush()
		wait(h.c.server.ending, d)
	}
	if !ok {
		return http.StatusTooManyRequests
	}
	b.msgs = append(b.msgs, m)
	return 0
}

// reset ends a stream that is not worth a response.
func (h *h2conn) reset(stream uint32, code h2Code) {
	h.c.server.core.stats.drop(dropRequest)
	h.forget(stream)
	h.ctl = appendReset(h.ctl, stream, code)
}

// refuse answers with a status. Where the request has not ended, the rest of it is
// of no interest (section 8.1).
func (h *h2conn) refuse(stream uint32, ended bool, code int) {
	h.c.server.core.stats.drop(dropRequest)
	h.forget(stream)
	h.ctl = h.appendStatus(h.ctl, stream, code)
	if !ended {
		h.ctl = appendReset(h.ctl, stream, h2NoError)
	}
}

func (h *h2conn) appendStatus(b []byte, stream uint32, code int) []byte {
	at := len(b)
	b = appendFrameHead(b, 0, h2Headers, h2EndStream|h2EndHeaders, stream)
	b = appendField(b, hpackStatus, strconv.Itoa(code))
	b = appendField(b, hpackDate, h.out.date.at(time.Now()))
	b = appendField(b, hpackCacheControl, "no-store")
	switch code {
	case http.StatusMethodNotAllowed:
		b = appendField(b, hpackAllow, "GET, HEAD, POST")
	case http.StatusTooManyRequests:
		b = appendField(b, hpackRetryAfter, "1")
	}
	b = appendField(b, hpackContentLength, "0")
	b[at+2] = byte(len(b) - at - h2Head) // far below 256
	return b
}

// nothing implements protocol: a reply, or less than a header, has no answer of
// DNS.
func (h *h2conn) nothing(to ticket) bool {
	h.refuse(to.stream, true, http.StatusBadRequest)
	h.flush()
	return true
}

// due implements protocol: requests whose content does not come, and replies that
// are not taken, end.
func (h *h2conn) due() (at time.Time) {
	for _, u := range h.uploads {
		if t := u.began.Add(h.c.server.opts.ReadTimeout); at.IsZero() || t.Before(at) {
			at = t
		}
	}
	if ns := h.out.stalled.Load(); ns != 0 {
		if t := time.Unix(0, ns).Add(h.c.server.opts.WriteTimeout); at.IsZero() || t.Before(at) {
			at = t
		}
	}
	return at
}

// tick implements protocol.
func (h *h2conn) tick(now time.Time) bool {
	h.expire(now)
	if len(h.ctl) > 0 {
		h.flush()
	}
	if ns := h.out.stalled.Load(); ns != 0 && now.Sub(time.Unix(0, ns)) >= h.c.server.opts.WriteTimeout {
		h.c.server.core.stats.drop(dropWriteError)
		return false
	}
	return true
}

func (h *h2conn) expire(now time.Time) {
	for stream, u := range h.uploads {
		if now.Sub(u.began) >= h.c.server.opts.ReadTimeout {
			h.c.server.core.stats.drop(dropSlow)
			h.forget(stream)
			h.ctl = appendReset(h.ctl, stream, h2Cancel)
		}
	}
}

// field takes one field of a header (sections 8.2 and 8.3).
func (r *h2Request) field(f hpack.HeaderField) {
	r.size += int(f.Size())
	if !strings.HasPrefix(f.Name, ":") {
		r.regular = true
		r.malformed = r.malformed || !r.plain(f)
		return
	}
	r.pseudo = true
	var to *string
	switch f.Name {
	case ":method":
		to = &r.method
	case ":scheme":
		to = &r.scheme
	case ":path":
		to = &r.path
	case ":authority":
		return
	}
	if to == nil || *to != "" || r.regular {
		r.malformed = true
		return
	}
	*to = f.Value
}

// plain takes a field that HTTP has in every version.
func (r *h2Request) plain(f hpack.HeaderField) bool {
	switch f.Name {
	case "content-type":
		r.kind = f.Value
	case "content-length":
		n, err := strconv.ParseUint(f.Value, 10, 31)
		if err != nil || r.length >= 0 && r.length != int(n) {
			return false
		}
		r.length = int(n)
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		return false
	case "te":
		return f.Value == "trailers"
	}
	return f.Name != "" && strings.ToLower(f.Name) == f.Name
}

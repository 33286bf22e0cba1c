package dnsserver

import (
	"bytes"
	"strconv"
	"sync/atomic"
	"time"
)

// maxPending bounds what waits for a client that has said by its window that it
// takes no more now; requests whose replies are beyond that end without one.
const maxPending = 256 << 10

// maxExtra bounds of how many streams windows are kept, beside those of which
// something is pending: of those that came last.
const maxExtra = 256

// An h2Out is what of a connection over HTTP/2 is needed to write replies. It is
// used under the stream's lock for writing.
type h2Out struct {
	window  int            // what the client takes, of all streams together
	initial int            // and of each
	extra   map[uint32]int // more, or less, of some; only where initial is small
	pending []h2Pending
	size    int          // of all that is pending
	stalled atomic.Int64 // since when nothing of it can be sent, UnixNano; 0: nothing is pending
	date    dateLine
	alt     string // value of Alt-Svc; empty: none
}

// An h2Pending is content that waits for a window.
type h2Pending struct {
	stream uint32
	rest   []byte
}

// wrap implements protocol: a reply becomes a response.
func (h *h2conn) wrap(b []byte, to ticket, reply []byte, now time.Time) []byte {
	if len(reply) == 0 { // HTTP has no silence
		return appendReset(b, to.stream, h2InternalError)
	}
	o := &h.out
	if !to.head && o.size+len(reply) > maxPending {
		h.c.server.core.stats.drop(dropWriteError)
		return appendReset(b, to.stream, h2EnhanceYourCalm)
	}
	flags := byte(h2EndHeaders)
	if to.head {
		flags |= h2EndStream
	}
	at := len(b)
	b = appendFrameHead(b, 0, h2Headers, flags, to.stream)
	b = append(b, hpackStatus200)
	b = appendField(b, hpackContentType, dohType)
	b = appendNumberField(b, hpackContentLength, len(reply))
	b = appendFreshness(b, freshness(reply))
	b = appendField(b, hpackDate, o.date.at(now))
	if o.alt != "" {
		b = append(b, 0, byte(len("alt-svc")))
		b = append(b, "alt-svc"...)
		b = append(append(b, byte(len(o.alt))), o.alt...)
	}
	b[at+2] = byte(len(b) - at - h2Head) // some 120
	if to.head {
		return b
	}
	if len(o.pending) == 0 && len(reply) <= min(o.window, o.initial, maxFrame) && len(o.extra) == 0 {
		o.window -= len(reply)
		return append(appendFrameHead(b, len(reply), h2Data, h2EndStream, to.stream), reply...)
	}
	o.size += len(reply)
	o.pending = append(o.pending, h2Pending{to.stream, bytes.Clone(reply)})
	return o.pump(b)
}

// appendFreshness is Cache-Control: what one device is told is not for others,
// see web.write.
func appendFreshness(b []byte, seconds uint32) []byte {
	const how = "private, max-age="
	b = append(b, 15, hpackCacheControl-15, 0)
	at := len(b)
	b = strconv.AppendUint(append(b, how...), uint64(seconds), 10)
	b[at-1] = byte(len(b) - at)
	return b
}

// pump appends as much of what is pending as the windows allow.
func (o *h2Out) pump(b []byte) []byte {
	if len(o.pending) == 0 {
		return b
	}
	moved, kept := false, o.pending[:0]
	for _, p := range o.pending {
		for len(p.rest) > 0 {
			n := min(len(p.rest), o.window, o.initial+o.extra[p.stream], maxFrame)
			if n <= 0 {
				break
			}
			flags := byte(0)
			if n == len(p.rest) {
				flags = h2EndStream
			}
			b = append(appendFrameHead(b, n, h2Data, flags, p.stream), p.rest[:n]...)
			o.spend(p.stream, n)
			p.rest, moved = p.rest[n:], true
		}
		if len(p.rest) > 0 {
			kept = append(kept, p)
		} else {
			delete(o.extra, p.stream)
		}
	}
	clear(o.pending[len(kept):])
	o.pending = kept
	switch {
	case len(kept) == 0:
		o.stalled.Store(0)
		if o.pending = nil; o.initial >= h2Window {
			o.extra = nil
		}
	case moved || o.stalled.Load() == 0:
		o.stalled.Store(time.Now().UnixNano())
	}
	return b
}

func (o *h2Out) spend(stream uint32, n int) {
	o.window -= n
	o.size -= n
	if o.extra == nil {
		o.extra = make(map[uint32]int)
	}
	o.extra[stream] -= n
}

// widen lets more be sent on a stream, or with stream 0 on all of them; it is
// false for more than there may be. Windows of streams matter only where the
// client has made them smaller than a reply, or something waits; those of no
// interest are not kept.
func (o *h2Out) widen(stream uint32, n int) bool {
	if stream == 0 {
		o.window += n
		return o.window <= h2MaxWindow
	}
	if o.initial+n > h2MaxWindow {
		return false
	}
	if o.initial >= h2Window && len(o.pending) == 0 {
		return true
	}
	if o.extra == nil {
		o.extra = make(map[uint32]int)
	}
	for len(o.extra) >= maxExtra && o.forgetOldest() {
	}
	o.extra[stream] += n
	return o.initial+o.extra[stream] <= h2MaxWindow
}

// forgetOldest forgets what the oldest stream may be sent more. Who has had more
// than o.initial, or some of it, waits for the rest: without its debt it would be
// sent more than it takes (section 6.9.1), again and again.
func (o *h2Out) forgetOldest() bool {
	oldest := uint32(0)
	for stream, n := range o.extra {
		if n >= 0 && (oldest == 0 || stream < oldest) {
			oldest = stream
		}
	}
	delete(o.extra, oldest)
	return oldest != 0
}

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/net/http2/hpack"
)

// What of HTTP/2 a client of DNS over HTTPS needs, RFC 9113 section 6.
const (
	frameHead = 9
	maxFrame  = 1 << 14

	frameData     = 0
	frameHeaders  = 1
	frameReset    = 3
	frameSettings = 4
	framePing     = 6
	frameGoAway   = 7
	frameWindow   = 8
	frameContinue = 9

	flagAck        = 1
	flagEndStream  = 1
	flagEndHeaders = 4
	flagPadded     = 8
	flagPriority   = 0x20

	maxStreamsSetting = 3

	firstWindow = 65535
	ourWindow   = 1 << 30 // what the server may send before it hears from us
)

// h2 is DNS over HTTPS by POST over one connection, RFC 8484 section 4.1. It is
// as small as a generator may be: the header of a request is written with the
// dynamic table, as clients do, and that of a response is read for its status.
type h2 struct {
	authority string
	enc       *hpack.Encoder
	dec       *hpack.Decoder
	head      bytes.Buffer
	status    string
	stream    uint32 // the next
	open      int
	most      int   // streams at a time that the server takes
	window    int64 // bytes of content that the server takes
	got       int64 // since we last gave it more
	partial   map[uint32][]byte
}

func newH2(authority string) *h2 {
	h := &h2{authority: authority, stream: 1, most: 100, window: firstWindow, partial: make(map[uint32][]byte)}
	h.enc = hpack.NewEncoder(&h.head)
	h.dec = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			h.status = f.Value
		}
	})
	return h
}

func appendFrame(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	b = append(b, byte(n>>16), byte(n>>8), byte(n), kind, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

func appendWindow(b []byte, n uint32) []byte {
	return appendFrame(b, frameWindow, 0, 0, binary.BigEndian.AppendUint32(nil, n))
}

func (h *h2) hello() []byte {
	b := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	return appendWindow(appendFrame(b, frameSettings, 0, 0, []byte{0, 2, 0, 0, 0, 0}), ourWindow) // no pushing
}

func (h *h2) room() bool { return h.open < h.most && h.window >= 1<<12 }

func (h *h2) ask(out, q []byte, id uint16) []byte {
	h.head.Reset()
	for _, f := range [...]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: h.authority},
		{Name: ":path", Value: "/dns-query"}, {Name: "accept", Value: "application/dns-message"},
		{Name: "content-type", Value: "application/dns-message"}, {Name: "content-length", Value: strconv.Itoa(len(q))},
	} {
		_ = h.enc.WriteField(f) // into memory
	}
	out = appendFrame(out, frameHeaders, flagEndHeaders, h.stream, h.head.Bytes())
	at := len(out) + frameHead
	out = appendFrame(out, frameData, flagEndStream, h.stream, q)
	binary.BigEndian.PutUint16(out[at:], id)
	h.window -= int64(len(q))
	h.stream += 2
	h.open++
	return out
}

func (h *h2) take(in []byte, answer func(m []byte)) (used int, out []byte, err error) {
	for len(in)-used >= frameHead {
		head := in[used : used+frameHead]
		size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		if size > maxFrame {
			return used, nil, fmt.Errorf("a frame of %d bytes", size)
		}
		if len(in)-used-frameHead < size {
			break
		}
		payload := in[used+frameHead : used+frameHead+size]
		if out, err = h.frame(head[3], head[4], binary.BigEndian.Uint32(head[5:]), payload, answer, out); err != nil {
			return used, nil, err
		}
		used += frameHead + size
	}
	if h.got > ourWindow/2 {
		out = appendWindow(out, uint32(h.got))
		h.got = 0
	}
	return used, out, nil
}

func (h *h2) frame(kind, flags byte, stream uint32, p []byte, answer func(m []byte), out []byte) ([]byte, error) {
	switch kind {
	case frameHeaders:
		return out, h.response(flags, stream, p)
	case frameData:
		return out, h.content(flags, stream, p, answer)
	case frameReset:
		return out, fmt.Errorf("stream %d was reset: %x", stream, p)
	case frameGoAway:
		return out, fmt.Errorf("the server is going away: %x", p)
	case frameContinue:
		return out, errors.New("a header in several frames, which this client does not read")
	case frameSettings:
		if flags&flagAck == 0 {
			h.settings(p)
			out = appendFrame(out, frameSettings, flagAck, 0, nil)
		}
	case framePing:
		if flags&flagAck == 0 {
			out = appendFrame(out, framePing, flagAck, 0, p)
		}
	case frameWindow:
		if stream == 0 && len(p) == 4 {
			h.window += int64(binary.BigEndian.Uint32(p))
		}
	}
	return out, nil
}

func (h *h2) settings(p []byte) {
	for ; len(p) >= 6; p = p[6:] {
		if binary.BigEndian.Uint16(p) == maxStreamsSetting {
			h.most = int(min(binary.BigEndian.Uint32(p[2:]), 1<<20))
		}
	}
}

func (h *h2) response(flags byte, stream uint32, p []byte) error {
	if flags&(flagPadded|flagPriority) != 0 || flags&flagEndHeaders == 0 {
		return errors.New("a header that this client does not read")
	}
	if _, err := h.dec.Write(p); err != nil {
		return err
	}
	if err := h.dec.Close(); err != nil {
		return err
	}
	if h.status != "200" || flags&flagEndStream != 0 {
		return fmt.Errorf("stream %d: status %s", stream, h.status)
	}
	return nil
}

// content collects the message; mostly it is there at once.
func (h *h2) content(flags byte, stream uint32, p []byte, answer func(m []byte)) error {
	if flags&flagPadded != 0 {
		return errors.New("padding, which this client does not read")
	}
	h.got += int64(len(p))
	before, some := h.partial[stream]
	if flags&flagEndStream == 0 {
		if len(before)+len(p) > maxFrame {
			return errors.New("an answer that is too long")
		}
		h.partial[stream] = append(before, p...)
		return nil
	}
	if some {
		delete(h.partial, stream)
		p = append(before, p...)
	}
	h.open--
	answer(p)
	return nil
}

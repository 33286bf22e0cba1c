package dnsserver

import (
	"encoding/binary"
	"strconv"
	"time"
)

// HTTP/2 as far as requests for DNS need it: frames of RFC 9113, section 6, and
// headers of RFC 7541 without state, so that a reply depends on no other.
const (
	h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	h2Head    = 9
	h2Window  = 65535 // what either side may send at first, section 6.9.2

	h2MaxWindow = 1<<31 - 1 // section 6.9.1

	// What a client may send of one request: an octet more than the longest message,
	// so that what is too long shows. And of all: that, also where half a window of
	// what came before has not been given back.
	h2UploadWindow = 1 << 16
	h2AllWindow    = h2UploadWindow + h2Window/2

	h2Data         = 0x0
	h2Headers      = 0x1
	h2Priority     = 0x2
	h2Reset        = 0x3
	h2Settings     = 0x4
	h2Push         = 0x5
	h2Ping         = 0x6
	h2GoAway       = 0x7
	h2WindowUpdate = 0x8
	h2Continuation = 0x9

	h2Ack          = 0x1
	h2EndStream    = 0x1
	h2EndHeaders   = 0x4
	h2Padded       = 0x8
	h2WithPriority = 0x20

	h2SettingPush       = 0x2
	h2SettingStreams    = 0x3
	h2SettingWindow     = 0x4
	h2SettingFrame      = 0x5
	h2SettingHeaderList = 0x6
)

// An h2Code says why a stream or a connection ends, RFC 9113, section 7.
type h2Code uint32

const (
	h2NoError         h2Code = 0x0
	h2ProtocolError   h2Code = 0x1
	h2InternalError   h2Code = 0x2
	h2FlowControl     h2Code = 0x3
	h2StreamClosed    h2Code = 0x5
	h2FrameSize       h2Code = 0x6
	h2RefusedStream   h2Code = 0x7
	h2Cancel          h2Code = 0x8
	h2Compression     h2Code = 0x9
	h2EnhanceYourCalm h2Code = 0xb
)

// An h2Frame is the head of a frame and what follows it.
type h2Frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte
}

// readH2 reads the frame that p begins with. size is that of the whole frame,
// 0 where its head has not come; whole is whether all of it is there.
func readH2(p []byte) (f h2Frame, size int, whole bool) {
	if len(p) < h2Head {
		return f, 0, false
	}
	size = h2Head + (int(p[0])<<16 | int(p[1])<<8 | int(p[2]))
	if len(p) < size {
		return f, size, false
	}
	f = h2Frame{kind: p[3], flags: p[4], stream: binary.BigEndian.Uint32(p[5:]) &^ (1 << 31), payload: p[h2Head:size]}
	return f, size, true
}

// content takes padding and priority off a frame (sections 6.1 and 6.2).
func (f *h2Frame) content() (p []byte, ok bool) {
	p = f.payload
	pad := 0
	if f.flags&h2Padded != 0 {
		if len(p) == 0 {
			return nil, false
		}
		pad, p = int(p[0]), p[1:]
	}
	if f.kind == h2Headers && f.flags&h2WithPriority != 0 {
		if len(p) < 5 {
			return nil, false
		}
		p = p[5:]
	}
	if pad > len(p) {
		return nil, false
	}
	return p[:len(p)-pad], true
}

func appendFrameHead(b []byte, size int, kind, flags byte, stream uint32) []byte {
	b = append(b, byte(size>>16), byte(size>>8), byte(size), kind, flags)
	return binary.BigEndian.AppendUint32(b, stream)
}

func appendReset(b []byte, stream uint32, code h2Code) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHead(b, 4, h2Reset, 0, stream), uint32(code))
}

func appendGoAway(b []byte, last uint32, code h2Code) []byte {
	b = appendFrameHead(b, 8, h2GoAway, 0, 0)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, last), uint32(code))
}

func appendWindowUpdate(b []byte, n int) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHead(b, 4, h2WindowUpdate, 0, 0), uint32(n))
}

func appendSettings(b []byte, settings ...[2]uint32) []byte {
	b = appendFrameHead(b, 6*len(settings), h2Settings, 0, 0)
	for _, s := range settings {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, uint16(s[0])), s[1])
	}
	return b
}

// Fields of a response, as indices into the static table (RFC 7541, appendix A).
const (
	hpackStatus        = 8
	hpackAllow         = 22
	hpackCacheControl  = 24
	hpackContentLength = 28
	hpackContentType   = 31
	hpackDate          = 33
	hpackRetryAfter    = 53
	hpackStatus200     = 0x80 | hpackStatus
)

// appendField appends a field that nobody's table changes for (RFC 7541, section
// 6.2.2). Values are shorter than 127 octets.
func appendField(b []byte, index int, value string) []byte {
	if index < 15 {
		b = append(b, byte(index))
	} else {
		b = append(b, 15, byte(index-15))
	}
	return append(append(b, byte(len(value))), value...)
}

func appendNumberField(b []byte, index, n int) []byte {
	b = append(b, 15, byte(index-15), 0)
	at := len(b)
	b = strconv.AppendInt(b, int64(n), 10)
	b[at-1] = byte(len(b) - at)
	return b
}

// A dateLine is the time as HTTP writes it (RFC 9110, section 6.6.1), which
// changes once a second.
type dateLine struct {
	second int64
	text   string
}

func (d *dateLine) at(now time.Time) string {
	if s := now.Unix(); s != d.second || d.text == "" {
		d.second, d.text = s, now.UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
	}
	return d.text
}

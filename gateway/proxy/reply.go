package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proxyStatus returns the Proxy-Status field value (RFC 9209, section 2).
func proxyStatus(d *denial) string { return string(appendProxyStatus(nil, d)) }

func appendProxyStatus(b []byte, d *denial) []byte {
	b = append(append(b, "weir; error="...), d.err...)
	return appendSFString(append(b, "; details="...), d.text)
}

// appendSFString appends a string of structured fields (RFC 9651, section
// 4.1.6). What it cannot carry becomes a question mark.
func appendSFString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r >= ' ' && r < 0x7f:
			b = append(b, byte(r))
		default:
			b = append(b, '?')
		}
	}
	return append(b, '"')
}

// writeDenial sends a denial in one line of text and ends the connection.
func writeDenial(w http.ResponseWriter, d *denial) {
	h := w.Header()
	clear(h)
	h.Set("Proxy-Status", proxyStatus(d))
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Connection", "close")
	w.WriteHeader(d.status)
	_, _ = w.Write(appendDenialLine(nil, d))
}

// appendDenial is writeDenial for a client that is answered without net/http:
// the whole response, which ends the connection.
func appendDenial(b []byte, d *denial, now time.Time) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(d.status), 10)
	b = append(append(append(b, ' '), http.StatusText(d.status)...), "\r\nDate: "...)
	b = now.UTC().AppendFormat(b, http.TimeFormat) // RFC 9110, section 6.6.1
	b = appendProxyStatus(append(b, "\r\nProxy-Status: "...), d)
	b = append(b, "\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n"+
		"Cache-Control: no-store\r\nConnection: close\r\nContent-Length: "...)
	var room [512]byte
	line := appendDenialLine(room[:0], d)
	b = strconv.AppendInt(b, int64(len(line)), 10)
	return append(append(b, "\r\n\r\n"...), line...)
}

// appendDenialLine appends the content of a denial, in one line whatever an
// operator wrote.
func appendDenialLine(b []byte, d *denial) []byte {
	b = append(b, "weir:"...)
	for word := range strings.FieldsSeq(d.text) {
		b = append(append(b, ' '), word...)
	}
	return append(b, '\n')
}

// originDenial says what went wrong with an origin in the words of RFC 9209,
// section 2.3; the error itself is not for clients.
func originDenial(err error) *denial {
	switch {
	case errors.Is(err, errProhibited):
		return &denial{http.StatusForbidden, "destination_ip_prohibited", "the destination address may not be reached", "special address"}
	case errors.Is(err, errClient):
		return &denial{http.StatusBadRequest, "http_request_error", "the request's content is malformed or did not come", ""}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &denial{http.StatusBadGateway, "connection_refused", "the origin refuses connections", ""}
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return &denial{http.StatusBadGateway, "destination_ip_unroutable", "the origin cannot be reached", ""}
	case isTimeout(err) && errors.Is(err, errDial):
		return &denial{http.StatusGatewayTimeout, "connection_timeout", "the origin did not accept a connection in time", ""}
	case isTimeout(err):
		return &denial{http.StatusGatewayTimeout, "http_response_timeout", "the origin did not answer in time", ""}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &denial{http.StatusBadGateway, "connection_terminated", "the origin closed the connection without an answer", ""}
	}
	return &denial{http.StatusBadGateway, "http_protocol_error", "the origin's answer is not understood", ""}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.Is(err, errStalled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, syscall.ETIMEDOUT) || errors.As(err, &timeout) && timeout.Timeout()
}

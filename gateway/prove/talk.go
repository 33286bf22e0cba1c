package prove

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// dial connects. A way that starts with a refused connection is closed; where
// this device has no address of the family, it was not tried.
func (d *device) dial(ctx context.Context, to netip.AddrPort) (net.Conn, *Finding) {
	if !to.IsValid() {
		return nil, &Finding{NotTried, "no address to try: the gateway does not resolve " + d.Fixed.Allowed}
	}
	if to.Addr().Is6() && !d.v6 {
		return nil, &Finding{NotTried, "this device has no IPv6"}
	}
	c, err := (&net.Dialer{Timeout: d.wait}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return nil, &Finding{Closed, "connection " + brief(err)}
	}
	_ = c.SetDeadline(time.Now().Add(2 * d.wait))
	return c, nil
}

// brief says what an error is without addresses.
func brief(err error) string {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "without an answer"
	case errors.Is(err, syscall.ECONNRESET):
		return "reset"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ENETUNREACH):
		return "prohibited"
	case errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	}
	var net *net.OpError
	if errors.As(err, &net) {
		err = net.Err
	}
	return err.Error()
}

// A cut is how a ClientHello is sent.
type cut string

const (
	whole   cut = "in one write"
	bytes1  cut = "in 1-byte writes"
	records cut = "in 1-byte TLS records"
	sevens  cut = "in 7-byte TLS records and 1-byte writes"
	late    cut = "with the server name after 1.5 KiB"
	stalled cut = "stalled half-way"
)

var cuts = []cut{whole, bytes1, records, sevens, late, stalled}

// clientHello returns the first record of a client that asks for the name.
func clientHello(name string) []byte {
	if name == "" {
		name = "192.0.2.1" // crypto/tls leaves the extension out for an address
	}
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	go func() {
		_ = tls.Client(far, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name}).Handshake()
		_ = far.Close()
	}()
	_ = near.SetDeadline(time.Now().Add(time.Minute)) // it is this program that speaks, and is only late
	head := make([]byte, 5)
	if _, err := io.ReadFull(near, head); err != nil {
		return nil
	}
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	if _, err := io.ReadFull(near, body); err != nil {
		return nil
	}
	return append(head, body...)
}

// spelled puts another spelling of the same length into a ClientHello, which
// crypto/tls would not send.
func spelled(hello []byte, name, spelling string) []byte {
	return []byte(strings.Replace(string(hello), name, spelling, 1))
}

// padded puts 1.5 KiB of padding (RFC 7685) before all other extensions.
func padded(record []byte) []byte {
	const pad = 1536
	b := slices.Clone(record[5:])
	at := 4 + 2 + 32
	at += 1 + int(b[at])
	at += 2 + int(binary.BigEndian.Uint16(b[at:]))
	at += 1 + int(b[at])
	ext := binary.BigEndian.AppendUint16([]byte{0, 21}, pad)
	ext = append(ext, make([]byte, pad)...)
	total := int(binary.BigEndian.Uint16(b[at:])) + len(ext)
	binary.BigEndian.PutUint16(b[at:], uint16(total)) // at most a few KiB
	b = slices.Insert(b, at+2, ext...)
	n := len(b) - 4
	b[1], b[2], b[3] = byte(n>>16), byte(n>>8), byte(n)
	return append(binary.BigEndian.AppendUint16([]byte{22, 3, 1}, uint16(len(b))), b...)
}

// inRecords cuts a record into records of at most n bytes.
func inRecords(record []byte, n int) []byte {
	var out []byte
	for piece := range slices.Chunk(record[5:], n) {
		out = append(out, 22, 3, 1, 0, byte(len(piece)))
		out = append(out, piece...)
	}
	return out
}

// sendHello sends the record in that way.
func (d *device) sendHello(c net.Conn, record []byte, how cut) error {
	pieces := [][]byte{record}
	pause := time.Duration(0)
	switch how {
	case whole:
	case bytes1:
		pieces = slices.Collect(slices.Chunk(record, 1))
	case records:
		pieces = [][]byte{inRecords(record, 1)}
	case sevens:
		pieces = slices.Collect(slices.Chunk(inRecords(record, 7), 1))
	case late:
		pieces = [][]byte{padded(record)}
	case stalled:
		pieces, pause = [][]byte{record[:len(record)/2], record[len(record)/2:]}, d.wait/3
	}
	for i, p := range pieces {
		if i > 0 {
			time.Sleep(pause)
		}
		if _, err := c.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// reads waits for what comes back: any byte is somebody who answers, and a
// connection that stands in silence is one that was not cut.
func reads(c net.Conn, what string) Finding {
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	switch {
	case n > 0:
		return Finding{Open, what + " was answered: " + firstBytes(buf[:n])}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return Finding{Open, what + ": the connection stands"}
	}
	return Finding{Closed, what + ": connection " + brief(err)}
}

func firstBytes(b []byte) string {
	if len(b) > 5 && b[0] == 22 && b[5] == 2 {
		return "a ServerHello"
	}
	if b[0] == 21 {
		return "a TLS alert"
	}
	return fmt.Sprintf("%q", b[:min(len(b), 16)])
}

// says sends a ClientHello for the name and waits.
func (d *device) says(c net.Conn, name string, how cut) Finding {
	_ = c.SetDeadline(time.Now().Add(2 * d.wait))
	if err := d.sendHello(c, clientHello(name), how); err != nil {
		return Finding{Closed, "ClientHello: connection " + brief(err)}
	}
	return reads(c, "ClientHello")
}

// connect asks the proxy for a tunnel. Without a proxy there is no such way.
func (d *device) connect(ctx context.Context, target string) (net.Conn, *Finding) {
	c, f := d.dial(ctx, d.Proxy)
	if f != nil {
		return nil, &Finding{NotTried, "no proxy: " + f.Seen}
	}
	_, _ = fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", target) // the read says
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), &http.Request{Method: http.MethodConnect})
	if err != nil {
		_ = c.Close()
		return nil, &Finding{Closed, "CONNECT: connection " + brief(err)}
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		_ = c.Close()
		return nil, &Finding{Closed, fmt.Sprintf("CONNECT: %s, %s", resp.Status, resp.Header.Get("Proxy-Status"))}
	}
	return c, nil
}

// asks sends requests on one connection. The last is judged, those before it
// must be answered.
func (d *device) asks(ctx context.Context, to netip.AddrPort, requests ...string) Finding {
	c, f := d.dial(ctx, to)
	if f != nil {
		return *f
	}
	defer func() { _ = c.Close() }()
	r := bufio.NewReader(c)
	for i, q := range requests {
		_, werr := io.WriteString(c, q)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return Finding{Open, "the connection stands"}
			}
			return Finding{Closed, "connection " + brief(errors.Join(werr, err))}
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
		_ = resp.Body.Close()
		if s := resp.Header.Get("Proxy-Status"); strings.HasPrefix(s, "weir") {
			return Finding{Closed, fmt.Sprintf("%s, %s", resp.Status, s)}
		}
		if i == len(requests)-1 {
			return Finding{Open, resp.Status}
		}
	}
	return Finding{NotTried, "nothing to ask"}
}

func get(host, path string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: weir-prove\r\n\r\n"
}

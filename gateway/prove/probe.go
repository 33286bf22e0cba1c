package prove

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const defaultTimeout = 3 * time.Second

// A prober makes attempts.
type prober struct {
	Options
	timeout time.Duration
	site    []netip.Addr // of Allowed, as the gateway says
}

func newProber(o Options) *prober {
	p := &prober{Options: o, timeout: o.Timeout}
	if p.timeout <= 0 {
		p.timeout = defaultTimeout
	}
	return p
}

// locate finds the allowed site, whose address is innocent: what is held back
// there is held back for its name.
func (p *prober) locate(ctx context.Context) {
	for _, t := range []uint16{dns.TypeA, dns.TypeAAAA} {
		ctx, cancel := context.WithTimeout(ctx, p.timeout)
		if m, err := p.ask(ctx, "udp", p.DNS, p.Allowed, t); err == nil {
			p.site = append(p.site, addrsOf(m)...)
		}
		cancel()
	}
}

func (p *prober) ask(ctx context.Context, network string, server netip.AddrPort, name string, qtype uint16) (*dns.Msg, error) {
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(1232, false)
	c := dns.Client{Net: network, Timeout: p.timeout}
	m, _, err := c.ExchangeContext(ctx, q, server.String())
	return m, err
}

// addrsOf are the addresses that a client could use.
func addrsOf(m *dns.Msg) []netip.Addr {
	var all []netip.Addr
	for _, rr := range m.Answer {
		var a netip.Addr
		switch rr := rr.(type) {
		case *dns.A:
			a, _ = netip.AddrFromSlice(rr.A)
		case *dns.AAAA:
			a, _ = netip.AddrFromSlice(rr.AAAA)
		}
		if a = a.Unmap(); a.IsValid() && !a.IsUnspecified() {
			all = append(all, a)
		}
	}
	return all
}

// resolves reports whether the server gives an address for the name.
func (p *prober) resolves(network string, server netip.AddrPort, name string) func(context.Context) (bool, string) {
	return func(ctx context.Context) (bool, string) {
		m, err := p.ask(ctx, network, server, name, dns.TypeA)
		if err != nil {
			return false, brief(err)
		}
		a := addrsOf(m)
		return len(a) > 0, fmt.Sprintf("%s %v", dns.RcodeToString[m.Rcode], a)
	}
}

// brief is the end of an error, which says what happened and not where.
func brief(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "silence"
	}
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return "silence"
	}
	if o, ok := errors.AsType[*net.OpError](err); ok {
		return o.Err.Error()
	}
	return err.Error()
}

// A speech is what a client says on a connection.
type speech func(net.Conn) error

func say(b []byte) speech {
	return func(c net.Conn) error { _, err := c.Write(b); return err }
}

// sayBytes says each byte in a segment of its own.
func sayBytes(b []byte) speech {
	return func(c net.Conn) error {
		for i := range b {
			if _, err := c.Write(b[i : i+1]); err != nil {
				return err
			}
		}
		return nil
	}
}

// sayStalled stops half-way for a while.
func sayStalled(b []byte) speech {
	return func(c net.Conn) error {
		if _, err := c.Write(b[:len(b)/2]); err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
		_, err := c.Write(b[len(b)/2:])
		return err
	}
}

func (p *prober) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, to.String())
	if err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(end)
	}
	return c, nil
}

// hears reports whether anything comes back from there. A gateway on the way may
// accept the connection: that alone says nothing.
func (p *prober) hears(to netip.AddrPort, s speech) func(context.Context) (bool, string) {
	return func(ctx context.Context) (bool, string) {
		c, err := p.dial(ctx, "tcp", to)
		if err != nil {
			return false, brief(err)
		}
		defer func() { _ = c.Close() }()
		return listen(c, s)
	}
}

func listen(c net.Conn, s speech) (bool, string) {
	if err := s(c); err != nil {
		return false, brief(err)
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	if n > 0 {
		return true, fmt.Sprintf("%q came back", b[:min(n, 16)])
	}
	return false, brief(err)
}

// fetches reports whether a web server answers there for that host, and not a
// gateway that refuses in its place.
func (p *prober) fetches(to netip.AddrPort, requests ...string) func(context.Context) (bool, string) {
	return func(ctx context.Context) (bool, string) {
		c, err := p.dial(ctx, "tcp", to)
		if err != nil {
			return false, brief(err)
		}
		defer func() { _ = c.Close() }()
		br := bufio.NewReader(c)
		for i, r := range requests {
			if _, err := io.WriteString(c, r); err != nil {
				return false, brief(err)
			}
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				return false, brief(err)
			}
			_, _ = io.CopyN(io.Discard, resp.Body, 1<<20)
			_ = resp.Body.Close()
			if i == len(requests)-1 {
				return resp.StatusCode < 400 && resp.Header.Get("Proxy-Status") == "", resp.Status
			}
		}
		return false, "nothing was asked"
	}
}

func get(host, path string, fields ...string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

// tunnels reports whether anything comes back through the proxy's tunnel.
func (p *prober) tunnels(target string, s speech) func(context.Context) (bool, string) {
	if !p.Proxy.IsValid() {
		return nil
	}
	return func(ctx context.Context) (bool, string) {
		c, err := p.dial(ctx, "tcp", p.Proxy)
		if err != nil {
			return false, brief(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target); err != nil {
			return false, brief(err)
		}
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
		if err != nil {
			return false, brief(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return false, resp.Status
		}
		return listen(c, s)
	}
}

// negotiates reports whether a QUIC server is there: it answers a version that
// nobody speaks with those that it does (RFC 9000, section 6), whoever is asked
// for.
func (p *prober) negotiates(to netip.AddrPort) func(context.Context) (bool, string) {
	b := make([]byte, 1200)
	_, _ = rand.Read(b) // never fails
	b[0] |= 0xc0
	binary.BigEndian.PutUint32(b[1:], 0x1a2a3a4a) // reserved for this: section 15
	b[5], b[14] = 8, 8
	return p.echoes(to, b)
}

// echoes reports whether a datagram comes back.
func (p *prober) echoes(to netip.AddrPort, b []byte) func(context.Context) (bool, string) {
	return func(ctx context.Context) (bool, string) {
		c, err := p.dial(ctx, "udp", to)
		if err != nil {
			return false, brief(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write(b); err != nil {
			return false, brief(err)
		}
		in := make([]byte, 2048)
		n, err := c.Read(in)
		if err != nil {
			return false, brief(err)
		}
		return true, fmt.Sprintf("%d bytes came back", n)
	}
}

// fallback bounds how long a client may be kept from falling back from QUIC.
const fallback = 300 * time.Millisecond

// isRefused reports whether a datagram is refused at once: then a client goes on
// without QUIC, where silence would keep it waiting.
func (p *prober) isRefused(to netip.AddrPort) func(context.Context) (bool, string) {
	return func(ctx context.Context) (bool, string) {
		c, err := p.dial(ctx, "udp", to)
		if err != nil {
			return false, brief(err)
		}
		defer func() { _ = c.Close() }()
		began := time.Now()
		if _, err := c.Write(make([]byte, 1200)); err != nil {
			return false, brief(err)
		}
		_ = c.SetReadDeadline(began.Add(fallback))
		_, err = c.Read(make([]byte, 1))
		if err == nil {
			return false, "a datagram came back"
		}
		took := time.Since(began)
		return took < fallback && !errors.Is(err, os.ErrDeadlineExceeded), fmt.Sprintf("%s after %s", brief(err), took.Round(time.Millisecond))
	}
}

// errSaid ends a handshake of which only the beginning was wanted.
var errSaid = errors.New("said")

// recorder is a connection that keeps what is written to it.
type recorder struct {
	net.Conn
	bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error) {
	r.Buffer.Write(b)
	return 0, errSaid
}
func (r *recorder) SetDeadline(time.Time) error      { return nil }
func (r *recorder) SetReadDeadline(time.Time) error  { return nil }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
func (r *recorder) Read([]byte) (int, error)         { return 0, io.EOF }
func (r *recorder) Close() error                     { return nil }

// hello is what a TLS client says first that asks for the name, empty for none.
func hello(name string) []byte {
	r := new(recorder)
	if name == "" {
		name = "192.0.2.1" // an address is never sent as a name: RFC 6066, section 3
	}
	_ = tls.Client(r, &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}).Handshake() // ends with errSaid
	return r.Bytes()
}

// inRecords cuts a hello into records of that size, after so many bytes of
// padding extension, which stand before the name.
func inRecords(b []byte, size int) []byte {
	var out []byte
	for msg := b[5:]; len(msg) > 0; {
		n := min(size, len(msg))
		out = append(append(out, 22, 3, 1, byte(n>>8), byte(n)), msg[:n]...)
		msg = msg[n:]
	}
	return out
}

// padded moves the name behind more than 1.5 KiB, as large key shares do.
func padded(name string) []byte {
	b := hello(name)
	msg := b[5:]
	at := 4 + 2 + 32 // header, version, random
	at += 1 + int(msg[at])
	at += 2 + int(binary.BigEndian.Uint16(msg[at:]))
	at += 1 + int(msg[at])
	pad := append([]byte{0, 21, 1600 >> 8, 1600 & 0xff}, make([]byte, 1600)...) // RFC 7685
	exts := append(pad, msg[at+2:]...)
	body := append(bytes.Clone(msg[4:at]), byte(len(exts)>>8), byte(len(exts)))
	body = append(body, exts...)
	out := append([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
	return append([]byte{22, 3, 1, byte(len(out) >> 8), byte(len(out))}, out...)
}

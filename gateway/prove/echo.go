package prove

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	smallEcho = 56   // what ping sends
	bigEcho   = 1000 // what a tunnel inside pings would like
)

// mustPing wants the small pings with which devices and people look whether
// something is there.
func mustPing(o Options, _ Target) []probe {
	return []probe{
		{"the gateway", func(ctx context.Context, d *device) Finding { return works(d.ping(ctx, o.Gateway, smallEcho)) }},
		{"the gateway over IPv6", func(ctx context.Context, d *device) Finding {
			a, f := family6(d, o)
			if f != nil {
				return *f
			}
			return works(d.ping(ctx, a, smallEcho))
		}},
		{o.Fixed.Allowed, func(ctx context.Context, d *device) Finding { return works(d.ping(ctx, d.site, smallEcho)) }},
		{o.Fixed.Allowed + " over IPv6", func(ctx context.Context, d *device) Finding {
			addr, f := allowedV6(ctx, d, o)
			if !addr.IsValid() {
				return f
			}
			return works(d.ping(ctx, addr, smallEcho))
		}},
	}
}

// works turns the finding of a way that may be open into that of one that must.
func works(f Finding) Finding {
	switch f.Outcome {
	case Open:
		f.Outcome = Works
	case Closed:
		f.Outcome = Broken
	}
	return f
}

// bigPings tries data inside large echo requests.
func bigPings(Options, Target) []probe {
	return []probe{{fmt.Sprintf("%d bytes to an innocent address", bigEcho), func(ctx context.Context, d *device) Finding {
		return d.ping(ctx, d.site, bigEcho)
	}}}
}

// ping sends an echo request with so many bytes (RFC 792, RFC 4443, section 4)
// and waits for the reply, or for what else comes of it.
func (d *device) ping(ctx context.Context, to netip.Addr, size int) Finding {
	switch {
	case !to.IsValid():
		return Finding{NotTried, "no address to try"}
	case to.Is6() && !d.v6:
		return Finding{NotTried, errNoV6.Error()}
	}
	s, err := openEcho(to)
	if err != nil {
		return Finding{NotTried, "this user may not send pings; try as root"}
	}
	defer func() { _ = s.Close() }()
	deadline := time.Now().Add(d.wait)
	if t, ok := ctx.Deadline(); ok && t.Before(deadline) {
		deadline = t
	}
	_ = s.SetDeadline(deadline)
	data := make([]byte, size)
	binary.BigEndian.PutUint64(data, uint64(time.Now().UnixNano())) // tells the reply from others
	m := icmp.Message{Type: s.request, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: size, Data: data}}
	b, err := m.Marshal(nil)
	if err != nil {
		return Finding{NotTried, err.Error()}
	}
	if _, err := s.WriteTo(b, s.to); err != nil {
		return Finding{Closed, brief(err)}
	}
	return s.answer(data)
}

// An echoSocket sends and receives ICMP of one family.
type echoSocket struct {
	*icmp.PacketConn
	to             net.Addr
	protocol       int // as icmp.ParseMessage knows it
	request, reply icmp.Type
	lost           icmp.Type // an error about a packet that was sent
}

// openEcho opens a socket for pings: one of those that a system may permit to
// everybody, or a raw one.
func openEcho(to netip.Addr) (*echoSocket, error) {
	s := &echoSocket{protocol: 1, request: ipv4.ICMPTypeEcho, reply: ipv4.ICMPTypeEchoReply, lost: ipv4.ICMPTypeDestinationUnreachable}
	family, raw, any := "udp4", "ip4:icmp", "0.0.0.0"
	if to.Is6() {
		s = &echoSocket{protocol: 58, request: ipv6.ICMPTypeEchoRequest, reply: ipv6.ICMPTypeEchoReply, lost: ipv6.ICMPTypeDestinationUnreachable}
		family, raw, any = "udp6", "ip6:ipv6-icmp", "::"
	}
	var err error
	if s.PacketConn, err = icmp.ListenPacket(family, any); err == nil {
		s.to = &net.UDPAddr{IP: to.AsSlice()}
		return s, nil
	}
	s.PacketConn, err = icmp.ListenPacket(raw, any)
	s.to = &net.IPAddr{IP: to.AsSlice()}
	return s, err
}

// answer waits for the reply to the request with that data.
func (s *echoSocket) answer(data []byte) Finding {
	buf := make([]byte, 4096)
	for {
		n, _, err := s.ReadFrom(buf)
		switch {
		case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.ECONNREFUSED):
			return Finding{Closed, "prohibited"}
		case err != nil:
			return Finding{Closed, brief(err)}
		}
		m, err := icmp.ParseMessage(s.protocol, buf[:n])
		if err != nil {
			continue
		}
		switch body := m.Body.(type) {
		case *icmp.Echo:
			if m.Type == s.reply && string(body.Data) == string(data) {
				return Finding{Open, "echo"}
			}
		case *icmp.DstUnreach:
			if m.Type == s.lost && quotes(body.Data, data) {
				return Finding{Closed, "prohibited"}
			}
		}
	}
}

// quotes reports whether an error quotes the packet with that data: by the eight
// bytes that tell it from others, where there is room for them.
func quotes(packet, data []byte) bool {
	for i := 0; i+8 <= len(packet); i++ {
		if string(packet[i:i+8]) == string(data[:8]) {
			return true
		}
	}
	return false
}

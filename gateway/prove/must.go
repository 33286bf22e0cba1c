package prove

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// fallback is how long a browser may wait before it knows that there is no QUIC.
const fallback = 300 * time.Millisecond

// musts are what must work, whatever is banned.
var musts = []Route{
	must("works-dns", "an allowed name at the gateway and at a public resolver, UDP and TCP", mustDNS),
	must("works-http", "an allowed site over HTTP", func(o Options, _ Target) []probe { return []probe{site(o, "http", false), site(o, "http", true)} }),
	must("works-tls", "an allowed site over TLS, with its certificate, and by the proxy", func(o Options, _ Target) []probe {
		return []probe{site(o, "https", false), site(o, "https", true)}
	}),
	must("works-splits", "a ClientHello for an allowed name in all splits", mustSplits),
	must("works-v6", "an allowed site over IPv6", mustV6),
	must("works-quic", "QUIC to an allowed site: it works, or is refused within 300 ms", mustQUIC),
	must("works-ping", "small pings: the gateway, and an allowed site", mustPing),
	must("works-proxy-v6", "a tunnel by the proxy over IPv6", mustProxy6),
	must("works-refusal", "what of the gateway is not for devices is refused within 300 ms", mustRefuse),
	must("works-mail", "mail: a server that speaks first (port 587), and within TLS (993)", mustMail),
	must("works-push", "push messages: TLS on ports 5223 and 5228", mustPush),
	must("works-time", "network time", mustTime),
	must("works-websocket", "a WebSocket, both ways", mustWebSocket),
	must("works-big", "a big download, every byte", mustBig),
	must("works-collateral", "names beside the bans' that others need", mustCollateral),
}

func must(id, tries string, each func(Options, Target) []probe) Route {
	return Route{ID: id, Tries: tries, Trap: "collateral damage", Closed: "it works", Open: "anything else", each: each}
}

func verdict(err error, seen string) Finding {
	if err != nil {
		return Finding{Broken, brief(err)}
	}
	return Finding{Works, seen}
}

func mustDNS(o Options, _ Target) (out []probe) {
	for _, at := range []netip.AddrPort{o.DNS, ap("8.8.8.8", 53), ap("2001:4860:4860::8888", 53)} {
		for _, network := range []string{"udp", "tcp"} {
			out = append(out, probe{at.String() + "/" + network, func(ctx context.Context, d *device) Finding {
				f := d.resolves(ctx, network, at, o.Fixed.Allowed, dns.TypeA)
				switch f.Outcome {
				case Open:
					return Finding{Works, f.Seen}
				case NotTried:
					return f
				}
				return Finding{Broken, f.Seen}
			}})
		}
	}
	return out
}

// client is an HTTP client of the device, with or without the proxy.
func (d *device) client(proxied bool) *http.Client {
	dialer := &net.Dialer{Timeout: d.wait, Resolver: d.lookup()}
	t := &http.Transport{DialContext: dialer.DialContext, ForceAttemptHTTP2: true, DisableKeepAlives: true, TLSHandshakeTimeout: d.wait, ResponseHeaderTimeout: d.wait}
	if proxied {
		t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: d.Proxy.String()})
	}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (d *device) fetch(ctx context.Context, address string, proxied bool) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	return d.client(proxied).Do(req)
}

func site(o Options, scheme string, proxied bool) probe {
	address := scheme + "://" + o.Fixed.Allowed + "/"
	what := address
	if proxied {
		what += " by the proxy"
	}
	return probe{what, func(ctx context.Context, d *device) Finding {
		resp, err := d.fetch(ctx, address, proxied)
		if err != nil {
			return Finding{Broken, brief(err)}
		}
		defer func() { _ = resp.Body.Close() }()
		if s := resp.Header.Get("Proxy-Status"); strings.HasPrefix(s, "weir") {
			return Finding{Broken, resp.Status + ", " + s}
		}
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 8<<20))
		return verdict(err, resp.Proto+" "+resp.Status)
	}}
}

func mustSplits(o Options, _ Target) (out []probe) {
	for _, how := range cuts {
		p := sniProbe(o.Fixed.Allowed, how)
		out = append(out, probe{p.target, func(ctx context.Context, d *device) Finding { return shakes(ctx, d, p) }})
	}
	return out
}

func mustV6(o Options, _ Target) []probe {
	return []probe{{o.Fixed.Allowed, func(ctx context.Context, d *device) Finding {
		addr, f := allowedV6(ctx, d, o)
		if !addr.IsValid() {
			return f
		}
		return shakes(ctx, d, tlsProbe(netip.AddrPortFrom(addr, 443), o.Fixed.Allowed, whole))
	}}}
}

// allowedV6 returns the IPv6 address of the allowed site, or why there is none.
func allowedV6(ctx context.Context, d *device, o Options) (netip.Addr, Finding) {
	if !d.v6 {
		return netip.Addr{}, Finding{NotTried, errNoV6.Error()}
	}
	r, err := d.asksDNS(ctx, "udp", d.DNS, o.Fixed.Allowed, dns.TypeAAAA)
	if err != nil {
		return netip.Addr{}, Finding{Broken, brief(err)}
	}
	for _, rr := range r.Answer {
		if a, ok := rr.(*dns.AAAA); ok {
			addr, _ := netip.AddrFromSlice(a.AAAA)
			return addr, Finding{}
		}
	}
	return netip.Addr{}, Finding{NotTried, o.Fixed.Allowed + " has no IPv6 address"}
}

// shakes wants the beginning of a handshake.
func shakes(ctx context.Context, d *device, p probe) Finding {
	f := p.try(ctx, d)
	if strings.HasSuffix(f.Seen, "a ServerHello") {
		return Finding{Works, f.Seen}
	}
	return Finding{Broken, f.Seen}
}

func mustQUIC(o Options, _ Target) []probe {
	at := func(ctx context.Context, d *device, to netip.Addr) Finding {
		f, complete, took := d.quic(ctx, netip.AddrPortFrom(to, 443), o.Fixed.Allowed, "h3", quic.Version1)
		seen := fmt.Sprintf("%s after %d ms", f.Seen, took.Milliseconds())
		if complete || f.Outcome == Closed && took < fallback {
			return Finding{Works, seen}
		}
		return Finding{Broken, seen}
	}
	return []probe{
		{o.Fixed.Allowed, func(ctx context.Context, d *device) Finding { return at(ctx, d, d.site) }},
		{o.Fixed.Allowed + " over IPv6", func(ctx context.Context, d *device) Finding {
			addr, f := allowedV6(ctx, d, o)
			if !addr.IsValid() {
				return f
			}
			return at(ctx, d, addr)
		}},
	}
}

// secure makes a TLS connection to a name.
func (d *device) secure(ctx context.Context, name string, port int) (net.Conn, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, err
	}
	t := tls.Dialer{NetDialer: &net.Dialer{Timeout: d.wait, Resolver: d.lookup()}, Config: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}}
	c, err := t.DialContext(ctx, "tcp", net.JoinHostPort(name, strconv.Itoa(port)))
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(d.wait))
	}
	return c, err
}

func mustMail(o Options, _ Target) []probe {
	first := probe{o.Fixed.Mail + ":587", func(ctx context.Context, d *device) Finding {
		a, err := d.resolve(ctx, o.Fixed.Mail)
		if err != nil {
			return Finding{Broken, err.Error()}
		}
		c, f := d.dial(ctx, netip.AddrPortFrom(a, 587))
		if f != nil {
			return Finding{Broken, f.Seen}
		}
		defer func() { _ = c.Close() }()
		line := make([]byte, 4)
		_, err = io.ReadFull(c, line)
		return verdict(err, string(line))
	}}
	return []probe{first, {o.Fixed.Mail + ":993", func(ctx context.Context, d *device) Finding {
		c, err := d.secure(ctx, o.Fixed.Mail, 993)
		if err != nil {
			return Finding{Broken, brief(err)}
		}
		defer func() { _ = c.Close() }()
		line := make([]byte, 4)
		_, err = io.ReadFull(c, line)
		return verdict(err, string(line))
	}}}
}

func mustPush(o Options, _ Target) (out []probe) {
	for _, port := range []int{5223, 5228} {
		out = append(out, probe{fmt.Sprintf("%s:%d", o.Fixed.Push, port), func(ctx context.Context, d *device) Finding {
			a, err := d.resolve(ctx, o.Fixed.Push)
			if err != nil {
				return Finding{Broken, err.Error()}
			}
			// Whose certificate it is does not matter: push has authorities of its own.
			return shakes(ctx, d, tlsProbe(netip.AddrPortFrom(a, uint16(port)), o.Fixed.Push, whole))
		}})
	}
	return out
}

func mustTime(o Options, _ Target) []probe {
	return []probe{{o.Fixed.Time, func(ctx context.Context, d *device) Finding {
		a, err := d.resolve(ctx, o.Fixed.Time)
		if err != nil {
			return Finding{Broken, err.Error()}
		}
		c, err := (&net.Dialer{Timeout: d.wait}).DialContext(ctx, "udp", netip.AddrPortFrom(a, 123).String())
		if err != nil {
			return Finding{Broken, brief(err)}
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(d.wait))
		buf := ntpRequest()
		if _, err := c.Write(buf); err != nil {
			return Finding{Broken, brief(err)}
		}
		_, err = io.ReadFull(c, buf)
		return verdict(err, "an answer")
	}}}
}

// ntpRequest is what a client of version 4 sends (RFC 5905, section 7.3).
func ntpRequest() []byte {
	b := make([]byte, 48)
	b[0] = 4<<3 | 3
	return b
}

func mustWebSocket(o Options, _ Target) []probe {
	if o.Fixed.Echo == "" {
		return []probe{untried("needs a WebSocket that echoes: --set echo=NAME/PATH")}
	}
	return []probe{{"ws://" + o.Fixed.Echo, func(ctx context.Context, d *device) Finding {
		host, path, _ := strings.Cut(o.Fixed.Echo, "/")
		a, err := d.resolve(ctx, host)
		if err != nil {
			return Finding{Broken, err.Error()}
		}
		c, f := d.dial(ctx, netip.AddrPortFrom(a, 80))
		if f != nil {
			return Finding{Broken, f.Seen}
		}
		defer func() { _ = c.Close() }()
		_, _ = fmt.Fprintf(c, "GET /%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path, host)
		head := make([]byte, 0, 4096)
		for !bytes.HasSuffix(head, []byte("\r\n\r\n")) && len(head) < 4096 {
			b := make([]byte, 1)
			if _, err := io.ReadFull(c, b); err != nil {
				return Finding{Broken, brief(err)}
			}
			head = append(head, b...)
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 101")) {
			return Finding{Broken, string(bytes.SplitN(head, []byte("\r\n"), 2)[0])}
		}
		frame := []byte{0x82, 0x84, 0, 0, 0, 0, 'w', 'e', 'i', 'r'} // binary, masked with zeros (RFC 6455, section 5.2)
		if _, err := c.Write(frame); err != nil {
			return Finding{Broken, brief(err)}
		}
		got := make([]byte, 6)
		_, err = io.ReadFull(c, got)
		return verdict(err, "a frame went both ways")
	}}}
}

func mustBig(o Options, _ Target) []probe {
	if o.Fixed.Big == "" {
		return []probe{untried("needs a path on the allowed site that ends in its size: --set big=/PATH/BYTES")}
	}
	return []probe{{o.Fixed.Big, func(ctx context.Context, d *device) Finding {
		want, err := strconv.ParseInt(o.Fixed.Big[strings.LastIndex(o.Fixed.Big, "/")+1:], 10, 64)
		if err != nil {
			return Finding{NotTried, "the path does not end in a number of bytes"}
		}
		resp, err := d.fetch(ctx, "https://"+o.Fixed.Allowed+o.Fixed.Big, false)
		if err != nil {
			return Finding{Broken, brief(err)}
		}
		defer func() { _ = resp.Body.Close() }()
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && n != want {
			err = fmt.Errorf("%d bytes of %d", n, want)
		}
		return verdict(err, fmt.Sprintf("%d bytes", n))
	}}}
}

func mustCollateral(Options, Target) (out []probe) {
	for _, n := range []string{"mail.qq.com", "map.qq.com", "www.canada.ca", "www.apple.com", "time.apple.com", "captive.apple.com", "connectivitycheck.gstatic.com", "www.google.com"} {
		out = append(out, probe{n, func(ctx context.Context, d *device) Finding {
			a, err := d.resolve(ctx, n)
			return verdict(err, a.String())
		}})
	}
	return out
}

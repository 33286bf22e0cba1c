package prove

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// A Route is a row of the catalogue.
type Route struct {
	ID     string
	Tries  string // what is tried
	Trap   string // who does that
	Closed string // how one sees that it is closed, or works
	Open   string // how one sees that it is open, or broken
	PerBan bool
	// Untried and Why are the outcome of a row that nobody tries.
	Untried Outcome
	Why     string

	each func(Options, Target) []probe
}

// A probe is one attempt of a row.
type probe struct {
	target string
	try    func(context.Context, *device) Finding
}

// Words that many rows share.
const (
	noAnswer  = "no answer that leads anywhere"
	answers   = "an answer with an address or a record"
	isCut     = "reset, closed, or refused with Weir's words"
	isReached = "a byte from the other side, or a connection that stands"
)

// resolvers are public ones, in the order of the apps that fall back to them.
var resolvers = []string{"8.8.8.8", "1.1.1.1", "223.6.6.6", "9.9.9.9", "185.228.168.168", "2001:4860:4860::8888", "2606:4700:4700::1111"}

// Catalogue is every way that is tried, and every one that is known not to be.
var Catalogue = append(ways, musts...)

var ways = []Route{
	{ID: "dns-gateway", Tries: "DNS questions to the gateway, over UDP and TCP, in odd spellings and types", Trap: "any app", Closed: noAnswer, Open: answers, PerBan: true, each: dnsAtGateway},
	{ID: "dns-foreign", Tries: "DNS questions to public resolvers, IPv4 and IPv6, UDP and TCP", Trap: "Kaspersky falls back to five of them", Closed: noAnswer, Open: answers, PerBan: true, each: dnsForeign},
	{ID: "dns-odd-port", Tries: "DNS questions on other ports than 53", Trap: "resolver apps", Closed: noAnswer, Open: answers, PerBan: true, each: dnsOddPort},
	{ID: "dns-cloak", Tries: "a name that leads to a banned one by a CNAME", Trap: "trackers and CDNs", Closed: noAnswer, Open: answers, PerBan: true, each: dnsCloak},
	{ID: "dns-mirror", Tries: "names of mirrors that have a banned name in them", Trap: "translation and cache services", Closed: "no answer, and a ClientHello is cut", Open: isReached, PerBan: true, each: mirrors},
	{ID: "dns-canary", Tries: "names that devices ask to learn whether they may bypass the resolver", Trap: "Firefox, iCloud Private Relay, DDR", Closed: "NXDOMAIN or no data, at once", Open: "anything else, silence included", each: canaries},
	{ID: "dns-ech", Tries: "an HTTPS record with keys for encrypted ClientHellos", Trap: "browsers", Closed: "a record without keys", Open: "keys", each: func(o Options, _ Target) []probe {
		return []probe{{o.Fixed.ECH, func(ctx context.Context, d *device) Finding { return d.keys(ctx, o.Fixed.ECH) }}}
	}},
	{ID: "dot", Tries: "DNS over TLS to public resolvers", Trap: "Android's Private DNS", Closed: isCut, Open: isReached, each: dot},
	{ID: "doh-name", Tries: "DNS over HTTPS by the resolver's name", Trap: "TikTok falls back to dns.google", Closed: isCut, Open: isReached, each: privateDNS(443, "dns.google")},
	{ID: "doh-address", Tries: "DNS over HTTPS by a bare address, without a server name", Trap: "WeChat, resolver apps", Closed: isCut, Open: isReached, each: privateDNS(443, "")},
	{ID: "doq", Tries: "DNS over QUIC, ports 853, 784 and 8853", Trap: "resolver apps", Closed: "refused, or silence", Open: "a packet from the resolver", each: doq},
	{ID: "httpdns", Tries: "vendors' name services over plain HTTP to bare addresses", Trap: "WeChat asks its own first", Closed: isCut, Open: "an answer", each: httpDNS},
	{ID: "connect", Tries: "CONNECT to banned names and addresses in all spellings", Trap: "apps that know the proxy", Closed: isCut, Open: isReached, PerBan: true, each: connects},
	{ID: "connect-sni", Tries: "CONNECT to an innocent host, then a ClientHello for a banned one, in all splits", Trap: "domain fronting", Closed: isCut, Open: isReached, PerBan: true, each: connectSNI},
	{ID: "proxy-http", Tries: "plain HTTP for banned hosts by the proxy", Trap: "apps that know the proxy", Closed: isCut, Open: "the site's answer", PerBan: true, each: proxyHTTP},
	{ID: "tls", Tries: "TLS to an innocent address with a banned server name, in all splits", Trap: "apps with addresses of their own", Closed: isCut, Open: isReached, PerBan: true, each: transparentTLS},
	{ID: "http", Tries: "plain HTTP to an innocent address with a banned Host, alone and after an innocent request", Trap: "apps with addresses of their own", Closed: isCut, Open: "the site's answer", PerBan: true, each: transparentHTTP},
	{ID: "quic", Tries: "QUIC v1 and v2 for a banned name", Trap: "TikTok, browsers", Closed: "refused, or silence", Open: "a packet from the other side", PerBan: true, each: quicNames},
	{ID: "address", Tries: "addresses of the ban on several ports, with innocent names", Trap: "WeChat keeps addresses it was given earlier", Closed: isCut, Open: isReached, PerBan: true, each: addresses(false)},
	{ID: "address-v6", Tries: "the same over IPv6", Trap: "devices with both families", Closed: isCut, Open: isReached, PerBan: true, each: addresses(true)},
	{ID: "wechat-bytes", Tries: "WeChat's first bytes on 80, 443, 8080 and odd ports, and its requests inside plain HTTP", Trap: "WeChat", Closed: isCut, Open: isReached, each: wechatBytes},
	{ID: "unknown", Tries: "what does not say where it goes on the web's ports: no TLS, no HTTP, no server name", Trap: "tunnels", Closed: isCut, Open: isReached, each: unknownProtocol},
	{ID: "udp-tunnel", Tries: "UDP of VPN protocols: IKE, OpenVPN, WireGuard", Trap: "VPN apps, Kaspersky's among them", Closed: "prohibited", Open: "an answer", each: udpTunnels},
	{ID: "ip-tunnel", Tries: "ESP, GRE and 6in4, as root", Trap: "VPN clients of the system", Closed: "prohibited", Open: "an answer", each: ipTunnels},
	{ID: "ping-tunnel", Tries: "data inside large echo requests", Trap: "tunnel apps", Closed: "prohibited, or silence", Open: "an echo", each: bigPings},
	{ID: "gateway-udp", Tries: "UDP of the gateway that is not for devices", Trap: "anyone", Closed: "silence, or prohibited", Open: "an answer, or the gateway's word that nobody listens", each: gatewayUDP},
	{ID: "gateway-admin", Tries: "what of the gateway is not for devices", Trap: "anyone", Closed: "no connection", Open: "a connection", each: adminPorts},
	{ID: "fronting", Tries: "a banned Host inside TLS for an allowed server name that has both certificates", Untried: Beyond, Why: "inside TLS nobody sees it without decryption"},
	{ID: "ech-shared", Tries: "a real encrypted ClientHello to an address that many sites share", Untried: Beyond, Why: "the outer name is the provider's; without keys in DNS answers devices do not do it"},
	{ID: "icmp-tunnel", Tries: "data inside small echo requests", Untried: Beyond, Why: "echo is let through, small and slow; see the packet filter's counters"},
	{ID: "before-ban", Tries: "a tunnel that was open before the ban", Untried: NotTried, Why: "needs an operator who sets the ban meanwhile"},
}

func ap(a string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(a), port)
}

func (d *device) at(port uint16) netip.AddrPort {
	if !d.site.IsValid() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(d.site, port)
}

func dnsProbe(network string, at netip.AddrPort, name string, t uint16) probe {
	return probe{fmt.Sprintf("%s %s at %s/%s", name, dns.TypeToString[t], at, network),
		func(ctx context.Context, d *device) Finding { return d.resolves(ctx, network, at, name, t) }}
}

func dnsAtGateway(o Options, t Target) (out []probe) {
	for _, n := range t.Names {
		for _, q := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeTXT} {
			out = append(out, dnsProbe("udp", o.DNS, n, q))
		}
		out = append(out, dnsProbe("tcp", o.DNS, n, dns.TypeA), dnsProbe("udp", o.DNS, strings.ToUpper(n), dns.TypeA))
	}
	return out
}

func dnsForeign(_ Options, t Target) (out []probe) {
	for _, n := range t.Names {
		for _, r := range resolvers {
			out = append(out, dnsProbe("udp", ap(r, 53), n, dns.TypeA), dnsProbe("tcp", ap(r, 53), n, dns.TypeAAAA))
		}
	}
	return out
}

func dnsOddPort(_ Options, t Target) (out []probe) {
	for _, n := range t.Names[:min(1, len(t.Names))] {
		for _, at := range []netip.AddrPort{ap("208.67.222.222", 5353), ap("9.9.9.9", 9953), ap("77.88.8.8", 1253), ap("2620:119:35::35", 5353)} {
			out = append(out, dnsProbe("udp", at, n, dns.TypeA), dnsProbe("tcp", at, n, dns.TypeA))
		}
	}
	return out
}

func dnsCloak(o Options, t Target) (out []probe) {
	if o.Fixed.Cloak == "" {
		return []probe{untried("needs a zone of yours whose names are CNAMEs: --set cloak=ZONE")}
	}
	for _, n := range t.Names {
		for _, q := range []uint16{dns.TypeA, dns.TypeHTTPS} {
			out = append(out, dnsProbe("udp", o.DNS, n+"."+o.Fixed.Cloak, q))
		}
	}
	return out
}

func untried(why string) probe {
	return probe{"-", func(context.Context, *device) Finding { return Finding{NotTried, why} }}
}

func mirrors(o Options, t Target) (out []probe) {
	for _, n := range t.Names {
		if strings.HasSuffix(n, ".arpa") {
			continue // no site
		}
		m := strings.ReplaceAll(strings.ReplaceAll(n, "-", "--"), ".", "-")
		for _, zone := range []string{".translate.goog", ".cdn.ampproject.org"} {
			out = append(out, dnsProbe("udp", o.DNS, m+zone, dns.TypeA), sniProbe(m+zone, whole))
		}
	}
	return out
}

func canaries(Options, Target) (out []probe) {
	for _, n := range []string{"use-application-dns.net", "mask.icloud.com", "mask-h2.icloud.com", "_dns.resolver.arpa"} {
		t := dns.TypeA
		if strings.HasSuffix(n, ".arpa") {
			t = dns.TypeSVCB
		}
		out = append(out, probe{n, func(ctx context.Context, d *device) Finding { return d.refuses(ctx, n, t) }})
	}
	return out
}

func privateDNS(port uint16, name string) func(Options, Target) []probe {
	return func(Options, Target) (out []probe) {
		for _, r := range []string{"8.8.8.8", "1.1.1.1", "9.9.9.9", "2001:4860:4860::8888"} {
			out = append(out, tlsProbe(ap(r, port), name, whole))
		}
		return out
	}
}

// dot tries resolvers that are in lists, and one that is in none.
func dot(o Options, t Target) []probe {
	return append(privateDNS(853, "dns.google")(o, t), probe{"a resolver in no list, port 853", func(ctx context.Context, d *device) Finding {
		return tlsProbe(d.at(853), o.Fixed.Allowed, whole).try(ctx, d)
	}})
}

// tlsProbe sends a ClientHello to an address.
func tlsProbe(to netip.AddrPort, name string, how cut) probe {
	return probe{fmt.Sprintf("%q at %s, %s", name, to, how), func(ctx context.Context, d *device) Finding {
		c, f := d.dial(ctx, to)
		if f != nil {
			return *f
		}
		defer func() { _ = c.Close() }()
		return d.says(c, name, how)
	}}
}

// sniProbe sends a ClientHello to an address of the allowed site.
func sniProbe(name string, how cut) probe {
	return probe{fmt.Sprintf("%q at an innocent address, %s", name, how), func(ctx context.Context, d *device) Finding {
		return tlsProbe(d.at(443), name, how).try(ctx, d)
	}}
}

func doq(Options, Target) (out []probe) {
	for _, port := range []uint16{853, 784, 8853} {
		for _, r := range []string{"9.9.9.9", "94.140.14.14", "2620:fe::fe"} {
			out = append(out, probe{ap(r, port).String(), func(ctx context.Context, d *device) Finding {
				f, _, _ := d.quic(ctx, ap(r, port), "dns.quad9.net", "doq", quic.Version1)
				return f
			}})
		}
	}
	return out
}

func httpDNS(Options, Target) (out []probe) {
	for _, h := range []struct{ at, host, path string }{
		{"119.29.29.29:80", "119.29.29.29", "/d?dn=wechat.com"},
		{"182.254.116.116:80", "182.254.116.116", "/d?dn=wechat.com"},
		{"43.130.30.240:8080", "dns.weixin.qq.com", "/cgi-bin/micromsg-bin/newgetdns?uin=0"},
		{"8.8.8.8:80", "8.8.8.8", "/resolve?name=wechat.com"},
	} {
		out = append(out, httpProbe(netip.MustParseAddrPort(h.at), get(h.host, h.path)))
	}
	return out
}

func httpProbe(to netip.AddrPort, requests ...string) probe {
	host, _, _ := strings.Cut(requests[len(requests)-1], "\r\nUser-Agent")
	return probe{fmt.Sprintf("%q to %s", host, to), func(ctx context.Context, d *device) Finding { return d.asks(ctx, to, requests...) }}
}

func connects(_ Options, t Target) (out []probe) {
	for _, n := range t.Names {
		for _, spelling := range []string{n, strings.ToUpper(n), n + ".", "www." + n, strings.ReplaceAll(n, ".", "。")} {
			out = append(out, connectProbe(spelling+":443", n))
		}
	}
	for _, a := range t.V4 {
		b := a.As4()
		whole := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		for _, spelling := range []string{
			a.String(), fmt.Sprint(whole), fmt.Sprintf("0x%x", whole), fmt.Sprintf("0%o", whole),
			fmt.Sprintf("%d.%d.%d", b[0], b[1], uint32(b[2])<<8|uint32(b[3])),
			fmt.Sprintf("[::ffff:%s]", a), fmt.Sprintf("[64:ff9b::%s]", a),
		} {
			out = append(out, connectProbe(spelling+":443", "www.example.com"))
		}
	}
	for _, a := range t.V6 {
		out = append(out, connectProbe("["+a.String()+"]:443", "www.example.com"))
	}
	return out
}

func connectProbe(target, name string) probe {
	return probe{"CONNECT " + target, func(ctx context.Context, d *device) Finding {
		c, f := d.connect(ctx, target)
		if f != nil {
			return *f
		}
		defer func() { _ = c.Close() }()
		return d.says(c, name, whole)
	}}
}

func connectSNI(o Options, t Target) (out []probe) {
	for _, n := range t.Names {
		for _, how := range cuts {
			out = append(out, probe{fmt.Sprintf("CONNECT %s, then %q %s", o.Fixed.Allowed, n, how), func(ctx context.Context, d *device) Finding {
				c, f := d.connect(ctx, o.Fixed.Allowed+":443")
				if f != nil {
					if f.Outcome == Closed {
						return Finding{NotTried, "no tunnel to an allowed host: " + f.Seen}
					}
					return *f
				}
				defer func() { _ = c.Close() }()
				return d.says(c, n, how)
			}})
		}
	}
	return out
}

func proxyHTTP(o Options, t Target) (out []probe) {
	for _, n := range t.Names {
		out = append(out, httpProbe(o.Proxy, get(n, "http://"+n+"/")), httpProbe(o.Proxy, get(o.Fixed.Allowed, "http://"+strings.ToUpper(n)+"./")))
	}
	return out
}

func transparentTLS(_ Options, t Target) (out []probe) {
	for _, n := range t.Names {
		for _, how := range cuts {
			out = append(out, sniProbe(n, how))
		}
		out = append(out, probe{fmt.Sprintf("%q at an innocent address", strings.ToUpper(n)), func(ctx context.Context, d *device) Finding {
			c, f := d.dial(ctx, d.at(443))
			if f != nil {
				return *f
			}
			defer func() { _ = c.Close() }()
			if _, err := c.Write(spelled(clientHello(n), n, strings.ToUpper(n))); err != nil {
				return Finding{Closed, brief(err)}
			}
			return reads(c, "ClientHello")
		}})
	}
	return out
}

func transparentHTTP(o Options, t Target) (out []probe) {
	add := func(what string, requests ...string) {
		out = append(out, probe{what, func(ctx context.Context, d *device) Finding { return d.asks(ctx, d.at(80), requests...) }})
	}
	for _, n := range t.Names {
		add("Host: "+n, get(n, "/"))
		add("Host: "+strings.ToUpper(n)+".", get(strings.ToUpper(n)+".", "/"))
		add("absolute form "+n, get(o.Fixed.Allowed, "http://"+n+"/"))
		out = append(out, probe{"Host: " + n + " on port 8080", func(ctx context.Context, d *device) Finding { return d.asks(ctx, d.at(8080), get(n, "/")) }})
		add("Host: "+n+" after an innocent request", get(o.Fixed.Allowed, "/"), get(n, "/"))
	}
	return out
}

func quicNames(_ Options, t Target) (out []probe) {
	for _, n := range t.Names {
		for version, v := range map[string]quic.Version{"v1": quic.Version1, "v2": quic.Version2} {
			out = append(out, probe{n + " at an innocent address, " + version, func(ctx context.Context, d *device) Finding {
				f, _, _ := d.quic(ctx, d.at(443), n, "h3", v)
				return f
			}})
		}
	}
	return out
}

func addresses(six bool) func(Options, Target) []probe {
	return func(o Options, t Target) (out []probe) {
		list := t.V4
		if six {
			list = t.V6
		}
		for _, a := range list {
			at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
			out = append(out, tlsProbe(at(443), o.Fixed.Allowed, whole), tlsProbe(at(443), "", whole), tlsProbe(at(8443), o.Fixed.Allowed, whole), tlsProbe(at(993), o.Fixed.Allowed, whole),
				httpProbe(at(80), get(o.Fixed.Allowed, "/")), httpProbe(at(8080), get(o.Fixed.Allowed, "/")),
				rawProbe(at(5222), "hello\r\n"), udpProbe(at(123)))
		}
		if six {
			out = append(out, embedded(o, t)...)
		}
		if len(out) == 0 {
			return []probe{untried("the lists in force have no such addresses")}
		}
		return out
	}
}

// embedded hides an IPv4 address in one of IPv6 that a gateway elsewhere takes
// apart: 6to4 (RFC 3056, section 2) and NAT64 (RFC 6052, section 2.1).
func embedded(o Options, t Target) (out []probe) {
	for _, a := range t.V4[:min(1, len(t.V4))] {
		b := a.As4()
		sixToFour := netip.AddrFrom16([16]byte{0x20, 0x02, b[0], b[1], b[2], b[3], 15: 1})
		nat64 := netip.AddrFrom16([16]byte{0x00, 0x64, 0xff, 0x9b, 12: b[0], 13: b[1], 14: b[2], 15: b[3]})
		for _, to := range []netip.Addr{sixToFour, nat64} {
			out = append(out, tlsProbe(netip.AddrPortFrom(to, 443), o.Fixed.Allowed, whole), tlsProbe(netip.AddrPortFrom(to, 993), o.Fixed.Allowed, whole))
		}
	}
	return out
}

// udpProbe asks for the time, at the one UDP port that passes.
func udpProbe(to netip.AddrPort) probe {
	return probe{"UDP to " + to.String(), func(ctx context.Context, d *device) Finding {
		if to.Addr().Is6() && !d.v6 {
			return Finding{NotTried, errNoV6.Error()}
		}
		return d.echoes(ctx, "udp", to.String(), ntpRequest())
	}}
}

func rawProbe(to netip.AddrPort, first string) probe {
	return probe{fmt.Sprintf("%q to %s", first, to), func(ctx context.Context, d *device) Finding {
		c, f := d.dial(ctx, to)
		if f != nil {
			return *f
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write([]byte(first)); err != nil {
			return Finding{Closed, brief(err)}
		}
		return reads(c, "first bytes")
	}}
}

func innocent(port uint16, first string) probe {
	return probe{fmt.Sprintf("%q to an innocent address, port %d", first, port), func(ctx context.Context, d *device) Finding {
		return rawProbe(d.at(port), first).try(ctx, d)
	}}
}

func wechatBytes(o Options, _ Target) (out []probe) {
	const mmtls = "\x16\xf1\x04\x00\xa1\x00\x00\x00\x9d\x01\x04\xf1\x01\x00\xa8"
	for _, port := range []uint16{80, 443, 8080, 5222} {
		out = append(out, innocent(port, mmtls))
	}
	const short = "POST /mmtls/2a9b1264 HTTP/1.1\r\nHost: %s\r\nUpgrade: mmtls\r\nUser-Agent: MicroMessenger Client\r\nContent-Length: 5\r\n\r\n\x16\xf1\x04\x00\x00"
	request := fmt.Sprintf(short, o.Fixed.Allowed)
	return append(out, probe{"POST /mmtls/ to an innocent address", func(ctx context.Context, d *device) Finding { return d.asks(ctx, d.at(80), request) }})
}

func unknownProtocol(Options, Target) []probe {
	noName := probe{"a ClientHello without a name at an innocent address", func(ctx context.Context, d *device) Finding {
		return tlsProbe(d.at(443), "", whole).try(ctx, d)
	}}
	return []probe{noName, innocent(80, "SSH-2.0-weir\r\n"), innocent(443, "SSH-2.0-weir\r\n"), innocent(8080, "\x00\x01\x02\x03\x04\x05\x06\x07")}
}

func udpTunnels(Options, Target) (out []probe) {
	for _, port := range []uint16{500, 4500, 1194, 51820} {
		out = append(out, probe{fmt.Sprintf("UDP %d of an innocent address", port), func(ctx context.Context, d *device) Finding {
			return d.echoes(ctx, "udp", d.at(port).String(), opening)
		}})
	}
	return out
}

func ipTunnels(Options, Target) (out []probe) {
	for what, protocol := range map[string]int{"ESP": 50, "GRE": 47, "6in4": 41} {
		out = append(out, probe{what + " to an innocent address", func(ctx context.Context, d *device) Finding {
			return d.echoes(ctx, fmt.Sprintf("ip4:%d", protocol), d.site.String(), opening)
		}})
	}
	return out
}

func adminPorts(o Options, _ Target) (out []probe) {
	for _, port := range o.Admin {
		to := netip.AddrPortFrom(o.Gateway, port)
		out = append(out, probe{to.String(), func(ctx context.Context, d *device) Finding {
			c, f := d.dial(ctx, to)
			if f != nil {
				return *f
			}
			defer func() { _ = c.Close() }()
			if _, err := c.Write([]byte(get("weir", "/status"))); err != nil {
				return Finding{Closed, brief(err)}
			}
			return reads(c, "request")
		}})
	}
	return out
}

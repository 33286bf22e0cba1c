package prove

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
)

// unclosable are ways that only opening TLS would close.
var unclosable = []struct{ route, what string }{
	{"fronting", "an allowed server name outside and a banned Host inside of TLS, at a provider that serves both"},
	{"ech-shared", "an encrypted ClientHello to an address that serves others, with keys from elsewhere and an outer name that others use too"},
	{"inner-tunnel", "a tunnel of one's own inside an allowed TLS connection"},
}

// plan is the catalogue for these options.
func plan(p *prober) []*job {
	var jobs []*job
	add := func(route, ban, tried string, must bool, try attempt) {
		if p.Only != "" && p.Only != route {
			return
		}
		j := &job{result: Result{Route: route, Ban: ban, Tried: tried}, must: must, try: try}
		if try == nil {
			j.result.Outcome, j.result.Detail = NotTried, "there is nothing to try it with"
		}
		jobs = append(jobs, j)
	}
	for _, t := range p.Targets {
		closedRoutes(p, t, func(route, tried string, try attempt) { add(route, t.Ban, tried, false, try) })
	}
	foreignRoutes(p, func(route, tried string, try attempt) { add(route, "", tried, false, try) })
	mustWork(p, func(route, tried string, try attempt) { add(route, "", tried, true, try) })
	if p.Only == "" {
		for _, u := range unclosable {
			jobs = append(jobs, &job{result: Result{Route: u.route, Tried: u.what, Outcome: Unclosable}})
		}
	}
	return jobs
}

type (
	attempt = func(context.Context) (bool, string)
	adder   = func(route, tried string, try attempt)
)

// family names the family of an address.
func family(a netip.Addr) string {
	if a.Is4() {
		return "v4"
	}
	return "v6"
}

// closedRoutes are the ways to one ban.
func closedRoutes(p *prober, t Target, add adder) {
	for _, network := range []string{"udp", "tcp"} {
		add("dns-"+network, network+" to the gateway: "+t.Name, p.resolves(network, p.DNS, t.Name))
		for _, r := range p.Resolvers {
			add("dns-"+network+"-foreign", fmt.Sprintf("%s to %s: %s", network, r, t.Name), p.resolves(network, r, t.Name))
		}
	}
	add("dns-mirror", "a mirror of it: "+mirrored(t.Name), p.resolves("udp", p.DNS, mirrored(t.Name)))
	for _, target := range []string{t.Name, strings.ToUpper(t.Name), t.Name + ".", strings.ReplaceAll(t.Name, ".", "。")} {
		add("connect", "CONNECT "+target, p.tunnels(target+":443", say(hello(t.Name))))
	}
	for _, w := range hellos(t.Name) {
		add("connect-sni", "CONNECT "+p.Allowed+", ClientHello for "+t.Name+" "+w.what, p.tunnels(p.Allowed+":443", w.say))
		for _, a := range p.site {
			add("tls-"+family(a), fmt.Sprintf("%s port 443, ClientHello for %s %s", a, t.Name, w.what), p.hears(netip.AddrPortFrom(a, 443), w.say))
		}
	}
	for _, a := range p.site {
		web := netip.AddrPortFrom(a, 80)
		add("http-"+family(a), fmt.Sprintf("%s, Host: %s", web, t.Name), p.fetches(web, get(t.Name, "/")))
		add("http-keepalive", fmt.Sprintf("%s, Host: %s after another", web, t.Name), p.fetches(web, get(p.Allowed, "/"), get(t.Name, "/")))
		add("http-odd-port", fmt.Sprintf("%s port 8080, Host: %s", a, t.Name), p.fetches(netip.AddrPortFrom(a, 8080), get(t.Name, "/")))
	}
	for _, a := range t.Addrs {
		add("address-tls", a.String()+" port 443", p.hears(netip.AddrPortFrom(a, 443), say(hello(p.Allowed))))
		add("address-http", a.String()+" port 80", p.fetches(netip.AddrPortFrom(a, 80), get(p.Allowed, "/")))
		add("address-odd-port", a.String()+" port 14000", p.hears(netip.AddrPortFrom(a, 14000), say([]byte("hello\n"))))
		add("address-udp", a.String()+" UDP port 123", p.echoes(netip.AddrPortFrom(a, 123), make([]byte, 48)))
		add("address-connect", "CONNECT "+netip.AddrPortFrom(a, 443).String(), p.tunnels(netip.AddrPortFrom(a, 443).String(), say(hello(p.Allowed))))
	}
}

// A way is one way to say something.
type way struct {
	what string
	say  speech
}

// hellos are the ways to say a name to a server.
func hellos(name string) []way {
	h := hello(name)
	return []way{
		{"in one piece", say(h)},
		{"in upper case", say(hello(strings.ToUpper(name)))},
		{"in segments of a byte", sayBytes(h)},
		{"in records of a byte", say(inRecords(h, 1))},
		{"in records of seven bytes and segments of one", sayBytes(inRecords(h, 7))},
		{"behind 1.6 KiB", say(padded(name))},
		{"stalled half-way", sayStalled(h)},
	}
}

// mirrored is the name as a translator has it.
func mirrored(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "-", "--"), ".", "-") + ".translate.goog"
}

// mmtls is what WeChat's own protocol begins with.
var mmtls = []byte("\x16\xf1\x04\x00\xa1\x00\x00\x00\x9d\x01\x04\xf1\x01\x00\xa8")

// foreignRoutes are the ways that serve every ban.
func foreignRoutes(p *prober, add adder) {
	for _, r := range p.Resolvers {
		a := r.Addr()
		add("dot", fmt.Sprintf("%s port 853", a), p.hears(netip.AddrPortFrom(a, 853), say(hello("dns.google"))))
		add("doq", fmt.Sprintf("%s UDP port 853", a), p.negotiates(netip.AddrPortFrom(a, 853)))
		add("doh-address", fmt.Sprintf("%s port 443", a), p.hears(netip.AddrPortFrom(a, 443), say(hello("dns.google"))))
		add("dns-odd-port", fmt.Sprintf("UDP to %s port 5353", a), p.resolves("udp", netip.AddrPortFrom(a, 5353), p.Allowed))
	}
	for _, name := range []string{"dns.google", "mask.icloud.com", "mask-h2.icloud.com", "use-application-dns.net", "cloudflare-ech.com"} {
		add("bypass-name", "udp to the gateway: "+name, p.resolves("udp", p.DNS, name))
	}
	for _, port := range []uint16{22, 8053} {
		add("gateway-port", fmt.Sprintf("the gateway's own port %d", port), p.hears(netip.AddrPortFrom(p.DNS.Addr(), port), say([]byte("hello\n"))))
	}
	for _, a := range p.site {
		add("udp-odd-port", fmt.Sprintf("%s UDP port 14000", a), p.echoes(netip.AddrPortFrom(a, 14000), []byte("hello")))
		add("quic-"+family(a), fmt.Sprintf("%s UDP port 443", a), p.negotiates(netip.AddrPortFrom(a, 443)))
		add("tls-no-name", fmt.Sprintf("%s port 443, ClientHello without a name", a), p.hears(netip.AddrPortFrom(a, 443), say(hello(""))))
		add("unknown-protocol", fmt.Sprintf("%s port 443, no TLS", a), p.hears(netip.AddrPortFrom(a, 443), say([]byte("\x00\x01\x02\x03hello\n"))))
		for _, port := range []uint16{443, 14000} {
			add("mmtls", fmt.Sprintf("%s port %d, WeChat's first bytes", a, port), p.hears(netip.AddrPortFrom(a, port), say(mmtls)))
		}
		add("mmtls-http", fmt.Sprintf("%s port 80, Upgrade: mmtls", a), p.fetches(netip.AddrPortFrom(a, 80),
			get("www.example.org", "/mmtls/2a9b1264", "Upgrade: mmtls", "User-Agent: MicroMessenger Client")))
	}
}

// mustWork is what the gateway must not break.
func mustWork(p *prober, add adder) {
	add("works-dns", "udp to the gateway: "+p.Allowed, p.resolves("udp", p.DNS, p.Allowed))
	add("works-dns-tcp", "tcp to the gateway: "+p.Allowed, p.resolves("tcp", p.DNS, p.Allowed))
	for _, r := range p.Resolvers { // a device that asks another resolver is answered, by the gateway
		add("works-dns-"+family(r.Addr()), fmt.Sprintf("udp to %s: %s", r, p.Allowed), p.resolves("udp", r, p.Allowed))
		add("works-dns-tcp-"+family(r.Addr()), fmt.Sprintf("tcp to %s: %s", r, p.Allowed), p.resolves("tcp", r, p.Allowed))
	}
	add("works-connect", "CONNECT "+p.Allowed, p.tunnels(p.Allowed+":443", say(hello(p.Allowed))))
	for _, a := range p.site {
		add("works-http", fmt.Sprintf("%s, Host: %s", a, p.Allowed), p.fetches(netip.AddrPortFrom(a, 80), get(p.Allowed, "/")))
		for _, w := range hellos(p.Allowed) {
			add("works-tls", fmt.Sprintf("%s port 443, ClientHello for %s %s", a, p.Allowed, w.what), p.hears(netip.AddrPortFrom(a, 443), w.say))
		}
		add("works-fallback", fmt.Sprintf("%s UDP port 443 is refused at once", a), p.isRefused(netip.AddrPortFrom(a, 443)))
		add("works-time", fmt.Sprintf("%s UDP port 123", a), p.echoes(netip.AddrPortFrom(a, 123), make([]byte, 48)))
	}
}

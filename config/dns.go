package config

import (
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/weir-gateway/weir/blocklists"
)

func (v value) dns(c *DNS) {
	v.object(fields{
		"listen":    set(&c.Listen, listOf(value.listenAddr)),
		"upstreams": set(&c.Upstreams, listOf(value.upstream)),
		"strategy":  set(&c.Strategy, word(StrategyOrdered, StrategyFastest, StrategyParallel, StrategyRandom)),
		"routes":    set(&c.Routes, value.routes),
		"bootstrap": set(&c.Bootstrap, value.servers),
		"blocked":   set(&c.Blocked, value.answer),
		"cache": func(v value) {
			v.cache(&c.Cache)
		},
		"client_subnet":     set(&c.Subnet, value.clientSubnet),
		"cookies":           func(v value) { v.cookies(&c.Cookies) },
		"ech":               set(&c.ECH, word(Strip, Keep)),
		"h3":                set(&c.H3, word(Strip, Keep)),
		"structured_errors": func(v value) { v.structuredErrors(&c.Structured) },
		"dnstap":            func(v value) { v.dnstap(&c.Dnstap) },
		"limits":            func(v value) { v.limits(&c.Limits) },
		"hosts":             set(&c.Hosts, value.filePath),
		"records":           set(&c.Records, listOf(value.record)),
		"special":           set(&c.Special, value.specials),
		"tls":               func(v value) { v.tls(&c.TLS) },
		"dot":               func(v value) { v.encrypted(&c.DoT) },
		"doh":               func(v value) { v.doh(&c.DoH) },
		"doq":               func(v value) { v.doq(&c.DoQ) },
		"identities":        set(&c.Identities, listOf(value.identity)),
		"proxy_protocol":    set(&c.Proxies, value.balancers),
		"rebinding": func(v value) {
			v.object(fields{"block": set(&c.Rebinding.Block, value.boolean), "allow": set(&c.Rebinding.Allow, listOf(value.suffix))})
		},
	})
}

// suffix returns a name that stands for itself and all under it. It may be a whole
// top-level domain: networks have their own, such as lan and internal.
func (v value) suffix() (string, bool) {
	r, ok := v.rule(parseNames)
	if ok && r.Kind != blocklists.Suffix {
		v.fail("want a name without = and *; it is for all under it, too")
		return "", false
	}
	return r.Name, ok
}

func (v value) servers() ([]netip.AddrPort, bool) {
	list, ok := listOf(value.serverAddr)(v)
	if ok {
		v.unique(len(list), func(i int) any { return list[i] })
	}
	return list, ok
}

// answer returns how blocked questions are answered: a mode, or addresses. The
// mode null is a word here, though YAML reads it as no value.
func (v value) answer() (blocklists.Answer, bool) {
	var a blocklists.Answer
	if isMapping(v.n) {
		a.Mode = blocklists.Addresses
		v.object(fields{"ipv4": set(&a.IPv4, value.addr4), "ipv6": set(&a.IPv6, value.addr6)})
		if len(v.n.Content) == 0 {
			v.fail("there are no addresses; want ipv4, ipv6 or both")
		}
		return a, true
	}
	known := []string{"nxdomain", "nodata", "null", "refused", "drop"}
	if isNull(v.n) && v.n.Value == "null" {
		return blocklists.Answer{Mode: blocklists.Null}, true
	}
	if v.n.Kind != yaml.ScalarNode || v.n.Tag != "!!str" {
		v.wrongType(strings.Join(known, ", ") + " or {ipv4: A, ipv6: AAAA}")
		return a, false
	}
	s, ok := v.text()
	if !ok {
		return a, false
	}
	if a.Mode, ok = blocklists.ParseMode(s); !ok {
		v.fail("unknown word %s%s", quote(s), suggest(s, known, "want {ipv4: A, ipv6: AAAA} or one of "))
	}
	return a, ok
}

// upstreamPorts are the schemes of upstreams and their ports (RFC 1035,
// section 4.2; RFC 7858, section 3.1; RFC 9250, section 4.1.1; RFC 9110, section 4.2.2).
var upstreamPorts = map[string]uint16{"udp": 53, "tcp": 53, "tls": 853, "quic": 853, "https": 443, "h3": 443}

// dohPath is where DNS over HTTPS is where nothing else is said (RFC 8484 has
// no default; this is the path of its examples and of all known servers).
const dohPath = "/dns-query"

// overHTTP reports whether an upstream of that scheme has a path.
func overHTTP(scheme string) bool { return scheme == "https" || scheme == "h3" }

// upstream returns the URL of a DNS server, with its host canonical, and with
// the port and the path of its scheme where none is given.
func (v value) upstream() (*url.URL, bool) {
	s, ok := v.text()
	if !ok {
		return nil, false
	}
	scheme, _, found := strings.Cut(s, "://")
	if !found {
		v.fail("want a URL such as %s or %s, got %s", quote("udp://192.0.2.1"), quote("tls://192.0.2.1"), quote(s))
		return nil, false
	}
	port, known := upstreamPorts[strings.ToLower(scheme)]
	if !known {
		v.fail("unknown scheme %s; want udp, tcp, tls, quic, https or h3", quote(scheme))
		return nil, false
	}
	u, err := url.Parse(s)
	if err != nil {
		v.fail("%s is not a URL", quote(s))
		return nil, false
	}
	if !v.plainURL(u) {
		return nil, false
	}
	return v.upstreamHost(u, port)
}

// plainURL refuses the parts that no upstream has. A part that is there and
// means nothing here would be taken for one that works.
func (v value) plainURL(u *url.URL) bool {
	switch {
	case strings.Contains(u.Path+u.RawQuery, "{"):
		v.fail("leave out the template part in { }")
	case u.User != nil:
		v.fail("an upstream has no user name and no password")
	case u.RawQuery != "" || u.ForceQuery:
		v.fail("an upstream has no query (?)")
	case u.Fragment != "" || strings.HasSuffix(v.n.Value, "#"):
		v.fail("an upstream has no fragment (#)")
	case !overHTTP(u.Scheme) && u.Path != "":
		v.fail("a %s upstream has no path; write %s", u.Scheme, quote(u.Scheme+"://"+u.Host))
	case u.Host == "" || strings.HasPrefix(u.Host, ":"):
		v.fail("the URL has no host")
	case strings.Count(u.Host, ":") > 1 && u.Host[0] != '[':
		v.fail("an IPv6 address stands in brackets: %s", quote(u.Scheme+"://["+u.Host+"]"))
	case strings.HasSuffix(u.Host, ":"):
		v.fail("there is no port after the colon")
	default:
		return true
	}
	return false
}

// upstreamHost checks the host and the port of an upstream and returns it in
// canonical form.
func (v value) upstreamHost(u *url.URL, port uint16) (*url.URL, bool) {
	if p := u.Port(); p != "" {
		n, err := parsePort(p)
		if err != nil {
			v.fail("%s is not a port; want a number from 1 to 65535", quote(p))
			return nil, false
		}
		port = n
	}
	if !v.portInRange(port) || u.Scheme == "quic" && !v.notPlain(port) {
		return nil, false
	}
	name := u.Hostname()
	if a, err := netip.ParseAddr(name); err == nil {
		if !v.zone(a) || !v.reachable(a.Unmap()) {
			return nil, false
		}
		name = a.Unmap().String()
	} else if name, err = v.upstreamName(u.Scheme, name); err != nil {
		return nil, false
	}
	c := &url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(name, strconv.Itoa(int(port)))}
	if overHTTP(u.Scheme) {
		c.Path = u.Path
		if u.EscapedPath() == u.RawPath { // else it is no spelling that is sent
			c.RawPath = u.RawPath
		}
		if u.Path == "" || u.Path == "/" {
			c.Path = dohPath
		}
	}
	return c, true
}

func (v value) upstreamName(scheme, name string) (string, error) {
	h, err := blocklists.ParseHost(name)
	switch {
	case err != nil:
		v.fail("%s is not a host: %v", quote(name), err)
		return "", err
	case h.Addr.IsValid():
		v.fail("write the address in full: %s", h.Addr)
		return "", blocklists.ErrAddress
	case scheme == "udp" || scheme == "tcp":
		v.fail("a %s upstream needs an address, because nothing checks who answers for the name %s", scheme, quote(name))
		return "", blocklists.ErrAddress
	}
	return h.Name, nil
}

// checkUpstreams reports upstreams that are there twice and those that are
// Weir itself.
func (d *decoder) checkUpstreams(c *DNS) {
	at, given := d.at("dns", "upstreams")
	if given {
		at.unique(len(c.Upstreams), func(i int) any { return urlText(c.Upstreams[i]) })
	}
	own := make(map[netip.AddrPort]string, len(c.Listen))
	for _, e := range c.encrypted() {
		for _, l := range e.addrs {
			own[l] = keyPath(e.path)
		}
	}
	for _, l := range c.Listen {
		own[l] = "dns.listen"
	}
	d.checkLoops(own, c.Upstreams, "dns", "upstreams")
	for i, r := range c.Routes {
		d.checkLoops(own, r.Upstreams, "dns", "routes", i, "upstreams")
	}
	for i, ap := range c.Bootstrap {
		d.checkLoop(own, ap, "dns", "bootstrap", i)
	}
}

func (d *decoder) checkLoops(own map[netip.AddrPort]string, upstreams []*url.URL, path ...any) {
	for i, u := range upstreams {
		if u == nil {
			continue
		}
		if ap, err := netip.ParseAddrPort(u.Host); err == nil {
			d.checkLoop(own, ap, append(path[:len(path):len(path)], i)...)
		}
	}
}

func urlText(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.String()
}

// checkLoop reports a server that is one of our own listeners. A listener on
// all addresses has at least the loopback ones, and one on :: those of IPv4
// too. What others it has is for the resolver to see, which knows the machine.
func (d *decoder) checkLoop(own map[netip.AddrPort]string, server netip.AddrPort, path ...any) {
	a, port := server.Addr(), server.Port()
	key := own[server]
	if key == "" && a.IsLoopback() {
		key = own[netip.AddrPortFrom(netip.IPv6Unspecified(), port)]
		if all4 := own[netip.AddrPortFrom(netip.IPv4Unspecified(), port)]; a.Is4() && all4 != "" {
			key = all4
		}
	}
	if key != "" {
		v, _ := d.at(path...)
		v.fail("%s is an address of %s: Weir would ask itself", server, key)
	}
}

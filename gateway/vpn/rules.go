package vpn

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/policy"
)

const (
	// Mark is what packets carry that go to a local socket as they are.
	Mark = 0x57656972
	// routeTable is the table of the one route that takes marked packets to this
	// machine, and the priority of the rule that leads to it. All rules and routes
	// there are Weir's.
	routeTable = 22341
	// echoSize bounds a ping, with all headers, and echoRate how many a second all
	// devices together send: a tunnel through them carries next to nothing. What
	// an echo's reply carries is bounded alike.
	echoSize = 128
	echoRate = 20

	priorityMangle = -150 // before the nat chain, on destinations as devices meant them
	priorityNAT    = -100
	priorityFilter = 0
)

// The sets of the ruleset; those of a ban are named by it.
const (
	setManagement = "management"
	setInternal   = "internal"
	setEmbedding  = "embedding"
	setPrivateDNS = "private-dns"
	setQUIC       = "quic"
	setInspect    = "tcp-inspect"
	setTCPDirect  = "tcp-direct"
	setUDPDirect  = "udp-direct"
)

func bannedSet(ban string, six bool) string { return "banned-" + ban + suffix(six) }
func sparedSet(ban string, six bool) string { return "spared-" + ban + suffix(six) }

func suffix(six bool) string {
	if six {
		return "-v6"
	}
	return "-v4"
}

// Rules renders the ruleset of a configuration that names an interface, and of
// the bans, in the order in which they are cited.
func Rules(version string, cfg *config.Config, bans []Ban) Ruleset {
	b := builder{cfg: cfg, dev: cfg.VPN.Interface, bans: bans}
	b.rs.Version = version
	b.sets()
	b.prerouting()
	b.nat()
	b.forward()
	b.input()
	return b.rs
}

// A builder carries one rendering.
type builder struct {
	cfg  *config.Config
	dev  string
	bans []Ban
	rs   Ruleset
}

func (b *builder) set(s Set) { b.rs.Sets = append(b.rs.Sets, s) }

func (b *builder) note(text string) { b.rs.Notes = append(b.rs.Notes, text) }

// networks makes the two sets of a list of networks.
func (b *builder) networks(name, why string, list []netip.Prefix) {
	four, six := split(rangesOf(list))
	b.set(Set{Name: name + "-v4", Type: IPv4, Why: why, Ranges: four})
	b.set(Set{Name: name + "-v6", Type: IPv6, Why: why, Ranges: six})
}

func (b *builder) portSet(name, why string, ports config.Ports) {
	if len(ports) > 0 && !ports.All() {
		b.set(Set{Name: name, Type: Port, Why: why, Ports: slices.Sorted(slices.Values(ports))})
	}
}

func (b *builder) sets() {
	v := &b.cfg.VPN
	if b.managed() {
		b.networks(setManagement, "those that administer this machine", v.Management)
	}
	if len(v.Internal) > 0 {
		b.networks(setInternal, "networks that devices reach on all ports", v.Internal)
	}
	b.set(Set{Name: setEmbedding, Type: IPv6, Why: "Teredo, 6to4 and IPv4-compatible addresses: IPv4 in disguise", Ranges: rangesOf(embedding)})
	b.set(Set{Name: setPrivateDNS, Type: Port, Why: "DNS over TLS", Ports: []uint16{853, 8853}})
	b.set(Set{Name: setQUIC, Type: Port, Why: "QUIC, and DNS over QUIC", Ports: b.quicPorts()})
	b.portSet(setInspect, "TCP that is looked into", v.TCP.Inspect)
	b.portSet(setTCPDirect, "TCP that is not looked into", v.TCP.Direct)
	b.portSet(setUDPDirect, "UDP that passes", v.UDP.Direct)
	for _, ban := range b.bans {
		four, six := split(ban.Banned)
		b.set(Set{Name: bannedSet(ban.ID, false), Type: IPv4, Why: "what the ban holds back", Ranges: four})
		b.set(Set{Name: bannedSet(ban.ID, true), Type: IPv6, Why: "the same, and its IPv4 addresses behind NAT64", Ranges: throughNAT64(four, six)})
		four, six = split(ban.Spared)
		b.set(Set{Name: sparedSet(ban.ID, false), Type: IPv4, Why: "devices for which the ban does not hold now", Ranges: four})
		b.set(Set{Name: sparedSet(ban.ID, true), Type: IPv6, Why: "the same", Ranges: six})
	}
}

func (b *builder) quicPorts() []uint16 {
	if b.cfg.QUIC.Mode == config.QUICRefuse {
		return []uint16{80, 443, 784, 853, 8853}
	}
	return []uint16{784, 853, 8853}
}

// A chain collects rules.
type chain struct{ Chain }

func (c *chain) rule(name, why string, match, do []part) {
	c.Rules = append(c.Rules, Rule{Name: name, Why: why, match: match, do: do})
}

// both adds a rule for each family, made by what makes one.
func (c *chain) both(name, why string, match func(six bool) []part, do ...part) {
	c.rule(name+"-v4", why, match(false), do)
	c.rule(name+"-v6", "", match(true), do)
}

func (b *builder) add(c chain) { b.rs.Chains = append(b.rs.Chains, c.Chain) }

// from and to make the conditions of a pair of sets.
func from(set string) func(bool) []part {
	return func(six bool) []part { return []part{addr{six: six, source: true, set: set + suffix(six)}} }
}

func to(set string) func(bool) []part {
	return func(six bool) []part { return []part{addr{six: six, set: set + suffix(six)}} }
}

// prerouting is where packets from devices are seen first, with the destination
// that the device meant.
func (b *builder) prerouting() {
	base := chain{Chain{Name: "prerouting", Type: "filter", Hook: "prerouting", Priority: priorityMangle}}
	base.rule("from-devices", "nothing but what comes in by the interface is touched", []part{iif{b.dev}}, []part{jump{"guard"}})
	b.add(base)

	c := chain{Chain{Name: "guard"}}
	c.rule("neighbours", "without these there is no IPv6 on a link; a router forwards none", []part{icmp{true, firstNeighbour, lastNeighbour}}, []part{accept{}})
	c.rule("spoofed", "a source that the interface does not lead to", []part{homeless{}}, []part{drop{}})
	if b.cfg.VPN.Peers == "allow" {
		c.rule("peers", "devices reach each other", []part{leads{b.dev}}, []part{accept{}})
	} else {
		c.rule("peers", "devices do not reach each other", []part{leads{b.dev}}, []part{drop{}})
	}
	if len(b.cfg.VPN.Internal) > 0 {
		c.both("internal", "internal networks", to(setInternal), accept{})
	}
	c.rule("embedding", "addresses that hide another from the sets", to6(setEmbedding), []part{prohibited{}})
	b.ownResolver(&c, "before what refuses others of its kind", local{})
	c.rule("private-dns", "resolvers of their own, with nothing to see but that it is DNS", []part{ports{protoTCP, setPrivateDNS}}, []part{reset{}})
	c.rule("quic", "refused at once, so that clients fall back to TCP", []part{ports{protoUDP, setQUIC}}, []part{prohibited{}})
	b.tproxies(&c)
	b.add(c)
}

func to6(set string) []part { return []part{addr{six: true, set: set}} }

// tproxies hands packets to the transparent listeners as they are.
func (b *builder) tproxies(c *chain) {
	if b.cfg.VPN.Divert == config.DivertTProxy {
		c.rule("to-gateway", "what is for this machine stays for it", []part{local{}}, []part{accept{}})
		b.replies(c)
		c.rule("dns-tcp", "DNS goes on to the nat chain", []part{port{protoTCP, 53}}, []part{accept{}})
		b.notInspected(c, accept{})
		for _, l := range listeners(b.cfg.Transparent.Listen) {
			if match := b.inspected(l.Addr().Is6()); match != nil {
				b.tproxy(c, "inspect", "TCP comes to the transparent listener", l, match)
			}
		}
	}
	if b.cfg.QUIC.Mode == config.QUICInspect {
		for _, l := range listeners(b.cfg.QUIC.Listen) {
			match := []part{ipv{l.Addr().Is6()}, port{protoUDP, 443}}
			b.tproxy(c, "inspect-quic", "QUIC comes to the gateway", l, match)
		}
	}
}

func (b *builder) tproxy(c *chain, name, why string, to netip.AddrPort, match []part) {
	if b.rs.Mark == 0 {
		b.rs.Mark = Mark
		b.note(fmt.Sprintf("beside the table, for each family: ip route add local default dev lo table %d; ip rule add priority %d fwmark %#x lookup %d",
			routeTable, routeTable, Mark, routeTable))
	}
	c.rule(name+suffix(to.Addr().Is6()), why, match, []part{tproxy{to}, mark{Mark}, accept{}})
}

// inspected are the conditions of TCP that is looked into, nil for none.
func (b *builder) inspected(six bool) []part {
	switch inspect := b.cfg.VPN.TCP.Inspect; {
	case inspect.All():
		return []part{ipv{six}, l4{protoTCP}}
	case len(inspect) > 0:
		return []part{ipv{six}, ports{protoTCP, setInspect}}
	}
	return nil
}

// notInspected adds the rule that keeps TCP from being looked into, where all
// is and some is not to be.
func (b *builder) notInspected(c *chain, do part) {
	if d := b.cfg.VPN.TCP.Direct; len(d) > 0 && !d.All() {
		c.rule("tcp-direct", "ports that are not looked into", []part{ports{protoTCP, setTCPDirect}}, []part{do})
	}
}

// direct adds the rules for what passes on some ports.
func (b *builder) direct(c *chain) {
	switch d := b.cfg.VPN.TCP.Direct; {
	case d.All():
		if b.inspectsAny() {
			c.rule("undiverted", "connections from before this table", []part{ports{protoTCP, setInspect}}, []part{reset{}})
		}
		c.rule("tcp-direct", "all other TCP", []part{l4{protoTCP}}, []part{accept{}})
	case len(d) > 0:
		c.rule("tcp-direct", "ports that are not looked into", []part{ports{protoTCP, setTCPDirect}}, []part{accept{}})
	}
	switch d := b.cfg.VPN.UDP.Direct; {
	case d.All():
		c.rule("udp-direct", "all other UDP", []part{l4{protoUDP}}, []part{accept{}})
	case len(d) > 0:
		c.rule("udp-direct", "ports that pass", []part{ports{protoUDP, setUDPDirect}}, []part{accept{}})
	}
	if b.cfg.QUIC.Mode == config.QUICAllow {
		c.rule("quic", "QUIC passes, judged by address only", []part{port{protoUDP, 443}}, []part{accept{}})
	}
}

// replies adds the rule for what devices answer.
func (b *builder) replies(c *chain) {
	if b.managed() {
		c.rule("replies", "answers to those who may open connections to devices", []part{reply{}}, []part{accept{}})
	}
}

func (b *builder) managed() bool { return len(b.cfg.VPN.Management) > 0 }

func (b *builder) inspectsAny() bool { return len(b.cfg.VPN.TCP.Inspect) > 0 }

// nat changes where packets go, once for a connection.
func (b *builder) nat() {
	base := chain{Chain{Name: "nat", Type: "nat", Hook: "prerouting", Priority: priorityNAT}}
	base.rule("from-devices", "", []part{iif{b.dev}}, []part{jump{"divert"}})
	b.add(base)

	c := chain{Chain{Name: "divert"}}
	for _, l := range listeners(b.cfg.DNS.Listen) {
		if l.Addr().IsLoopback() {
			continue
		}
		six := l.Addr().Is6()
		c.rule("dns-udp"+suffix(six), "DNS comes to the gateway, whoever is asked", []part{ipv{six}, port{protoUDP, 53}}, []part{toListener(l)})
		c.rule("dns-tcp"+suffix(six), "", []part{ipv{six}, port{protoTCP, 53}}, []part{toListener(l)})
	}
	b.missing("dns.listen", b.cfg.DNS.Listen, "DNS")
	if b.cfg.VPN.Divert == config.DivertRedirect && b.inspectsAny() {
		b.redirects(&c)
	}
	b.add(c)
}

// redirects brings TCP to the transparent listeners by its destination.
func (b *builder) redirects(c *chain) {
	c.rule("to-gateway", "what is for this machine stays for it", []part{local{}}, []part{back{}})
	if b.cfg.VPN.Peers == "allow" {
		c.rule("peers", "", []part{leads{b.dev}}, []part{back{}})
	}
	if len(b.cfg.VPN.Internal) > 0 {
		c.both("internal", "", to(setInternal), back{})
	}
	b.notInspected(c, back{})
	for _, l := range listeners(b.cfg.Transparent.Listen) {
		if !l.Addr().IsLoopback() {
			c.rule("inspect"+suffix(l.Addr().Is6()), "TCP comes to the transparent listener", b.inspected(l.Addr().Is6()), []part{toListener(l)})
		}
	}
	b.missing("transparent.listen", b.cfg.Transparent.Listen, "TCP")
}

// missing notes a family that nothing listens on.
func (b *builder) missing(key string, list []netip.AddrPort, what string) {
	for _, six := range []bool{false, true} {
		if !slices.ContainsFunc(listeners(list), func(a netip.AddrPort) bool { return a.Addr().Is6() == six && !a.Addr().IsLoopback() }) {
			b.note("there is no IP" + map[bool]string{false: "v4", true: "v6"}[six] + " address in " + key + ": such " + what + " of devices is refused")
		}
	}
}

// toListener changes the destination to the listener.
func toListener(l netip.AddrPort) part {
	if l.Addr().IsUnspecified() {
		return redirect{l.Port()}
	}
	return dnat{l}
}

// listeners returns one address of each family: an unspecified one where there
// is one, which takes packets of all interfaces, else the first that is not
// loopback's alone.
func listeners(list []netip.AddrPort) []netip.AddrPort {
	var out []netip.AddrPort
	for _, six := range []bool{false, true} {
		var best netip.AddrPort
		rank := 0
		for _, l := range list {
			r := 2
			switch a := l.Addr(); {
			case a.Is6() != six:
				continue
			case a.IsUnspecified():
				r = 3
			case a.IsLoopback():
				r = 1
			}
			if r > rank {
				best, rank = l, r
			}
		}
		if rank > 0 {
			out = append(out, netip.AddrPortFrom(best.Addr().WithZone(""), best.Port()))
		}
	}
	return out
}

// forward is where packets are seen that are neither for this machine nor
// brought to it.
func (b *builder) forward() {
	base := chain{Chain{Name: "forward", Type: "filter", Hook: "forward", Priority: priorityFilter}}
	base.rule("from-devices", "", []part{iif{b.dev}}, []part{jump{"outbound"}})
	base.rule("to-devices", "", []part{oif{b.dev}}, []part{jump{"inbound"}})
	b.add(base)
	b.outbound()
	b.inbound()

	c := chain{Chain{Name: "refuse"}}
	c.rule("tcp", "a client is told at once, and an open connection ends", []part{l4{protoTCP}}, []part{reset{}})
	c.rule("rest", "", nil, []part{prohibited{}})
	b.add(c)
}

// outbound judges what devices send to the world. Bans stand first, before any
// rule about connections that exist: a new ban ends them.
func (b *builder) outbound() {
	c := chain{Chain{Name: "outbound"}}
	for _, ban := range b.bans {
		c.both("ban-"+ban.ID, "addresses of the ban "+ban.ID+", on every port", func(six bool) []part {
			return []part{
				addr{six: six, set: bannedSet(ban.ID, six)},
				addr{six: six, source: true, set: sparedSet(ban.ID, six), not: true},
			}
		}, leave{"refuse"})
	}
	b.replies(&c)
	if b.cfg.VPN.Peers == "allow" {
		c.rule("peers", "", []part{oif{b.dev}}, []part{accept{}})
	}
	if len(b.cfg.VPN.Internal) > 0 {
		c.both("internal", "", to(setInternal), accept{})
	}
	c.both("ping", "small and few", ping, accept{})
	b.direct(&c)
	c.rule("rest-tcp", "all other TCP, also what was open before this table", []part{l4{protoTCP}}, []part{reset{}})
	c.rule("rest", "all other UDP, and what is neither: tunnels (ESP, GRE, IP in IP, SCTP)", nil, []part{drop{}})
	b.add(c)
}

// ping are the conditions of an echo request that passes.
func ping(six bool) []part {
	t := icmp{six, echo4, echo4}
	if six {
		t = icmp{six, echo6, echo6}
	}
	return []part{t, size{six: six, n: echoSize}, rate{echoRate, echoRate}}
}

// inbound judges what the world sends to devices. Nothing that it sends opens a
// connection, and what a ban holds back does not even answer.
func (b *builder) inbound() {
	c := chain{Chain{Name: "inbound"}}
	if b.managed() {
		c.both("management", "those that administer may open connections to devices", from(setManagement), accept{})
	}
	for _, ban := range b.bans {
		c.both("ban-"+ban.ID, "the other direction of connections from before the ban", func(six bool) []part {
			return []part{
				addr{six: six, source: true, set: bannedSet(ban.ID, six)},
				addr{six: six, set: sparedSet(ban.ID, six), not: true},
			}
		}, drop{})
	}
	if len(b.cfg.VPN.Internal) > 0 {
		c.both("internal", "", func(six bool) []part { return append(from(setInternal)(six), reply{}) }, accept{})
	}
	c.both("big-pongs", "as small as the requests", func(six bool) []part {
		t := icmp{six, echoReply4, echoReply4}
		if six {
			t = icmp{six, echoReply6, echoReply6}
		}
		return []part{t, size{six: six, over: true, n: echoSize}}
	}, drop{})
	c.rule("replies", "answers to devices, errors about what they sent among them", []part{reply{}}, []part{accept{}})
	c.rule("rest", "nobody else opens connections to devices", nil, []part{drop{}})
	b.add(c)
}

// input is where packets for this machine are seen, brought here or not.
func (b *builder) input() {
	base := chain{Chain{Name: "input", Type: "filter", Hook: "input", Priority: priorityFilter}}
	if b.managed() {
		base.both("management", "the operator is never locked out of this machine", from(setManagement), accept{})
	}
	base.rule("from-devices", "", []part{iif{b.dev}}, []part{jump{"gateway"}})
	b.add(base)

	c := chain{Chain{Name: "gateway"}}
	c.rule("neighbours", "", []part{icmp{true, firstNeighbour, lastNeighbour}}, []part{accept{}})
	c.rule("replies", "answers to this machine", []part{reply{}}, []part{accept{}})
	if b.rs.Mark != 0 {
		c.rule("as-it-is", "brought here without a change of its destination", []part{marked{b.rs.Mark}}, []part{accept{}})
	}
	for _, l := range listeners(b.cfg.DNS.Listen) {
		if six := l.Addr().Is6(); !l.Addr().IsLoopback() {
			c.rule("dns-udp"+suffix(six), "the resolver", []part{ipv{six}, port{protoUDP, l.Port()}}, []part{accept{}})
			c.rule("dns-tcp"+suffix(six), "", []part{ipv{six}, port{protoTCP, l.Port()}}, []part{accept{}})
		}
	}
	b.ownResolver(&c, "the resolver, encrypted")
	for _, l := range listeners(b.cfg.Proxy.Listen) {
		if six := l.Addr().Is6(); !l.Addr().IsLoopback() {
			c.rule("proxy"+suffix(six), "the proxy", []part{ipv{six}, port{protoTCP, l.Port()}}, []part{accept{}})
		}
	}
	if b.cfg.VPN.Divert == config.DivertRedirect && b.inspectsAny() {
		for _, l := range listeners(b.cfg.Transparent.Listen) {
			if six := l.Addr().Is6(); !l.Addr().IsLoopback() {
				c.rule("inspect"+suffix(six), "what was brought to the transparent listener, and nobody who asks for it", []part{ipv{six}, port{protoTCP, l.Port()}, diverted{}}, []part{accept{}})
			}
		}
	}
	c.both("ping", "small and few", ping, accept{})
	c.rule("rest-tcp", "nothing else of this machine is for devices, its administration least of all", []part{l4{protoTCP}}, []part{reset{}})
	c.rule("rest", "", nil, []part{drop{}})
	b.add(c)
}

// ownResolver accepts what devices ask the encrypted listeners of the resolver
// itself.
func (b *builder) ownResolver(c *chain, why string, also ...part) {
	add := func(name string, list []netip.AddrPort, protos ...uint8) {
		for _, l := range listeners(list) {
			for _, proto := range protos {
				if six := l.Addr().Is6(); !l.Addr().IsLoopback() {
					c.rule("own-"+name+suffix(six), why, append(slices.Clone(also), ipv{six}, port{proto, l.Port()}), []part{accept{}})
				}
			}
		}
	}
	add("dot", b.cfg.DNS.DoT.Listen, protoTCP)
	add("doq", b.cfg.DNS.DoQ.Listen, protoUDP)
	add("doh", b.cfg.DNS.DoH.Listen, protoTCP)
	if b.cfg.DNS.DoH.HTTP3 {
		add("doh3", b.cfg.DNS.DoH.Listen, protoUDP)
	}
}

// embedding are addresses that hold an IPv4 address which a set of prefixes
// cannot see, and which nothing needs: RFC 4380, RFC 3056, and RFC 4291, section
// 2.5.5.1. NAT64 (RFC 6052) is in use, and its addresses are in the bans' sets.
var embedding = []netip.Prefix{
	netip.MustParsePrefix("2001::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("::/96"),
}

var nat64 = netip.MustParseAddr("64:ff9b::").As16()

// throughNAT64 returns the IPv6 ranges with the IPv4 ones as NAT64 writes them.
func throughNAT64(four, six []policy.Range) []policy.Range {
	as6 := func(a netip.Addr) netip.Addr {
		b, v4 := nat64, a.As4()
		copy(b[12:], v4[:])
		return netip.AddrFrom16(b)
	}
	out := make([]policy.Range, 0, len(four)+len(six))
	for _, r := range four {
		out = append(out, policy.Range{First: as6(r.First), Last: as6(r.Last)})
	}
	return policy.JoinRanges(append(out, six...))
}

// rangesOf returns the networks as ranges.
func rangesOf(list []netip.Prefix) []policy.Range {
	out := make([]policy.Range, 0, len(list))
	for _, p := range list {
		out = append(out, policy.Range{First: p.Masked().Addr(), Last: lastOf(p.Masked())})
	}
	return policy.JoinRanges(out)
}

// split cuts ordered ranges where IPv6 begins.
func split(rs []policy.Range) (four, six []policy.Range) {
	i := slices.IndexFunc(rs, func(r policy.Range) bool { return r.First.Is6() })
	if i < 0 {
		return rs, nil
	}
	return rs[:i], rs[i:]
}

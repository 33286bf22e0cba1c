package parse

import (
	"errors"
	"net/netip"

	"github.com/weir-gateway/weir/blocklists"
)

// parsePrefixes reads a line of the prefixes dialect, which is Weir's own: one
// address or CIDR prefix, "@@" before it to let it through, "#" comments and
// notes as in the domains dialect. Bits after the prefix length are ignored.
func parsePrefixes(p *parser, text string) {
	entry, ok := p.column1(text)
	if !ok {
		return
	}
	action, s, offset := allow(entry)
	prefix, err := parsePrefix(s)
	if err != nil {
		p.skip(offset, SkipNotAddress, s, err)
		return
	}
	p.prefixRule(blocklists.Rule{Action: action}, prefix, s, offset)
}

// prefixRule gives out a rule for the prefix, unless it is special.
func (p *parser) prefixRule(rule blocklists.Rule, prefix netip.Prefix, text string, offset int) {
	if isSpecial(prefix) {
		p.skip(offset, SkipSpecial, text, nil)
		return
	}
	rule.Kind, rule.Prefix = blocklists.Prefix, prefix
	p.rule(rule)
}

var errZone = errors.New("an address with a zone means something on one machine only")

// parsePrefix reads an address or a prefix. IPv4-mapped ones become IPv4.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, addrErr := netip.ParseAddr(s)
		if addrErr != nil {
			return netip.Prefix{}, errors.New("not an address or prefix")
		}
		if a.Zone() != "" {
			return netip.Prefix{}, errZone
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// Widths from which on a prefix is a mistake or an attack on the gateway's own
// users.
const (
	widestIPv4 = 8
	widestIPv6 = 16
)

// special is the address space that no list may speak about: what is not
// global unicast (RFC 6890). Blocking it would cut the gateway's own networks,
// and lists in use do have such entries. Space for documentation is left out,
// because rules for it do no harm.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),      // RFC 791, this network
	netip.MustParsePrefix("10.0.0.0/8"),     // RFC 1918
	netip.MustParsePrefix("100.64.0.0/10"),  // RFC 6598, carrier-grade NAT
	netip.MustParsePrefix("127.0.0.0/8"),    // RFC 1122, loopback
	netip.MustParsePrefix("169.254.0.0/16"), // RFC 3927, link-local
	netip.MustParsePrefix("172.16.0.0/12"),  // RFC 1918
	netip.MustParsePrefix("192.168.0.0/16"), // RFC 1918
	netip.MustParsePrefix("224.0.0.0/3"),    // RFC 5771 and RFC 1112, multicast and reserved
	netip.MustParsePrefix("::/127"),         // RFC 4291, unspecified and loopback
	netip.MustParsePrefix("::ffff:0:0/96"),  // RFC 4291, what is wider than one IPv4 address space
	netip.MustParsePrefix("fc00::/7"),       // RFC 4193, unique local
	netip.MustParsePrefix("fe80::/9"),       // RFC 4291 and RFC 3879, link-local and site-local
	netip.MustParsePrefix("ff00::/8"),       // RFC 4291, multicast
}

// nat64 is special as the IPv4 address space that it stands for.
var nat64 = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052

// isSpecial reports whether the prefix reaches into special address space or
// is too wide.
func isSpecial(p netip.Prefix) bool {
	if p.Addr().Is4() && p.Bits() < widestIPv4 || p.Addr().Is6() && p.Bits() < widestIPv6 {
		return true
	}
	for _, s := range special {
		if s.Overlaps(p) {
			return true
		}
	}
	if nat64.Overlaps(p) {
		v4 := blocklists.EmbeddedIPv4(p.Addr())
		return p.Bits() < nat64.Bits() || isSpecial(netip.PrefixFrom(v4, p.Bits()-nat64.Bits()))
	}
	return false
}

package parse

import (
	"net/netip"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// parseHosts reads a line of a hosts file, as hosts(5) of Linux defines it:
//
//	address name [name…] [# comment]
//
// Every name is exact: a hosts file never speaks about what is under a name.
// An unspecified or loopback address is the convention for a block; any other
// address is local data, which is no statement about blocking. The names with
// which a machine calls itself are no rules whatever their address.
func parseHosts(p *parser, text string) {
	first, offset := field(text, 0)
	addr, ok := hostsAddr(first)
	if !ok {
		p.skip(0, SkipNoAddress, text, nil)
		return
	}
	p.hostsNames(addr, text, offset+len(first))
}

// hostsNames reads the names after the address of a hosts line.
func (p *parser) hostsNames(addr netip.Addr, text string, offset int) {
	block := addr.IsUnspecified() || addr.IsLoopback()
	name, offset := field(text, offset)
	if name == "" {
		p.skip(0, SkipNoName, text, nil)
		return
	}
	for ; name != "" && !p.stopped; name, offset = field(text, offset+len(name)) {
		switch {
		case isSelfName(name):
			p.skip(offset, SkipSelfName, name, nil)
		case !block:
			p.skip(offset, SkipLocalData, name, nil)
		default:
			p.nameRule(blocklists.Rule{Kind: blocklists.Exact, Action: blocklists.Block}, name, offset)
		}
	}
}

// hostsAddr reads the address of a hosts line. C libraries differ in whether
// they take the short spellings of inet_aton ("0", "127.1"); lists use them for
// blocks only, so they are taken.
func hostsAddr(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.WithZone("").Unmap(), true
	}
	if s[0] < '0' || s[0] > '9' {
		return netip.Addr{}, false
	}
	h, err := blocklists.ParseHost(s)
	return h.Addr, err == nil && h.Addr.IsValid()
}

// isSelfName reports whether a machine calls itself or its own networks so.
func isSelfName(s string) bool {
	s = strings.ToLower(strings.TrimSuffix(s, "."))
	switch s {
	case "localhost", "localhost.localdomain", "localhost4", "localhost4.localdomain4",
		"localhost6", "localhost6.localdomain6", "local", "broadcasthost", "0.0.0.0":
		return true
	}
	return strings.HasPrefix(s, "ip6-") && !strings.Contains(s, ".")
}

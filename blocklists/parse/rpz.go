package parse

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// The RPZ dialect is a response policy zone as a zone file: the syntax is that
// of RFC 1035, section 5.1, the meaning that of draft-vixie-dnsop-dns-rpz.
//
// Triggers are owner names relative to the zone: "name" is the name only,
// "*.name" everything under it and not the name itself, and
// "32.1.2.0.192.rpz-ip" an address prefix in the answer, an IPv6 one with "zz"
// for "::". Triggers on clients and name servers are not supported.
//
// Actions are records: "CNAME ." is NXDOMAIN, "CNAME *." NODATA,
// "CNAME rpz-drop." no answer, and "CNAME rpz-passthru." (or a CNAME to the
// trigger itself, its older spelling) lets it through. Other data is local data
// and not a block.
//
// The zone's name is the owner of its SOA record, or $ORIGIN where that says
// no more. In a file that has neither, owners without a final dot are relative to
// the zone whatever its name is, and those with one cannot be in it. SOA and NS
// records, DNSSEC records and what else stands at the zone's apex are its
// administration and count as comments. $INCLUDE is never followed.

// policy reads a record as a trigger and an action.
func (p *parser) policy(owner, rrtype string, data []token, text string) {
	z := &p.zone
	name := z.resolve(owner)
	if rrtype == "SOA" {
		if name.absolute && !z.soa {
			z.zone, z.soa = name, true
		}
		return
	}
	if administrative[rrtype] {
		return
	}
	trigger, ok := z.relative(name)
	switch {
	case !ok:
		p.skip(0, SkipOutOfZone, text, nil)
	case trigger == "" && rrtype != "CNAME":
		return
	case trigger == "" || trigger == "*":
		p.skip(0, SkipEverything, text, nil)
	case rrtype != "CNAME":
		p.skip(0, SkipLocalData, text, nil)
	case len(data) != 1:
		p.skip(0, SkipSyntax, text, errRecord)
	default:
		rule, reason := action(z.resolve(data[0].text), trigger)
		if reason != "" {
			p.skip(data[0].offset, reason, text, nil)
			return
		}
		p.trigger(rule, trigger, text)
	}
}

// administrative are the types that a signed zone has at every name.
var administrative = map[string]bool{
	"DNSKEY": true, "DS": true, "CDS": true, "CDNSKEY": true, "RRSIG": true,
	"NSEC": true, "NSEC3": true, "NSEC3PARAM": true, "ZONEMD": true,
}

// action says what a CNAME to that target means for the trigger.
func action(target zoneName, trigger string) (blocklists.Rule, Skip) {
	if !target.absolute {
		return blocklists.Rule{}, SkipLocalData
	}
	switch name := strings.ToLower(target.name); name {
	case "":
		return blocklists.Rule{Action: blocklists.Block, Mode: blocklists.NXDOMAIN}, ""
	case "*":
		return blocklists.Rule{Action: blocklists.Block, Mode: blocklists.NODATA}, ""
	case "rpz-drop":
		return blocklists.Rule{Action: blocklists.Block, Mode: blocklists.Drop}, ""
	case "rpz-passthru", strings.ToLower(trigger):
		return blocklists.Rule{Action: blocklists.Allow}, ""
	case "rpz-tcp-only":
		return blocklists.Rule{}, SkipAction
	}
	return blocklists.Rule{}, SkipLocalData
}

// trigger gives out the rule for what the trigger matches.
func (p *parser) trigger(rule blocklists.Rule, s, text string) {
	last := strings.ToLower(s[strings.LastIndexByte(s, '.')+1:])
	switch {
	case last == "rpz-ip":
		prefix, ok := triggerPrefix(strings.ToLower(s[:max(0, len(s)-len(".rpz-ip"))]))
		if !ok {
			p.skip(0, SkipNotAddress, text, nil)
			return
		}
		p.prefixRule(rule, prefix, text, 0)
		return
	case strings.HasPrefix(last, "rpz-"):
		p.skip(0, SkipTrigger, text, nil)
		return
	}
	rule.Kind = blocklists.Exact
	name, under := strings.CutPrefix(s, "*.")
	if under {
		rule.Kind = blocklists.Under
	}
	if strings.HasSuffix(name, ".") {
		p.skip(0, SkipName, text, nil)
		return
	}
	p.nameRule(rule, name, 0)
}

// triggerPrefix reads "length.reversed-address": decimal for IPv4, words for
// IPv6 with at most one "zz". Bits after the length are ignored.
func triggerPrefix(s string) (netip.Prefix, bool) {
	length, rest, _ := strings.Cut(s, ".")
	bits, err := strconv.Atoi(length)
	if err != nil {
		return netip.Prefix{}, false
	}
	words := strings.Split(rest, ".")
	slices.Reverse(words)
	text := strings.Join(words, ":")
	if zz := slices.Index(words, "zz"); zz >= 0 {
		text = strings.Join(words[:zz], ":") + "::" + strings.Join(words[zz+1:], ":")
	} else if len(words) == 4 {
		text = strings.Join(words, ".")
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, false
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}, false
	}
	if addr.Is4In6() && bits >= 96 {
		prefix = netip.PrefixFrom(addr.Unmap(), bits-96).Masked()
	}
	return prefix, true
}

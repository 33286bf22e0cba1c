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
// RPZ.md says how it meets Weir's own order, and how it compares to other
// engines.
//
// Triggers are owner names relative to the zone: "name" is the name only,
// "*.name" everything under it and not the name itself,
// "32.1.2.0.192.rpz-ip" an address prefix in the answer, an IPv6 one with "zz"
// for "::", and "32.1.2.0.192.rpz-client-ip" one of who asks. Triggers on the
// names and addresses of name servers (rpz-nsdname, rpz-nsip) are skipped: a
// forwarder never sees which servers an answer came from.
//
// Actions are records: "CNAME ." is NXDOMAIN, "CNAME *." NODATA,
// "CNAME rpz-drop." no answer, "CNAME rpz-tcp-only." a truncated one over UDP,
// and "CNAME rpz-passthru." (or a CNAME to the trigger itself, its older
// spelling) lets it through. Any other record is local data: it answers the
// question. Of a CNAME to "*.name", the question's name takes the place of "*".
//
// The zone's name is the owner of its SOA record, or $ORIGIN where that says
// no more. In a file that has neither, owners without a final dot are relative to
// the zone whatever its name is, and those with one cannot be in it. SOA and NS
// records, DNSSEC records and what else stands at the zone's apex are its
// administration and count as comments. $INCLUDE is never followed.

// policy reads a record as a trigger and an action.
func (p *parser) policy(r zoneRecord) {
	z := &p.zone
	name := z.resolve(r.owner)
	if r.rrtype == "SOA" {
		if name.absolute && !z.soa {
			z.zone, z.soa = name, true
		}
		return
	}
	if administrative[r.rrtype] {
		return
	}
	trigger, ok := z.relative(name)
	switch {
	case !ok:
		p.skip(0, SkipOutOfZone, r.text, nil)
	case trigger == "" && r.rrtype != "CNAME":
		return
	case trigger == "" || trigger == "*":
		p.skip(0, SkipEverything, r.text, nil)
	case r.rrtype == "DNAME" || r.rrtype == "NS":
		p.skip(0, SkipAction, r.text, nil)
	case r.rrtype != "CNAME":
		p.local(&r, trigger)
	case len(r.data) != 1:
		p.skip(0, SkipSyntax, r.text, errRecord)
	default:
		p.alias(&r, trigger)
	}
}

// administrative are the types that a signed zone has at every name.
var administrative = map[string]bool{
	"DNSKEY": true, "DS": true, "CDS": true, "CDNSKEY": true, "RRSIG": true,
	"NSEC": true, "NSEC3": true, "NSEC3PARAM": true, "ZONEMD": true,
}

// alias reads a CNAME: an action, or local data.
func (p *parser) alias(r *zoneRecord, trigger string) {
	target := p.zone.resolve(r.data[0].text)
	if !target.absolute {
		p.skip(r.data[0].offset, SkipLocalData, r.text, errRelative)
		return
	}
	rule := blocklists.Rule{Action: blocklists.Block}
	switch name := strings.ToLower(target.name); {
	case name == "":
		rule.Mode = blocklists.NXDOMAIN
	case name == "*":
		rule.Mode = blocklists.NODATA
	case name == "rpz-drop":
		rule.Mode = blocklists.Drop
	case name == "rpz-tcp-only":
		rule.Mode = blocklists.TCPOnly
	case name == "rpz-passthru" || name == strings.ToLower(trigger):
		rule.Action, rule.Mode = blocklists.Allow, blocklists.Passthru
	case strings.HasPrefix(name, "rpz-") && !strings.Contains(name, "."):
		p.skip(r.data[0].offset, SkipAction, r.text, nil)
		return
	default:
		p.local(r, trigger)
		return
	}
	p.trigger(rule, trigger, r.text)
}

// local reads a record of local data.
func (p *parser) local(r *zoneRecord, trigger string) {
	data, err := p.zone.localData(r)
	if err != nil {
		p.skip(0, SkipLocalData, r.text, err)
		return
	}
	p.trigger(blocklists.Rule{Action: blocklists.Block, Mode: blocklists.LocalData, Data: data}, trigger, r.text)
}

// trigger gives out the rule for what the trigger matches.
func (p *parser) trigger(rule blocklists.Rule, s, text string) {
	last := strings.ToLower(s[strings.LastIndexByte(s, '.')+1:])
	switch last {
	case "rpz-ip":
		prefix, ok := triggerPrefix(strings.ToLower(s[:max(0, len(s)-len(".rpz-ip"))]))
		if !ok {
			p.skip(0, SkipNotAddress, text, nil)
			return
		}
		p.prefixRule(rule, prefix, text, 0)
		return
	case "rpz-client-ip":
		p.client(rule, s[:max(0, len(s)-len(".rpz-client-ip"))], text)
		return
	case "rpz-nsdname":
		p.skip(0, SkipNSName, text, nil)
		return
	case "rpz-nsip":
		p.skip(0, SkipNSAddress, text, nil)
		return
	}
	if strings.HasPrefix(last, "rpz-") {
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

// client gives out a rule about who asks. Private address space is what clients
// have; a prefix that is far too wide is everybody.
func (p *parser) client(rule blocklists.Rule, s, text string) {
	prefix, ok := triggerPrefix(strings.ToLower(s))
	switch {
	case !ok:
		p.skip(0, SkipNotAddress, text, nil)
	case prefix.Addr().Is4() && prefix.Bits() < widestIPv4, prefix.Addr().Is6() && prefix.Bits() < widestIPv6:
		p.skip(0, SkipEverything, text, nil)
	default:
		rule.Kind, rule.Prefix = blocklists.Client, prefix
		p.rule(rule)
	}
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

package dnsserver

import (
	"net"
	"net/netip"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/policy"
)

const (
	// ddrName is what a client asks for that knows the resolver's address only
	// (RFC 9462, section 4), and ddrTTL how long it may keep the answer.
	ddrName = "_dns.resolver.arpa"
	ddrTTL  = 300
	// dohTemplate is where DNS over HTTPS is (RFC 9461, section 5).
	dohTemplate = dohPath + "{?dns}"
)

// designate says by which encrypted transports the resolver of that name
// answers, in the order in which clients should try them.
func (s *Server) designate(name string) []dns.RR {
	if name == "" {
		return nil
	}
	var rrs []dns.RR
	add := func(listeners []netip.AddrPort, alpn ...string) {
		seen := map[uint16]*dns.SVCB{}
		for _, l := range listeners {
			rr := seen[l.Port()]
			if rr == nil {
				rr = s.service(name, uint16(len(rrs)+1), l.Port(), alpn)
				seen[l.Port()], rrs = rr, append(rrs, rr)
			}
			hint(rr, l.Addr())
		}
	}
	add(s.DoTAddrs(), "dot")
	add(s.DoQAddrs(), "doq")
	if s.opts.HTTP3 {
		add(s.DoHAddrs(), "h2", "h3")
	} else {
		add(s.DoHAddrs(), "h2")
	}
	return rrs
}

func (s *Server) service(name string, priority, port uint16, alpn []string) *dns.SVCB {
	rr := &dns.SVCB{
		Hdr:      dns.RR_Header{Rrtype: dns.TypeSVCB, Class: dns.ClassINET, Ttl: ddrTTL},
		Priority: priority, Target: dns.Fqdn(name),
		Value: []dns.SVCBKeyValue{&dns.SVCBAlpn{Alpn: alpn}, &dns.SVCBPort{Port: port}},
	}
	if alpn[0] == "h2" {
		rr.Value = append(rr.Value, &dns.SVCBDoHPath{Template: dohTemplate})
	}
	return rr
}

// hint adds the address of a listener, where it has one that clients can reach.
func hint(rr *dns.SVCB, a netip.Addr) {
	if a.IsUnspecified() || a.IsLoopback() {
		return
	}
	ip := net.IP(a.AsSlice())
	for _, v := range rr.Value {
		switch v := v.(type) {
		case *dns.SVCBIPv4Hint:
			if a.Is4() {
				v.Hint = append(v.Hint, ip)
				return
			}
		case *dns.SVCBIPv6Hint:
			if a.Is6() {
				v.Hint = append(v.Hint, ip)
				return
			}
		}
	}
	if a.Is4() {
		rr.Value = append(rr.Value, &dns.SVCBIPv4Hint{Hint: []net.IP{ip}})
		return
	}
	rr.Value = append(rr.Value, &dns.SVCBIPv6Hint{Hint: []net.IP{ip}})
}

// asksForUs reports whether the question is for our own encrypted endpoints,
// without our name or by it (RFC 9462, sections 4 and 5). Without endpoints the
// question is like others, and resolver.arpa one of the bypass ban's.
func (c *core) asksForUs(q *question) bool {
	return len(c.endpoints) > 0 && q.qtype == dns.TypeSVCB && (q.name == ddrName || q.name == "_dns."+c.name)
}

// ours makes the decision one about ourselves: no list has a say in it.
func (d *decision) ours() {
	d.Verdict = policy.Verdict{Action: policy.Allow, Reason: policy.ReasonOperator, Generation: d.Generation, Group: d.Group}
	d.kind = kindEndpoints
}

// endpointsReply answers with the endpoints.
func (c *core) endpointsReply(dst []byte, q *question) []byte {
	m := newReply(q, dns.RcodeSuccess)
	for _, rr := range c.endpoints {
		rr = dns.Copy(rr)
		rr.Header().Name = q.msg.Question[0].Name
		m.Answer = append(m.Answer, rr)
	}
	return c.pack(dst, q, m, nil)
}

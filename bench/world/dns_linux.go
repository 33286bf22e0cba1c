package world

import (
	"crypto/tls"
	"hash/fnv"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Names with an answer of their own; every other name has addresses that follow
// from it.
const (
	// CloakSuffix is a zone in which NAME.cloak.example leads to NAME by a CNAME.
	CloakSuffix = "cloak.weir-world.net"
	// HintSuffix is one in which NAME has HTTPS records that lead to NAME.
	HintSuffix = "hint.weir-world.net"
	// ECHName has an HTTPS record with keys for an encrypted ClientHello.
	ECHName = "crypto.cloudflare.com"
	// RebindName has a private address.
	RebindName = "localtest.me"
)

const answerTTL = 60

// serveDNS starts resolvers that answer everything, on every usual and unusual
// port, in the clear and within TLS.
func (w *World) serveDNS() {
	for _, p := range dnsPorts {
		w.dnsServer(&dns.Server{Listener: w.tcp(p)})
		w.replies(p, overUDP)
	}
	for _, p := range dotPorts {
		w.dnsServer(&dns.Server{Listener: tls.NewListener(w.tcp(p), w.CA.config("dot"))})
	}
}

// overUDP answers a packet with a question.
func overUDP(b []byte) []byte {
	q := new(dns.Msg)
	if q.Unpack(b) != nil || q.Response || len(q.Question) != 1 {
		return nil
	}
	out, err := answer(q).Pack()
	if err != nil {
		return nil
	}
	return out
}

func (w *World) dnsServer(s *dns.Server) {
	s.Handler = dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) { _ = rw.WriteMsg(answer(q)) })
	w.tb.Cleanup(func() { _ = s.Shutdown() })
	go func() { _ = s.ActivateAndServe() }()
}

// answer answers one question.
func answer(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if o := q.IsEdns0(); o != nil {
		m.SetEdns0(1232, o.Do())
	}
	name := strings.ToLower(q.Question[0].Name)
	if inner, ok := strings.CutSuffix(name, "."+CloakSuffix+"."); ok {
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: header(q.Question[0].Name, dns.TypeCNAME), Target: inner + "."})
		name = inner + "."
		m.Answer = append(m.Answer, records(name, name, q.Question[0].Qtype)...)
		return m
	}
	m.Answer = records(q.Question[0].Name, name, q.Question[0].Qtype)
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{&dns.SOA{Hdr: header(q.Question[0].Name, dns.TypeSOA), Ns: "ns.weir-world.net.", Mbox: "nobody.weir-world.net.",
			Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: answerTTL}}
	}
	return m
}

func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: answerTTL}
}

// records are those of owner for a question about name.
func records(owner, name string, t uint16) []dns.RR {
	h := header(owner, t)
	bare := strings.TrimSuffix(name, ".")
	switch t {
	case dns.TypeA:
		return []dns.RR{&dns.A{Hdr: h, A: addr4(bare).AsSlice()}}
	case dns.TypeAAAA:
		if bare == RebindName {
			return nil
		}
		return []dns.RR{&dns.AAAA{Hdr: h, AAAA: addr6(bare).AsSlice()}}
	case dns.TypeHTTPS:
		return []dns.RR{https(h, bare)}
	case dns.TypeSVCB:
		if bare == "_dns.resolver.arpa" {
			return []dns.RR{&dns.SVCB{Hdr: h, Priority: 1, Target: "dns.google.", Value: []dns.SVCBKeyValue{&dns.SVCBAlpn{Alpn: []string{"dot", "h2"}}}}}
		}
	case dns.TypeTXT:
		return []dns.RR{&dns.TXT{Hdr: h, Txt: []string{"v=tunnel " + bare}}}
	}
	return nil
}

func https(h dns.RR_Header, name string) dns.RR {
	rr := &dns.HTTPS{SVCB: dns.SVCB{Hdr: h, Priority: 1, Target: "."}}
	if inner, ok := strings.CutSuffix(name, "."+HintSuffix); ok {
		rr.Target = inner + "."
		return rr
	}
	rr.Value = []dns.SVCBKeyValue{
		&dns.SVCBAlpn{Alpn: []string{"h3", "h2"}},
		&dns.SVCBIPv4Hint{Hint: []net.IP{addr4(name).AsSlice()}},
		&dns.SVCBIPv6Hint{Hint: []net.IP{addr6(name).AsSlice()}},
	}
	if name == ECHName {
		rr.Value = append(rr.Value, &dns.SVCBECHConfig{ECH: []byte("\x00\x04\xfe\x0d\x00\x00")})
	}
	return rr
}

// addr4 and addr6 are a name's addresses: outside every list, and no special
// ones, so that a gateway lets them through.
func addr4(name string) netip.Addr {
	if name == RebindName {
		return netip.AddrFrom4([4]byte{10, 0, 0, 7})
	}
	n := hash(name)
	return netip.AddrFrom4([4]byte{63, 245, byte(n >> 8), byte(n)})
}

func addr6(name string) netip.Addr {
	n := hash(name)
	return netip.AddrFrom16([16]byte{0x2a, 0x0e, 0x63, 0x24, 14: byte(n >> 8), 15: byte(n)})
}

func hash(name string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return h.Sum32()
}

// Address returns the IPv4 address that the internet gives for a name.
func (w *World) Address(name string) string { return addr4(name).String() }

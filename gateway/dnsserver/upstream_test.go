package dnsserver

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/gateway/resolver"
)

// upstream is a real DNS server on loopback. Names it has no records for have
// the address 192.0.2.1, of every other type nothing.
type upstream struct {
	addr    netip.AddrPort
	records map[string][]dns.RR // by name, lower case with the final dot
	mu      sync.Mutex
	asked   map[string]int
	broken  bool          // SERVFAIL
	gate    chan struct{} // names under slow.example wait for it, before they are asked for
}

func startUpstream(tb testing.TB, zone string) *upstream {
	tb.Helper()
	u := &upstream{records: map[string][]dns.RR{}, asked: map[string]int{}, gate: make(chan struct{})}
	p := dns.NewZoneParser(strings.NewReader(zone), ".", "")
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		u.records[rr.Header().Name] = append(u.records[rr.Header().Name], rr)
	}
	if err := p.Err(); err != nil {
		tb.Fatal(err)
	}
	pc, l := corpus.OnePort(tb)
	u.addr = l.Addr().(*net.TCPAddr).AddrPort()
	for _, s := range []*dns.Server{{Listener: l, Handler: u}, {PacketConn: pc, Handler: u}} {
		go func() { _ = s.ActivateAndServe() }()
		tb.Cleanup(func() { _ = s.Shutdown() })
	}
	return u
}

func (u *upstream) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	name := strings.ToLower(q.Question[0].Name)
	u.note(name)
	u.mu.Lock()
	broken := u.broken
	u.mu.Unlock()
	if broken {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
		return
	}
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = true
	u.answer(m, name, q.Question[0].Qtype)
	if strings.HasPrefix(name, "sigs.") && q.Question[0].Qtype == dns.TypeA {
		sign(m, q)
	}
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(1232, opt.Do())
		if w.LocalAddr().Network() == "udp" {
			m.Truncate(int(opt.UDPSize()))
		}
	} else if w.LocalAddr().Network() == "udp" {
		m.Truncate(dns.MinMsgSize)
	}
	_ = w.WriteMsg(m)
}

// sign makes an answer one that depends on the question's DO and CD.
func sign(m, q *dns.Msg) {
	h := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 86400}
	if q.CheckingDisabled {
		m.Answer = []dns.RR{&dns.A{Hdr: h, A: net.IPv4(192, 0, 2, 99)}}
	}
	if opt := q.IsEdns0(); opt != nil && opt.Do() {
		h.Rrtype = dns.TypeRRSIG
		m.Answer = append(m.Answer, &dns.RRSIG{Hdr: h, TypeCovered: dns.TypeA, Algorithm: dns.RSASHA256, Labels: 2, OrigTtl: 86400, Expiration: 1 << 31, Inception: 1 << 30, SignerName: "example.", Signature: "c2lnbmF0dXJl"})
	}
}

// answer answers by the first label of a name, where that says how.
func (u *upstream) answer(m *dns.Msg, name string, qtype uint16) {
	switch first, _, _ := strings.Cut(name, "."); first {
	case "servfail":
		m.Rcode = dns.RcodeServerFailure
		return
	case "nx", "nodata":
		if first == "nx" {
			m.Rcode = dns.RcodeNameError
		}
		m.Ns = []dns.RR{&dns.SOA{
			Hdr: dns.RR_Header{Name: name[len(first)+1:], Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 3600},
			Ns:  "ns." + name, Mbox: "admin." + name, Serial: 1, Refresh: 2, Retry: 3, Expire: 4, Minttl: 900,
		}}
		return
	case "ad":
		m.AuthenticatedData = true
	}
	for range 8 {
		rrs, known := u.records[name]
		var alias *dns.CNAME
		for _, rr := range rrs {
			if rr.Header().Rrtype == qtype {
				m.Answer = append(m.Answer, rr)
			} else if c, ok := rr.(*dns.CNAME); ok {
				alias = c
			}
		}
		if !known && qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.IPv4(192, 0, 2, 1)})
		}
		if alias == nil || len(m.Answer) > 0 && m.Answer[len(m.Answer)-1].Header().Rrtype == qtype {
			return
		}
		m.Answer = append(m.Answer, alias)
		name = alias.Target
	}
}

func (u *upstream) note(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked[name]++
}

// slow is a real resolver that waits for the gate with names under slow.example: for
// an upstream that says nothing it waits for a few seconds and no longer.
func (u *upstream) slow(tb testing.TB) *hooked {
	real := u.resolver(tb)
	return &hooked{Resolver: real, resolve: func(ctx context.Context, q *dns.Msg) (*resolver.Answer, error) {
		if name := strings.ToLower(q.Question[0].Name); strings.HasSuffix(name, ".slow.example.") {
			u.note(name)
			select {
			case <-u.gate:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return real.Resolve(ctx, q)
	}}
}

// within waits so long for the name to be asked for, and returns how often it was.
func (u *upstream) within(d time.Duration, name string) (n int) {
	for end := time.Now().Add(d); n == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		n = u.count(name)
	}
	return n
}

// count is how often the name was asked for. A question that is not answered at
// once is sent again: that it came once says nothing.
func (u *upstream) count(name string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[dns.CanonicalName(name)]
}

// resolver returns a real resolver that asks the upstream.
func (u *upstream) resolver(tb testing.TB) *resolver.Resolver {
	tb.Helper()
	r, err := resolver.New(resolver.Options{
		Upstreams: []*url.URL{{Scheme: "udp", Host: u.addr.String()}}, CacheEntries: 1000, Timeout: secs(20),
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = r.Close() })
	return r
}

// hooked is a real resolver that can be made to fail.
type hooked struct {
	*resolver.Resolver
	resolve func(ctx context.Context, q *dns.Msg) (*resolver.Answer, error)
}

func (h *hooked) Cached(q *dns.Msg) *resolver.Answer {
	if h.Resolver == nil {
		return nil
	}
	return h.Resolver.Cached(q)
}

// Current lets the hot path use the real resolver's cache.
func (h *hooked) Current() *resolver.Resolver { return h.Resolver }

func (h *hooked) Resolve(ctx context.Context, q *dns.Msg) (*resolver.Answer, error) {
	if h.resolve != nil {
		return h.resolve(ctx, q)
	}
	return h.Resolver.Resolve(ctx, q)
}

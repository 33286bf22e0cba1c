package dnsserver

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
	"github.com/weir-gateway/weir/gateway/resolver"
	"github.com/weir-gateway/weir/gateway/wire"
)

// newCore returns the handling of questions without any transport. Nothing
// leaves it: what is not decided here fails as without an upstream.
func newCore(tb testing.TB) *core {
	tb.Helper()
	store := new(policy.Store)
	store.Swap(snapshot(tb, 1, bans()))
	c := &core{policy: store, resolver: &hooked{}, audit: audit.Discard{}, blockTTL: 60}
	c.exit = newExit(tb.Context(), c, 0, 0, 0)
	return c
}

// handleAll is what a transport does with a message.
func handleAll(c *core, dst, p []byte, from netip.Addr, tr transport) []byte {
	q, reply := c.accept(dst, p, from, tr)
	if q != nil {
		reply, _ = c.reply(dst, q)
	}
	return reply
}

// newRichCore is newCore with all that looks into options.
func newRichCore(tb testing.TB) *core {
	tb.Helper()
	c := newCore(tb)
	cookies, err := NewCookies("", slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	cookies.Require = true
	c.cookies, c.subnets = cookies, true
	c.structured = &Structured{Option: 65001, Contact: []string{"mailto:help@example.org"}, Organization: "Weir"}
	c.idle[dot] = time.Minute
	return c
}

// FuzzQuestion: whatever comes, nothing panics; a reply is never one to a
// reply, is well-formed, has the message's id and fits the client.
func FuzzQuestion(f *testing.F) {
	for _, p := range seeds(f) {
		f.Add(p, false)
		f.Add(p, true)
	}
	for _, o := range []dns.EDNS0{
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef"},
		&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0123456789abcdef01000000000000000123456789abcdef"},
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(192, 0, 2, 0)},
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 2, SourceNetmask: 56, Address: net.ParseIP("2001:db8::")},
		&dns.EDNS0_EDE{},
		&dns.EDNS0_TCP_KEEPALIVE{Code: dns.EDNS0TCPKEEPALIVE},
		&dns.EDNS0_PADDING{Padding: make([]byte, 30)},
		&dns.EDNS0_LOCAL{Code: 65001},
	} {
		q := edns(query("wechat.com", dns.TypeA), 600)
		q.IsEdns0().Option = []dns.EDNS0{o}
		f.Add(pack(f, q), true)
		q.Question = nil
		f.Add(pack(f, q), false)
	}
	plain, rich := newCore(f), newRichCore(f)
	f.Fuzz(func(t *testing.T, p []byte, stream bool) {
		if stream {
			checkAnyReply(t, plain, p, tcp)
			checkAnyReply(t, rich, p, dot)
		} else {
			checkAnyReply(t, plain, p, udp)
			checkAnyReply(t, rich, p, udp)
		}
	})
}

// checkAnyReply holds what becomes of a message against a DNS library.
func checkAnyReply(t *testing.T, c *core, p []byte, tr transport) {
	t.Helper()
	limit := maxUDP
	if tr != udp {
		limit = dns.MaxMsgSize
	}
	reply := handleAll(c, make([]byte, 0, replySize), p, netip.MustParseAddr("10.8.0.7"), tr)
	if len(reply) == 0 {
		return
	}
	var m dns.Msg
	if err := m.Unpack(reply); err != nil {
		t.Fatalf("reply %x: %v", reply, err)
	}
	switch {
	case p[2]&0x80 != 0:
		t.Fatalf("a reply was answered with %v", &m)
	case !m.Response || reply[0] != p[0] || reply[1] != p[1]:
		t.Fatalf("reply %v is not one to %x", &m, p)
	case len(reply) > limit || tr == udp && m.IsEdns0() == nil && len(reply) > dns.MinMsgSize:
		t.Fatalf("reply of %d bytes: %v", len(reply), &m)
	}
	// What was taken for a question is answered as one to the same question.
	// The records after it are left out, because miekg/dns refuses a message
	// for what stands in an option that does not matter here.
	head := bytes.Clone(p)
	clear(head[6:12])
	var q dns.Msg
	if len(m.Question) == 1 && (q.Unpack(head) != nil || len(q.Question) != 1 || q.Question[0] != m.Question[0]) {
		t.Fatalf("reply %v is to another question than %v", &m, q.Question)
	}
}

// What miekg/dns unpacks as a name, resolver and policy must see as one: the
// canonical name has the labels of the wire, no more.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"\x06WeChat\x03com\x00", "\x08x.wechat\x03com\x00", "\x03a\\.\x03com\x00", "\x02\xc3\x89\x00", "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !aloneName(raw) {
			return
		}
		name, _, err := dns.UnpackDomainName(raw, 0)
		if err != nil {
			t.Fatalf("%x passes the check: %v", raw, err)
		}
		got := canonical(name)
		labels := 0
		for off := 0; raw[off] != 0; off += 1 + int(raw[off]) {
			labels++
		}
		dots := 0
		for i := range got {
			if got[i] == '.' {
				dots++
			}
		}
		if labels > 0 && dots != labels-1 || labels == 0 && got != "" {
			t.Fatalf("%q has %d dots, %x has %d labels", got, dots, raw, labels)
		}
		var again [256]byte
		if n, err := dns.PackDomainName(dns.Fqdn(got), again[:], 0, nil, false); err != nil || n != len(raw) {
			t.Fatalf("%q packs into %d bytes (%v), %x has %d", got, n, err, raw, len(raw))
		}
	})
}

var _ Resolver = (*resolver.Resolver)(nil)

// aloneName reports whether the bytes are one name and nothing else.
func aloneName(name []byte) bool {
	var q wire.Query
	f, _ := q.Parse(append(append(wire12(), name...), 0, 1, 0, 1))
	off := 0
	for off < len(name) && name[off] != 0 {
		off += 1 + int(name[off])
	}
	return (f == wire.Simple || f == wire.Complex) && off == len(name)-1
}

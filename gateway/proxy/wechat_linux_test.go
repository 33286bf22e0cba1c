package proxy

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/blocklists/parse"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway/audit"
	"github.com/weir-gateway/weir/gateway/policy"
)

// builtIn returns a policy of the built-in bans with those tiers.
func builtIn(t *testing.T, tiers ...blocklists.Tier) *policy.Snapshot {
	t.Helper()
	cfg, err := config.Default(bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	var b blocklists.Builder
	spec := policy.Spec{Generation: 2}
	for i := range cfg.Bans {
		ban := &cfg.Bans[i]
		ban.Tiers = tiers
		spec.Bans = append(spec.Bans, ban)
		for _, l := range ban.Lists {
			if !ban.Enabled(l.Tier) {
				continue
			}
			f, err := bans.FS.Open(strings.TrimPrefix(l.Source, "embedded:"))
			if err != nil {
				t.Fatal(err)
			}
			index := len(spec.Lists)
			if _, err := parse.Load(parse.Format(l.Format), f, parse.Limits{}, func(r blocklists.Rule) error { return b.Add(index, r) }); err != nil {
				t.Fatal(err)
			}
			_ = f.Close()
			spec.Lists = append(spec.Lists, policy.List{Name: l.Name, Role: policy.RoleBan, Ban: i, Signal: l.Signal, Answer: l.Answer})
		}
	}
	spec.Set = b.Build()
	s, err := policy.NewSnapshot(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The shapes of WeChat's traffic, as published: what the app sends first on
// its connections, with the values of the device replaced.
var shapes = []struct {
	what  string
	port  uint16
	first string
}{
	{"short link", 80, "POST /mmtls/2a9b1264 HTTP/1.1\r\nAccept: */*\r\nCache-Control: no-cache\r\nConnection: Keep-Alive\r\nContent-Length: 16\r\n" +
		"Content-Type: application/octet-stream\r\nHost: sgshort.wechat.com\r\nUpgrade: mmtls\r\nUser-Agent: MicroMessenger Client\r\n\r\n" + "\x16\xf1\x04\x01\x6e\x00\x00\x01\x6a\x01\x04\xf1\x02\xc0\x2b\x00"},
	{"short link over 8080", 8080, "POST /mmtls/00000000 HTTP/1.1\r\nContent-Length: 3\r\nHost: dns.weixin.qq.com\r\nUpgrade: mmtls\r\nUser-Agent: MicroMessenger Client\r\n\r\n\x16\xf1\x04"},
	{"short link to a strange host", 80, "POST /mmtls/2a9b1264 HTTP/1.1\r\nContent-Length: 3\r\nHost: innocent.example\r\n\r\n\x16\xf1\x04"},
	{"upgrade alone", 80, "POST /x HTTP/1.1\r\nContent-Length: 0\r\nHost: innocent.example\r\nUpgrade: mmtls\r\n\r\n"},
	{"program alone", 8080, "GET /x HTTP/1.1\r\nHost: innocent.example\r\nUser-Agent: Mozilla/5.0 (Linux; Android 14) MicroMessenger/8.0.44\r\n\r\n"},
	{"private DNS", 8080, "GET /cgi-bin/micromsg-bin/newgetdns?uin=0&clientversion=1&scene=0&net=1&md5=0&devicetype=android-34&lan=en&sigver=2 HTTP/1.0\r\n" +
		"Accept: */*\r\nAccept-Encoding: deflate\r\nCache-Control: no-cache\r\nConnection: close\r\nContent-Type: application/octet-stream\r\n" +
		"Host: dns.weixin.qq.com\r\nUser-Agent: MicroMessenger Client\r\n\r\n"},
	{"private DNS of a strange host", 80, "GET /cgi-bin/micromsg-bin/newgetdns?uin=0 HTTP/1.0\r\nHost: 198.51.100.80\r\n\r\n"},
	{"long link", 80, "\x16\xf1\x04\x00\xa1\x00\x00\x00\x9d\x01\x04\xf1\x01\x00\xa8"},
	{"long link over 8080", 8080, "\x16\xf1\x04\x00\xa1\x00\x00\x00\x9d\x01\x04\xf1\x01\x00\xa8"},
	{"long link over 443", 443, "\x16\xf1\x04\x00\xa1\x00\x00\x00\x9d\x01\x04\xf1\x01\x00\xa8"},
	{"long link, older", 8080, "\x16\xf1\x03\x00\xa1\x00\x00\x00"},
	{"long link with data at once", 80, "\x19\xf1\x04\x00\x22\x00"},
	{"long link resumed", 5222, "\x17\xf1\x04\x00\x20\x00"},
}

// Every shape is held back, whatever address it goes to and in whatever pieces
// it comes, and the ban is on the record.
func TestWeChatShapes(t *testing.T) {
	w := newWorld(t)
	if w == nil {
		return
	}
	origins := w.trap(80, 443, 8080, 5222)
	h := w.start(func(o *Options) { o.TransparentRules = Transparent{Unknown: ChooseAllow, Unseen: ChooseAllow} })
	h.store.Swap(builtIn(t, blocklists.TierExclusive))
	for _, how := range diversions {
		w.divert(how)
		for _, s := range shapes {
			for _, addr := range []string{"43.130.30.240", "198.51.100.80", "2001:db8:80::80"} {
				for _, piece := range []int{1, 1 << 20} {
					h.audit.clear()
					c := w.dial(netip.AddrPortFrom(netip.MustParseAddr(addr), s.port).String())
					rest := s.first
					for rest != "" {
						n := min(piece, len(rest))
						if _, err := io.WriteString(c, rest[:n]); err != nil {
							break // it is reset already
						}
						rest = rest[n:]
					}
					if rest != "" {
					} else if s.first[0] > 0x20 {
						if resp, err := http.ReadResponse(c.br, nil); err != nil || resp.StatusCode != http.StatusForbidden {
							t.Errorf("%s: %s to %s: %v, %v", how, s.what, addr, resp, err)
						}
					} else {
						c.wantReset()
					}
					_ = c.Close()
					r := h.audit.begun(t, 0)
					if r.Action != "block" || r.Ban != "wechat" || r.Reason != "ban" || r.RuleID == "" || r.Authority == "" ||
						r.Transport != how || r.Address.String() != addr || r.Port != s.port || r.Result != "403" && r.Result != "reset" {
						t.Errorf("%s: %s to %s: record %+v", how, s.what, addr, r)
					}
				}
			}
		}
	}
	for _, o := range origins {
		if n := o.accepted(); n > 0 {
			t.Errorf("%d connections came to port %d", n, o.port)
		}
	}
}

// trap listens on the Internet on the ports of both families.
func (w *world) trap(ports ...uint16) []*origin {
	var all []*origin
	for _, network := range []string{"tcp4", "tcp6"} {
		for _, p := range ports {
			l := w.listen(network, p)
			all = append(all, l)
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_ = c.Close()
				}
			}()
		}
	}
	return all
}

// A table is what WeChat's private DNS hands out.
type table struct {
	Domains []tableName `xml:"domainlist>domain"`
}

type tableName struct {
	Name string   `xml:"name,attr"`
	IP4  []string `xml:"ip"`
	IP6  []string `xml:"ipv6"`
}

// addrs are the addresses beside the name. That of a name which is switched off
// is loopback, and another stands in for it.
func (n *tableName) addrs() []netip.Addr {
	var out []netip.Addr
	for _, s := range append(n.IP4, n.IP6...) {
		if a := netip.MustParseAddr(s).Unmap(); !a.IsLoopback() {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		out = append(out, netip.MustParseAddr("198.51.100.80"))
	}
	return out
}

// Every name of the table is held back as Host and as server name at the
// address that stands beside it, and every address that a tier has with an
// innocent name. What only another product of the vendor uses is the vendor
// tier's, and an address that no tier has is a matter of its name.
func TestWeChatPrivateDNS(t *testing.T) {
	var all table
	if err := xml.NewDecoder(corpus.Open(t, "fixtures/wechat-newgetdns-2023-12.xml")).Decode(&all); err != nil {
		t.Fatal(err)
	}
	if len(all.Domains) != 77 {
		t.Fatalf("%d names, want 77", len(all.Domains))
	}
	w := newWorld(t)
	if w == nil {
		return
	}
	w.trap(80, 443)
	h := w.start(func(o *Options) { o.TransparentRules.Unseen = ChooseAllow })
	w.divert("tproxy")
	hello := string(clientHello(t, "innocent.example"))
	for _, c := range []struct {
		tiers []blocklists.Tier
		names string // of the vendor's other products, and of nobody's, which pass
		addrs int    // of the table that must be held back at the least
	}{
		{[]blocklists.Tier{blocklists.TierExclusive}, "localhost c6.y.qq.com shp.qlogo.cn", 4},
		{[]blocklists.Tier{blocklists.TierExclusive, blocklists.TierVendor}, "localhost", 75},
	} {
		snap := builtIn(t, c.tiers...)
		h.store.Swap(snap)
		for _, d := range all.Domains {
			addr := d.addrs()[0]
			pass := slices.Contains(strings.Fields(c.names), d.Name)
			for port, first := range map[uint16]string{80: "GET / HTTP/1.1\r\nHost: " + d.Name + "\r\n\r\n", 443: string(clientHello(t, d.Name))} {
				if r := w.first(h, addr, port, first); r.Name != d.Name || pass && r.Action != "allow" || !pass && (r.Ban != "wechat" || r.Action != "block") {
					t.Errorf("tiers %v, %s, port %d: %+v", c.tiers, d.Name, port, r)
				}
			}
		}
		blocked := map[netip.Addr]bool{}
		for _, d := range all.Domains {
			for _, a := range d.addrs() {
				v := snap.Addr(policy.Subject{}, a, time.Now())
				if !v.Blocked() || blocked[a] {
					continue
				}
				blocked[a] = true
				for port, first := range map[uint16]string{80: "GET / HTTP/1.1\r\nHost: innocent.example\r\n\r\n", 443: hello} {
					if r := w.first(h, a, port, first); r.Ban != "wechat" || r.RuleID != v.RuleID() || r.Action != "block" {
						t.Errorf("tiers %v, %s, port %d: %+v, want rule %s", c.tiers, a, port, r, v.RuleID())
					}
				}
			}
		}
		if len(blocked) < c.addrs {
			t.Errorf("tiers %v hold back %d addresses of the table, want %d", c.tiers, len(blocked), c.addrs)
		}
	}
}

// first sends the bytes from the device and returns the record.
func (w *world) first(h *harness, addr netip.Addr, port uint16, first string) audit.Record {
	w.tb.Helper()
	h.audit.clear()
	c := w.dial(netip.AddrPortFrom(addr, port).String())
	defer func() { _ = c.Close() }()
	c.send(first)
	return h.audit.begun(w.tb, 0)
}

// The browser inside the app, through the explicit proxy, with the real client.
func TestWeChatExplicit(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "origin") })
	h := start(t, []uint16{o.port}, nil)
	h.store.Swap(builtIn(t, blocklists.TierExclusive))
	url := fmt.Sprintf("http://innocent.example:%d/", o.port)
	for _, c := range []struct {
		args []string
		rule string
	}{
		{[]string{url}, ""},
		{[]string{"-A", "MicroMessenger Client", url}, "field user-agent ~ MicroMessenger"},
		{[]string{"-H", "Upgrade: mmtls", "-d", "x", url}, "field upgrade = mmtls"},
		{[]string{"-d", "x", url + "mmtls/2a9b1264"}, "path ^/mmtls/[0-9a-f]{8}$"},
		{[]string{"--http1.0", url + "cgi-bin/micromsg-bin/newgetdns?uin=0"}, "path ^/cgi-bin/micromsg-bin/"},
	} {
		h.audit.clear()
		out, _, _ := h.curl(nil, c.args...)
		r := h.audit.begun(t, 0)
		if r.Rule != c.rule || c.rule != "" && (r.Ban != "wechat" || r.Signal != "app" || !strings.Contains(out, "WeChat")) || c.rule == "" && out != "origin" {
			t.Errorf("curl %q: %+v\n%s", c.args, r, out)
		}
	}
}

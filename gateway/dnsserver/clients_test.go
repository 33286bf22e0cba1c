package dnsserver

import (
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// padTo adds a padding option that makes the question a multiple of that many
// octets, as clients do over encrypted transports (RFC 8467, section 4.1).
func padTo(t *testing.T, q *dns.Msg, block int) {
	t.Helper()
	pad := new(dns.EDNS0_PADDING)
	q.IsEdns0().Option = append(q.IsEdns0().Option, pad)
	pad.Padding = make([]byte, (block-q.Len()%block)%block)
	if n := len(pack(t, q)); n%block != 0 {
		t.Fatalf("a question of %d octets", n)
	}
}

// TestAndroidDoT speaks as Android's Private DNS does: "automatic" to an address,
// without a server name and without looking at the certificate; and with a "private
// DNS provider hostname", whose name is asked for and verified. Both send padded
// questions at once over one connection, and resume their session over the next.
func TestAndroidDoT(t *testing.T) {
	ca := newCA(t)
	certs := newCerts(t, ca.server(t, t.TempDir()))
	r := start(t, zones, Options{Certs: certs, DoT: addrPorts("127.0.0.1:0"), Name: resolverName})
	addr := r.DoTAddrs()[0].String()
	for _, c := range []struct {
		mode   string
		config *tls.Config
		fails  bool
	}{
		{"automatic", &tls.Config{InsecureSkipVerify: true}, false},
		{"hostname", &tls.Config{RootCAs: ca.pool, ServerName: resolverName}, false},
		{"another hostname", &tls.Config{RootCAs: ca.pool, ServerName: "dns.example.net"}, true},
		{"another authority", &tls.Config{RootCAs: newCA(t).pool, ServerName: resolverName}, true},
	} {
		t.Run(c.mode, func(t *testing.T) {
			c.config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
			for round := range 2 {
				raw, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				conn := tls.Client(raw, c.config)
				t.Cleanup(func() { _ = conn.Close() })
				if err := conn.Handshake(); (err != nil) != c.fails {
					t.Fatalf("handshake: %v", err)
				}
				if c.fails {
					return
				}
				st := conn.ConnectionState()
				if st.Version < tls.VersionTLS12 || st.DidResume != (round > 0) {
					t.Errorf("round %d: version %x, resumed %t", round, st.Version, st.DidResume)
				}
				androidAsks(t, conn)
			}
		})
	}
	for _, rec := range r.audit.take() {
		if rec.Transport != "dot" {
			t.Errorf("record %+v", rec)
		}
	}
}

// androidAsks sends what a lookup of two names is, all at once.
func androidAsks(t *testing.T, conn net.Conn) {
	t.Helper()
	var out []byte
	want := map[uint16]int{}
	for i, name := range []string{"wechat.com", "good.example"} {
		for j, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			q := edns(query(name, qtype), 4096)
			q.Id = uint16(0x1000 + 2*i + j)
			padTo(t, q, 128)
			out = append(out, frame(pack(t, q))...)
			want[q.Id] = []int{dns.RcodeNameError, dns.RcodeSuccess}[i]
		}
	}
	if _, err := conn.Write(out); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		b := readRaw(t, conn)
		m := new(dns.Msg)
		if err := m.Unpack(b); err != nil {
			t.Fatal(err)
		}
		rcode, ok := want[m.Id]
		if !ok || m.Rcode != rcode || len(b)%padBlock != 0 || (edeOf(m) != nil) != (rcode == dns.RcodeNameError) {
			t.Errorf("%d octets: %v", len(b), m)
		}
		delete(want, m.Id)
	}
}

// TestFirefoxDoH speaks as Firefox's trusted recursive resolver does: POST over
// HTTP/2 with the ID 0, a client subnet of no length (it asks that none be sent
// on), padding, and questions for both addresses and the service of a name at once;
// and first the name servers of a name, to confirm the resolver.
func TestFirefoxDoH(t *testing.T) {
	r, ca := startAll(t, zones, Options{})
	c := webClients(t, ca)["HTTP/2.0"]
	ask := func(name string, qtype uint16) (*http.Response, *dns.Msg) {
		q := edns(query(name, qtype), 4096)
		q.Id = 0
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, Address: net.IPv4zero}}
		padTo(t, q, 128)
		req := request(t, http.MethodPost, r.dohURL(), pack(t, q))
		req.Header.Set("Accept", dohType)
		req.Header.Set("Accept-Encoding", "")
		req.Header.Set("Cache-Control", "no-store")
		return webAsk(t, c, req)
	}
	if resp, m := ask("good.example", dns.TypeNS); m == nil || m.Rcode != dns.RcodeSuccess {
		t.Errorf("the resolver is not confirmed: %s, %v", resp.Status, m)
	}
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS} {
		for name, rcode := range map[string]int{"good.example": dns.RcodeSuccess, "www.wechat.com": dns.RcodeNameError, "cloak.example": dns.RcodeNameError} {
			if name == "cloak.example" && qtype != dns.TypeA {
				continue // it leads astray by its address only
			}
			resp, m := ask(name, qtype)
			if m == nil {
				t.Fatalf("%s: %s", name, resp.Status)
			}
			h := resp.Header
			if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 || !strings.Contains(h.Get("Cache-Control"), "max-age=") || h.Get("Content-Encoding") != "" {
				t.Errorf("%s: %s %s %v", name, resp.Proto, resp.Status, h)
			}
			if m.Id != 0 || m.Rcode != rcode || resp.ContentLength%padBlock != 0 || (edeOf(m) != nil) != (rcode == dns.RcodeNameError) {
				t.Errorf("%s %s: %d octets: %v", name, dns.Type(qtype), resp.ContentLength, m)
			}
			if sub := subnetOf(m); sub != nil && sub.SourceScope != 0 {
				t.Errorf("%s: answered for a subnet: %v", name, sub)
			}
		}
	}
	if st := r.Stats(); st.DoH < 8 || st.UDP+st.TCP+st.DoT != 0 {
		t.Errorf("stats %+v", st)
	}
}

func subnetOf(m *dns.Msg) *dns.EDNS0_SUBNET {
	for _, o := range m.IsEdns0().Option {
		if s, ok := o.(*dns.EDNS0_SUBNET); ok {
			return s
		}
	}
	return nil
}

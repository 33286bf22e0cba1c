package dnsserver

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// startIdentities runs a server that knows two devices by certificate and two by
// a token.
func startIdentities(t *testing.T) (*rig, *testCA) {
	ca := newCA(t)
	files := ca.server(t, t.TempDir())
	files.ClientCA, files.Name = ca.file, resolverName
	r, _ := startAll(t, zones, Options{Certs: newCerts(t, files), Name: resolverName})
	addr := netip.MustParseAddr
	r.SetIdentities(&Identities{
		Certificates: map[string]netip.Addr{"laptop-7": addr("10.8.0.7"), "phone": addr("10.8.0.8")},
		Tokens:       map[string]netip.Addr{"token-of-a-tablet": addr("10.8.0.9")},
	})
	return r, ca
}

// device returns which device the one record is about.
func (r *rig) device(t *testing.T) string {
	t.Helper()
	recs := r.audit.take()
	if len(recs) != 1 {
		t.Fatalf("%d records, want 1", len(recs))
	}
	return recs[0].Device.String()
}

// A device is who it proves, or says, it is, over each transport; who proves or
// says nothing that is known is its address.
func TestIdentities(t *testing.T) {
	r, ca := startIdentities(t)
	other := newCA(t)
	const own = "127.0.0.1"
	for label, tc := range map[string]struct {
		cert *tls.Certificate
		name string // server name
		path string
		want string // over DoT and DoQ
		web  string // over DoH; empty: 404
	}{
		"nothing":              {nil, "", dohPath, own, own},
		"certificate":          {deviceCert(ca, t, "laptop-7"), "", dohPath, "10.8.0.7", "10.8.0.7"},
		"upper case":           {deviceCert(ca, t, "Phone"), "", dohPath, "10.8.0.8", "10.8.0.8"},
		"unknown certificate":  {deviceCert(ca, t, "stranger"), "", dohPath, own, own},
		"server name":          {nil, "token-of-a-tablet." + resolverName, dohPath, "10.8.0.9", "10.8.0.9"},
		"unknown server name":  {nil, "no-token." + resolverName, dohPath, own, own},
		"path":                 {nil, "", dohPath + "/token-of-a-tablet", own, "10.8.0.9"},
		"unknown path":         {nil, "", dohPath + "/no-token", own, ""},
		"empty token":          {nil, "", dohPath + "/", own, ""},
		"certificate and path": {deviceCert(ca, t, "laptop-7"), "", dohPath + "/token-of-a-tablet", "10.8.0.7", "10.8.0.7"},
	} {
		cfg := func(protocols ...string) *tls.Config {
			c := ca.client(protocols...)
			if tc.name != "" {
				c.ServerName = tc.name
			}
			if tc.cert != nil {
				c.Certificates = []tls.Certificate{*tc.cert}
			}
			return c
		}
		c := dialTLS(t, r.DoTAddrs()[0].String(), cfg("dot"))
		if _, err := c.Write(frame(pack(t, query("wechat.com", dns.TypeA)))); err != nil || readFrame(t, c, secs(30)) == nil {
			t.Fatalf("%s: no answer over DoT: %v", label, err)
		}
		if got := r.device(t); got != tc.want {
			t.Errorf("%s over DoT: %s, want %s", label, got, tc.want)
		}
		h := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg(), ForceAttemptHTTP2: true}, Timeout: secs(30)}
		url := "https://" + r.DoHAddrs()[0].String() + tc.path
		resp, m := webAsk(t, h, request(t, "POST", url, pack(t, query("wechat.com", dns.TypeA))))
		h.CloseIdleConnections()
		if tc.web == "" {
			if resp.StatusCode != 404 || m != nil {
				t.Errorf("%s over DoH: %s, want 404", label, resp.Status)
			}
			continue
		}
		if got := r.device(t); got != tc.web {
			t.Errorf("%s over DoH: %s, want %s", label, got, tc.web)
		}
	}
	// A certificate that somebody else has signed proves nothing, and is not ignored.
	bad := ca.client("dot")
	bad.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return deviceCert(other, t, "laptop-7"), nil
	}
	c, err := tls.Dial("tcp", r.DoTAddrs()[0].String(), bad)
	if err == nil { // with TLS 1.3 the client hears of it later
		_, _ = c.Write(frame(pack(t, query("wechat.com", dns.TypeA))))
		if m := readFrame(t, c, secs(30)); m != nil {
			t.Errorf("a foreign certificate: %v", m)
		}
		_ = c.Close()
	}
	if recs := r.audit.take(); len(recs) != 0 {
		t.Errorf("%d records", len(recs))
	}
}

func deviceCert(ca *testCA, t *testing.T, name string) *tls.Certificate {
	c := ca.device(t, name)
	return &c
}

// A change of identities holds for the connections that are open.
func TestIdentitiesChange(t *testing.T) {
	r, ca := startIdentities(t)
	cfg := ca.client("dot")
	cfg.Certificates = []tls.Certificate{ca.device(t, "laptop-7")}
	c := dialTLS(t, r.DoTAddrs()[0].String(), cfg)
	for _, want := range []string{"10.8.0.7", "10.8.0.70", "127.0.0.1"} {
		switch want {
		case "10.8.0.70":
			r.SetIdentities(&Identities{Certificates: map[string]netip.Addr{"laptop-7": netip.MustParseAddr(want)}})
		case "127.0.0.1":
			r.SetIdentities(nil)
		}
		if _, err := c.Write(frame(pack(t, query("wechat.com", dns.TypeA)))); err != nil || readFrame(t, c, secs(30)) == nil {
			t.Fatal("no answer")
		}
		if got := r.device(t); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestCertificateName(t *testing.T) {
	files := newCA(t).server(t, t.TempDir())
	for name, ok := range map[string]bool{"": true, resolverName: true, "x." + resolverName: true, "other.example": false} {
		files.Name = name
		if _, err := NewCerts(files); (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "is not for the name other.example, but for dns.example.org") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

package dnsserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A testCA signs certificates.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
	pool *x509.CertPool
}

const resolverName = "dns.example.org"

func newCA(tb testing.TB) *testCA {
	tb.Helper()
	ca := &testCA{file: filepath.Join(tb.TempDir(), "ca.pem"), pool: x509.NewCertPool()}
	ca.key = newKey(tb)
	t := template("test CA")
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	ca.cert = ca.issue(tb, t, t, ca.key)
	ca.pool.AddCert(ca.cert)
	writePEM(tb, ca.file, "CERTIFICATE", ca.cert.Raw)
	return ca
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

func (ca *testCA) issue(tb testing.TB, t, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), ca.key)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// server writes a certificate of the resolver into the folder.
func (ca *testCA) server(tb testing.TB, dir string) CertFiles {
	tb.Helper()
	t, key := template(resolverName), newKey(tb)
	t.DNSNames = []string{resolverName, "*." + resolverName}
	t.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	f := CertFiles{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	writePEM(tb, f.Key, "EC PRIVATE KEY", der)
	writePEM(tb, f.Cert, "CERTIFICATE", ca.issue(tb, t, ca.cert, key).Raw)
	return f
}

// device returns a certificate of a device.
func (ca *testCA) device(tb testing.TB, name string) tls.Certificate {
	tb.Helper()
	t, key := template(name), newKey(tb)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return tls.Certificate{Certificate: [][]byte{ca.issue(tb, t, ca.cert, key).Raw}, PrivateKey: key}
}

func writePEM(tb testing.TB, file, kind string, der []byte) {
	tb.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func newCerts(tb testing.TB, files CertFiles) *Certs {
	tb.Helper()
	c, err := NewCerts(files)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// client is how a client of the resolver speaks TLS.
func (ca *testCA) client(protocols ...string) *tls.Config {
	return &tls.Config{RootCAs: ca.pool, ServerName: resolverName, NextProtos: protocols}
}

// startDoT runs a server with DNS over TLS.
func startDoT(tb testing.TB, zone string, opts Options) (*rig, *testCA) {
	tb.Helper()
	ca := newCA(tb)
	if opts.Certs == nil {
		opts.Certs = newCerts(tb, ca.server(tb, tb.TempDir()))
	}
	opts.DoT = addrPorts("127.0.0.1:0")
	return start(tb, zone, opts), ca
}

func dialTLS(tb testing.TB, addr string, cfg *tls.Config) *tls.Conn {
	tb.Helper()
	c, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// A new pair is used from the next connection on, and the open ones stay; a
// broken one changes nothing.
func TestCertificateReload(t *testing.T) {
	ca, dir := newCA(t), t.TempDir()
	files := ca.server(t, dir)
	certs := newCerts(t, files)
	first := certs.Leaf().SerialNumber
	r := start(t, "", Options{DoT: addrPorts("127.0.0.1:0"), Certs: certs})
	addr := r.DoTAddrs()[0].String()
	open := dialTLS(t, addr, ca.client("dot"))
	ask := func(c *tls.Conn) {
		t.Helper()
		if _, err := c.Write(frame(pack(t, query("wechat.com", dns.TypeA)))); err != nil {
			t.Fatal(err)
		}
		if m := readFrame(t, c, secs(30)); m == nil || m.Rcode != dns.RcodeNameError {
			t.Errorf("got %v, want NXDOMAIN", m)
		}
	}
	serial := func() *big.Int {
		c := dialTLS(t, addr, ca.client("dot"))
		ask(c)
		return c.ConnectionState().PeerCertificates[0].SerialNumber
	}
	ask(open)
	if changed, err := certs.Reload(); changed || err != nil {
		t.Errorf("the same files: %v, %v", changed, err)
	}

	good, err := os.ReadFile(files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	other := ca.server(t, t.TempDir())
	for label, content := range map[string]string{"empty": "", "cut": string(good[:len(good)/2]), "of another key": read(t, other.Cert)} {
		if err := os.WriteFile(files.Cert, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if changed, err := certs.Reload(); changed || err == nil || !strings.Contains(err.Error(), files.Cert) {
			t.Errorf("%s certificate: %v, %v; want an error that names the file", label, changed, err)
		}
		if got := serial(); got.Cmp(first) != 0 {
			t.Errorf("%s certificate: another one is in use", label)
		}
	}

	ca.server(t, dir)
	if changed, err := certs.Reload(); !changed || err != nil {
		t.Fatalf("a new pair: %v, %v", changed, err)
	}
	if got := serial(); got.Cmp(first) == 0 {
		t.Error("the old certificate is still in use")
	}
	ask(open)
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCertsErrors(t *testing.T) {
	ca, dir := newCA(t), t.TempDir()
	good := ca.server(t, dir)
	bad := filepath.Join(dir, "bad.pem")
	if err := os.WriteFile(bad, []byte("no PEM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		files CertFiles
		want  string
	}{
		{CertFiles{Cert: filepath.Join(dir, "none.pem"), Key: good.Key}, "no such file"},
		{CertFiles{Cert: bad, Key: good.Key}, "failed to find any PEM data in certificate input"},
		{CertFiles{Cert: good.Cert, Key: bad}, "failed to find any PEM data in key input"},
		{CertFiles{Cert: good.Cert, Key: good.Key, ClientCA: bad}, "bad.pem: no certificate in it"},
	} {
		if _, err := NewCerts(tc.files); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.files, err, tc.want)
		}
	}
	if _, err := Listen(Options{DoT: addrPorts("127.0.0.1:0"), Policy: start(t, "", Options{}).store, Resolver: &hooked{}}); err != errNoCerts {
		t.Errorf("no certificates: %v", err)
	}
}

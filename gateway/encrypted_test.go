package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
)

// newPair returns a certificate that signs itself, and its key, in PEM.
func newPair(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	c := &x509.Certificate{
		SerialNumber: serial, DNSNames: []string{"dns.example.org"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}))
}

const encryptedYML = `
dns:
  listen: ["127.0.0.1:0"]
  upstreams: ["UPSTREAM"]
  tls: {cert: cert.pem, key: key.pem}
  dot: {listen: ["127.0.0.1:0"]}
  doh: {listen: ["127.0.0.1:0"]}
  doq: {listen: ["127.0.0.1:0"]}
proxy: {listen: []}
admin: {listen: "127.0.0.1:0"}
`

// serial asks over TLS and returns which certificate answers.
func (f *fixture) serial(name string) (rcode string, serial *big.Int) {
	f.t.Helper()
	client := dns.Client{Net: "tcp-tls", TLSConfig: &tls.Config{InsecureSkipVerify: true}, Timeout: time.Minute}
	c, err := client.Dial(f.DoTAddrs()[0].String())
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.WriteMsg(new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA)); err != nil {
		f.t.Fatal(err)
	}
	m, err := c.ReadMsg()
	if err != nil {
		f.t.Fatal(err)
	}
	return dns.RcodeToString[m.Rcode], c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber
}

// A device asks over TLS; the certificate is replaced while it runs, and a
// broken one is said loudly and changes nothing.
func TestEncryptedListener(t *testing.T) {
	cert, key := newPair(t)
	f := newFixture(t, map[string]string{"weir.yml": encryptedYML, "cert.pem": cert, "key.pem": key})
	rcode, first := f.serial("wechat.com")
	if rcode != "NXDOMAIN" {
		t.Errorf("a banned name over TLS: %s", rcode)
	}
	metric := func(line string) {
		t.Helper()
		re := regexp.MustCompile("\n" + line + "\n")
		waitFor(t, line, func() bool { return re.MatchString(f.get("/metrics")) })
	}
	metric(`weir_dns_messages_total{transport="dot"} 1`)
	metric(`weir_dns_certificate_current 1`)
	f.askWeb(t)

	f.write("cert.pem", cert[:len(cert)/2])
	metric(`weir_dns_certificate_current 0`)
	metric(`weir_dns_certificate_reloads_total{result="failure"} [1-9]`) // it is tried again
	if _, serial := f.serial("example.com"); serial.Cmp(first) != 0 {
		t.Error("another certificate after a broken one")
	}

	cert, key = newPair(t)
	f.write("key.pem", key)
	f.write("cert.pem", cert)
	metric(`weir_dns_certificate_reloads_total{result="success"} 1`)
	metric(`weir_dns_certificate_current 1`)
	if _, serial := f.serial("example.com"); serial.Cmp(first) == 0 {
		t.Error("the old certificate is still in use")
	}
	if err := f.Reload(context.Background()); err != nil {
		t.Errorf("reload: %v", err)
	}
}

// askWeb asks for a banned name over HTTPS.
func (f *fixture) askWeb(t *testing.T) {
	t.Helper()
	q, err := new(dns.Msg).SetQuestion("wechat.com.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}, Timeout: time.Minute}
	resp, err := c.Post("https://"+f.DoHAddrs()[0].String()+"/dns-query", "application/dns-message", bytes.NewReader(q))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	var m dns.Msg
	if err != nil || m.Unpack(body) != nil || m.Rcode != dns.RcodeNameError || resp.ProtoMajor != 2 {
		t.Errorf("over HTTPS: %s, %v, %v", resp.Status, &m, err)
	}
	if len(f.DoQAddrs()) != 1 {
		t.Errorf("DoQ at %v", f.DoQAddrs())
	}
}

// A device that is known by a token is judged as the device that it is, for as
// long as the configuration says so.
func TestIdentity(t *testing.T) {
	cert, key := newPair(t)
	const ids = `
  identities: [{token: 5f2e8c1a9b7d4e60, device: 10.8.0.7}]
`
	rest := "groups: [{name: free, devices: [10.8.0.7], bans: []}]\n"
	text := strings.Replace(encryptedYML, "\nproxy:", ids+"proxy:", 1) + rest
	f := newFixture(t, map[string]string{"weir.yml": text, "cert.pem": cert, "key.pem": key})
	q, err := new(dns.Msg).SetQuestion("wechat.com.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(path string) (status, rcode int) {
		t.Helper()
		c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, Timeout: time.Minute}
		defer c.CloseIdleConnections()
		resp, err := c.Post("https://"+f.DoHAddrs()[0].String()+path, "application/dns-message", bytes.NewReader(q))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		var m dns.Msg
		_ = m.Unpack(body)
		return resp.StatusCode, m.Rcode
	}
	if status, rcode := ask("/dns-query"); status != 200 || rcode != dns.RcodeNameError {
		t.Errorf("by address: %d, %d", status, rcode)
	}
	if status, rcode := ask("/dns-query/5f2e8c1a9b7d4e60"); status != 200 || rcode != dns.RcodeSuccess {
		t.Errorf("by token: %d, %d", status, rcode)
	}
	if err := f.rewrite("weir.yml", strings.Replace(f.read("weir.yml"), ids, "\n", 1)); err != nil {
		t.Fatal(err)
	}
	if status, _ := ask("/dns-query/5f2e8c1a9b7d4e60"); status != 404 {
		t.Errorf("by a token that is gone: %d", status)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestNoCertificate(t *testing.T) {
	dir := t.TempDir()
	cfg, err := config.Parse(filepath.Join(dir, "weir.yml"), []byte(strings.ReplaceAll(encryptedYML, "UPSTREAM", "udp://127.0.0.1:9")), bans.FS)
	if err != nil {
		t.Fatal(err)
	}
	want := "dns.tls: open " + filepath.Join(dir, "cert.pem") + ": no such file or directory"
	if errs := CheckFiles(cfg); len(errs) != 1 || errs[0].Error() != want {
		t.Errorf("check: %v, want %s", errs, want)
	}
	if _, err := New(cfg, Options{Log: slog.New(slog.DiscardHandler)}); err == nil || err.Error() != want {
		t.Errorf("start: %v, want %s", err, want)
	}
}

func TestEncryptedLimit(t *testing.T) {
	for files, want := range map[uint64]int{0: 1, 1024: 128, 20000: 4232, 1 << 20: 32768} {
		if got := encryptedLimit(files); got != want {
			t.Errorf("encryptedLimit(%d) = %d, want %d", files, got, want)
		}
	}
}

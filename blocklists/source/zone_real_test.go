package source_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/blocklists/source"
)

var secret = []byte("0123456789abcdef0123456789abcdef")

// certificate returns files with a key and a certificate for 127.0.0.1, and who
// trusts it.
func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	pool := x509.NewCertPool()
	pool.AddCert(func() *x509.Certificate { c, _ := x509.ParseCertificate(der); return c }())
	return pool
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// zoneFile is a zone of n names; in each version some are other ones.
func zoneFile(serial, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "$TTL 60\n@ IN SOA ns.example. root.example. %d 60 30 3600 60\n@ IN NS ns.example.\n", serial)
	for i := range n {
		if i%1000 == serial%7 {
			continue
		}
		fmt.Fprintf(&b, "name-%d.example CNAME .\n*.name-%d.example CNAME .\n", i, i)
	}
	fmt.Fprintf(&b, "24.0.%d.0.192.rpz-ip CNAME .\ntext TXT \"a\\tb; c\" \"d\"\n", serial%200)
	return b.String()
}

// lines are the records of a copy, but for the SOA, sorted.
func lines(text string) []string {
	out := strings.Split(strings.TrimSuffix(text, "\n"), "\n")[1:]
	slices.Sort(out)
	return out
}

// TestZoneFromNamed: a zone of 60,000 records comes from named by AXFR, its
// changes by IXFR, signed or not, over TCP and TLS; after each of them the copy
// is what the whole zone is.
func TestZoneFromNamed(t *testing.T) {
	named, dir := corpus.Tool(t, "named"), t.TempDir()
	pool := certificate(t, dir)
	plain, secure := corpus.Port(t).Port(), corpus.Port(t).Port()
	write(t, filepath.Join(dir, "zone"), zoneFile(1, 30_000))
	write(t, filepath.Join(dir, "named.conf"), fmt.Sprintf(`
options { directory %q; pid-file none; session-keyfile none; recursion no; listen-on-v6 { none; }; dnssec-validation no; notify no;
	listen-on port %d { 127.0.0.1; }; listen-on port %d tls local { 127.0.0.1; }; };
controls { };
tls local { key-file "key.pem"; cert-file "cert.pem"; protocols { TLSv1.3; }; };
key "xfr.example" { algorithm hmac-sha512; secret %q; };
zone "feed.example" { type primary; file "zone"; ixfr-from-differences yes; max-journal-size 10M;
	allow-transfer { key "xfr.example"; 127.0.0.1; }; };
`, dir, plain, secure, base64.StdEncoding.EncodeToString(secret)))
	server := corpus.Serve(t, named, "-g", "-n", "1", "-c", filepath.Join(dir, "named.conf"))
	key := &source.ZoneKey{Name: "xfr.example", Algorithm: "hmac-sha512", Secret: secret}
	zones := map[string]*source.Zone{
		"plain":  {URL: fmt.Sprintf("rpz://127.0.0.1:%d/feed.example", plain)},
		"signed": {URL: fmt.Sprintf("rpz://127.0.0.1:%d/feed.example", plain), Key: key},
		"tls":    {URL: fmt.Sprintf("rpzs://127.0.0.1:%d/feed.example", secure), Key: key, TLS: &tls.Config{RootCAs: pool}},
	}
	copies := map[string]string{}
	for serial := 1; serial <= 3; serial++ {
		if serial > 1 {
			write(t, filepath.Join(dir, "zone"), zoneFile(serial, 30_000))
			// named looks at the time of the file, in seconds.
			later := time.Now().Add(time.Duration(serial) * 10 * time.Second)
			if err := os.Chtimes(filepath.Join(dir, "zone"), later, later); err != nil {
				t.Fatal(err)
			}
			if err := server.Process.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		var full string
		for _, name := range []string{"plain", "signed", "tls"} {
			u, text := follow(t, zones[name], copies[name], uint32(serial))
			if serial > 1 && (u.Changes < 0 || u.Changes > 1000) {
				t.Errorf("%s: serial %d came with %d changes", name, serial, u.Changes)
			}
			copies[name] = text
			if full == "" {
				_, full = follow(t, zones[name], "", uint32(serial))
			}
			if !slices.Equal(lines(text), lines(full)) {
				t.Errorf("%s: serial %d: the copy is not the zone", name, serial)
			}
		}
	}
	// Who is not who they should be is not believed.
	stranger := *zones["tls"]
	stranger.TLS = nil
	if _, err := stranger.Fetch(context.Background(), nil, io.Discard); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server that nobody vouches for: %v", err)
	}
}

// follow fetches until the primary has that serial.
func follow(t *testing.T, z *source.Zone, copied string, serial uint32) (source.ZoneUpdate, string) {
	t.Helper()
	var err error
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var out bytes.Buffer
		var have io.ReadSeeker
		if copied != "" {
			have = strings.NewReader(copied)
		}
		var u source.ZoneUpdate
		if u, err = z.Fetch(context.Background(), have, &out); err == nil && !u.Newest && u.Serial == serial {
			return u, out.String()
		}
	}
	t.Fatalf("serial %d does not come: %v", serial, err)
	return source.ZoneUpdate{}, ""
}

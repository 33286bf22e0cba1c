package proxy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/bench/corpus"
)

// tlsOrigin serves HTTPS with HTTP/2 for the name, under a CA of its own whose
// certificate is in the file.
func tlsOrigin(t *testing.T, name string, h http.HandlerFunc) (o *origin, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	o = listenOrigin(t)
	srv := &http.Server{Handler: h, TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}}
	go func() { _ = srv.ServeTLS(o, "", "") }()
	t.Cleanup(func() { _ = srv.Close() })
	return o, ca
}

// curl runs the real thing through the proxy.
func (h *harness) curl(stdin io.Reader, args ...string) (stdout, stderr string, code int) {
	h.tb.Helper()
	cmd := exec.Command(corpus.Tool(h.tb, "curl"), append([]string{"-q", "-sS", "-m", "120", "-x", "http://" + h.addr, "--noproxy", ""}, args...)...)
	cmd.Env = []string{"HOME=" + h.tb.(*testing.T).TempDir()}
	cmd.Stdin = stdin
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // the exit code says it
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestCurlPlain(t *testing.T) {
	o := httpOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %d %s", r.Method, r.Host, len(b), r.Header.Get("Expect"))
	})
	h := start(t, []uint16{o.port}, nil)
	url := func(host string) string { return fmt.Sprintf("http://%s:%d/", host, o.port) }
	big := strings.Repeat("x", 3<<20)
	for _, tc := range []struct {
		name  string
		stdin string
		args  []string
		want  string
	}{
		{"GET", "", []string{url("ok.example")}, fmt.Sprintf("GET ok.example:%d 0 ", o.port)},
		{"HTTP/1.0", "", []string{"-0", url("OK.example.")}, fmt.Sprintf("GET ok.example:%d 0 ", o.port)},
		{"http2 upgrade is ignored", "", []string{"--http2", url("ok.example")}, fmt.Sprintf("GET ok.example:%d 0 ", o.port)},
		{"POST", "abc", []string{"--data-binary", "@-", url("ok.example")}, fmt.Sprintf("POST ok.example:%d 3 ", o.port)},
		{"POST with Expect", big, []string{"--data-binary", "@-", url("ok.example")}, fmt.Sprintf("POST ok.example:%d %d 100-continue", o.port, len(big))},
		{"chunked PUT", big, []string{"-T", "-", url("ok.example")}, fmt.Sprintf("PUT ok.example:%d %d 100-continue", o.port, len(big))},
		{"two on one connection", "", []string{url("a.example"), url("b.example")}, fmt.Sprintf("GET a.example:%[1]d 0 GET b.example:%[1]d 0 ", o.port)},
	} {
		out, errs, code := h.curl(strings.NewReader(tc.stdin), tc.args...)
		if code != 0 || out != tc.want {
			t.Errorf("%s: exit %d, %q %s; want %q", tc.name, code, out, errs, tc.want)
		}
	}
	out, _, code := h.curl(nil, "-w", "%{http_code}", url("tiktok.com"))
	if code != 0 || !strings.HasSuffix(out, "403") || !strings.Contains(out, "Access blocked") || !strings.Contains(out, "Accès bloqué") {
		t.Errorf("blocked: exit %d, %q", code, out)
	}
}

func TestCurlConnect(t *testing.T) {
	o, ca := tlsOrigin(t, "ok.example", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %d", r.Proto, r.Method, len(b))
	})
	h := start(t, []uint16{o.port}, nil)
	url := fmt.Sprintf("https://ok.example:%d/", o.port)
	big := strings.Repeat("x", 3<<20)
	for _, tc := range []struct {
		args  []string
		stdin string
		want  string
	}{
		{[]string{"--http1.1"}, "", "HTTP/1.1 GET 0"},
		{[]string{"--http2"}, "", "HTTP/2.0 GET 0"},
		{[]string{"--http2", "--data-binary", "@-"}, big, fmt.Sprintf("HTTP/2.0 POST %d", len(big))},
	} {
		out, errs, code := h.curl(strings.NewReader(tc.stdin), append(tc.args, "--cacert", ca, url)...)
		if code != 0 || out != tc.want {
			t.Errorf("%v: exit %d, %q %s; want %q", tc.args, code, out, errs, tc.want)
		}
	}
	_, errs, code := h.curl(nil, fmt.Sprintf("https://www.wechat.com:%d/", o.port))
	if code != 56 || !strings.Contains(errs, "403") {
		t.Errorf("blocked: exit %d, %s", code, errs)
	}
	seen := o.accepted()
	if seen != 3 {
		t.Errorf("the origin saw %d connections", seen)
	}
}

func TestWebSocketOverTLS(t *testing.T) {
	o, ca := tlsOrigin(t, "ok.example", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, rw)
	})
	h := start(t, []uint16{o.port}, nil)
	roots := x509.NewCertPool()
	pemBytes, err := os.ReadFile(ca)
	if err != nil || !roots.AppendCertsFromPEM(pemBytes) {
		t.Fatal(err)
	}
	c := h.connect(fmt.Sprintf("ok.example:%d", o.port), "")
	tc := tls.Client(c.TCPConn, &tls.Config{RootCAs: roots, ServerName: "ok.example"})
	frame := "\x81\x85abcd\x09\x00\x0f\x08\x0e"
	_, _ = io.WriteString(tc, "GET / HTTP/1.1\r\nHost: ok.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+frame)
	got := make([]byte, len("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")+len(frame))
	if _, err := io.ReadFull(tc, got); err != nil || !strings.HasSuffix(string(got), frame) {
		t.Errorf("%q, %v", got, err)
	}
}

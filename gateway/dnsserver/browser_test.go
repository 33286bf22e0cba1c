package dnsserver

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/bench/corpus"
)

// Chromium with DNS over HTTPS and nothing else finds what is allowed, and not
// what is blocked.
func TestChromiumDoH(t *testing.T) {
	chromium := corpus.Tool(t, "chromium")
	site, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello from "+r.Host) })}
	go func() { _ = s.Serve(site) }()
	t.Cleanup(func() { _ = s.Close() })
	r, _ := startAll(t, "site.example. 300 IN A 127.0.0.1\n", Options{})
	leaf := r.opts.Certs.Leaf()
	pin := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	browse := func(name string) string {
		t.Helper()
		dir := t.TempDir()
		state, err := json.Marshal(map[string]any{"dns_over_https": map[string]string{"mode": "secure", "templates": r.dohURL()}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "Local State"), state, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
			"--disable-background-networking", "--disable-component-update", "--no-proxy-server", "--user-data-dir="+dir,
			"--ignore-certificate-errors-spki-list="+base64.StdEncoding.EncodeToString(pin[:]), "--dump-dom",
			"http://"+name+":"+portOf(t, site.Addr().String())+"/")
		cmd.WaitDelay = 30 * time.Second
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("chromium: %v", err)
		}
		return string(out)
	}
	if page := browse("site.example"); !strings.Contains(page, "hello from site.example") {
		t.Errorf("an allowed name:\n%.2000s", page)
	}
	if page := browse("www.wechat.com"); strings.Contains(page, "hello from") {
		t.Errorf("a blocked name:\n%.2000s", page)
	}
	if st := r.Stats(); st.DoH+st.DoH3 < 2 || st.UDP+st.TCP != 0 || st.Blocked == 0 {
		t.Errorf("stats %+v", st)
	}
}

package gateway

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
)

// socketFolder returns a folder with a path short enough for a socket.
func socketFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// socketClient is an HTTP client over the socket in that state folder.
func socketClient(dir string) *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, socketFile))
	}}}
}

// The API answers over the socket, and over TCP for a token that a reload gave
// and not for one that it took away.
func TestAdminAccess(t *testing.T) {
	state := socketFolder(t)
	conf := strings.Replace(ownBan, `admin: {listen: "127.0.0.1:0"}`, `admin: {listen: "127.0.0.1:0", tokens: [TOKENS]}`, 1) + "state: " + state + "\n"
	const token = `{name: a, role: viewer, sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}` // test
	f := newFixture(t, map[string]string{"weir.yml": strings.Replace(conf, "TOKENS", "", 1), "own.txt": "banned.example\n"})
	resp, err := socketClient(state).Get("http://weir/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 200 || !strings.Contains(string(body), `"generation": 1`) {
		t.Errorf("over the socket: %d %s", resp.StatusCode, body)
	}
	ask := func() int {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+f.AdminAddr().String()+"/v1/status", nil)
		req.Header.Set("Authorization", "Bearer test")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	up := upstream(t)
	for _, tt := range []struct {
		tokens string
		want   int
	}{{"", 401}, {token, 200}, {"", 401}} {
		if err := f.rewrite("weir.yml", strings.NewReplacer("TOKENS", tt.tokens, "UPSTREAM", up).Replace(conf)); err != nil {
			t.Fatal(err)
		}
		if got := ask(); got != tt.want {
			t.Errorf("tokens [%s]: %d, want %d", tt.tokens, got, tt.want)
		}
	}
}

func sha(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// newGateway makes a gateway from a file that is not run.
func newGateway(t *testing.T, file string) (*Gateway, error) {
	t.Helper()
	load := func() (*config.Config, error) { return config.Load(file, bans.FS) }
	cfg, err := load()
	if err != nil {
		t.Fatal(err)
	}
	return New(cfg, Options{Version: "test", Log: slog.New(slog.DiscardHandler), Load: load})
}

// runGateway runs one until stop.
func runGateway(t *testing.T, file string) (g *Gateway, stop func()) {
	t.Helper()
	g, err := newGateway(t, file)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	return g, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// putRule adds a rule over the socket.
func putRule(t *testing.T, state, path string) int {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), "PUT", "http://weir"+path, strings.NewReader(`{"reason":"r"}`))
	req.Header.Set("Content-Type", "application/json")
	resp, err := socketClient(state).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func start(t *testing.T, ready func() error) (base string) {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "weir_test", Help: "x"}, func() float64 { return 42 }))
	s, err := Listen(Options{
		Listen:  netip.MustParseAddrPort("127.0.0.1:0"),
		Metrics: reg,
		Ready:   ready,
		Status:  func() any { return map[string]int{"generation": 7} },
		Log:     slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return "http://" + s.Addr().String()
}

func get(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestEndpoints(t *testing.T) {
	var notReady atomic.Bool
	base := start(t, func() error {
		if notReady.Load() {
			return errors.New("stopping")
		}
		return nil
	})
	for _, tt := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/healthz", 200, "ok\n"},
		{"HEAD", "/healthz", 200, ""},
		{"GET", "/readyz", 200, "ready\n"},
		{"GET", "/metrics", 200, "weir_test 42\n"},
		{"GET", "/nothing", 404, ""},
		{"POST", "/healthz", 405, ""},
		{"POST", "/status", 405, ""},
		{"DELETE", "/metrics", 405, ""},
	} {
		status, body := get(t, tt.method, base+tt.path)
		if status != tt.status || !strings.Contains(body, tt.body) {
			t.Errorf("%s %s: %d %q, want %d with %q", tt.method, tt.path, status, body, tt.status, tt.body)
		}
	}
	_, body := get(t, "GET", base+"/status")
	var st struct{ Generation int }
	if err := json.Unmarshal([]byte(body), &st); err != nil || st.Generation != 7 {
		t.Errorf("status %q: %v", body, err)
	}
	notReady.Store(true)
	if status, body := get(t, "GET", base+"/readyz"); status != 503 || body != "stopping\n" {
		t.Errorf("readyz of a stopping gateway: %d %q", status, body)
	}
	if status, _ := get(t, "GET", base+"/healthz"); status != 200 {
		t.Errorf("healthz of a stopping gateway: %d", status)
	}
}

func TestListenTaken(t *testing.T) {
	base := start(t, func() error { return nil })
	addr := netip.MustParseAddrPort(strings.TrimPrefix(base, "http://"))
	_, err := Listen(Options{Listen: addr, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "admin.listen") {
		t.Errorf("listening on a taken address: %v", err)
	}
}

func TestStopsInTime(t *testing.T) {
	s, err := Listen(Options{Listen: netip.MustParseAddrPort("127.0.0.1:0"), Log: slog.New(slog.DiscardHandler),
		Metrics: prometheus.NewRegistry(), Ready: func() error { return nil }, Status: func() any { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("Serve did not return")
	}
}

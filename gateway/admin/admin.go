// Package admin is the listener for those who run the gateway: health,
// readiness, metrics and status.
//
// It only shows. Nothing that it serves changes the policy, and what it shows
// is handed in by package gateway; it measures nothing itself.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

// Options are what a Server shows and where.
type Options struct {
	Listen  netip.AddrPort
	Metrics prometheus.Gatherer
	Ready   func() error // nil error: the gateway is answering under a policy
	Status  func() any   // shown as JSON
	Log     *slog.Logger
}

// A Server answers on the admin listener.
type Server struct {
	listener net.Listener
	http     http.Server
}

// Limits of the listener: its clients are monitors, few and quick.
const (
	readTimeout  = 5 * time.Second
	writeTimeout = 30 * time.Second
	idleTimeout  = time.Minute
	maxHeader    = 16 << 10
	maxConns     = 64
)

// Listen binds the listener. Serve answers on it.
func Listen(opts Options) (*Server, error) {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(opts.Listen))
	if err != nil {
		return nil, fmt.Errorf("admin.listen: %w", err)
	}
	s := &Server{listener: netutil.LimitListener(l, maxConns)}
	s.http = http.Server{
		Handler:        handler(opts),
		ReadTimeout:    readTimeout,
		WriteTimeout:   writeTimeout,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Addr returns the address that the listener is bound to.
func (s *Server) Addr() netip.AddrPort {
	return s.listener.Addr().(*net.TCPAddr).AddrPort()
}

// Serve answers until the context is done.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if s.http.Shutdown(grace) != nil {
			_ = s.http.Close()
		}
	})
	defer stop()
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin: %w", err)
	}
	return nil
}

// Close releases a listener that is not being served.
func (s *Server) Close() error { return s.listener.Close() }

func handler(opts Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		text(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := opts.Ready(); err != nil {
			text(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		text(w, http.StatusOK, "ready")
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		b, err := json.MarshalIndent(opts.Status(), "", "  ")
		if err != nil {
			text(w, http.StatusInternalServerError, err.Error())
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(b, '\n'))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(opts.Metrics, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		text(w, http.StatusOK, "Weir. See /healthz, /readyz, /status and /metrics.")
	})
	return mux
}

func text(w http.ResponseWriter, status int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, s)
}

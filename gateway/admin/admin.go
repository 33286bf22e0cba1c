// Package admin is the listener for those who run the gateway: health,
// readiness, metrics and status for everybody who can reach it, and below /v1/
// the API, for those who may use it.
//
// It says who asks (a user over the unix socket, a token, a client
// certificate), whether they may, and in what form they are answered. What the
// API does are the routes that package gateway hands in; this package knows
// nothing of policy, and measures only itself.
package admin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

// Options are what a Server shows and where.
type Options struct {
	Listen  netip.AddrPort // invalid: not over TCP
	TLS     *tls.Config    // nil: plain TCP
	Socket  string         // path of the unix socket; empty: none
	Version string
	Metrics prometheus.Gatherer
	Ready   func() error // nil error: the gateway is answering under a policy
	Status  func() any   // shown as JSON
	Routes  []Route
	Access  Access
	// Denied, if it is set, is told of each request that somebody may not make,
	// before it is answered. It may be called by several goroutines at once.
	Denied func(*Denial)
	Log    *slog.Logger
}

// A Server answers on the admin listeners.
type Server struct {
	tcp, unix net.Listener // nil for none
	api       *api
	http      http.Server
}

// Limits of the listeners: their clients are monitors and people, few and quick.
const (
	readTimeout  = 5 * time.Second
	writeTimeout = 30 * time.Second
	idleTimeout  = time.Minute
	maxHeader    = 16 << 10
	maxConns     = 64 // of each listener
)

// Listen binds the listeners. Serve answers on them.
func Listen(opts Options) (*Server, error) {
	s := &Server{api: newAPI(opts.Log)}
	s.api.denied = opts.Denied
	s.SetAccess(opts.Access)
	if opts.Listen.IsValid() {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(opts.Listen))
		if err != nil {
			return nil, fmt.Errorf("admin.listen: %w", err)
		}
		s.tcp = netutil.LimitListener(l, maxConns)
		if opts.TLS != nil {
			s.tcp = tls.NewListener(s.tcp, opts.TLS)
		}
	}
	if opts.Socket != "" {
		l, err := listenUnix(opts.Socket)
		if err != nil {
			_ = s.Close()
			return nil, err
		}
		s.unix = netutil.LimitListener(l, maxConns)
	}
	s.http = http.Server{
		Handler:        s.handler(&opts),
		ReadTimeout:    readTimeout,
		WriteTimeout:   writeTimeout,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if peer, ok := c.RemoteAddr().(peerAddr); ok {
				return context.WithValue(ctx, peerKey{}, peer)
			}
			return ctx
		},
	}
	return s, nil
}

// listenUnix binds the socket, which only its owner may use. A socket that is
// there already is one that an end without warning left: the caller owns the
// folder.
func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("admin socket %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("admin socket: %w", err)
	}
	return peerListener{l}, nil
}

// SetAccess says anew who may do what, from the next request on.
func (s *Server) SetAccess(a Access) { s.api.access.Store(&a) }

// Stats returns what became of requests to the API.
func (s *Server) Stats() Stats {
	c := &s.api.stats
	return Stats{c.done.Load(), c.refused.Load(), c.unauthenticated.Load(), c.forbidden.Load(), c.limited.Load(), c.failed.Load()}
}

// Addr returns the address that the TCP listener is bound to, invalid for none.
func (s *Server) Addr() netip.AddrPort {
	if s.tcp == nil {
		return netip.AddrPort{}
	}
	return s.tcp.Addr().(*net.TCPAddr).AddrPort()
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
	errs := make(chan error, 2)
	serving := 0
	for _, l := range []net.Listener{s.tcp, s.unix} {
		if l != nil {
			serving++
			go func() { errs <- s.http.Serve(l) }()
		}
	}
	var first error
	for range serving {
		if err := <-errs; !errors.Is(err, http.ErrServerClosed) && first == nil {
			first = fmt.Errorf("admin: %w", err)
			_ = s.http.Close()
		}
	}
	return first
}

// Close releases listeners that are not being served.
func (s *Server) Close() error {
	var errs []error
	for _, l := range []net.Listener{s.tcp, s.unix} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

func (s *Server) handler(opts *Options) http.Handler {
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
		text(w, http.StatusOK, "Weir. See /healthz, /readyz, /status and /metrics; /v1/openapi.json describes the API.")
	})
	var doc object
	routes := append(opts.Routes, Route{
		Method: http.MethodGet, Path: "/v1/openapi.json", Role: Viewer, Summary: "This document", Response: object{},
		Handle: func(context.Context, *Call) (any, error) { return doc, nil },
	})
	doc = describe(opts.Version, routes)
	s.api.mount(mux, routes)
	return mux
}

func text(w http.ResponseWriter, status int, s string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, s)
}

package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
	"github.com/weir-gateway/weir/gateway"
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name:  "serve",
		Usage: "run the gateway",
		Description: "Answers DNS questions and proxies HTTP until SIGINT or SIGTERM. SIGHUP, and any\n" +
			"change of the configuration file or of a list file, puts the new policy in force,\n" +
			"whole or not at all; SIGHUP also opens the audit file again.",
		Flags:  []cli.Flag{configFlag()},
		Before: noArgs,
		Action: serve,
	}
}

func serve(c *cli.Context) error {
	// Whoever reads the log may end; that is no reason for devices to be without
	// a policy. Without this, a write to a closed standard error ends the process.
	signal.Ignore(syscall.SIGPIPE)
	// From the first moment on, so that a signal while the policy is compiled
	// neither kills the process nor is lost.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once, without draining.
	context.AfterFunc(ctx, stop)

	if os.Getenv("GOMAXPROCS") == "" {
		// One more than processors: under full load each has a reader of DNS
		// questions, which reads and writes without telling the scheduler. What
		// waits for the network, and the compilation of a list, take turns with
		// them by the kernel's rules, in milliseconds, and not by the scheduler's.
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
	gateway.LimitMemory()
	file := c.String("config")
	loader := config.Loader{File: file, Bundles: bans.FS}
	cfg, err := loader.Load()
	if err != nil {
		return err
	}
	log := newLogger(c.App.ErrWriter, cfg.Log)
	opts := gateway.Options{Version: version(), Log: log}
	if file != "" {
		opts.Load = loader.Load
	}
	g, err := gateway.New(cfg, opts)
	if err != nil {
		return err
	}
	go reloadOnSignal(ctx, g, hup)
	return g.Run(ctx)
}

// reloadOnSignal reloads on each SIGHUP until the context is done. The gateway
// logs how it went.
func reloadOnSignal(ctx context.Context, g *gateway.Gateway, hup <-chan os.Signal) {
	for {
		select {
		case <-hup:
			_ = g.Reload(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func newLogger(w io.Writer, cfg config.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.Level)) // config has validated it
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

package gateway

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/blocklists"
	"github.com/weir-gateway/weir/blocklists/bans"
	"github.com/weir-gateway/weir/config"
)

// realMillion returns a million different names of a real list, in the order
// that they have there.
func realMillion(tb testing.TB) []string {
	tb.Helper()
	seen := make(map[string]struct{})
	var out []string
	for lines := bufio.NewScanner(corpus.Open(tb, "big/permissive/union-domains-2M.txt.gz")); lines.Scan() && len(out) < 1_000_000; {
		text, _, _ := strings.Cut(lines.Text(), "#")
		name, err := blocklists.CanonicalName(strings.TrimSpace(text))
		if _, known := seen[name]; err == nil && !known {
			seen[name] = struct{}{}
			out = append(out, name)
		}
	}
	return out
}

const millionConfig = `
dns: {listen: [], upstreams: ["udp://127.0.0.1:9"]}
proxy: {listen: []}
admin: {listen: ""}
state: state
` + bigBan

// BenchmarkMillion has a million real names in force: how long a start takes from
// what is on disk, a change of one name that is acknowledged, and rollbacks. Each
// includes that it is on disk.
func BenchmarkMillion(b *testing.B) {
	lines := realMillion(b)
	dir := b.TempDir()
	put := func(name string, lines []string) {
		b.Helper()
		if err := replaceFile(filepath.Join(dir, name), text(lines)); err != nil {
			b.Fatal(err)
		}
	}
	if err := replaceFile(filepath.Join(dir, "weir.yml"), millionConfig); err != nil {
		b.Fatal(err)
	}
	put("big.txt", lines)
	put("short.txt", []string{"short.example"})
	load := func() (*config.Config, error) { return config.Load(filepath.Join(dir, "weir.yml"), bans.FS) }
	start := func() (*Gateway, func()) {
		cfg, err := load()
		if err != nil {
			b.Fatal(err)
		}
		g, err := New(cfg, Options{Version: "test", Load: load, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error, 1)
		go func() { done <- g.Run(ctx) }()
		return g, func() {
			cancel()
			if err := <-done; err != nil {
				b.Error(err)
			}
		}
	}
	began := time.Now()
	g, stop := start()
	b.Logf("start that compiles and writes: %v", time.Since(began))
	do := func(b *testing.B, err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	time.Sleep(racy)
	do(b, g.Update(b.Context(), "bench", "")) // read long enough after it was written
	serial := 0
	b.Run("one-name", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			serial++
			lines = slices.Insert(lines, len(lines)/2, fmt.Sprintf("new-%d.example", serial))
			put("big.txt", lines)
			b.StartTimer()
			do(b, g.Update(b.Context(), "bench", ""))
		}
	})
	b.Run("rollback", func(b *testing.B) {
		for b.Loop() {
			do(b, g.Rollback(b.Context(), 1, "bench", ""))
		}
	})
	b.Run("rollback-to-another", func(b *testing.B) {
		short := lines[:500_000]
		put("big.txt", short)
		do(b, g.Update(b.Context(), "bench", ""))
		other := g.Status().Generation
		for b.Loop() {
			do(b, g.Rollback(b.Context(), 1, "bench", ""))
			b.StopTimer()
			do(b, g.Rollback(b.Context(), other, "bench", ""))
			b.StartTimer()
		}
		put("big.txt", lines)
		do(b, g.Rollback(b.Context(), 1, "bench", ""))
	})
	stop()
	b.Run("start", func(b *testing.B) {
		for b.Loop() {
			_, stop := start()
			b.StopTimer()
			stop()
			b.StartTimer()
		}
	})
}

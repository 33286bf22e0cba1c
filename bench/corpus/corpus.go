// Package corpus gives tests and benchmarks what they need from outside the
// repository: the real data, Debian's tools, root.
//
// What is missing skips the test with the reason. With WEIR_REQUIRE=all in the
// environment it fails the test instead, so that a run that claims to be
// complete cannot pass by skipping. Only test files import this package.
package corpus

import (
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Missing skips the test for that reason, or fails it under WEIR_REQUIRE=all.
func Missing(tb testing.TB, reason string) {
	tb.Helper()
	if os.Getenv("WEIR_REQUIRE") == "all" {
		tb.Fatalf("%s, and WEIR_REQUIRE=all forbids skipping", reason)
	}
	tb.Skip(reason)
}

// Root skips or fails the test unless it runs as root.
func Root(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		Missing(tb, "needs root")
	}
}

// Tool returns the path of a program.
func Tool(tb testing.TB, name string) string {
	tb.Helper()
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p
		}
	}
	Missing(tb, "needs the program "+name)
	return ""
}

// Module returns the folder of go.mod.
func Module(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			tb.Fatal("no go.mod above the test's folder")
		}
		dir = parent
	}
}

// Dir returns the folder of the real data: $WEIR_DATA, or shared/data beside
// the module.
func Dir(tb testing.TB) string {
	tb.Helper()
	dir := os.Getenv("WEIR_DATA")
	if dir == "" {
		dir = filepath.Join(Module(tb), "..", "shared", "data")
	} else if !filepath.IsAbs(dir) {
		dir = filepath.Join(Module(tb), dir)
	}
	if _, err := os.Stat(dir); err != nil {
		Missing(tb, "needs the real data (WEIR_DATA): "+err.Error())
	}
	return dir
}

// Open opens a file of the real data, unpacked where its name ends in .gz. It
// is closed with the test.
func Open(tb testing.TB, name string) io.Reader {
	tb.Helper()
	f, err := os.Open(filepath.Join(Dir(tb), name))
	if err != nil {
		Missing(tb, "needs the real data: "+err.Error())
	}
	tb.Cleanup(func() { _ = f.Close() })
	if !strings.HasSuffix(name, ".gz") {
		return f
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	return z
}

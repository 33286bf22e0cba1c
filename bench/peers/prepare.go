package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// corednsVersion is the release that is built where there is no coredns.
const corednsVersion = "v1.15.0"

// goproxyMain is a bare goproxy with a list; it is no part of this module.
//
//go:embed configs/goproxy.go.txt
var goproxyMain string

// prepare builds the programs and draws the lists, while there is a network: the
// builds may need modules.
func prepare(ctx context.Context, o *options, out io.Writer) error {
	if err := os.MkdirAll(filepath.Join(o.work, "bin"), 0o755); err != nil {
		return err
	}
	if err := build(ctx, o, "load", "./bench/load"); err != nil {
		return err
	}
	for name, source := range map[string]string{"gate": o.floor, "weir": o.weir} {
		if !slices.ContainsFunc(o.peers, func(p string) bool { return peerNamed(p).program == name }) {
			continue
		}
		if err := link(ctx, o, name, source); err != nil {
			_, _ = fmt.Fprintf(out, "%s is left out: %v\n", name, err)
		}
	}
	if slices.Contains(o.peers, "coredns") {
		buildModule(ctx, o, out, "coredns", "github.com/coredns/coredns@"+corednsVersion)
	}
	if err := writeCertificate(o.work); err != nil {
		return err
	}
	if slices.Contains(o.peers, "goproxy") {
		buildGoproxy(ctx, o, out)
	}
	if o.list != "" {
		return useList(o, out)
	}
	have := fileExists(filepath.Join(o.work, "allowed.txt"))
	for _, n := range o.sizes {
		have = have && fileExists(blockedFile(o.work, n))
	}
	if have {
		return nil
	}
	return writeNames(o.work, o.data, o.sizes, out)
}

// useList takes the names of a file, and allows popular ones that it does not
// cover.
func useList(o *options, out io.Writer) error {
	all, err := readNames(o.list)
	if err != nil {
		return err
	}
	popular, err := readNames(filepath.Join(o.data, popularityFile))
	if err != nil {
		return err
	}
	covered := make(map[string]struct{}, len(all))
	names := all[:0]
	for _, n := range all {
		if covered[n] = struct{}{}; usable(n) {
			names = append(names, n)
		}
	}
	o.sizes = []int{len(names)}
	_, _ = fmt.Fprintf(out, "%s: %d usable names of %d\n", o.list, len(names), len(covered))
	return errors.Join(
		writeLines(blockedFile(o.work, len(names)), names),
		writeLines(filepath.Join(o.work, "allowed.txt"), drawAllowed(popular, covered, allowedCount)))
}

func fileExists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func (o *options) bin(name string) string { return filepath.Join(o.work, "bin", name) }

func build(ctx context.Context, o *options, name, pkg string) error {
	text, err := exec.CommandContext(ctx, "go", "build", "-o", o.bin(name), pkg).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

// link takes a program that was built before, or builds it.
func link(ctx context.Context, o *options, name, source string) error {
	if source == "" {
		return build(ctx, o, name, map[string]string{"gate": "./bench/gate", "weir": "./cmd/weir"}[name])
	}
	source, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	_ = os.Remove(o.bin(name))
	return os.Symlink(source, o.bin(name))
}

// buildModule builds a program outside this module, unless it is installed or
// built. Without it the table says that it is missing.
func buildModule(ctx context.Context, o *options, out io.Writer, program, module string) {
	if find(program) != "" || fileExists(o.bin(program)) {
		return
	}
	_, _ = fmt.Fprintln(out, "building", module)
	cmd := exec.CommandContext(ctx, "go", "install", module)
	cmd.Dir = o.work
	cmd.Env = append(os.Environ(), "GOBIN="+filepath.Join(o.work, "bin"), "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		_, _ = fmt.Fprintf(out, "%s is left out: %v: %s\n", program, err, text)
	}
}

// buildGoproxy builds the bare goproxy with the release that Weir uses, in a
// module of its own.
func buildGoproxy(ctx context.Context, o *options, out io.Writer) {
	dir := filepath.Join(o.work, "goproxy")
	goMod, err := os.ReadFile("go.mod")
	if err == nil {
		goMod = []byte("module goproxy-bare\n" + strings.SplitN(string(goMod), "\n", 2)[1])
		err = errors.Join(os.MkdirAll(dir, 0o755),
			os.WriteFile(filepath.Join(dir, "go.mod"), goMod, 0o600),
			os.WriteFile(filepath.Join(dir, "main.go"), []byte(goproxyMain), 0o600))
	}
	if sum, e := os.ReadFile("go.sum"); e == nil && err == nil {
		err = os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o600)
	}
	if err == nil {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", o.bin("goproxy"), ".")
		cmd.Dir = dir
		var text []byte
		if text, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, text)
		}
	}
	if err != nil {
		_, _ = fmt.Fprintf(out, "goproxy is left out: %v\n", err)
	}
}

// find looks for a program where daemons are, too.
func find(name string) string {
	for _, dir := range []string{"", "/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p
		}
	}
	return ""
}

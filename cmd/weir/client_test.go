package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// asWeir runs the real program and returns what it printed.
func asWeir(t *testing.T, args ...string) (out string, ok bool) {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	b, err := exec.Command(path, args...).CombinedOutput()
	return string(b), err == nil
}

// served is a running program with an API, and the command line to reach it.
func served(t *testing.T, more string) (file string, admin string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "weir") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := ports(t, 1)
	file = filepath.Join(dir, "weir.yml")
	conf := fmt.Sprintf(`dns: {listen: [], upstreams: ["udp://127.0.0.1:9"]}
proxy: {listen: []}
bans: [kaspersky]
state: state
admin:
  listen: %q
  tokens:
    - {name: look, role: viewer, sha256: 14f22c3ccfb754c8a1e6fd94f9f6f36e0415243d0ea0d1aef49822e6ca325425}
    - {name: boss, role: approver, sha256: 8b64d4c90d04e5f39fa8eec59c3bac0b98a611b52c64f42b709486373fd0c9ba}
%s`, a[0], more)
	for name, text := range map[string]string{"weir.yml": conf, "look": "looking\n", "boss": "approving\n", "bad": "guess\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	startWeir(t, a[0], "serve", "--config", file)
	return file, "http://" + a[0]
}

// The command line is a client of the API: over the socket, and with a token
// over TCP.
func TestReloadCommand(t *testing.T) {
	file, admin := served(t, "")
	if out, ok := asWeir(t, "reload", "--config", file); !ok || !strings.HasPrefix(out, "running: generation 2 since ") {
		t.Errorf("over the socket: %s", out)
	}
	token := func(name string) string { return filepath.Join(filepath.Dir(file), name) }
	for name, want := range map[string]string{"look": "token:look is viewer; this takes the role operator", "bad": "no such token"} {
		if out, ok := asWeir(t, "reload", "--admin", admin, "--token-file", token(name)); ok || !strings.Contains(out, want) {
			t.Errorf("with the token %s: %s, want %q", name, out, want)
		}
	}
	if out, ok := asWeir(t, "reload", "--admin", admin); ok || !strings.Contains(out, "this takes a credential") {
		t.Errorf("without a token: %s", out)
	}
	if err := os.WriteFile(file, []byte("dns: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cl := []string{"reload", "--config", filepath.Join(filepath.Dir(file), "copy.yml")}
	if err := os.WriteFile(cl[2], []byte("state: state\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, ok := asWeir(t, cl...); ok || !strings.Contains(out, "the policy in force stays: ") || !strings.Contains(out, "dns: want a mapping") {
		t.Errorf("a broken configuration: %s", out)
	}
}

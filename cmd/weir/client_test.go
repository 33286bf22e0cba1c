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

// Exemptions and rules are made by the command line, and are on the record of
// changes, in which a change of a byte is found.
func TestExemptAndRulesCommands(t *testing.T) {
	file, admin := served(t, "")
	dir := filepath.Dir(file)
	boss := []string{"--admin", admin, "--token-file", filepath.Join(dir, "boss")}
	must := func(want string, args ...string) string {
		t.Helper()
		out, ok := asWeir(t, args...)
		if !ok || !strings.Contains(out, want) {
			t.Fatalf("weir %q: %s, want %q", args, out, want)
		}
		return out
	}
	mustNot := func(want string, args ...string) {
		t.Helper()
		if out, ok := asWeir(t, args...); ok || !strings.Contains(out, want) {
			t.Errorf("weir %q: %s, want an error with %q", args, out, want)
		}
	}
	add := []string{"exempt", "add", "--config", file, "--ban", "kaspersky", "--device", "10.8.0.7", "--ticket", "T-1", "--reason", "a test"}
	must("W-1: requested: device 10.8.0.7 from ban kaspersky until ", append(add, "--until", "8h")...)
	mustNot("--until: want a date", append(add, "--until", "forever")...)
	mustNot("hours at the most", append(add, "--until", "9000d")...)
	mustNot("is operator; this takes the role approver", "exempt", "approve", "W-1", "--config", file)
	must("W-1: approved: ", append([]string{"exempt", "approve", "W-1", "--name", "The Chief"}, boss...)...)
	must("The Chief", "exempt", "list", "--config", file)
	must("10.8.0.7", append([]string{"exempt", "report"}, boss...)...)
	must(`"uses": 0`, append([]string{"exempt", "report", "--json"}, boss...)...)
	must("W-1: revoked: ", "exempt", "revoke", "W-1", "--config", file)
	mustNot("revoked already", "exempt", "revoke", "W-1", "--config", file)
	mustNot("there is no exemption", "exempt", "revoke", "W-9", "--config", file)

	must("new.example: blocked under ban kaspersky: in force as rule 1", "rules", "add", "new.example", "--ban", "kaspersky", "--reason", "found", "--config", file)
	must("=a.example: allowed: in force as rule 2", "rules", "add", "=a.example", "--allow", "--reason", "partner", "--config", file)
	mustNot("say --ban ID", "rules", "add", "b.example", "--reason", "r", "--config", file)
	must("=a.example", "rules", "list", "--config", file)
	must("", "rules", "remove", "new.example", "--ban", "kaspersky", "--config", file)
	mustNot("no such rule", "rules", "remove", "new.example", "--ban", "kaspersky", "--config", file)

	must("token:boss", append([]string{"audit", "list"}, boss...)...)
	must("older ones: --before 7", "audit", "list", "--limit", "2", "--config", file)
	must("exemption requested", "audit", "list", "--before", "3", "--config", file)
	must(`"what": "request denied"`, "audit", "list", "--json", "--config", file)
	out := must("ok: 8 entries, head ", "audit", "verify", "--config", file)
	head := out[strings.LastIndex(out, " ")+1 : len(out)-1]
	ledger := filepath.Join(dir, "state", "ledger.jsonl")
	must("ok: 8 entries", "audit", "verify", ledger, "--head", head)
	b, err := os.ReadFile(ledger)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "copy.jsonl")
	for name, tt := range map[string]struct{ text, want string }{
		"changed": {strings.Replace(string(b), "a test", "A test", 1), "copy.jsonl:2: entry 2 was changed"},
		"cut off": {strings.Join(strings.SplitAfter(string(b), "\n")[:5], ""), "the noted head " + head + " is not in the ledger"},
	} {
		if err := os.WriteFile(copied, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, ok := asWeir(t, "audit", "verify", copied, "--head", head); ok || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %s, want %q", name, out, tt.want)
		}
	}
}

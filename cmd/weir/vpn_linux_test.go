package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/bench/corpus"
)

// filterNetwork moves the test's thread into a network of its own with an
// interface wg0.
func filterNetwork(t *testing.T) {
	t.Helper()
	corpus.Root(t)
	ip := corpus.Tool(t, "ip")
	corpus.Tool(t, "nft")
	runtime.LockOSThread() // and never unlocked
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		corpus.Missing(t, "needs a network namespace: "+err.Error())
	}
	for _, args := range []string{"link set lo up", "link add wg0 type veth peer name far", "link set wg0 up", "addr add 10.8.0.1/24 dev wg0"} {
		if out, err := exec.Command(ip, strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
}

// TestVPNCommands drives the commands on a kernel.
func TestVPNCommands(t *testing.T) {
	filterNetwork(t)
	file := filepath.Join(t.TempDir(), "weir.yml")
	text := "dns: {listen: [\"0.0.0.0:5353\"]}\ntransparent: {listen: [\"0.0.0.0:3129\"]}\nvpn: {interface: wg0, management: [10.8.0.200]}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSH_CONNECTION", "")
	weir := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if got := run(context.Background(), append([]string{"weir", "vpn"}, args...), &out, &out); got != want {
			t.Errorf("weir vpn %s: exit code %d, want %d\n%s", args, got, want, out.String())
		}
		return out.String()
	}
	says := func(got, want string) {
		t.Helper()
		if !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
	says(weir(exitDifferent, "diff", "--config", file), "+ table inet weir, which is not there")
	says(weir(exitOK, "apply", "--dry-run", "--config", file), "+ table inet weir")
	says(weir(exitDifferent, "diff", "--json", "--config", file), `"missing": true`)
	says(weir(exitOK, "apply", "--config", file), "note: there is no IPv6 address in dns.listen")
	says(weir(exitOK, "apply", "--config", file), "nothing to change")
	says(weir(exitOK, "diff", "--config", file), "the kernel has it all")

	// Who would be cut off by it is asked to think first.
	t.Setenv("SSH_CONNECTION", "10.8.0.7 50000 10.8.0.1 22")
	says(weir(exitError, "apply", "--config", file), "10.8.0.7, which is not in vpn.management")
	says(weir(exitOK, "apply", "--force", "--config", file), "nothing to change")
	t.Setenv("SSH_CONNECTION", "10.8.0.200 50000 10.8.0.1 22")
	says(weir(exitOK, "apply", "--config", file), "nothing to change")
	t.Setenv("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.1 22")
	says(weir(exitOK, "apply", "--config", file), "nothing to change")

	says(weir(exitOK, "remove"), "removed")
	says(weir(exitOK, "remove", "--json"), `"removed": false`)
	if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("left: %s (%v)", out, err)
	}
}

// TestVPNWithoutCapability: the error says what to give.
func TestVPNWithoutCapability(t *testing.T) {
	corpus.Root(t)
	setpriv := corpus.Tool(t, "setpriv")
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	binary, file := buildWeir(t), filepath.Join(dir, "weir.yml")
	text := "bans: []\ndns: {listen: [\"0.0.0.0:5353\"]}\nvpn: {interface: wg0, management: [], tcp: {inspect: []}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(setpriv, "--bounding-set=-net_admin", "--inh-caps=-net_admin", binary, "vpn", "apply", "--config", file)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "CAP_NET_ADMIN is missing: run as root, or give the service AmbientCapabilities=CAP_NET_ADMIN") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestServeKeepsThePacketFilter: a running gateway puts the filter in place,
// follows a list that changes, repairs, shows it, and leaves it when it ends.
func TestServeKeepsThePacketFilter(t *testing.T) {
	binary := buildWeir(t)
	filterNetwork(t)
	curl := corpus.Tool(t, "curl")
	dir := t.TempDir()
	file := filepath.Join(dir, "weir.yml")
	write := func(name, text string) {
		t.Helper()
		// In one step: nobody may read half of it.
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "new"), []byte(text), 0o600), os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	write("prefixes.txt", "203.0.113.0/24\n")
	write("weir.yml", `
dns: {listen: ["0.0.0.0:5353", "[::]:5353"], upstreams: ["udp://127.0.0.1:9"]}
transparent: {listen: ["0.0.0.0:3129", "[::]:3129"]}
vpn: {interface: wg0, management: []}
bans: [{id: own, title: own, authority: us, reference: none, lists: [{name: own, source: "file:prefixes.txt", format: prefixes}]}]
state: state
`)
	var log bytes.Buffer
	serve := exec.Command(binary, "serve", "--config", file)
	serve.Stdout, serve.Stderr = &log, &log
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- serve.Wait() }()
	defer func() {
		_ = serve.Process.Kill()
		if t.Failed() {
			t.Logf("%s", log.String())
		}
	}()
	eventually := func(what string, patience time.Duration, want string, command ...string) {
		t.Helper()
		var out []byte
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if out, _ = exec.Command(command[0], command[1:]...).CombinedOutput(); strings.Contains(string(out), want) {
				return
			}
		}
		t.Errorf("%s: not within %v: %q is not in\n%s", what, patience, want, out)
	}
	eventually("in place", time.Minute, "the kernel has it all", binary, "vpn", "diff", "--config", file)
	write("prefixes.txt", "203.0.113.0/24\n198.51.100.0/25\n")
	eventually("a list changes", time.Minute, "198.51.100.0/25", "nft", "list", "set", "inet", "weir", "banned-own-v4")
	if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	eventually("repaired", time.Minute, "the kernel has it all", binary, "vpn", "diff", "--config", file)
	metrics := []string{curl, "-s", "http://127.0.0.1:8053/metrics"}
	for _, want := range []string{"weir_vpn_generation 2\n", "weir_vpn_last_successful 1\n", `weir_vpn_transactions_total{cause="repair"} 1`, "weir_vpn_set_elements "} {
		eventually("metrics", time.Minute, want, metrics...)
	}
	_ = serve.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it does not stop")
	}
	eventually("left in place", time.Minute, "the kernel has it all", binary, "vpn", "diff", "--config", file)
}

func buildWeir(t *testing.T) string {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-gateway/weir/bench/corpus"
)

// An example is a command of the README and the lines that it must print, in
// which "…" is any text.
type example struct {
	command string
	want    []string
}

// examples returns the commands of the README's console blocks, in order.
func examples(t *testing.T, readme string) []example {
	t.Helper()
	var all []example
	inside := false
	for line := range strings.Lines(readme) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "```console":
			inside = true
		case line == "```":
			inside = false
		case !inside:
		case strings.HasPrefix(line, "$ "):
			all = append(all, example{command: line[2:]})
		case len(all) == 0:
			t.Fatalf("README: output %q without a command", line)
		default:
			all[len(all)-1].want = append(all[len(all)-1].want, line)
		}
	}
	return all
}

// TestREADME runs every command of the README and looks for what the README
// says it prints. Only "go test ./..." is left out: this is it.
func TestREADME(t *testing.T) {
	root := corpus.Module(t)
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := examples(t, string(text))
	if len(all) < 5 || all[0].command != "go run ./cmd/weir serve" || all[1].command != "go test ./..." {
		t.Fatalf("README does not open with the two commands: %q", all)
	}
	for _, tool := range []string{"bash", "dig", "curl"} {
		corpus.Tool(t, tool)
	}
	for _, port := range []string{"5353", "3128", "8053"} {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			corpus.Missing(t, "needs the default ports: "+err.Error())
		}
		_ = l.Close()
	}
	serveExample(t, root, all[0].command)
	for _, ex := range all[2:] {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", ex.command)
		cmd.Dir = root
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("$ %s\n%s%v", ex.command, out, err)
			continue
		}
		rest := string(out)
		for _, want := range ex.want {
			at := outputLine(want).FindStringIndex(rest)
			if at == nil {
				t.Errorf("$ %s\n%sdoes not print (in that place):\n%s", ex.command, out, want)
				break
			}
			rest = rest[at[1]:]
		}
	}
}

// outputLine matches a line of output that is like the README's: "…" is any
// text, a blank any number of them.
func outputLine(want string) *regexp.Regexp {
	p := regexp.QuoteMeta(strings.Join(strings.Fields(want), " "))
	p = strings.ReplaceAll(p, "…", ".*")
	p = strings.ReplaceAll(p, " ", `\s+`)
	return regexp.MustCompile(`(?m)^\s*` + p + `\s*$`)
}

// serveExample runs the command until the test ends. It is a process group of
// its own, because go run is the parent of the gateway.
func serveExample(t *testing.T, root, command string) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command("bash", "-c", "exec "+command)
	cmd.Dir, cmd.Stdout, cmd.Stderr = root, &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case err := <-done:
			t.Logf("$ %s: %v", command, err)
		case <-time.After(time.Minute):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			t.Errorf("$ %s does not stop:\n%s", command, log.String())
		}
	})
	const patience = 5 * time.Minute // go run compiles first
	if err := waitReady("http://127.0.0.1:8053/readyz", done, patience); err != nil {
		t.Fatalf("$ %s: %v\n%s", command, err, log.String())
	}
}

// waitReady waits until the admin listener says ready or the process ends.
func waitReady(url string, done <-chan error, patience time.Duration) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-done:
			return fmt.Errorf("it ended: %w", err)
		default:
		}
		resp, err := http.Get(url)
		if err != nil {
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
	return fmt.Errorf("not ready after %v", patience)
}

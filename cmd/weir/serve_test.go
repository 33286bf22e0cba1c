package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-gateway/weir/bench/corpus"
)

// A process is a running weir.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	done  chan error
	log   lockedBuffer
	admin string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// buildDir is where build puts the program, empty before it ran.
var buildDir string

// build returns the path of the program, built once for the tests.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "weir-test")
	if err != nil {
		return "", err
	}
	buildDir = dir
	path := filepath.Join(dir, "weir")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func startWeir(t *testing.T, admin string, args ...string) *process {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(path, args...), done: make(chan error, 1), admin: "http://" + admin}
	p.cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir()) // a state of its own
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-p.done:
			if err != nil {
				t.Errorf("weir ended with %v:\n%s", err, p.log.String())
			}
		case <-time.After(time.Minute):
			_ = p.cmd.Process.Kill()
			t.Errorf("weir did not stop on SIGTERM:\n%s", p.log.String())
		}
	})
	if err := waitReady(p.admin+"/readyz", p.done, 2*time.Minute); err != nil {
		t.Fatalf("%v\n%s", err, p.log.String())
	}
	return p
}

func (p *process) status() (st struct {
	Generation uint64
	LastError  string `json:"last_reload_error"`
}) {
	p.t.Helper()
	resp, err := http.Get(p.admin + "/status")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(resp.Body).Decode(&st); err != nil {
		p.t.Fatal(err)
	}
	return st
}

// ports returns free TCP ports of 127.0.0.1.
func ports(t *testing.T, n int) []string {
	t.Helper()
	var addrs []string
	for range n {
		addrs = append(addrs, corpus.Port(t).String())
	}
	return addrs
}

// dig asks and returns what dig prints.
func dig(t *testing.T, server string, args ...string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		t.Fatal(err)
	}
	args = append([]string{"@" + host, "-p", port, "+tries=1", "+time=20"}, args...)
	out, err := exec.Command(corpus.Tool(t, "dig"), args...).CombinedOutput()
	if err != nil {
		t.Errorf("dig %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestServe runs the real program without a network to speak of and asks it
// with the field's own tools.
func TestServe(t *testing.T) {
	if _, err := build(); err != nil {
		t.Fatal(err)
	}
	var a []string
	var conf, file string
	var p *process
	took := time.Hour
	for round := 0; round < 3 && took > 10*time.Second; round++ { // other programs may have the processors for a while
		a = ports(t, 3)
		file = filepath.Join(t.TempDir(), "weir.yml")
		conf = fmt.Sprintf("dns: {listen: [%q], upstreams: [\"udp://127.0.0.1:9\"]}\nproxy: {listen: [%q]}\nadmin: {listen: %q}\n", a[0], a[1], a[2])
		if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		p = startWeir(t, a[2], "serve", "--config", file)
		took = time.Since(began)
	}
	if took > 10*time.Second {
		t.Errorf("ready after %v, want at most 2 s where nothing else runs", took)
	}
	names := []struct{ name, ban string }{
		{"wechat.com", "WeChat"}, {"WeChat.COM.", "WeChat"}, {"short.weixin.qq.com", "WeChat"},
		{"touch.kaspersky.com", "Kaspersky"}, {"www.tiktok.com", "TikTok"},
		{"mask.icloud.com", ""}, {"use-application-dns.net", ""},
	}
	for _, n := range names {
		for _, flags := range []string{"+notcp", "+tcp"} {
			for _, qtype := range []string{"A", "AAAA", "HTTPS", "TXT", "TYPE65280"} {
				out := dig(t, a[0], flags, n.name, qtype)
				for _, want := range []string{"status: NXDOMAIN", "\tSOA\t", "EDE: 15 (Blocked)", n.ban} {
					if !strings.Contains(out, want) {
						t.Errorf("dig %s %s %s lacks %q:\n%s", flags, n.name, qtype, want, out)
					}
				}
			}
		}
		if out := dig(t, a[0], "+noedns", n.name); strings.Contains(out, "EDE") || strings.Contains(out, "OPT PSEUDOSECTION") || !strings.Contains(out, "NXDOMAIN") {
			t.Errorf("dig +noedns %s:\n%s", n.name, out)
		}
	}
	curl := corpus.Tool(t, "curl")
	out, err := exec.Command(curl, "-si", "-x", "http://"+a[1], "http://wechat.com/").CombinedOutput()
	for _, want := range []string{"HTTP/1.1 403 ", "lang=\"fr\"", "lang=\"en\"", "WeChat", "wechat:"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("curl of http://wechat.com/ lacks %q: %v\n%s", want, err, out)
		}
	}
	out, _ = exec.Command(curl, "-sv", "-x", "http://"+a[1], "https://wechat.com/").CombinedOutput()
	if !strings.Contains(string(out), "HTTP/1.1 403 ") || !strings.Contains(string(out), "Proxy-Status: ") {
		t.Errorf("curl of https://wechat.com/:\n%s", out)
	}

	// A broken file: one clear error, the old policy in force, shown by metrics.
	if err := os.WriteFile(file, []byte(conf+"bans: [wechat, nobody]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); p.status().LastError == ""; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the broken configuration is not reported")
		}
	}
	if st := p.status(); st.Generation != 1 || !strings.Contains(st.LastError, "weir.yml:4:16: bans[1]: ") {
		t.Errorf("status after a broken reload: %+v", st)
	}
	if !strings.Contains(dig(t, a[0], "tiktok.com"), "NXDOMAIN") {
		t.Error("the old policy is not in force after a broken reload")
	}
	if err := os.WriteFile(file, []byte(conf+"bans: [wechat]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); p.status().Generation < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the mended configuration is not in force")
		}
	}
	if out := dig(t, a[0], "tiktok.com"); strings.Contains(out, "NXDOMAIN") {
		t.Errorf("a ban that was taken out still blocks:\n%s", out)
	}
	resp, err := http.Get(p.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	metrics, _ := io.ReadAll(resp.Body)
	for _, want := range []string{`weir_reloads_total{result="failure"} `, "weir_policy_generation 2", `weir_list_rules{ban="wechat",list="wechat"} `,
		`weir_dns_questions_total{action="block"} `, `weir_proxy_requests_total{outcome="blocked"} 2`} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("metrics lack %q", want)
		}
	}
}

// TestStatusAsksTheGateway runs lists status beside a running gateway.
// The end of whoever reads the log is not the end of the gateway.
func TestServeWithoutLogReader(t *testing.T) {
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	a := ports(t, 1)
	file := filepath.Join(t.TempDir(), "weir.yml")
	text := fmt.Sprintf("dns: {listen: [], upstreams: [\"udp://127.0.0.1:9\"]}\nproxy: {listen: []}\nadmin: {listen: %q}\n", a[0])
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "serve", "--config", file)
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir())
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = stderr.Close()
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	if err := waitReady("http://"+a[0]+"/readyz", done, time.Minute); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, admin: "http://" + a[0]}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); p.status().Generation == 1 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	if got := p.status().Generation; got != 2 {
		t.Errorf("generation %d after SIGHUP, want 2", got)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("weir ended with %v", err)
	}
}

func TestStatusAsksTheGateway(t *testing.T) {
	a := ports(t, 1)
	file := filepath.Join(t.TempDir(), "weir.yml")
	conf := fmt.Sprintf("dns: {listen: [], upstreams: [\"udp://127.0.0.1:9\"]}\nproxy: {listen: []}\nadmin: {listen: %q}\nbans: [kaspersky]\n", a[0])
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	startWeir(t, a[0], "serve", "--config", file)
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, "lists", "status", "--config", file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "running: generation 1 since ") || !strings.Contains(string(out), "kaspersky-vendor") {
		t.Errorf("lists status: %v\n%s", err, out)
	}
}

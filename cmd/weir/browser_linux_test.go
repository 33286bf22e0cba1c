package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/bench/world"
)

// browse loads a page with Chromium on the device, whose resolver is the
// gateway, and returns what the page has become.
func browse(t *testing.T, w *world.World, url string, flags ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	resolv := w.File("resolv.conf", "nameserver "+world.GatewayV4+"\n")
	args := append([]string{"--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolv,
		corpus.Tool(t, "chromium"), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--user-data-dir=" + t.TempDir(),
		"--ignore-certificate-errors-spki-list=" + w.CA.Pin(), "--dump-dom"}, flags...)
	var out, said strings.Builder
	cmd := exec.CommandContext(ctx, corpus.Tool(t, "unshare"), append(args, url)...)
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.WaitDelay = 5 * time.Second
	if err := w.Device.Run(cmd); err != nil {
		t.Errorf("chromium %s: %v\n%s", url, err, said.String())
	}
	return out.String()
}

// A browser on the device: an allowed site loads over TLS, and goes on at once
// where it is told of HTTP/3; a banned one shows the block page over HTTP and
// fails cleanly over TLS.
func TestBrowser(t *testing.T) {
	w, path := newWorld(t)
	corpus.Tool(t, "chromium")
	w.Serve(path, strings.ReplaceAll(gatewayConfig, "INTERFACE", w.Interface))
	page := browse(t, w, "https://www.example.com/")
	if !strings.Contains(page, "origin of www.example.com") || !strings.Contains(page, "HTTP/2.0") {
		t.Errorf("allowed site:\n%s", page)
	}
	inTime(t, "the second request, with HTTP/3 offered", func() (took, most time.Duration) {
		page := browse(t, w, "https://www.example.com/second")
		m := regexp.MustCompile(`status 200 after (\d+) ms`).FindStringSubmatch(page)
		if m == nil {
			t.Fatalf("second request:\n%s", page)
		}
		ms, _ := strconv.Atoi(m[1])
		return time.Duration(ms) * time.Millisecond, 300 * time.Millisecond
	})
	if n := refused(t, w); n == 0 {
		t.Error("the browser has not tried QUIC")
	}
	// The app's own address, as DNS gives none.
	own := "--host-resolver-rules=MAP www.tiktok.com " + w.Address("www.tiktok.com")
	page = browse(t, w, "http://www.tiktok.com/", own)
	if !strings.Contains(page, "TikTok") || strings.Contains(page, "origin of") {
		t.Errorf("banned site over HTTP is not the block page:\n%.600s", page)
	}
	// Errors have no page of the site; they come at once and not after a wait.
	for _, flags := range [][]string{{own}, nil} {
		inTime(t, fmt.Sprintf("banned site over TLS %v: that the browser knows", flags), func() (took, most time.Duration) {
			begin := time.Now()
			browse(t, w, "http://www.tiktok.com/", own)
			usual := time.Since(begin) // that a browser takes to come, show and go
			begin = time.Now()
			if page = browse(t, w, "https://www.tiktok.com/", flags...); strings.Contains(page, "origin of") || strings.Contains(page, "<title>") {
				t.Fatalf("banned site over TLS %v:\n%.600s", flags, page)
			}
			return time.Since(begin), 10*time.Second + 2*usual
		})
	}
}

// inTime measures how long something takes, and again where it takes too long: other
// programs may have the processors for a while.
func inTime(t *testing.T, what string, measure func() (took, most time.Duration)) {
	t.Helper()
	var took time.Duration
	for range 5 {
		var most time.Duration
		if took, most = measure(); took < most {
			t.Logf("%s took %v", what, took)
			return
		}
	}
	t.Errorf("%s took %v, and too long in each of 5 rounds", what, took)
}

// refused returns how many packets of QUIC the packet filter has refused.
func refused(t *testing.T, w *world.World) int {
	t.Helper()
	var out strings.Builder
	cmd := exec.Command(corpus.Tool(t, "nft"), "list", "chain", "inet", "weir", "guard")
	cmd.Stdout = &out
	if err := w.Gateway.Run(cmd); err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`udp dport @quic counter packets (\d+)`).FindStringSubmatch(out.String())
	if m == nil {
		t.Fatalf("no counter of QUIC:\n%s", out.String())
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

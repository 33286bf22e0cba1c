package dnsserver

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Without a free descriptor accepting waits, and does not spin; what came
// meanwhile is answered when there is one again.
func TestNoDescriptors(t *testing.T) {
	r := start(t, "", Options{})
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: min(200, old.Max), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) }()
	var files []*os.File
	free := func() {
		for _, f := range files {
			_ = f.Close()
		}
		files = nil
	}
	defer free()
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		files = append(files, f)
	}
	_ = files[0].Close()
	files = files[1:]
	c := r.dial(t, "tcp")
	if _, err := c.Write(frame(pack(t, query("wechat.com", dns.TypeA)))); err != nil {
		t.Fatal(err)
	}
	failed := func() uint64 { return r.Stats().Dropped["accept_error"] }
	eventually(t, "accepting fails", func() bool { return failed() > 0 })
	before, begin := failed(), time.Now()
	time.Sleep(300 * time.Millisecond)
	if n, d := failed()-before, time.Since(begin); float64(n) > 60*d.Seconds() {
		t.Errorf("%d accept errors in %v, want a few", n, d)
	}
	free()
	if m := readFrame(t, c, secs(30)); m == nil || m.Rcode != dns.RcodeNameError {
		t.Errorf("afterwards: %v, want NXDOMAIN", m)
	}
}

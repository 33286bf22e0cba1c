package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/bench/corpus"
	"github.com/weir-gateway/weir/gateway/policy"
)

func storeOf() *policy.Store {
	store := new(policy.Store)
	store.Swap(snapshot(&testing.T{}, 1, banned...))
	return store
}

const (
	idleTunnels  = 8000
	idleKiBLimit = 8
)

// 8,000 idle tunnels stand within 20,000 descriptors, each takes at most 8 KiB
// of resident memory against the same process without them, and all of them
// still carry bytes afterwards.
func TestMemoryIdleTunnels(t *testing.T) {
	if underRace {
		t.Log("the race detector's own memory would be measured; nothing is")
		return
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < childFiles {
		corpus.Missing(t, fmt.Sprintf("%d open files are allowed, %d are needed", limit.Max, childFiles))
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	o := quietOrigin(t)
	addr, pid := startChild(t, o.Addr().String())
	warm := openTunnels(t, addr, o.Addr().String(), 50)
	for _, c := range warm {
		_ = c.Close()
	}
	time.Sleep(200 * time.Millisecond)
	before := residentKiB(t, pid)
	all := openTunnels(t, addr, o.Addr().String(), idleTunnels)
	time.Sleep(300 * time.Millisecond)
	each := float64(residentKiB(t, pid)-before) / idleTunnels
	t.Logf("%.2f KiB for each of %d tunnels; %d KiB without them; %d descriptors", each, idleTunnels, before, descriptors(t, pid))
	if each > idleKiBLimit {
		t.Errorf("%.2f KiB of resident memory for each idle tunnel, want at most %d", each, idleKiBLimit)
	}
	for i, c := range all {
		if _, err := c.Write([]byte("ping")); err != nil {
			t.Fatalf("tunnel %d: %v", i, err)
		}
	}
	b := make([]byte, 4)
	for i, c := range all {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" {
			t.Fatalf("tunnel %d after idling: %q, %v", i, b, err)
		}
	}
}

// quietOrigin echoes, with a goroutine for each connection.
func quietOrigin(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				var b [16]byte
				for {
					n, err := c.Read(b[:])
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l
}

func startChild(t *testing.T, origin string) (addr string, pid int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childEnv+"="+origin)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the proxy's process: %q, %v", line, err)
	}
	return strings.TrimSpace(line), cmd.Process.Pid
}

func openTunnels(t *testing.T, proxy, target string, n int) []net.Conn {
	t.Helper()
	all := make([]net.Conn, 0, n)
	b := make([]byte, len(established))
	for i := range n {
		c, err := net.Dial("tcp", proxy)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		t.Cleanup(func() { _ = c.Close() })
		all = append(all, c)
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: test/1.0\r\n\r\n", target, target); err != nil {
			t.Fatalf("tunnel %d: %v", i, err)
		}
		if _, err := io.ReadFull(c, b); err != nil || string(b) != string(established) {
			t.Fatalf("tunnel %d: %q, %v", i, b, err)
		}
	}
	return all
}

// residentKiB is what the process has in memory by the kernel's count.
func residentKiB(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kib := 0
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatalf("VmRSS: %v", err)
	}
	return kib
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

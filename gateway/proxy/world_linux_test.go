package proxy

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/bench/corpus"
)

// A world is three networks joined by cables: the device's, the gateway's,
// which is that of this process, and the Internet, which has every address
// there is. Packets of the device go through the gateway.
type world struct {
	tb               testing.TB
	device, internet *os.File // network namespaces
	home             *os.File // of this process
}

const worldEnv = "WEIR_TEST_PROXY_WORLD"

const (
	divertPort = 3129
	device4    = "10.8.0.7"
	device6    = "fd00:8::7"
	gateway4   = "10.8.0.1"
	gateway6   = "fd00:8::1"
)

// newWorld makes a world. The gateway's threads must all be in its network, so
// the test runs again in a process of its own, and for the one that started
// that newWorld returns nil: there is nothing left to do.
func newWorld(t *testing.T) *world {
	t.Helper()
	corpus.Root(t)
	for _, tool := range []string{"ip", "nft", "curl"} {
		corpus.Tool(t, tool)
	}
	if os.Getenv(worldEnv) == "" {
		runInWorld(t)
		return nil
	}
	w := &world{tb: t, home: openNetwork(t)}
	w.device, w.internet = newNetwork(t), newNetwork(t)
	w.cable("g0", "d0", w.device)
	w.cable("i0", "o0", w.internet)
	w.ip("", "link set lo up", "addr add "+gateway4+"/24 dev g0", "addr add "+gateway6+"/64 dev g0 nodad",
		"addr add 10.9.0.1/24 dev i0", "addr add fd00:9::1/64 dev i0 nodad",
		"route add default via 10.9.0.2", "-6 route add default via fd00:9::2")
	w.in(w.device, func() {
		w.ip("", "link set lo up", "link set d0 up", "addr add "+device4+"/24 dev d0", "addr add "+device6+"/64 dev d0 nodad",
			"route add default via "+gateway4, "-6 route add default via "+gateway6)
	})
	w.in(w.internet, func() {
		// Whatever comes from the gateway is for this machine. Of IPv4, an answer may
		// leave only from what the local table has.
		w.ip("", "link set lo up", "link set o0 up", "addr add 10.9.0.2/24 dev o0", "addr add fd00:9::2/64 dev o0 nodad")
		for _, p := range []string{"8.0.0.0/7", "11.0.0.0/8", "12.0.0.0/6", "16.0.0.0/4", "32.0.0.0/3", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/3"} {
			w.ip("", "route add local "+p+" dev lo")
		}
		w.ip("", "-6 route add local default dev lo table 100", "-6 rule add iif o0 lookup 100",
			"route add default via 10.9.0.1", "-6 route add default via fd00:9::1")
	})
	return w
}

// runInWorld runs the test in a process with a network of its own.
func runInWorld(t *testing.T) {
	t.Helper()
	name := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.Command(os.Args[0], "-test.run", name, "-test.v", "-test.timeout", (5 * patience).String())
	cmd.Env = append(os.Environ(), worldEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the child dies with the thread that made it
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case testing.Verbose():
		t.Logf("%s", out)
	}
}

func openNetwork(tb testing.TB) *os.File {
	tb.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = f.Close() })
	return f
}

// newNetwork returns a network that lives as long as the file is open.
func newNetwork(tb testing.TB) *os.File {
	tb.Helper()
	made := make(chan *os.File)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			close(made)
			return
		}
		made <- openNetwork(tb)
	}()
	f := <-made
	if f == nil {
		corpus.Missing(tb, "needs network namespaces")
	}
	return f
}

// in runs f on a thread in that network. Sockets made there stay there.
func (w *world) in(network *os.File, f func()) {
	w.tb.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Setns(int(network.Fd()), unix.CLONE_NEWNET); err != nil {
		w.tb.Fatal(err)
	}
	defer func() {
		if err := unix.Setns(int(w.home.Fd()), unix.CLONE_NEWNET); err != nil {
			w.tb.Fatal(err)
		}
	}()
	f()
}

// run runs a program in the network of the calling thread.
func (w *world) run(input, name string, args ...string) string {
	w.tb.Helper()
	cmd := exec.Command(corpus.Tool(w.tb, name), args...)
	cmd.Stdin = strings.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.tb.Fatalf("%s %q: %v\n%s%s", name, args, err, input, stderr.Bytes())
	}
	return string(out)
}

func (w *world) ip(prefix string, lines ...string) {
	w.tb.Helper()
	for _, l := range lines {
		w.run("", "ip", strings.Fields(prefix+l)...)
	}
}

// cable joins this network, at one name, with another, at the other.
func (w *world) cable(here, there string, other *os.File) {
	w.tb.Helper()
	w.ip("", "link add "+here+" type veth peer name "+there, "link set "+here+" up",
		fmt.Sprintf("link set %s netns /proc/%d/fd/%d", there, os.Getpid(), other.Fd()))
}

// divert has the packet filter bring all TCP from the device to the gateway.
func (w *world) divert(how string) {
	w.tb.Helper()
	rules := "flush ruleset\n"
	if how == "redirect" {
		rules += `table inet divert {
			chain prerouting {
				type nat hook prerouting priority dstnat; policy accept;
				iifname "g0" meta l4proto tcp redirect to :3129
			}
		}`
	} else {
		rules += `table inet divert {
			chain prerouting {
				type filter hook prerouting priority mangle; policy accept;
				iifname "g0" meta nfproto ipv4 meta l4proto tcp ip daddr != 10.8.0.1 tproxy ip to :3129 meta mark set 1 accept
				iifname "g0" meta nfproto ipv6 meta l4proto tcp ip6 daddr != fd00:8::1 tproxy ip6 to :3129 meta mark set 1 accept
			}
		}`
		w.ip("", "rule add fwmark 1 lookup 101", "-6 rule add fwmark 1 lookup 101",
			"route add local default dev lo table 101", "-6 route add local default dev lo table 101")
		w.tb.Cleanup(func() {
			w.ip("", "rule del fwmark 1 lookup 101", "-6 rule del fwmark 1 lookup 101",
				"route flush table 101", "-6 route flush table 101")
		})
	}
	w.run(rules+"\n", "nft", "-f", "-")
}

// dial connects from the device.
func (w *world) dial(addr string) *raw {
	w.tb.Helper()
	var r *raw
	w.in(w.device, func() { r = dialRaw(w.tb, addr) })
	return r
}

// curl runs curl on the device.
func (w *world) curl(args ...string) (out string, err error) {
	w.tb.Helper()
	w.in(w.device, func() {
		cmd := exec.Command(corpus.Tool(w.tb, "curl"), append([]string{"-q", "-sS", "-k", "--max-time", "120"}, args...)...)
		var b []byte
		b, err = cmd.CombinedOutput()
		out = string(b)
	})
	return out, err
}

// listen listens on the Internet, at that port of every address of the family.
func (w *world) listen(network string, port uint16) *origin {
	w.tb.Helper()
	var l net.Listener
	w.in(w.internet, func() {
		var err error
		if l, err = net.Listen(network, fmt.Sprintf(":%d", port)); err != nil {
			w.tb.Fatal(err)
		}
	})
	w.tb.Cleanup(func() { _ = l.Close() })
	return &origin{Listener: l, port: port}
}

// start runs a gateway in the world, which may reach everything.
func (w *world) start(edit func(*Options)) *harness {
	w.tb.Helper()
	return start(w.tb, []uint16{80}, func(o *Options) {
		o.Transparent = []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), divertPort), netip.AddrPortFrom(netip.IPv6Unspecified(), divertPort)}
		o.AllowNetworks = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1"), netip.MustParsePrefix("2000::/3")}
		o.RequireTProxy = true
		if edit != nil {
			edit(o)
		}
	})
}

package world

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A Space is a network namespace. A thread that does nothing else lives in it
// until the test ends, and starts its processes: they end with that thread.
type Space struct {
	name string
	fd   int
	work chan func()
}

// newSpace makes a namespace that is closed with the test.
func newSpace(tb testing.TB, name string) *Space {
	tb.Helper()
	s := &Space{name: name, work: make(chan func())}
	born := make(chan error)
	go s.live(born)
	if err := <-born; err != nil {
		tb.Fatalf("network namespace %s: %v", name, err)
	}
	tb.Cleanup(func() {
		close(s.work)
		_ = unix.Close(s.fd)
	})
	// Addresses are there at once, and no limit of ICMP errors may look like
	// silence.
	s.sysctl(tb, map[string]string{
		"net/ipv6/conf/all/accept_dad": "0", "net/ipv6/conf/default/accept_dad": "0",
		"net/ipv4/icmp_ratelimit": "0", "net/ipv6/icmp/ratelimit": "0",
		"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/default/rp_filter": "0",
	})
	s.ip(tb, "link set lo up")
	return s
}

// live is the namespace's own thread.
func (s *Space) live(born chan<- error) {
	runtime.LockOSThread() // and never unlocked: nobody else may have this thread
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		s.fd, err = unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	born <- err
	if err != nil {
		return
	}
	for f := range s.work {
		f()
	}
}

// FD is the namespace's descriptor, the Space's own.
func (s *Space) FD() int { return s.fd }

// Do calls f on a thread of its own in the namespace: sockets that f makes are
// there for good, whoever uses them afterwards. f must not start goroutines that
// make sockets.
func (s *Space) Do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Setns(s.fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", s.name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Start starts a program in the namespace. It is killed, at the latest, when
// this process or the Space ends.
func (s *Space) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // when the thread ends, not only the process
	done := make(chan error)
	s.work <- func() { done <- cmd.Start() }
	return <-done
}

// Run starts a program in the namespace and waits for its end.
func (s *Space) Run(cmd *exec.Cmd) error {
	if err := s.Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// ip runs the program ip with the arguments of each line.
func (s *Space) ip(tb testing.TB, lines string) {
	tb.Helper()
	for line := range strings.Lines(lines) {
		args := strings.Fields(line)
		if len(args) == 0 {
			continue
		}
		var out strings.Builder
		cmd := exec.Command("ip", args...)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := s.Run(cmd); err != nil {
			tb.Fatalf("%s: ip %s: %v\n%s", s.name, strings.Join(args, " "), err, out.String())
		}
	}
}

func (s *Space) sysctl(tb testing.TB, values map[string]string) {
	tb.Helper()
	err := s.Do(func() error {
		for f, value := range values {
			if err := os.WriteFile("/proc/sys/"+f, []byte(value), 0o600); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		tb.Fatalf("%s: %v", s.name, err)
	}
}

// moveLink makes a cable between two namespaces.
func moveLink(tb testing.TB, a *Space, aName string, b *Space, bName string) {
	tb.Helper()
	// From inside a the other namespace has no name; a thread of this process that
	// lives in it has a path.
	a.ip(tb, fmt.Sprintf("link add %s type veth peer name %s netns /proc/%d/fd/%d", aName, bName, os.Getpid(), b.fd))
	a.ip(tb, "link set "+aName+" up")
	b.ip(tb, "link set "+bName+" up")
}

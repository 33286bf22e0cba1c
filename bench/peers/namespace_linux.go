package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// enterNamespace runs this program again in a network namespace of its own,
// where there is nothing but loopback: whatever a peer tries to contact, it
// cannot. That takes root; false says that it was not done.
func enterNamespace(ctx context.Context, args []string) (bool, error) {
	if os.Geteuid() != 0 {
		return false, nil
	}
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	// It runs beside the generator: what it does while a peer is measured must not
	// take that peer's CPU.
	argv := slices.Concat(pinned(generatorCPU), []string{self}, args)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it ends its peers
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	return true, cmd.Run()
}

// loopbackUp gives a new namespace its loopback interface.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("loopback up: %w", err)
	}
	return nil
}

// family makes a process the head of a group that ends with this program.
func family(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// signalFamily signals a process that family has prepared, and its children.
func signalFamily(cmd *exec.Cmd, s syscall.Signal) { _ = syscall.Kill(-cmd.Process.Pid, s) }

// freeze stops a peer whose turn it is not: some are busy long after the last
// client has gone, and all share a CPU.
func (p *process) freeze() { signalFamily(p.cmd, syscall.SIGSTOP) }

func (p *process) thaw() { signalFamily(p.cmd, syscall.SIGCONT) }

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Where what runs. On one CPU everything shares it, which the report says.
const (
	serverCPU    = "0"
	generatorCPU = "1"
)

// pinned is the beginning of a command line that runs on that CPU, or on the
// only one that there is.
func pinned(cpu string) []string {
	if b, err := os.ReadFile("/sys/devices/system/cpu/online"); err == nil && strings.TrimSpace(string(b)) == "0" {
		cpu = "0"
	}
	return []string{"taskset", "-c", cpu}
}

// A process is a program that this one started, and ends.
type process struct {
	cmd     *exec.Cmd
	done    chan struct{}
	first   chan string // the first line it printed
	log     string
	program string
}

// start runs a program pinned to a CPU, in a folder of its own; what it says
// goes to a log there.
func start(ctx context.Context, cpu, dir string, argv []string) (*process, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	argv = append(pinned(cpu), argv...)
	p := &process{cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), done: make(chan struct{}), first: make(chan string, 1)}
	p.cmd.Dir, p.log = dir, filepath.Join(dir, "log.txt")
	family(p.cmd)
	p.cmd.Cancel = func() error { signalFamily(p.cmd, syscall.SIGKILL); return nil }
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	p.cmd.Stderr = log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	go p.follow(out, log)
	return p, nil
}

// follow keeps the first line and the rest, until the program ends.
func (p *process) follow(out io.Reader, log *os.File) {
	defer close(p.done)
	r := bufio.NewReader(out)
	line, _ := r.ReadString('\n')
	p.first <- strings.TrimSpace(line)
	_, _ = io.WriteString(log, line)
	_, _ = io.Copy(log, r)
	_ = p.cmd.Wait() // how it ended is in the log; that it did is in done
	_ = log.Close()
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// announced is the address in the first line of programs that pick their port.
func (p *process) announced() (string, error) {
	select {
	case line := <-p.first:
		f := strings.Fields(line)
		if len(f) == 0 {
			return "", fmt.Errorf("ended at once: %s", p.tail())
		}
		_, _, err := net.SplitHostPort(f[len(f)-1])
		return f[len(f)-1], err
	case <-time.After(2 * time.Minute):
		return "", errors.New("said nothing for two minutes")
	}
}

// stop asks the program to end, and makes it.
func (p *process) stop() {
	p.thaw()
	signalFamily(p.cmd, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
	}
	signalFamily(p.cmd, syscall.SIGKILL)
	<-p.done
}

// tail is the end of what the program said.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-400):]))
}

// freeAddress finds a port on loopback that is free for UDP and TCP.
func freeAddress() (string, error) {
	for range 50 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		c, err := net.ListenPacket("udp4", l.Addr().String())
		_ = l.Close()
		if err == nil {
			return l.Addr().String(), c.Close()
		}
	}
	return "", errors.New("no free port")
}

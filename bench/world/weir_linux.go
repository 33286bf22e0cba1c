package world

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// A Process is a program that runs in a namespace.
type Process struct {
	cmd  *exec.Cmd
	done chan error
	log  buffer
}

// Serve starts "weir serve" in the gateway's namespace and waits until it is
// ready. It is stopped with the test.
func (w *World) Serve(program, configuration string) *Process {
	w.tb.Helper()
	p := &Process{cmd: exec.Command(program, "serve", "--config", w.File("weir.yml", configuration)), done: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(w.Dir, "cache")) // the state of other tests is none of its business
	if err := w.Gateway.Start(p.cmd); err != nil {
		w.tb.Fatal(err)
	}
	go func() { p.done <- p.cmd.Wait() }()
	w.tb.Cleanup(p.Stop)
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-p.done:
			p.done <- err
			w.tb.Fatalf("weir serve ended: %v\n%s", err, p.Log())
		default:
		}
		if c, err := w.Gateway.Dial("tcp", "127.0.0.1:8053"); err == nil {
			_, _ = fmt.Fprint(c, "GET /readyz HTTP/1.0\r\n\r\n")
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			head := make([]byte, 12)
			_, _ = c.Read(head)
			_ = c.Close()
			if bytes.HasSuffix(head, []byte(" 200")) {
				return p
			}
		}
	}
	w.tb.Fatalf("weir serve is not ready\n%s", p.Log())
	return nil
}

// File writes a file of the world's folder, in one step, and returns its path.
func (w *World) File(name, text string) string {
	w.tb.Helper()
	path := filepath.Join(w.Dir, name)
	if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		w.tb.Fatal(err)
	}
	return path
}

// Stop ends the program and waits for it.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.done:
		p.done <- err
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
	}
}

// Log is what the program has written so far.
func (p *Process) Log() string { return p.log.String() }

// A buffer is written to by a program and read by a test.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

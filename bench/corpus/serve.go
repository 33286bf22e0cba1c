package corpus

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// A Server is another program that serves a test.
type Server struct {
	Process *os.Process
	Ended   <-chan struct{} // closed when the program has ended
	log     string
}

// Serve starts a program. It ends with the test, or with this process if that is
// killed: nothing is left behind that holds ports or files of it. What it says is
// shown if the test fails.
func Serve(tb testing.TB, program string, args ...string) *Server {
	tb.Helper()
	out, err := os.Create(filepath.Join(tb.TempDir(), "log"))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	endWithThread(cmd)
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // which lives as long as the program
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it ends by a signal
		}
		close(ended)
	}()
	if err := <-started; err != nil {
		tb.Fatal(err)
	}
	s := &Server{Process: cmd.Process, Ended: ended, log: out.Name()}
	tb.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt) // fails where it has ended
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		if text := s.Log(); tb.Failed() {
			tb.Logf("%s:\n%s", program, text[max(0, len(text)-8000):])
		}
	})
	return s
}

// Log returns what the program has said so far.
func (s *Server) Log() string {
	b, _ := os.ReadFile(s.log) // what cannot be read is shown by its absence
	return string(b)
}

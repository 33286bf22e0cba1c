package vpn

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-gateway/weir/bench/corpus"
)

// ownNetwork moves the test's thread into a network of its own, which ends with
// the test.
func ownNetwork(t testing.TB) {
	t.Helper()
	corpus.Root(t)
	corpus.Tool(t, "nft")
	runtime.LockOSThread() // and never unlocked: nobody else may have this thread
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		corpus.Missing(t, "needs a network namespace: "+err.Error())
	}
	run(t, "ip link set lo up")
}

// run runs a command in the network of the calling thread.
func run(t testing.TB, command string) string {
	t.Helper()
	out, err := output(command, "")
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return out
}

// output runs a command with that input.
func output(command, input string) (string, error) {
	args := strings.Fields(command)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

package corpus

import (
	"os/exec"
	"syscall"
)

// endWithThread has the program killed when the thread ends that starts it.
func endWithThread(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

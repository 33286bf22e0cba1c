package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// waitDelay is how long a command that was ended may keep its output open: its
// own children may hold it.
const waitDelay = 2 * time.Second

// goTool runs the go command in a folder and returns what it printed.
func goTool(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.WaitDelay = waitDelay
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// moduleRoot returns the folder of this module's go.mod.
func moduleRoot(ctx context.Context) (string, error) {
	out, err := goTool(ctx, ".", "env", "GOMOD")
	if err != nil {
		return "", err
	}
	file := strings.TrimSpace(out)
	if filepath.Base(file) != "go.mod" {
		return "", fmt.Errorf("no module here: run the gate from within weir's")
	}
	return filepath.Dir(file), nil
}

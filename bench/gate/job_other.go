//go:build !linux

package main

import (
	"context"
	"errors"
	"fmt"
)

// runFloor is this program as a floor. That of UDP needs Linux.
func runFloor(kind, file string) error {
	if kind != "tcp" {
		return fmt.Errorf("no floor %q here: it needs Linux", kind)
	}
	return floorTCP(file)
}

// sockets has no load to make: its system calls are Linux's.
func (j *job) sockets(context.Context) error {
	if j.opts.only != "" && len(j.rows) > 0 {
		return nil
	}
	return errors.New("traffic is measured on Linux only; -only code measures the rest")
}

//go:build !linux

package main

import (
	"context"
	"errors"
	"io"
)

// commands are the same everywhere, and say why they do nothing.
func commands() map[string]command {
	out := make(map[string]command)
	for _, name := range []string{"udp", "tcp", "dot", "doh", "connect", "blocked", "get", "bulk", "idle", "upstream", "origin"} {
		out[name] = func(context.Context, []string, io.Writer) error {
			return errors.New("the generator needs Linux: batches of datagrams, epoll and /proc")
		}
	}
	return out
}

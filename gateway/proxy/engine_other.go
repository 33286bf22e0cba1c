//go:build !linux

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// There is no engine here: net/http accepts, and tunnels are goroutines.
type (
	engine struct{}
	relay  struct{}
)

var errNoEngine = fmt.Errorf("engine: %w", errors.ErrUnsupported)

func startEngine(*Server, func(error)) (*engine, error) { return nil, errNoEngine }

func (*engine) drain()                                         {}
func (*engine) wait(context.Context)                           {}
func (*engine) stop()                                          {}
func (*engine) adopt(*flow, *gate, *net.TCPConn, opening) bool { return false }
func (*relay) endFrom(error)                                   {}

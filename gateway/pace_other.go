//go:build !linux

package gateway

import "runtime"

// giveAway lets another goroutine have the processor, if one waits for it.
func giveAway() { runtime.Gosched() }

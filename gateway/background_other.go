//go:build !linux

package gateway

// inBackground runs f.
func inBackground(f func()) { f() }

//go:build !linux

package dnsserver

import "net"

// forceReadBuffer is for Linux only.
func forceReadBuffer(*net.UDPConn, int) bool { return false }

//go:build !linux

package dnsserver

import "net/netip"

func listenNative(s *Server, at netip.AddrPort) (udpListener, error) { return listenPortable(s, at) }

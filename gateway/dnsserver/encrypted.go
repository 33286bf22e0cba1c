package dnsserver

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
)

// bindEncrypted binds the addresses of encrypted transports. No client is asked
// to trust less than TLS 1.2 (RFC 9325, section 3.1.1).
func (s *Server) bindEncrypted() error {
	for _, a := range s.opts.DoT {
		if err := s.bindStream(a, dot, "dot"); err != nil { // RFC 7858, section 7.1
			return err
		}
	}
	if len(s.opts.DoH) > 0 {
		s.web = newWeb(s)
	}
	for _, a := range s.opts.DoH {
		if err := s.bindDoH(a); err != nil {
			return err
		}
	}
	for _, a := range s.opts.DoQ {
		if err := s.bindQUIC(a, doq, "doq"); err != nil { // RFC 9250, section 4.1.1
			return err
		}
	}
	return nil
}

// bindDoH binds an address for TCP and, where HTTP/3 is wanted, the same one for
// UDP.
func (s *Server) bindDoH(a netip.AddrPort) error {
	for try := 1; ; try++ {
		if err := s.bindStream(a, doh, "h2", "http/1.1"); err != nil || !s.opts.HTTP3 {
			return err
		}
		l := s.tcp[len(s.tcp)-1]
		at := netip.AddrPortFrom(a.Addr(), l.addrPort().Port())
		err := s.bindQUIC(at, doh3, "h3")
		if err == nil {
			return nil
		}
		_ = l.Close()
		s.tcp = s.tcp[:len(s.tcp)-1]
		if a.Port() != 0 || try == bindTries {
			return err
		}
	}
}

func (s *Server) bindStream(a netip.AddrPort, tr transport, protocols ...string) error {
	a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	l, err := net.ListenTCP(network("tcp", a), net.TCPAddrFromAddrPort(a))
	if err != nil {
		return fmt.Errorf("dns server: %w", err)
	}
	s.tcp = append(s.tcp, &streamListener{
		TCPListener: l, transport: tr, places: &s.places[tr], idle: s.opts.IdleEncrypted,
		tls: s.opts.Certs.config(tls.VersionTLS12, protocols...),
	})
	return nil
}

func (s *Server) bindQUIC(a netip.AddrPort, tr transport, protocol string) error {
	l, err := s.listenQUIC(a, tr, protocol)
	if err != nil {
		return fmt.Errorf("dns server: %w", err)
	}
	s.quic = append(s.quic, l)
	return nil
}

func (l *streamListener) addrPort() netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

// DoTAddrs returns the addresses that are bound for DNS over TLS, in the order of
// Options.DoT.
func (s *Server) DoTAddrs() []netip.AddrPort { return s.streamAddrs(dot) }

// DoHAddrs is DoTAddrs for DNS over HTTPS.
func (s *Server) DoHAddrs() []netip.AddrPort { return s.streamAddrs(doh) }

// DoQAddrs is DoTAddrs for DNS over QUIC.
func (s *Server) DoQAddrs() (addrs []netip.AddrPort) {
	for _, l := range s.quic {
		if l.transport == doq {
			addrs = append(addrs, l.addrPort())
		}
	}
	return addrs
}

func (s *Server) streamAddrs(tr transport) (addrs []netip.AddrPort) {
	for _, l := range s.tcp {
		if l.transport == tr {
			addrs = append(addrs, l.addrPort())
		}
	}
	return addrs
}

// serveQUIC is the goroutine of one listener.
func (s *Server) serveQUIC(l *quicListener) {
	if l.transport == doq {
		s.serveDoQ(l)
		return
	}
	_ = s.web.http3.ServeListener(l) // ends with the listener
}

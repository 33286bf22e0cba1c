package resolver

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	resolvConf     = "/etc/resolv.conf"
	systemEvery    = 2 * time.Second // between looks at the file
	maxNameservers = 8
	maxResolvConf  = 64 << 10
)

// A system follows the resolvers of resolv.conf. Options and search lists of
// the file are not ours to apply. The zero time of a look makes the first one.
type system struct {
	path string
	port uint16
	self func(netip.AddrPort) bool
	log  *slog.Logger

	mu     sync.Mutex
	looked time.Time
	stamp  stamp
	addrs  []netip.AddrPort
	why    string // there is none
}

// A stamp tells one state of a file from another.
type stamp struct {
	mod  time.Time
	size int64
}

func newSystem(path string, port uint16, self func(netip.AddrPort) bool, log *slog.Logger) *system {
	if path == "" {
		path = resolvConf
	}
	return &system{path: path, port: port, self: self, log: log}
}

// read returns the resolvers, or why there is none. It reads the file when it
// has changed, and looks at most every few seconds. A file that cannot be read
// leaves the resolvers as they were.
func (s *system) read(now time.Time) (addrs []netip.AddrPort, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.looked.IsZero() && now.Sub(s.looked) < systemEvery && !now.Before(s.looked) {
		return s.addrs, s.why
	}
	s.looked = now
	if err := s.reread(); err != nil {
		s.stamp = stamp{}
		if len(s.addrs) == 0 {
			s.tell(fmt.Sprintf("%v; set dns.upstreams", err))
		}
	}
	return s.addrs, s.why
}

func (s *system) reread() error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	st := stamp{info.ModTime(), info.Size()}
	if st == s.stamp {
		return nil
	}
	s.stamp = st
	found, err := nameservers(f, s.port)
	if err != nil {
		return err
	}
	s.addrs = nil
	why := fmt.Sprintf("%s names no resolver; set dns.upstreams", s.path)
	for _, a := range found {
		if s.self(a) {
			why = fmt.Sprintf("%s names %s, which is our own listener and would be a loop; set dns.upstreams", s.path, a)
			s.log.Warn("resolver refused: it is our own listener", "file", s.path, "resolver", a)
			continue
		}
		s.addrs = append(s.addrs, a)
	}
	if len(s.addrs) > 0 {
		s.why = ""
		return nil
	}
	s.tell(why)
	return nil
}

// tell keeps why there is no resolver, and logs it when it is news.
func (s *system) tell(why string) {
	if s.why != why {
		s.log.Warn("no upstream resolver", "reason", why)
	}
	s.why = why
}

// nameservers reads the nameserver lines, as resolv.conf(5) has them.
func nameservers(r io.Reader, port uint16) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	sc := bufio.NewScanner(io.LimitReader(r, maxResolvConf))
	for sc.Scan() && len(out) < maxNameservers {
		f := strings.Fields(sc.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(f[1])
		if err != nil {
			continue
		}
		ap := netip.AddrPortFrom(a.Unmap(), port)
		if !slices.Contains(out, ap) {
			out = append(out, ap)
		}
	}
	return out, sc.Err()
}

// selfCheck returns a function that says whether an address leads to one of our
// listeners. One that listens on all addresses is reached at each of this
// machine's, and so is one that is asked for at the unspecified address.
func selfCheck(listeners []netip.AddrPort) func(netip.AddrPort) bool {
	self := make([]netip.AddrPort, 0, len(listeners))
	for _, l := range listeners {
		self = append(self, netip.AddrPortFrom(l.Addr().Unmap().WithZone(""), l.Port()))
	}
	return func(a netip.AddrPort) bool {
		ip := a.Addr().Unmap().WithZone("")
		for _, l := range self {
			if l.Port() != a.Port() {
				continue
			}
			if l.Addr() == ip || ip.IsUnspecified() && (l.Addr().IsLoopback() || l.Addr().IsUnspecified()) {
				return true
			}
			// Linux listeners on :: take IPv4 too.
			if l.Addr().IsUnspecified() && (l.Addr().Is6() || ip.Is4()) && local(ip) {
				return true
			}
		}
		return false
	}
}

// local reports whether the address is one of this machine's.
func local(ip netip.Addr) bool {
	if ip.IsLoopback() || ip.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == ip {
			return true
		}
	}
	return false
}

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

var (
	// errProhibited is returned where an address may not be reached.
	errProhibited = errors.New("destination address is prohibited")
	// errDial marks every error of connecting, apart from those that come later.
	errDial = errors.New("connecting")
)

const (
	maxAttempts  = 8                      // addresses of one name that are tried
	attemptDelay = 250 * time.Millisecond // RFC 8305, section 5
)

// dial connects to one of the addresses, which were judged before: nothing is
// resolved here, so there is nothing to rebind. A slow address does not hold
// up the next one.
func (s *Server) dial(ctx context.Context, addrs []netip.Addr, port uint16) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.DialTimeout)
	defer cancel()
	addrs = interleave(addrs)
	results := make(chan attempt)
	started, pending := 0, 0
	delay := time.NewTimer(0)
	defer delay.Stop()
	var first error
	for {
		select {
		case <-delay.C:
			if started < len(addrs) {
				go s.attempt(ctx, netip.AddrPortFrom(addrs[started], port), results)
				started, pending = started+1, pending+1
				delay.Reset(attemptDelay)
			}
		case a := <-results:
			pending--
			if a.err == nil {
				go closeLosers(results, pending)
				return a.conn, nil
			}
			if first == nil {
				first = a.err
			}
			if started < len(addrs) {
				delay.Reset(0)
			}
		}
		if pending == 0 && started == len(addrs) {
			if first == nil {
				first = errProhibited // no address at all
			}
			return nil, fmt.Errorf("%w: %w", errDial, first)
		}
	}
}

type attempt struct {
	conn *net.TCPConn
	err  error
}

func closeLosers(results <-chan attempt, pending int) {
	for ; pending > 0; pending-- {
		if a := <-results; a.err == nil {
			_ = a.conn.Close()
		}
	}
}

func (s *Server) attempt(ctx context.Context, dst netip.AddrPort, results chan<- attempt) {
	d := net.Dialer{Control: func(_, address string, _ syscall.RawConn) error {
		return s.lock(dst, address)
	}}
	c, err := d.DialContext(ctx, "tcp", dst.String())
	if err != nil {
		results <- attempt{err: err}
		return
	}
	results <- attempt{conn: c.(*net.TCPConn)}
}

// lock is the second lock, in the last moment before the system call: the
// address that the socket will really connect to is the one that was judged,
// and it may be reached.
func (s *Server) lock(dst netip.AddrPort, address string) error {
	real, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s is not %s", errProhibited, address, dst)
	}
	return s.lockAddr(dst, real)
}

func (s *Server) lockAddr(dst, real netip.AddrPort) error {
	if real.Addr().Unmap() != dst.Addr().Unmap() || real.Port() != dst.Port() {
		return fmt.Errorf("%w: %s is not %s", errProhibited, real, dst)
	}
	if why := s.rules.Load().guard.prohibits(real); why != "" {
		return fmt.Errorf("%w: %s", errProhibited, why)
	}
	return nil
}

// interleave orders the addresses so that families take turns, IPv6 first (RFC
// 8305, section 4), and bounds their number.
func interleave(addrs []netip.Addr) []netip.Addr {
	if len(addrs) < 2 {
		return addrs
	}
	var families [2][]netip.Addr
	for _, a := range addrs {
		f := 0
		if a.Unmap().Is4() {
			f = 1
		}
		families[f] = append(families[f], a)
	}
	var out []netip.Addr
	for i := 0; len(out) < min(len(addrs), maxAttempts); i++ {
		for _, f := range families {
			if i < len(f) && len(out) < maxAttempts {
				out = append(out, f[i])
			}
		}
	}
	return out
}

package source

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"

	"github.com/weir-gateway/weir/blocklists"
)

// A guard keeps a source on the Internet: whoever serves a list, or its name,
// or a redirect, must not make the gateway talk to the machines around it. The
// exceptions are the operator's: an address that the source was configured as,
// and networks named for it.
type guard struct {
	first    *url.URL
	networks []netip.Prefix
}

// dialer returns one that checks each address that it is about to connect to,
// after it was resolved: what a name says at another time does not matter.
func (g guard) dialer(r *net.Resolver, timeout time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: timeout, Resolver: r, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return g.check(ap.Addr(), ap.Port())
	}}
}

// checkHost checks a host that is written as an address, which is all that can
// be seen where a proxy resolves and connects.
func (g guard) checkHost(u *url.URL) error {
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		return g.check(a, portOf(u))
	}
	return nil
}

func (g guard) check(a netip.Addr, port uint16) error {
	a = a.Unmap().WithZone("")
	what := blocklists.SpecialUse(a)
	if what == "" && blocklists.IsInside(a) {
		what = "translated private"
	}
	if what == "" || g.configured(a, port) || slices.ContainsFunc(g.networks, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return nil
	}
	return &FetchError{Reason: ReasonAddress, Msg: fmt.Sprintf("it leads to %s, a %s address: name its network in the list's allow_networks if the source is meant to be there", a, what)}
}

// configured reports whether the source itself is written as that address and
// port.
func (g guard) configured(a netip.Addr, port uint16) bool {
	host, err := netip.ParseAddr(g.first.Hostname())
	return err == nil && host.Unmap().WithZone("") == a && portOf(g.first) == port
}

func portOf(u *url.URL) uint16 {
	if p, err := netip.ParseAddrPort("0.0.0.0:" + u.Port()); err == nil {
		return p.Port()
	}
	if u.Scheme == "http" {
		return 80
	}
	return 443
}

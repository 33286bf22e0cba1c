package resolver

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/miekg/dns"
)

// LookupAddrs returns the addresses of a name, IPv4 before IPv6, through the
// same cache as questions. The links are those of all answers that came, and
// come with an ErrNotFound too: what leads nowhere may lead through a ban.
// Where one address family fails and the other has addresses, those are
// returned.
func (r *Resolver) LookupAddrs(ctx context.Context, name string) ([]netip.Addr, []Link, error) {
	var v4, v6 looked
	done := make(chan struct{})
	go func() {
		defer close(done)
		v6 = r.lookup(ctx, name, dns.TypeAAAA)
	}()
	v4 = r.lookup(ctx, name, dns.TypeA)
	<-done
	links := append(v4.links[:len(v4.links):len(v4.links)], v6.links...)
	addrs := append(v4.addrs, v6.addrs...)
	if len(addrs) > 0 {
		return addrs, links, nil
	}
	for _, err := range []error{v4.err, v6.err} {
		if err != nil {
			return nil, links, fmt.Errorf("resolving %s: %w", name, err)
		}
	}
	return nil, links, fmt.Errorf("resolving %s: %w", name, ErrNotFound)
}

// looked is what one question of LookupAddrs gave.
type looked struct {
	addrs []netip.Addr
	links []Link
	err   error
}

func (r *Resolver) lookup(ctx context.Context, name string, qtype uint16) looked {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	a, err := r.Resolve(ctx, q)
	if err != nil {
		return looked{err: err}
	}
	l := looked{links: a.Links()}
	switch a.Rcode() {
	case dns.RcodeSuccess, dns.RcodeNameError:
		l.addrs = a.addrs()
	default:
		l.err = fmt.Errorf("upstream answers %s", dns.RcodeToString[a.Rcode()])
	}
	return l
}

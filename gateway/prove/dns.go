package prove

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// asksDNS asks one question.
func (d *device) asksDNS(ctx context.Context, network string, at netip.AddrPort, name string, t uint16) (*dns.Msg, error) {
	if at.Addr().Is6() && !d.v6 {
		return nil, errNoV6
	}
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), t)
	m.SetEdns0(1232, false)
	c := &dns.Client{Net: network, Timeout: d.wait}
	r, _, err := c.ExchangeContext(ctx, m, at.String())
	return r, err
}

var errNoV6 = errors.New("this device has no IPv6")

// resolves judges whether a banned name gets an answer that leads anywhere.
func (d *device) resolves(ctx context.Context, network string, at netip.AddrPort, name string, t uint16) Finding {
	r, err := d.asksDNS(ctx, network, at, name, t)
	switch {
	case errors.Is(err, errNoV6):
		return Finding{NotTried, err.Error()}
	case isUnreadable(err):
		return Finding{Broken, "a reply came that cannot be read: " + err.Error()}
	case err != nil:
		return Finding{Closed, "question " + brief(err)}
	case leads(r):
		return Finding{Open, "answer: " + r.Answer[len(r.Answer)-1].String()}
	}
	return Finding{Closed, describe(r)}
}

// isUnreadable tells a reply that is no DNS message from none at all: a client
// that gets such a one asks again, or somebody else, and is not told why.
func isUnreadable(err error) bool {
	_, bad := errors.AsType[*dns.Error](err)
	return bad
}

// leads reports whether an answer has anything but the addresses of nowhere.
func leads(r *dns.Msg) bool {
	if code, _ := extended(r); code != 0 {
		return false
	}
	for _, rr := range r.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			if !rr.A.IsUnspecified() {
				return true
			}
		case *dns.AAAA:
			if !rr.AAAA.IsUnspecified() {
				return true
			}
		case *dns.CNAME:
		default:
			return true
		}
	}
	return false
}

// extended returns the extended error that says that an answer is a block.
func extended(r *dns.Msg) (uint16, string) {
	if o := r.IsEdns0(); o != nil {
		for _, e := range o.Option {
			if e, ok := e.(*dns.EDNS0_EDE); ok && e.InfoCode >= dns.ExtendedErrorCodeBlocked && e.InfoCode <= dns.ExtendedErrorCodeFiltered {
				return e.InfoCode, e.ExtraText
			}
		}
	}
	return 0, ""
}

func describe(r *dns.Msg) string {
	s := dns.RcodeToString[r.Rcode]
	if r.Rcode == dns.RcodeSuccess {
		s = "no data"
	}
	if code, text := extended(r); code != 0 {
		s += fmt.Sprintf(", EDE %d %s", code, text)
	}
	return s
}

// resolve returns an address of an allowed name, from the gateway.
func (d *device) resolve(ctx context.Context, name string) (netip.Addr, error) {
	r, err := d.asksDNS(ctx, "udp", d.DNS, name, dns.TypeA)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, rr := range r.Answer {
		if a, ok := rr.(*dns.A); ok {
			addr, _ := netip.AddrFromSlice(a.A)
			return addr.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no address: %s", name, describe(r))
}

// evidence returns the generation that the gateway says it judges by, in the
// serial of the SOA record of a blocked answer.
func (d *device) evidence(ctx context.Context) (uint32, string) {
	for _, t := range d.Targets {
		for _, name := range t.Names {
			r, err := d.asksDNS(ctx, "udp", d.DNS, name, dns.TypeA)
			if err != nil {
				continue
			}
			for _, rr := range r.Ns {
				if soa, ok := rr.(*dns.SOA); ok && strings.HasPrefix(soa.Ns, "weir.") {
					return soa.Serial, describe(r)
				}
			}
		}
	}
	return 0, "none: no blocked answer over DNS names a generation"
}

// refuses judges a name that devices ask in order to hear "no", at once.
func (d *device) refuses(ctx context.Context, name string, t uint16) Finding {
	r, err := d.asksDNS(ctx, "udp", d.DNS, name, t)
	switch {
	case err != nil:
		return Finding{Open, "question " + brief(err) + ": devices wait and try again"}
	case leads(r) || len(r.Answer) > 0:
		return Finding{Open, "answer: " + r.Answer[0].String()}
	case r.Rcode != dns.RcodeNameError && r.Rcode != dns.RcodeSuccess:
		return Finding{Open, describe(r) + ": devices want NXDOMAIN or no data"}
	}
	return Finding{Closed, describe(r)}
}

// keys judges whether an HTTPS record carries keys that hide server names.
func (d *device) keys(ctx context.Context, name string) Finding {
	r, err := d.asksDNS(ctx, "udp", d.DNS, name, dns.TypeHTTPS)
	if err != nil {
		return Finding{Closed, "question " + brief(err)}
	}
	for _, rr := range r.Answer {
		if h, ok := rr.(*dns.HTTPS); ok {
			for _, v := range h.Value {
				if v.Key() == dns.SVCB_ECHCONFIG {
					return Finding{Open, "the record has keys"}
				}
			}
		}
	}
	return Finding{Closed, "no keys"}
}

// lookup is a resolver that asks the gateway, for clients that need one.
func (d *device) lookup() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: d.wait}).DialContext(ctx, network, d.DNS.String())
	}}
}

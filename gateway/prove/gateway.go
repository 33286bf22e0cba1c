package prove

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// family6 returns the gateway's IPv6 address, or why there is none to try.
func family6(d *device, o Options) (netip.Addr, *Finding) {
	if !d.v6 {
		return netip.Addr{}, &Finding{NotTried, errNoV6.Error()}
	}
	a, err := netip.ParseAddr(o.Fixed.Gateway6)
	if err != nil {
		return netip.Addr{}, &Finding{NotTried, "needs the gateway's IPv6 address: --set gateway6=ADDRESS"}
	}
	return a, nil
}

// mustProxy6 wants a tunnel by the proxy over IPv6.
func mustProxy6(o Options, _ Target) []probe {
	return []probe{{"CONNECT " + o.Fixed.Allowed + ":443 over IPv6", func(ctx context.Context, d *device) Finding {
		a, f := family6(d, o)
		if f != nil {
			return *f
		}
		by := *d
		by.Proxy = netip.AddrPortFrom(a, d.Proxy.Port())
		c, f := by.connect(ctx, o.Fixed.Allowed+":443")
		if f != nil {
			return Finding{Broken, f.Seen}
		}
		_ = c.Close()
		return Finding{Works, "200"}
	}}}
}

// mustRefuse wants that a device hears at once what is not for it, whether that
// is refused or not: silence would keep its user waiting.
func mustRefuse(o Options, _ Target) (out []probe) {
	for _, port := range o.Admin {
		to := netip.AddrPortFrom(o.Gateway, port)
		out = append(out, probe{to.String(), func(ctx context.Context, d *device) Finding {
			began := time.Now()
			c, f := d.dial(ctx, to)
			took := time.Since(began)
			seen := "connection open"
			if f != nil {
				seen = f.Seen
			} else {
				_ = c.Close()
			}
			seen = fmt.Sprintf("%s after %d ms", seen, took.Milliseconds())
			if took < fallback {
				return Finding{Works, seen}
			}
			return Finding{Broken, seen}
		}})
	}
	return out
}

// udpServices are UDP ports on which routers often listen: TFTP, SNMP, mDNS, and
// one that is nobody's.
var udpServices = []uint16{69, 161, 5353, 40_000}

// gatewayUDP looks whether the gateway itself hears UDP that is not for devices:
// even that nobody listens, only it can say.
func gatewayUDP(o Options, _ Target) (out []probe) {
	for _, port := range udpServices {
		to := netip.AddrPortFrom(o.Gateway, port)
		out = append(out, probe{to.String() + "/udp", func(ctx context.Context, d *device) Finding {
			c, err := (&net.Dialer{}).DialContext(ctx, "udp", to.String())
			if err != nil {
				return Finding{NotTried, "socket " + brief(err)}
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(d.wait / 2))
			if _, err := c.Write(opening); err != nil {
				return Finding{Closed, brief(err)}
			}
			_, err = c.Read(make([]byte, 1500))
			switch {
			case err == nil:
				return Finding{Open, "answered"}
			case brief(err) == "refused":
				return Finding{Open, "nobody listens there, says the gateway"}
			default:
				return Finding{Closed, brief(err)}
			}
		}})
	}
	return out
}

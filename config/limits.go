package config

import "net/netip"

// A CookieMode is what DNS cookies (RFC 7873) mean to the resolver.
type CookieMode string

const (
	CookiesIgnore  CookieMode = "ignore"  // nothing
	CookiesAnswer  CookieMode = "answer"  // a client that sends one gets one
	CookiesRequire CookieMode = "require" // and over UDP no answer before it has the right one
)

// Cookies configures DNS cookies.
type Cookies struct {
	Mode    CookieMode
	Secrets string // file that servers share behind one address; empty: secrets of our own
}

// A Rate is how many questions somebody may ask.
type Rate struct {
	PerSecond int // 0: no limit
	Burst     int // at once, after a pause; 0: as many as in a second
}

// Limits bound what a device and a network may ask the resolver.
type Limits struct {
	Device  Rate           // an IPv4 address or an IPv6 /64
	Network Rate           // an IPv4 /24 or an IPv6 /56
	Exempt  []netip.Prefix // that are not limited
	Slip    int            // of questions over UDP that are too many, each so-manieth is answered with TC; 0: none
}

// maxRate is more than one gateway answers.
const maxRate = 10_000_000

func (v value) limits(l *Limits) {
	v.object(fields{
		"device":  func(v value) { v.rate(&l.Device) },
		"network": func(v value) { v.rate(&l.Network) },
		"exempt":  set(&l.Exempt, value.prefixes),
		"slip":    set(&l.Slip, number(0, 1000)),
	})
}

func (v value) rate(r *Rate) {
	v.object(fields{
		"rate":  set(&r.PerSecond, number(0, maxRate)),
		"burst": set(&r.Burst, number(0, maxRate)),
	})
}

// prefixes returns a list of networks, each once.
func (v value) prefixes() ([]netip.Prefix, bool) {
	list, ok := listOf(value.prefix)(v)
	if ok {
		v.unique(len(list), func(i int) any { return list[i] })
	}
	return list, ok
}

// checkLimits reports limits that cannot be meant.
func (d *decoder) checkLimits(l *Limits) {
	for key, r := range map[string]Rate{"device": l.Device, "network": l.Network} {
		if v, given := d.at("dns", "limits", key, "burst"); given && r.PerSecond == 0 && r.Burst > 0 {
			v.fail("there is a burst and no rate; a limit needs a rate")
		}
	}
	if v, given := d.at("dns", "limits", "network", "rate"); given && l.Network.PerSecond > 0 && l.Network.PerSecond < l.Device.PerSecond {
		v.fail("a network may ask less than one of its devices; want at least dns.limits.device.rate, %d", l.Device.PerSecond)
	}
}

func (v value) cookies(c *Cookies) {
	v.object(fields{
		"mode":    set(&c.Mode, word(CookiesIgnore, CookiesAnswer, CookiesRequire)),
		"secrets": set(&c.Secrets, value.filePath),
	})
}

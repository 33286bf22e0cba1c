package config

import (
	"encoding/hex"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"aead.dev/minisign"
	"go.yaml.in/yaml/v3"

	"github.com/weir-gateway/weir/blocklists"
)

// defaultFeed is how a list is fetched that says nothing about it. A day without
// a look is an alarm, twice as many rules or a third less is somebody's mistake.
func defaultFeed() blocklists.Feed {
	return blocklists.Feed{
		Interval: time.Hour, Timeout: 2 * time.Minute, StaleAfter: 24 * time.Hour, MaxSize: 64 << 20,
		Growth: blocklists.Drift{Percent: 100, Rules: 1000},
		Shrink: blocklists.Drift{Percent: 30, Rules: 100},
	}
}

// feedKeys are the keys of a list that only a URL can have, in the order in
// which they are reported.
var feedKeys = []string{"interval", "timeout", "stale_after", "max_size", "proxy", "allow_networks", "sha256", "minisign", "growth", "shrink", "hold", "canary", "required"}

func feedFields(f *blocklists.Feed) fields {
	return fields{
		"interval":       set(&f.Interval, duration(10*time.Second, 30*24*time.Hour)),
		"timeout":        set(&f.Timeout, duration(time.Second, time.Hour)),
		"stale_after":    set(&f.StaleAfter, value.staleAfter),
		"max_size":       set(&f.MaxSize, value.size),
		"proxy":          set(&f.Proxy, value.proxyURL),
		"allow_networks": set(&f.Networks, listOf(value.feedNetwork)),
		"sha256":         set(&f.SHA256, value.sha256Hex),
		"minisign":       set(&f.Minisign, value.minisignKey),
		"growth":         func(v value) { v.drift(&f.Growth, math.MaxInt32) },
		"shrink":         func(v value) { v.drift(&f.Shrink, 100) },
		"hold":           set(&f.Hold, value.boolean),
		"canary":         set(&f.Canary, value.text),
		"required":       set(&f.Required, value.boolean),
		"key":            set(&f.Key, value.keyName),
	}
}

// feed returns how the list is fetched, nil for one that is not. Keys that would
// mean nothing are errors: whoever wrote them relies on them.
func (v value) feed(source string, f blocklists.Feed) *blocklists.Feed {
	if blocklists.IsURL(source) {
		at, given := v.child("stale_after")
		if !given {
			f.StaleAfter = max(f.StaleAfter, 3*f.Interval)
		}
		if f.StaleAfter != 0 && f.StaleAfter < f.Interval {
			at.fail("the list would be stale (after %s) before the next look at it (after %s)", span(f.StaleAfter), span(f.Interval))
		}
		if at, given := v.child("canary"); given {
			v.d.canaries = append(v.d.canaries, listAt{f.Canary, at})
		}
		return &f
	}
	for _, key := range feedKeys {
		if at, given := v.child(key); given && source != "" {
			at.fail("only a list with a URL as its source is fetched; leave this out")
		}
	}
	return nil
}

// checkCanaries reports groups of lists that are not there.
func (d *decoder) checkCanaries(c *Config) {
	for _, l := range d.canaries {
		if !slices.ContainsFunc(c.Groups, func(g Group) bool { return g.Name == l.name }) {
			l.at.fail("there is no group %s in groups", quote(l.name))
		}
	}
}

// listSource is source, or the URL of a list.
func (v value) listSource() (string, bool) {
	s, ok := v.text()
	if !ok {
		return "", false
	}
	if blocklists.IsZone(s) && v.d.bundle == "" {
		return v.zoneURL(s)
	}
	if scheme, _, found := strings.Cut(s, ":"); !found || scheme != "https" && scheme != "http" {
		return v.source()
	}
	if v.d.bundle != "" {
		v.fail("a built-in ban has embedded: sources only")
		return "", false
	}
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Opaque != "" {
		v.fail("%s is not a URL such as https://lists.example.org/names.txt", quote(s))
		return "", false
	}
	if u.User != nil {
		v.fail("a URL with a user and a password would show them to everybody who sees the status; leave them out")
		return "", false
	}
	if u.Fragment != "" || strings.HasSuffix(s, "#") {
		v.fail("a list has no fragment (#); leave it out")
		return "", false
	}
	if !v.urlHost(u) {
		return "", false
	}
	if _, named := v.d.sources[s]; named {
		v.fail("%s is the source of another list already; one list can be in several groups, but is fetched once", quote(s))
		return "", false
	}
	v.d.place(s, v)
	return s, true
}

// urlHost reports whether the URL has a host that can be reached.
func (v value) urlHost(u *url.URL) bool {
	if p := u.Port(); p != "" {
		n, err := parsePort(p)
		if err != nil {
			v.fail("%s is not a port; want a number from 1 to 65535", quote(p))
			return false
		}
		if !v.portInRange(n) {
			return false
		}
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		return v.zone(a) && v.reachable(a.Unmap())
	}
	h, err := blocklists.ParseHost(u.Hostname())
	switch {
	case err != nil:
		v.fail("%s is not a host: %v", quote(u.Hostname()), err)
	case h.Addr.IsValid():
		v.fail("write the address in full: %s", h.Addr)
	default:
		return true
	}
	return false
}

// place remembers where a source stands.
func (d *decoder) place(source string, v value) {
	if d.sources == nil {
		d.sources = make(map[string]place)
	}
	if _, named := d.sources[source]; !named {
		d.sources[source] = place{d.file, v.n.Line, v.n.Column, v.key}
	}
}

var durationForm = regexp.MustCompile(`^([1-9][0-9]{0,8})(s|m|h|d)$`)

// duration returns the decoder of a time span: a whole number and a unit.
func duration(low, high time.Duration) func(value) (time.Duration, bool) {
	return func(v value) (time.Duration, bool) {
		if v.n.Kind != yaml.ScalarNode || v.n.Tag != "!!str" {
			v.wrongType("a time such as 90s, 15m, 6h or 7d")
			return 0, false
		}
		m := durationForm.FindStringSubmatch(v.n.Value)
		if m == nil {
			v.fail("want a time such as 90s, 15m, 6h or 7d, got %s", quote(v.n.Value))
			return 0, false
		}
		n, _ := strconv.Atoi(m[1]) // nine digits
		d := time.Duration(n) * map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}[m[2]]
		if d < low || d > high {
			v.fail("want a time from %s to %s, got %s", span(low), span(high), v.n.Value)
			return 0, false
		}
		return d, true
	}
}

// span writes a time as it is written here.
func span(d time.Duration) string {
	switch {
	case d%(24*time.Hour) == 0:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

func (v value) staleAfter() (time.Duration, bool) {
	if v.n.Kind == yaml.ScalarNode && v.n.Value == "never" {
		return 0, true
	}
	return duration(time.Minute, 365*24*time.Hour)(v)
}

var sizeForm = regexp.MustCompile(`^([1-9][0-9]{0,5})(KiB|MiB)$`)

// maxList is what package parse reads of a list at the most.
const maxList = 512 << 20

// size returns a number of bytes.
func (v value) size() (int64, bool) {
	if v.n.Kind != yaml.ScalarNode || v.n.Tag != "!!str" {
		v.wrongType("a size such as 512KiB or 64MiB")
		return 0, false
	}
	m := sizeForm.FindStringSubmatch(v.n.Value)
	if m == nil {
		v.fail("want a size such as 512KiB or 64MiB, got %s", quote(v.n.Value))
		return 0, false
	}
	n, _ := strconv.ParseInt(m[1], 10, 64) // six digits
	n <<= map[string]int{"KiB": 10, "MiB": 20}[m[2]]
	if n > maxList {
		v.fail("want 512MiB at the most, got %s", v.n.Value)
		return 0, false
	}
	return n, true
}

// proxyURL returns an HTTP proxy.
func (v value) proxyURL() (*url.URL, bool) {
	s, ok := v.text()
	if !ok {
		return nil, false
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Port() == "" ||
		u.User != nil || strings.Trim(u.Path, "/")+u.RawQuery+u.Fragment != "" {
		v.fail("want a proxy such as http://192.0.2.8:3128, got %s", quote(s))
		return nil, false
	}
	return u, v.urlHost(u)
}

func (v value) feedNetwork() (netip.Prefix, bool) {
	p, ok := v.prefix()
	if ok && p.Bits() == 0 {
		v.fail("%s is everything; name the networks that the source is in", p)
		return netip.Prefix{}, false
	}
	return p, ok
}

// sha256Hex returns a SHA-256 digest in hex.
func (v value) sha256Hex() (string, bool) {
	s, ok := v.text()
	if !ok {
		return "", false
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 {
		v.fail("want a SHA-256 digest of 64 hexadecimal digits, got %s", quote(s))
		return "", false
	}
	return strings.ToLower(s), true
}

func (v value) minisignKey() (string, bool) {
	s, ok := v.text()
	if !ok {
		return "", false
	}
	var key minisign.PublicKey
	if err := key.UnmarshalText([]byte(s)); err != nil {
		v.fail("%s is not a public key of minisign, which begins with RW", quote(s))
		return "", false
	}
	return s, true
}

func (v value) drift(d *blocklists.Drift, percent int) {
	v.object(fields{
		"percent": set(&d.Percent, number(0, percent)),
		"rules":   set(&d.Rules, number(0, math.MaxInt32)),
	})
}

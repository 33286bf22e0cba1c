package policy

import (
	"slices"
	"strings"

	"golang.org/x/net/idna"

	"github.com/weir-gateway/weir/blocklists"
)

// unwrap puts in the place of matches of mirrors, which say nothing by
// themselves, what the lists say about the hosts that the name embeds: a
// translator or a cache shows a banned site under a name of its own. The first
// matches, up to from, are another name's.
func (s *Snapshot) unwrap(dst []blocklists.Match, from int, name string) []blocklists.Match {
	kept, mirror := dst[:from], ""
	for _, m := range dst[from:] {
		switch {
		case !s.spec.Lists[m.List].Embeds:
			kept = append(kept, m)
		case len(m.Rule.Name) > len(mirror):
			mirror = m.Rule.Name
		}
	}
	front, ok := strings.CutSuffix(name, "."+mirror)
	if mirror == "" || !ok {
		return kept
	}
	for _, host := range embedded(front) {
		n := len(kept)
		kept = s.spec.Set.AppendName(kept, host)
		rest := kept[:n]
		for _, m := range kept[n:] {
			if !s.spec.Lists[m.List].Embeds { // a mirror of a mirror shows nothing
				rest = append(rest, m)
			}
		}
		kept = rest
	}
	return kept
}

// embedded are the hosts that labels in front of a mirror's name may stand for:
// themselves, where they are several, and what the last of them says in the
// encodings of translators and caches.
func embedded(front string) []string {
	var hosts []string
	add := func(host string) {
		host, err := blocklists.CanonicalName(host)
		if err == nil && strings.Contains(host, ".") && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	add(front)
	label := front[strings.LastIndexByte(front, '.')+1:]
	// A cache encodes the Unicode form of a name, and what comes of it again.
	if u, err := idna.Punycode.ToUnicode(label); err == nil {
		label = u
	}
	add(mirrorCode.Replace(label))
	// What would look like an A-label has a mark: "0-" before and "-0" behind it
	// in caches; in translators "1-" before it, and "0-" in the place of "xn--".
	// The name does not say which is meant, or that a "0" is a part of it.
	if inner, ok := strings.CutPrefix(label, "1-"); ok {
		label = inner
		add(mirrorCode.Replace(label))
	}
	if inner, ok := strings.CutPrefix(label, "0-"); ok {
		add("xn--" + mirrorCode.Replace(inner))
		if inner, ok = strings.CutSuffix(inner, "-0"); ok {
			add(mirrorCode.Replace(inner))
		}
	}
	return hosts
}

// mirrorCode is how all of them write a host in one label: a dot as a hyphen, and
// a hyphen as two.
var mirrorCode = strings.NewReplacer("--", "-", "-", ".")

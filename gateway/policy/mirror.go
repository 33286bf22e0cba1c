package policy

import (
	"strings"

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
// encoding of translators and caches. There a dot is written as a hyphen and a
// hyphen as two; a name that looks like an A-label then is put between "0-" and
// "-0".
func embedded(front string) []string {
	var hosts []string
	if strings.Contains(front, ".") {
		hosts = append(hosts, front)
	}
	label := front[strings.LastIndexByte(front, '.')+1:]
	if inner, ok := strings.CutPrefix(label, "0-"); ok {
		if inner, ok = strings.CutSuffix(inner, "-0"); ok {
			label = inner
		}
	}
	decoded := mirrorCode.Replace(label)
	if host, err := blocklists.CanonicalName(decoded); err == nil && strings.Contains(host, ".") {
		hosts = append(hosts, host)
	}
	return hosts
}

var mirrorCode = strings.NewReplacer("--", "-", "-", ".")

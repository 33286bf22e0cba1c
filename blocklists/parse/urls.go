package parse

import (
	"errors"
	"strings"

	"github.com/weir-gateway/weir/blocklists"
)

// parseURLs reads a line of the urls dialect, which is Weir's own and takes the
// "urls" files of the squidGuard family: one [http://]host/path, "@@" before it
// to let it through, "#" comments after a blank and notes as in the domains
// dialect. It speaks about plain HTTP requests to the host, and to hosts under
// it, whose path and query begin so.
func parseURLs(p *parser, text string) {
	entry, ok := p.column1(text)
	if !ok {
		return
	}
	action, s, offset := allow(entry)
	if i := strings.Index(s, "://"); i >= 0 && !strings.Contains(s[:i], "/") {
		if !strings.EqualFold(s[:i], "http") {
			p.skip(offset, SkipScheme, entry, errScheme)
			return
		}
		s, offset = s[i+3:], offset+i+3
	}
	slash := strings.IndexByte(s, '/')
	if slash < 0 {
		p.skip(offset, SkipNoPath, entry, nil)
		return
	}
	// A port that is the scheme's own says nothing (RFC 3986, section 6.2.3).
	host, path := strings.TrimSuffix(s[:slash], ":80"), s[slash:]
	if strings.ContainsAny(path, "*^|#") {
		p.skip(offset+slash, SkipPattern, path, errLiteral)
		return
	}
	path, ok = canonicalPattern(path)
	if !ok {
		p.skip(offset+slash, SkipPattern, s[slash:], errLiteral)
		return
	}
	p.nameRule(blocklists.Rule{Kind: blocklists.Suffix, Action: action, Path: path}, host, offset)
}

var (
	errScheme  = errors.New("only the paths of plain HTTP are visible")
	errLiteral = errors.New("not the beginning of a path and query as requests have it")
)

// canonicalPattern returns a path pattern in the form in which requests are
// compared with it (blocklists.CanonicalPath). A pattern is only the beginning
// of a path, so its last segment is not complete, and is not taken for a dot
// segment. Patterns that no canonical path could match are none.
func canonicalPattern(path string) (string, bool) {
	if isReduced(path) {
		return "", false
	}
	// A byte that is neither "." nor "/" nor hexadecimal keeps the last segment
	// and a last "%" as they are.
	const guard = "x"
	return strings.TrimSuffix(blocklists.CanonicalPath(path+guard), guard), true
}

// isReduced reports whether a complete segment of the path is "." or "..", or
// whether it is a run of slashes: its canonical form would be every path.
func isReduced(path string) bool {
	path, _, _ = strings.Cut(path, "?")
	return strings.Contains(path, "/./") || strings.Contains(path, "/../") || len(path) > 1 && strings.Trim(path, "/") == ""
}

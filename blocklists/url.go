package blocklists

import "strings"

// CanonicalPath returns the path and query of a request in the one form that
// path patterns are compared with: percent-encoded unreserved characters
// decoded and dot segments removed (RFC 3986, section 6.2.2), runs of slashes
// made one, ASCII lower case. Origins read those spellings alike, so a rule
// must too. An empty path is "/".
func CanonicalPath(p string) string {
	path, query, hasQuery := strings.Cut(p, "?")
	path = removeDots(lowerASCII(decodeUnreserved(path)))
	if hasQuery {
		return path + "?" + lowerASCII(decodeUnreserved(query))
	}
	return path
}

func decodeUnreserved(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if c := hi<<4 | lo; hi < 16 && lo < 16 && isUnreserved(c) {
				b = append(b, c)
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

// lowerASCII leaves other bytes as they are: a path need not be UTF-8.
func lowerASCII(s string) string {
	if strings.IndexFunc(s, func(c rune) bool { return 'A' <= c && c <= 'Z' }) < 0 {
		return s
	}
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// isUnreserved is RFC 3986, section 2.3.
func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

func removeDots(path string) string {
	if strings.HasPrefix(path, "/") && !strings.Contains(path, "//") && !strings.Contains(path, "/.") {
		return path
	}
	var out []string
	segments := strings.Split(path, "/")
	for i, seg := range segments {
		last := i == len(segments)-1
		switch {
		case seg == "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		case seg == "." || seg == "":
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, seg)
		}
	}
	return "/" + strings.Join(out, "/")
}

// matchPath reports whether the canonical path begins with what the pattern
// describes. In a pattern "*" is any run of characters, "^" a separator or the
// end (anything but a letter, a digit or one of "_-.%"), and a final "|" the
// end of the path: the ABP filter syntax. Patterns are lower case.
func matchPath(pattern, path string) bool {
	// The last star is the only one to come back to: an earlier star could
	// only take what a later one can take as well. That bounds the work by
	// len(pattern) times len(path).
	p, s := 0, 0
	star, mark := -1, 0
	for {
		switch {
		case p == len(pattern):
			return true
		case pattern[p] == '*':
			star, mark = p, s
			p++
			continue
		case pattern[p] == '|' && p == len(pattern)-1:
			if s == len(path) {
				return true
			}
		case s < len(path) && (pattern[p] == path[s] || pattern[p] == '^' && isSeparator(path[s])):
			p++
			s++
			continue
		case s == len(path) && pattern[p] == '^':
			p++
			continue
		}
		if star < 0 || mark >= len(path) {
			return false
		}
		mark++
		p, s = star+1, mark
	}
}

func isSeparator(c byte) bool {
	return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_-.%", c) >= 0 || c >= 0x80)
}

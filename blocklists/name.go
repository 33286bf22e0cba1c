package blocklists

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Errors of CanonicalName and ParseHost. Callers that count rejected names
// branch on them.
var (
	ErrNameEmpty = errors.New("name is empty")
	ErrNameLong  = errors.New("name is longer than 253 characters")
	ErrLabel     = errors.New("name has an empty label or one longer than 63 characters")
	ErrNameChar  = errors.New("name has a character that host names do not have")
	ErrNameIDNA  = errors.New("name is not a valid internationalized name")
	ErrAddress   = errors.New("address is malformed")
)

const (
	maxName  = 253 // RFC 1035, section 2.3.4, as text without the final dot
	maxLabel = 63
)

// uts46 maps what browsers map: full-width letters, the ideographic full stops,
// capitals. Underscores and hyphens anywhere stay, because DNS and real lists
// have them.
var uts46 = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(false), idna.CheckHyphens(false))

// CanonicalName returns the one form in which names are compared everywhere:
// lower case, no final dot, IDNA A-labels. It accepts letters, digits, hyphens
// and underscores in labels of 1 to 63 characters, 253 in all; leading and
// trailing hyphens are accepted because names in use have them.
//
// For names that are canonical already it does not allocate.
func CanonicalName(s string) (string, error) {
	if isCanonical(s) {
		return s, nil
	}
	s, err := toASCII(s)
	if err != nil {
		return "", err
	}
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return "", ErrNameEmpty
	}
	if len(s) > maxName {
		return "", ErrNameLong
	}
	upper := false
	label := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '.' {
			if label == 0 || label > maxLabel {
				return "", ErrLabel
			}
			label = 0
			continue
		}
		if c >= 'A' && c <= 'Z' {
			upper = true
		} else if !isNameByte(c) {
			return "", ErrNameChar
		}
		label++
	}
	if label == 0 || label > maxLabel {
		return "", ErrLabel
	}
	if upper {
		s = strings.ToLower(s)
	}
	return s, nil
}

// isCanonical is CanonicalName's quick answer for the many names that are.
func isCanonical(s string) bool {
	if len(s) > maxName {
		return false
	}
	start := 0
	for i := range len(s) {
		if isNameByte(s[i]) {
			continue
		}
		if s[i] != '.' || i == start || i-start > maxLabel {
			return false
		}
		start = i + 1
	}
	return len(s) > start && len(s)-start <= maxLabel
}

func isNameByte(c byte) bool { return nameBytes[c] }

var nameBytes = func() (t [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyz0123456789-_") {
		t[c] = true
	}
	return t
}()

func toASCII(s string) (string, error) {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			if len(s) > 4*maxName {
				return "", ErrNameLong
			}
			if !utf8.ValidString(s) {
				return "", fmt.Errorf("%w: not UTF-8", ErrNameIDNA)
			}
			a, err := uts46.ToASCII(s)
			if err != nil {
				return "", fmt.Errorf("%w: %v", ErrNameIDNA, err)
			}
			return a, nil
		}
	}
	return s, nil
}

// A Host is the host of a URL, a CONNECT target or a Host field: a canonical
// name, or an address (then Name is empty).
type Host struct {
	Name string
	Addr netip.Addr
}

// String returns the name or the address.
func (h Host) String() string {
	if h.Addr.IsValid() {
		return h.Addr.String()
	}
	return h.Name
}

// ParseHost returns the canonical form of a host as clients spell it, without
// a port. Every spelling of an IPv4 address that inet_aton and the WHATWG URL
// standard know (127.1, 0x7f.1, 017700000001, 2130706433) is that address, and
// a last label that is a number is never a name. IPv6 stands in brackets or
// alone; IPv4-mapped addresses become IPv4; zones are an error, because they
// mean something on one machine only, and brackets around a name are one too.
func ParseHost(s string) (Host, error) {
	if strings.HasPrefix(s, "[") {
		inner, ok := strings.CutSuffix(s[1:], "]")
		if !ok || !strings.Contains(inner, ":") {
			return Host{}, ErrAddress
		}
		return parseIPv6(inner)
	}
	if strings.Contains(s, ":") {
		return parseIPv6(s)
	}
	name, err := CanonicalName(s)
	if err != nil {
		return Host{}, err
	}
	if !endsInNumber(name) {
		return Host{Name: name}, nil
	}
	a, err := parseIPv4(name)
	if err != nil {
		return Host{}, err
	}
	return Host{Addr: a}, nil
}

func parseIPv6(s string) (Host, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return Host{}, ErrAddress
	}
	return Host{Addr: a.Unmap()}, nil
}

// endsInNumber is the "ends in a number" check of the WHATWG URL standard.
func endsInNumber(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	if last[0] < '0' || '9' < last[0] {
		return false // most names, without the cost of an error
	}
	_, err := parseNumber(last)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return true
	}
	return strings.Trim(last, "0123456789") == ""
}

func parseIPv4(name string) (netip.Addr, error) {
	parts := strings.Split(name, ".")
	if len(parts) > 4 {
		return netip.Addr{}, ErrAddress
	}
	var v uint64
	for i, p := range parts {
		n, err := parseNumber(p)
		if err != nil {
			return netip.Addr{}, ErrAddress
		}
		if i < len(parts)-1 {
			if n > 255 {
				return netip.Addr{}, ErrAddress
			}
			v |= n << (24 - 8*i)
			continue
		}
		if n >= 1<<(8*(5-len(parts))) {
			return netip.Addr{}, ErrAddress
		}
		v |= n
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), nil
}

// parseNumber reads a part of an IPv4 address: decimal, octal after 0, or
// hexadecimal after 0x, which alone is zero.
func parseNumber(p string) (uint64, error) {
	if h, ok := strings.CutPrefix(p, "0x"); ok {
		if h == "" {
			return 0, nil
		}
		return parseDigits(h, 16)
	}
	if len(p) > 1 && p[0] == '0' {
		return parseDigits(p[1:], 8)
	}
	return parseDigits(p, 10)
}

func parseDigits(p string, base int) (uint64, error) {
	if strings.ContainsAny(p, "+-_") {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(p, base, 64)
}

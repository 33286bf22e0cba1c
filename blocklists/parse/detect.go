package parse

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ErrUnknownFormat is returned by Detect for a sample that looks like none of
// the dialects, or like several.
var ErrUnknownFormat = errors.New("the format of the list is not clear")

// Detect returns the dialect that a sample from the beginning of a file looks
// like, packed or not, or an error that says what speaks for which. It is a
// help for people who look at a file of unknown origin: nothing that is loaded
// is ever read in a dialect that was not named, because a bare name means one
// thing here and another there.
func Detect(sample []byte) (Format, error) {
	in, err := open(bytes.NewReader(sample), DefaultBytes)
	if err != nil {
		return "", readError(err, 0)
	}
	votes := map[Format]int{}
	unknown, line := 0, 0
	src := newLines(in.r, DefaultLine)
	for {
		raw, _, err := src.next()
		if err != nil {
			break // the end, or where the sample cuts packed data
		}
		line++
		text, _ := trim(raw)
		if err := markup(text, line); err != nil && len(votes) == 0 {
			return "", err
		}
		if src.nul {
			return "", binaryError(line)
		}
		if line == 1 && bytes.HasPrefix(text, []byte("[Adblock")) {
			return ABP, nil // the one format that names itself
		}
		switch f, ok := vote(string(text)); {
		case !ok:
			unknown++
		case f != "":
			votes[f]++
		}
	}
	return elect(votes, unknown)
}

// elect returns the dialect that nearly all lines speak for.
func elect(votes map[Format]int, unknown int) (Format, error) {
	ranked, all := []Format{}, unknown
	for _, f := range formats {
		if votes[f] > 0 {
			ranked = append(ranked, f)
			all += votes[f]
		}
	}
	slices.SortStableFunc(ranked, func(a, b Format) int { return votes[b] - votes[a] })
	if len(ranked) > 0 && votes[ranked[0]]*20 >= all*19 {
		return ranked[0], nil
	}
	if all == 0 {
		return "", fmt.Errorf("%w (it begins with no entry at all)", ErrUnknownFormat)
	}
	words := make([]string, len(ranked))
	for i, f := range ranked {
		words[i] = fmt.Sprintf("%d lines look like %s", votes[f], f)
	}
	if unknown > 0 {
		words = append(words, fmt.Sprintf("%d like none", unknown))
	}
	return "", fmt.Errorf("%w (%s)", ErrUnknownFormat, strings.Join(words, ", "))
}

// vote returns the dialect that a line speaks for, or none for lines that many
// dialects have. It returns false for a line that looks like no dialect.
func vote(s string) (Format, bool) {
	if s == "" || s[0] == ';' {
		return "", true
	}
	first, _ := field(s, 0)
	rest := strings.TrimSpace(s[len(first):])
	option, _, _ := strings.Cut(s, "=/")
	switch {
	case isCosmetic(s), s[0] == '!', strings.HasPrefix(strings.TrimPrefix(s, "@@"), "|"):
		return ABP, true
	case s[0] == '#':
		return "", true
	case rest != "" && (first == "bytes" || first == "field" || first == "path"):
		return Signatures, true
	case option != s && (option == "address" || option == "server" || option == "local"):
		return Dnsmasq, true
	case isZoneLine(s):
		return RPZ, true
	}
	// What follows a name or prefix may be a comment or a note.
	single := rest == "" || rest[0] == '#' || strings.HasPrefix(s[len(first):], "\t")
	_, entry, _ := allow(first)
	entry = strings.TrimPrefix(entry, "=")
	_, addrErr := netip.ParseAddr(entry)
	_, prefixErr := parsePrefix(entry)
	_, _, nameErr := canonical(strings.TrimPrefix(entry, "*."))
	switch host, _, isURL := strings.Cut(strings.TrimPrefix(entry, "http://"), "/"); {
	case addrErr == nil && rest != "" && rest[0] != '#' && isHostsRest(rest):
		return Hosts, true
	case single && prefixErr == nil:
		return Prefixes, true
	case single && nameErr == nil:
		return Domains, true
	case single && isURL && isCanonical(host):
		return URLs, true
	}
	return "", false
}

// isHostsRest reports whether names follow the address of a hosts line.
func isHostsRest(rest string) bool {
	name, _ := field(rest, 0)
	return isSelfName(name) || isCanonical(name)
}

func isCanonical(s string) bool {
	_, _, err := canonical(s)
	return err == nil
}

// isZoneLine reports whether the line is a directive or a record of a zone.
func isZoneLine(s string) bool {
	fields := strings.Fields(s)
	if len(fields) == 0 { // blanks of Unicode only
		return false
	}
	switch strings.ToUpper(fields[0]) {
	case "$TTL", "$ORIGIN", "$INCLUDE", "$GENERATE":
		return true
	}
	for _, f := range fields[:min(len(fields), 4)] {
		switch strings.ToUpper(f) {
		case "CNAME", "SOA", "NS":
			return true
		}
	}
	return false
}

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Where the names are drawn from, in the folder of the real data.
const (
	unionFile      = "big/permissive/union-domains-2M.txt.gz"
	popularityFile = "big/popularity/umbrella-top100k-2026-07-24.txt.gz"
	allowedCount   = 10_000
	drawSeed       = 20_261_123
	// protectedFile is what Weir lets through whatever a list says, from the
	// module's root: such names are drawn for no peer.
	protectedFile = "blocklists/bans/protected.txt"
)

// namesCommand writes the lists and does nothing else.
func namesCommand(args []string, out io.Writer) error {
	fs := flag.NewFlagSet("names", flag.ContinueOnError)
	dir := fs.String("dir", "", "folder to write to")
	data := fs.String("data", dataFolder(), "folder of the real data")
	sizes := fs.String("sizes", "100000,1000000", "how many names are blocked, separated by commas")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *dir == "" {
		return errors.New("names: -dir is missing")
	}
	var counts []int
	for s := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return fmt.Errorf("sizes %q: want numbers", *sizes)
		}
		counts = append(counts, n)
	}
	return writeNames(*dir, *data, counts, out)
}

// writeNames draws the lists: blocked-N.txt for each size, the small one a part
// of the large one, and allowed.txt, which no list that could be drawn covers.
func writeNames(dir, data string, sizes []int, out io.Writer) error {
	all, err := readNames(filepath.Join(data, unionFile))
	if err != nil {
		return err
	}
	popular, err := readNames(filepath.Join(data, popularityFile))
	if err != nil {
		return err
	}
	covered := make(map[string]struct{}, len(all))
	for _, n := range all {
		covered[n] = struct{}{}
	}
	allowed := drawAllowed(popular, covered, allowedCount)
	if err := writeLines(filepath.Join(dir, "allowed.txt"), allowed); err != nil {
		return err
	}
	protected, err := readProtected(protectedFile)
	if err != nil {
		return err
	}
	drawn := drawBlocked(all, protected)
	for _, n := range sizes {
		if n > len(drawn) {
			return fmt.Errorf("%s has %d usable names, not %d", unionFile, len(drawn), n)
		}
		if err := writeLines(blockedFile(dir, n), drawn[:n]); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "%s: %v of %d names blocked, the %d most popular names allowed that none of those covers\n", dir, sizes, len(drawn), len(allowed))
	return err
}

func blockedFile(dir string, n int) string {
	return filepath.Join(dir, fmt.Sprintf("blocked-%d.txt", n))
}

// drawBlocked puts the usable names in an order that the seed decides, so that
// the first N are an even draw.
func drawBlocked(all []string, protected map[string]struct{}) []string {
	var out []string
	for _, n := range all {
		if usable(n) && !special(n) && !covers(protected, n) {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, cmp.Compare)
	out = slices.Compact(out)
	r := rand.New(rand.NewPCG(drawSeed, drawSeed))
	r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// drawAllowed takes the first names, in order of popularity, that are not
// covered by suffix.
func drawAllowed(popular []string, covered map[string]struct{}, most int) []string {
	var out []string
	seen := make(map[string]struct{})
	for _, n := range popular {
		if _, again := seen[n]; again || !usable(n) || special(n) || covers(covered, n) {
			continue
		}
		seen[n] = struct{}{}
		if out = append(out, n); len(out) == most {
			break
		}
	}
	return out
}

// covers says whether the set has the name or one above it.
func covers(set map[string]struct{}, name string) bool {
	for {
		if _, ok := set[name]; ok {
			return true
		}
		i := strings.IndexByte(name, '.')
		if i < 0 {
			return false
		}
		name = name[i+1:]
	}
}

// readProtected reads the names of exceptions: @@name, @@*.name, @@=name.
func readProtected(file string) (map[string]struct{}, error) {
	lines, err := readNames(file)
	if err != nil {
		return nil, err
	}
	set := make(map[string]struct{})
	for _, l := range lines {
		if name, ok := strings.CutPrefix(l, "@@"); ok {
			name, _, _ = strings.Cut(name, " ")
			set[strings.TrimPrefix(strings.TrimPrefix(name, "="), "*.")] = struct{}{}
		}
	}
	return set, nil
}

// usable says whether every peer can have the name in its list: letters, digits,
// hyphens and underscores, two labels or more, the last of them no number (a host
// whose last label is one is an IPv4 address, or none at all).
func usable(name string) bool {
	if len(name) > 230 || !strings.Contains(name, ".") {
		return false
	}
	if last := name[strings.LastIndexByte(name, '.')+1:]; last == "" || last[0] < 'a' {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// specialNames are treated by some resolvers in a way of their own: special-use
// names (RFC 6761 and its registry) and canary names.
var specialNames = []string{
	"arpa", "local", "localhost", "invalid", "test", "example", "onion", "internal", "lan", "home", "corp", "localdomain", "alt",
	"use-application-dns.net", "mask.icloud.com", "mask-h2.icloud.com", "example.com", "example.net", "example.org",
}

func special(name string) bool {
	for _, s := range specialNames {
		if name == s || strings.HasSuffix(name, "."+s) {
			return true
		}
	}
	return false
}

// readNames reads the first field of each line, gzip or plain.
func readNames(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var r io.Reader = f
	if strings.HasSuffix(file, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	var out []string
	s := bufio.NewScanner(r)
	for s.Scan() {
		line := bytes.TrimSpace(s.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		name, _, _ := bytes.Cut(line, []byte(","))
		out = append(out, strings.ToLower(string(name)))
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return out, nil
}

// writeLines writes a line for each name.
func writeLines(file string, names []string) error { return writeEach(file, names, "", "", nil) }

// writeEach writes a head and, for each name, the lines that the pattern makes
// of it: @ is the name.
func writeEach(file string, names []string, head, pattern string, keep func(string) bool) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if pattern == "" {
		pattern = "@"
	}
	w := bufio.NewWriterSize(f, 1<<20)
	_, _ = w.WriteString(head) // Flush has the error
	parts := strings.Split(pattern+"\n", "@")
	for _, n := range names {
		if keep != nil && !keep(n) {
			continue
		}
		for i, p := range parts {
			if i > 0 {
				_, _ = w.WriteString(n)
			}
			_, _ = w.WriteString(p)
		}
	}
	return errors.Join(w.Flush(), f.Close())
}

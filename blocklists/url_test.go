package blocklists

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestCanonicalPath(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", "/"},
		{"/", "/"},
		{"a", "/a"},
		{"*", "/*"},
		{"/A/B", "/a/b"},
		{"/a/", "/a/"},
		{"//a///b//", "/a/b/"},
		{"/./a/./b/.", "/a/b/"},
		{"/a/../b", "/b"},
		{"/a/..", "/"},
		{"/../../a", "/a"},
		{"/a/b/../../..", "/"},
		{"/a/b/..", "/a/"},
		{"/a/%2e%2E/b", "/b"},
		{"/%2E/a", "/a"},
		{"/.../a", "/.../a"},
		{"/.a/..b", "/.a/..b"},
		{"/%61%70%70", "/app"},
		{"/%41PP", "/app"},
		{"/a%2Fb", "/a%2fb"}, // a reserved character stays what it is
		{"/a%2f..%2fb", "/a%2f..%2fb"},
		{"/a%252e", "/a%252e"}, // decoded once, as origins do
		{"/a%", "/a%"},
		{"/a%4", "/a%4"},
		{"/a%zz", "/a%zz"},
		{"/a%4g", "/a%4g"},
		{"/%7Euser", "/~user"},
		{"/a?Q=%41&r=/../x", "/a?q=a&r=/../x"}, // a query has no segments
		{"?q", "/?q"},
		{"/a/..?", "/?"},
		{"/a?b?c", "/a?b?c"},
		{"/É\xff/A", "/É\xff/a"}, // only ASCII has a case here
	}
	for _, tt := range tests {
		if got := CanonicalPath(tt.in); got != tt.want {
			t.Errorf("CanonicalPath(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}

func TestMatchPath(t *testing.T) {
	tests := []struct {
		pattern, path string
		want          bool
	}{
		{"/", "/", true},
		{"/app", "/app", true},
		{"/app", "/application", true}, // a pattern describes the beginning
		{"/app", "/ap", false},
		{"/app", "/x/app", false},
		{"/app^", "/app", true},
		{"/app^", "/app/x", true},
		{"/app^", "/app?x", true},
		{"/app^", "/application", false},
		{"/app^", "/app-x", false},
		{"/app^", "/app%20", false},
		{"/app^^", "/app", true}, // each takes the end
		{"/app^x", "/app", false},
		{"/app^|", "/app", true},
		{"/app^|", "/app/", true},
		{"/app^|", "/app/x", false},
		{"/app|", "/app", true},
		{"/app|", "/app/", false},
		{"/app|x", "/app|x", true}, // a bar elsewhere is itself
		{"/app|x", "/app", false},
		{"|", "", true},
		{"|", "/", false},
		{"/*|", "/anything", true},
		{"*", "", true},
		{"*", "/x", true},
		{"/*/dl", "/a/b/dl", true},
		{"/*/dl", "/dl", false},
		{"*.apk|", "/a.apk", true},
		{"*.apk|", "/a.apk.apk", true},
		{"*.apk|", "/a.apk?x", false},
		{"*.apk^", "/a.apkx.apk?v", true},
		{"*a*b*c|", "/abcabc", true},
		{"*a*b*c|", "/abcabd", false},
		{"*^x|", "/x/xx/x", true},
		{"*x^|", "/xa/x", true},
		{"*^^*|", "/", true},
		{"**", "/", true},
		{"/a*", "/a", true},
		{"/é^", "/é", true},
		{"/e^", "/eé", false},
		{"/*x", "/*x", true}, // a star in a path is a character
	}
	for _, tt := range tests {
		if got := matchPath(tt.pattern, tt.path); got != tt.want {
			t.Errorf("matchPath(%q, %q) = %v, want %v", tt.pattern, tt.path, got, tt.want)
		}
		if got := slowMatch(tt.pattern, tt.path); got != tt.want {
			t.Errorf("slowMatch(%q, %q) = %v, want %v", tt.pattern, tt.path, got, tt.want)
		}
	}
}

// slowMatch is matchPath by the definition of the syntax: it tries everything.
func slowMatch(pattern, path string) bool {
	if pattern == "" {
		return true
	}
	c, rest := pattern[0], pattern[1:]
	switch {
	case c == '*':
		for i := 0; i <= len(path); i++ {
			if slowMatch(rest, path[i:]) {
				return true
			}
		}
		return false
	case c == '|' && rest == "":
		return path == ""
	case c == '^' && path == "":
		return slowMatch(rest, path)
	case path == "":
		return false
	case c == '^' && strings.IndexByte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.%", path[0]) < 0 && path[0] < 0x80:
		return slowMatch(rest, path[1:])
	}
	return c == path[0] && slowMatch(rest, path[1:])
}

// TestMatchPathAgainstSlow holds the claim that only the last star needs to be
// come back to, with separators and the end mark in play.
func TestMatchPathAgainstSlow(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func(alphabet string, n int) string {
		b := make([]byte, r.IntN(n))
		for i := range b {
			b[i] = alphabet[r.IntN(len(alphabet))]
		}
		return string(b)
	}
	matched := 0
	const rounds = 400_000
	for range rounds {
		pattern, path := word("aab/^^***|", 9), word("aaab//^|*", 10)
		got, want := matchPath(pattern, path), slowMatch(pattern, path)
		if got != want {
			t.Fatalf("matchPath(%q, %q) = %v, want %v", pattern, path, got, want)
		}
		if got {
			matched++
		}
	}
	if matched < rounds/20 || matched > rounds/20*19 {
		t.Errorf("%d of %d match: the words test nothing", matched, rounds)
	}
}

// TestMatchPathHostile bounds the work of pairs made to backtrack.
func TestMatchPathHostile(t *testing.T) {
	a := strings.Repeat("a", 8<<10)
	pairs := [][2]string{
		{strings.Repeat("a*", 2<<10) + "b", a},
		{strings.Repeat("*a", 2<<10) + "b|", a},
		{strings.Repeat("*", 4<<10) + "b", a},
		{"*" + strings.Repeat("a", 4<<10) + "b", a},
		{strings.Repeat("*^", 2<<10) + "b", strings.Repeat("/", 8<<10)},
		{strings.Repeat("^*", 2<<10) + "|", a},
	}
	for _, p := range pairs {
		start := time.Now()
		if matchPath(p[0], p[1]) {
			t.Errorf("%.8q… matches %.8q…", p[0], p[1])
		}
		// The product of the lengths is 32 million steps, some 50 ms; a matcher
		// that tries everything would not end.
		if d := time.Since(start); d > time.Minute {
			t.Errorf("%.8q… against %.8q… took %v", p[0], p[1], d)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add("/app^", "/App/../app%2f")
	f.Add("*a*^b|", "//x/%61/b")
	f.Add("/x*|", "?")
	f.Fuzz(func(t *testing.T, pattern, raw string) {
		path := CanonicalPath(raw)
		name, query, _ := strings.Cut(path, "?")
		if !strings.HasPrefix(path, "/") || strings.Contains(name, "//") || strings.Contains(name+"/", "/./") || strings.Contains(name+"/", "/../") {
			t.Fatalf("CanonicalPath(%q) = %q", raw, path)
		}
		if len(path) > len(raw)+1 {
			t.Fatalf("CanonicalPath(%q) = %q is longer than what it came from", raw, path)
		}
		for i := range len(name) + len(query) {
			if c := (name + query)[i]; 'A' <= c && c <= 'Z' {
				t.Fatalf("CanonicalPath(%q) = %q has a capital", raw, path)
			}
		}
		if strings.Count(pattern, "*") > 3 || len(path) > 60 {
			return // slowMatch would take too long
		}
		if got, want := matchPath(pattern, path), slowMatch(pattern, path); got != want {
			t.Fatalf("matchPath(%q, %q) = %v, want %v", pattern, path, got, want)
		}
	})
}

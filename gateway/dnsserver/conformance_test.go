package dnsserver

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/bench/corpus"
)

// A requirement is a row of the table.
type requirement struct {
	rfc, section, level, text, tests, result string
}

// conformance reads the rows of CONFORMANCE.md.
func conformance(t *testing.T) (rows []requirement) {
	t.Helper()
	b, err := os.ReadFile("CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	for n, line := range strings.Split(string(b), "\n") {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| RFC ") {
			continue
		}
		f := strings.Split(strings.Trim(line, "|"), "|")
		if len(f) != 6 {
			t.Errorf("line %d has %d columns, want 6", n+1, len(f))
			continue
		}
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		rows = append(rows, requirement{f[0], f[1], f[2], f[3], f[4], f[5]})
	}
	return rows
}

// testsOf returns the test functions of a package under gateway/, of gateway or of config.
func testsOf(t *testing.T, pkg string) []string {
	t.Helper()
	dir := filepath.Join(corpus.Module(t), "gateway", pkg)
	if pkg == "gateway" || pkg == "config" {
		dir = filepath.Join(corpus.Module(t), pkg)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names
}

// The table tells the truth about its tests, and every MUST has one.
func TestConformance(t *testing.T) {
	known := map[string][]string{}
	has := func(test string) bool {
		pkg, name, ok := strings.Cut(test, ".")
		if _, read := known[pkg]; ok && !read {
			known[pkg] = testsOf(t, pkg)
		}
		return ok && slices.Contains(known[pkg], name)
	}
	rfcs := map[string]int{}
	for _, r := range conformance(t) {
		at := "RFC " + r.rfc + ", section " + r.section + ", " + r.text
		rfcs[r.rfc]++
		result, why, _ := strings.Cut(r.result, ":")
		if !slices.Contains([]string{"MUST", "SHOULD", "MAY"}, r.level) {
			t.Errorf("%s: level %q", at, r.level)
		}
		switch {
		case result == "holds":
			for _, test := range strings.Split(r.tests, ", ") {
				if !has(test) {
					t.Errorf("%s: there is no test %q", at, test)
				}
			}
		case result == "other role" && strings.TrimSpace(why) != "":
		case result == "not offered" && r.level != "MUST":
		default:
			t.Errorf("%s: result %q, want holds, other role with its reason, or not offered for what is no MUST", at, r.result)
		}
	}
	for _, rfc := range []string{"2308", "6891", "7766", "7873", "8482", "8484", "8767", "8914", "9018", "9250"} {
		if rfcs[rfc] < 2 {
			t.Errorf("RFC %s has %d rows", rfc, rfcs[rfc])
		}
	}
}

package main_test

import (
	"bytes"
	"debug/elf"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weir-gateway/weir/bench/corpus"
)

const module = "github.com/weir-gateway/weir"

// floors says on which floor each package stands. Imports go only downwards,
// never to the same floor. A new package is entered here by whoever makes it.
var floors = map[string]int{
	"blocklists":         0,
	"gateway/durable":    0,
	"gateway/hello":      0,
	"gateway/wire":       0,
	"blocklists/parse":   1,
	"blocklists/source":  1,
	"blocklists/bans":    1,
	"config":             1,
	"gateway/ledger":     1,
	"gateway/policy":     1,
	"gateway/audit":      2,
	"gateway/generation": 2,
	"gateway/resolver":   2,
	"gateway/vpn":        2,
	"gateway/tap":        2,
	"gateway/fleet":      2,
	"gateway/prove":      2,
	"gateway/dnsserver":  3,
	"gateway/proxy":      3,
	"gateway/rpz":        3,
	"gateway/admin":      3,
	"gateway":            4,
	"cmd/weir":           5,
	"bench/corpus":       5,
	"bench/gate":         5,
	"bench/load":         5,
	"bench/peers":        5,
	"bench/world":        5,
}

// only says which files may import a library that must not spread.
var only = map[string]func(file string) bool{
	"github.com/urfave/cli/v2":   func(file string) bool { return strings.HasPrefix(file, "cmd/") },
	"github.com/elazarl/goproxy": func(file string) bool { return file == "gateway/proxy/forward.go" },
}

// requirements is the reviewed list of what the module depends on directly.
var requirements = map[string]string{
	"aead.dev/minisign":                   "signatures of lists: the format, and the pre-hashed one, from a kept release",
	"github.com/dchest/siphash":           "the hash of DNS cookies, which servers of different makers share (RFC 9018); gateway/dnsserver only",
	"github.com/dnstap/golang-dnstap":     "the dnstap format and its sockets, from those who define it; gateway/tap only",
	"github.com/elazarl/goproxy":          "forwards plain HTTP requests; gateway/proxy/forward.go only",
	"github.com/gaissmai/bart":            "address prefixes: lookups without allocation, supernets in one walk",
	"github.com/google/nftables":          "the kernel's packet filter, without a program to run; gateway/vpn only",
	"github.com/hashicorp/golang-lru/v2":  "bounded caches, behind types of our own",
	"github.com/mdlayher/netlink":         "buffers of the sockets under nftables, routes for tproxy; gateway/vpn only",
	"github.com/miekg/dns":                "DNS messages, zone files, servers and clients off the hot path",
	"github.com/prometheus/client_golang": "the metrics format, from those who define it",
	"github.com/quic-go/quic-go":          "QUIC and HTTP/3: gateway/dnsserver answers over them, gateway/resolver asks, gateway/prove tries them as a device does, bench/world serves them",
	"github.com/rogpeppe/go-internal":     "testscript: tests that drive the real binary",
	"github.com/urfave/cli/v2":            "the command line; cmd/ only",
	"go.yaml.in/yaml/v3":                  "configuration, with the position of every node",
	"google.golang.org/protobuf":          "dnstap messages are protocol buffers; gateway/tap only",
	"golang.org/x/net":                    "IDNA, as browsers map it; HTTP/2 and DNS helpers",
	"golang.org/x/sync":                   "singleflight and errgroup",
	"golang.org/x/sys":                    "socket options and batches that the standard library has no name for",
	"golang.org/x/text":                   "character sets of lists",
	"golang.zx2c4.com/wireguard":          "tests: a WireGuard tunnel without the kernel's",
	"golang.zx2c4.com/wireguard/wgctrl":   "the table of a WireGuard interface's peers, from those who make WireGuard; gateway/vpn only",
}

// longFiles is which files may be longer than maxLines, and why. None is.
var longFiles = map[string]string{}

// maxLines is where a file has become two; about half of it is a good length.
const maxLines = 750

// A source is a parsed file of the module, by its path from the module's root.
type source struct {
	path string
	text []byte
	ast  *ast.File
}

func (s source) test() bool  { return strings.HasSuffix(s.path, "_test.go") }
func (s source) dir() string { return path.Dir(s.path) }

func (s source) imports() []string {
	var out []string
	for _, i := range s.ast.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			p = i.Path.Value
		}
		out = append(out, p)
	}
	return out
}

// sources parses the Go files of the module, those of testdata left out.
func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	root := corpus.Module(t)
	err := fs.WalkDir(os.DirFS(root), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && p != "." && (name == "testdata" || strings.HasPrefix(name, ".")) {
			return fs.SkipDir
		}
		if d.IsDir() || path.Ext(p) != ".go" {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, p))
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, text, parser.ParseComments|parser.SkipObjectResolution)
		out = append(out, source{p, text, f})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 20 {
		t.Fatalf("only %d files found: this test looks in the wrong place", len(out))
	}
	return out
}

func TestImportsGoDownwards(t *testing.T) {
	for _, s := range sources(t) {
		floor, known := floors[s.dir()]
		if !known {
			t.Errorf("%s: package %s stands on no floor", s.path, s.dir())
		}
		for _, i := range s.imports() {
			if may := only[i]; may != nil && !may(s.path) {
				t.Errorf("%s imports %s", s.path, i)
			}
			to, ours := strings.CutPrefix(i, module+"/")
			if !ours || s.test() {
				continue
			}
			if to == "bench/corpus" || to == "bench/world" {
				t.Errorf("%s imports %s, which is for tests", s.path, to)
			}
			if f, known := floors[to]; !known || f >= floor {
				t.Errorf("%s on floor %d imports %s on floor %d", s.path, floor, to, f)
			}
		}
	}
}

// TestPackageDocs: the doc of a package says what it is, and is no label.
func TestPackageDocs(t *testing.T) {
	docs := make(map[string][]string)
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		docs[s.dir()] = append(docs[s.dir()], "")
		if s.ast.Doc == nil {
			continue
		}
		begin := "Package " + s.ast.Name.Name + " "
		if s.ast.Name.Name == "main" {
			begin = "Command " + path.Base(s.dir()) + " "
		}
		doc := s.ast.Doc.Text()
		if !strings.HasPrefix(doc, begin) || len(doc) < 150 || strings.Count(doc, ".") < 2 {
			t.Errorf("%s: the package doc must begin with %q and say in some sentences what the package is for and what it does not do: %q", s.path, begin, doc)
		}
		docs[s.dir()][0] += s.path + " "
	}
	for dir, found := range docs {
		if n := len(strings.Fields(found[0])) + strings.Count(strings.Join(found[1:], ""), ".go"); n != 1 {
			t.Errorf("package %s has a doc in %d files (%s), want one", dir, n, strings.Join(found, ""))
		}
	}
}

// TestLRUStaysInside: golang-lru hides behind our own types.
func TestLRUStaysInside(t *testing.T) {
	for _, s := range sources(t) {
		names := make(map[string]bool)
		for _, i := range s.ast.Imports {
			p := strings.Trim(i.Path.Value, `"`)
			if !strings.HasPrefix(p, "github.com/hashicorp/golang-lru") {
				continue
			}
			names[path.Base(strings.TrimSuffix(p, "/v2"))], names["lru"] = true, true
			if i.Name != nil {
				names[i.Name.Name] = true
			}
		}
		if len(names) == 0 || s.test() {
			continue
		}
		for _, d := range s.ast.Decls {
			for _, n := range exported(d) {
				ast.Inspect(n, func(n ast.Node) bool {
					if sel, ok := n.(*ast.SelectorExpr); ok {
						if x, ok := sel.X.(*ast.Ident); ok && names[x.Name] {
							t.Errorf("%s: %s.%s is visible outside the package", s.path, x.Name, sel.Sel.Name)
						}
					}
					return true
				})
			}
		}
	}
}

// exported returns the parts of a declaration that other packages see.
func exported(d ast.Decl) []ast.Node {
	var out []ast.Node
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Name.IsExported() {
			out = append(out, d.Type)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if !spec.Name.IsExported() {
					break
				}
				st, ok := spec.Type.(*ast.StructType)
				if !ok {
					out = append(out, spec.Type)
					break
				}
				for _, f := range st.Fields.List {
					if len(f.Names) == 0 || slices.ContainsFunc(f.Names, (*ast.Ident).IsExported) {
						out = append(out, f.Type)
					}
				}
			case *ast.ValueSpec:
				if slices.ContainsFunc(spec.Names, (*ast.Ident).IsExported) {
					out = append(out, spec)
				}
			}
		}
	}
	return out
}

func TestFilesAreShort(t *testing.T) {
	for _, s := range sources(t) {
		if n := bytes.Count(s.text, []byte("\n")); (n > maxLines) != (longFiles[s.path] != "") {
			t.Errorf("%s has %d lines; at most %d, or a reason in longFiles", s.path, n, maxLines)
		}
	}
}

// TestNothingIsSwitchedOff: tests are skipped in bench/corpus only, where
// WEIR_REQUIRE=all forbids it, and nothing is put off or hushed up.
func TestNothingIsSwitchedOff(t *testing.T) {
	// In two pieces, so that this file does not have them.
	words := []string{"TO" + "DO", "FIX" + "ME", "no" + "lint", ".Skip" + "(", ".Skip" + "Now(", ".Skip" + "f("}
	for _, s := range sources(t) {
		for _, w := range words {
			if s.dir() != "bench/corpus" && bytes.Contains(s.text, []byte(w)) {
				t.Errorf("%s has %s", s.path, w)
			}
		}
	}
}

func TestTopLevel(t *testing.T) {
	root := corpus.Module(t)
	allowed := []string{"gateway", "blocklists", "config", "bench", "cmd", "go.mod", "go.sum", "Dockerfile", "README.md", "LICENSE"}
	ignored := strings.Fields(read(t, ".gitignore"))
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[string]bool)
	for _, e := range entries {
		there[e.Name()] = true
		if strings.HasPrefix(e.Name(), ".") || slices.Contains(allowed, e.Name()) {
			continue
		}
		if !slices.ContainsFunc(ignored, func(pattern string) bool {
			ok, err := path.Match(strings.Trim(pattern, "/"), e.Name())
			return ok && err == nil
		}) {
			t.Errorf("%s does not belong on the top level", e.Name())
		}
	}
	for _, name := range append(allowed, ".ci", ".golangci.yml", ".gitignore", ".dockerignore") {
		if !there[name] {
			t.Errorf("%s is missing on the top level", name)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(corpus.Module(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRequirementsAreReviewed(t *testing.T) {
	imported := make(map[string]bool)
	for _, s := range sources(t) {
		for _, i := range s.imports() {
			imported[i] = true
		}
	}
	direct := regexp.MustCompile(`(?m)^(?:require )?\s*(\S+) v\S+(.*)$`)
	found := 0
	for _, m := range direct.FindAllStringSubmatch(read(t, "go.mod"), -1) {
		if strings.Contains(m[2], "// indirect") {
			continue
		}
		found++
		if requirements[m[1]] == "" {
			t.Errorf("go.mod requires %s, which nobody has reviewed", m[1])
		}
		used := false
		for i := range imported {
			used = used || i == m[1] || strings.HasPrefix(i, m[1]+"/")
		}
		if !used {
			t.Errorf("go.mod requires %s, which nothing imports", m[1])
		}
	}
	if found < 5 {
		t.Errorf("only %d direct requirements found in go.mod", found)
	}
	for _, word := range []string{"replace", "exclude", "tool", "toolchain"} {
		if regexp.MustCompile(`(?m)^` + word + `\b`).MatchString(read(t, "go.mod")) {
			t.Errorf("go.mod has a %s directive", word)
		}
	}
}

// instructions are the Dockerfile's lines without comments, continued ones
// joined, by stage.
func instructions(t *testing.T) (stages [][]string) {
	t.Helper()
	text := regexp.MustCompile(`(?m)^\s*#.*\n`).ReplaceAllString(read(t, "Dockerfile"), "")
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if strings.HasPrefix(line, "FROM ") {
			stages = append(stages, nil)
		}
		if len(stages) == 0 {
			t.Fatalf("Dockerfile: %q before FROM", line)
		}
		stages[len(stages)-1] = append(stages[len(stages)-1], line)
	}
	return stages
}

// TestDockerfile reads the image's description: no engine is needed.
func TestDockerfile(t *testing.T) {
	stages := instructions(t)
	if len(stages) != 2 {
		t.Fatalf("Dockerfile has %d stages, want build and image", len(stages))
	}
	goVersion := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))
	if want := "FROM golang:" + goVersion[1] + " AS build"; stages[0][0] != want {
		t.Errorf("build stage is %q, want %q", stages[0][0], want)
	}
	image := stages[1]
	if base := strings.Fields(image[0])[1]; base != "scratch" && !strings.HasPrefix(base, "gcr.io/distroless/static") {
		t.Errorf("the image is made from %s", base)
	}
	wants := map[string]string{
		"non-root, by number": `USER [1-9]\d*(:[1-9]\d*)?`,
		"the binary":          `COPY --from=build \S+ /weir`,
		"authorities":         `COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt`,
		"a folder to write":   `COPY --from=build --chown=65532:65532 \S+ /var/lib/weir`,
		"ports":               `EXPOSE 5353/udp 5353/tcp 3128/tcp 8053/tcp`,
		"entry point":         `ENTRYPOINT \["/weir"\]`,
		"command":             `CMD \["serve"\]`,
	}
	for about, pattern := range wants {
		whole := regexp.MustCompile("^" + pattern + "$")
		if !slices.ContainsFunc(image, whole.MatchString) {
			t.Errorf("%s: no line like %s", about, pattern)
		}
	}
	for _, line := range image {
		if strings.HasPrefix(line, "RUN ") || strings.HasPrefix(line, "HEALTHCHECK ") {
			t.Errorf("%q needs a program that the image does not have", line)
		}
	}
}

// TestDockerBuildIsStatic runs the Dockerfile's build command and looks into
// what comes out.
func TestDockerBuildIsStatic(t *testing.T) {
	var command []string
	for _, line := range instructions(t)[0] {
		if strings.HasPrefix(line, "RUN ") && strings.Contains(line, " go build ") {
			command = strings.Fields(line)[1:]
		}
	}
	out := slices.Index(command, "-o")
	if out < 0 || command[0] != "CGO_ENABLED=0" || command[1] != "go" || !slices.Contains(command, "-trimpath") {
		t.Fatalf("build command %q, want CGO_ENABLED=0 go build -trimpath … -o …", command)
	}
	binary := filepath.Join(t.TempDir(), "weir")
	command[out+1] = binary
	cmd := exec.Command("go", command[2:]...)
	cmd.Dir = corpus.Module(t)
	cmd.Env = append(os.Environ(), command[0], "GOOS=linux")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", command, err, text)
	}
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary has a segment %v: it is not static", p.Type)
		}
	}
	if b, err := os.ReadFile(binary); err != nil || bytes.Contains(b, []byte(corpus.Module(t)+"/")) {
		t.Errorf("the binary names the folder it was built in (%v)", err)
	}
}

// TestDockerIgnoreKeepsTheSource: what is left out of the build must not be
// what the binary embeds.
func TestDockerIgnoreKeepsTheSource(t *testing.T) {
	kept := []string{"go.mod", "go.sum"}
	for line := range strings.Lines(read(t, ".dockerignore")) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "!"); ok {
			kept = append(kept, name)
		}
	}
	for _, s := range sources(t) {
		top, _, _ := strings.Cut(s.path, "/")
		if !s.test() && top != "bench" && !slices.Contains(kept, top) {
			t.Errorf("%s is not in the build's context", s.path)
		}
		for _, g := range s.ast.Comments {
			for _, c := range g.List {
				if files, ok := strings.CutPrefix(c.Text, "//go:embed "); ok && !s.test() && strings.Contains(files, "testdata") {
					t.Errorf("%s embeds %s, which is not in the build's context", s.path, files)
				}
			}
		}
	}
}

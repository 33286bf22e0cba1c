package parse

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/weir-gateway/weir/blocklists"
)

func pack(t testing.TB, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, s); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What is no list is a fatal error that names itself, in every dialect.
func TestNotAList(t *testing.T) {
	tests := []struct {
		name, text string
		what       string
		line       int
	}{
		{"html", "<!DOCTYPE html>\n<html>", InputHTML, 1},
		{"html, lower case", "<html lang=en>", InputHTML, 1},
		{"html after mark and blanks", "\ufeff\r\n \t\n  <HtMl>", InputHTML, 3},
		{"html after comments", "# a\n\n# b\n<!doctype HTML PUBLIC>", InputHTML, 4},
		{"html after an XML prolog", "<?xml version=\"1.0\"?><html>", InputHTML, 1},
		{"html after a comment of its own", "<!-- a.example\nb.example -->\n<html>", InputHTML, 1},
		{"a part of a page", "<h1>404</h1>\n", InputHTML, 1},
		{"html after skipped lines", "no good\n<body>", InputHTML, 2},
		{"xml", "<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code></Error>", InputXML, 1},
		{"zip", "PK\x03\x04\x14\x00\x00\x00", InputArchive, 0},
		{"empty zip", "PK\x05\x06\x00\x00", InputArchive, 0},
		{"xz", "\xfd7zXZ\x00\x00", InputArchive, 0},
		{"bzip2", "BZh91AY&SY\x00", InputArchive, 0},
		{"zstd", "\x28\xb5\x2f\xfd\x04", InputArchive, 0},
		{"7z", "7z\xbc\xaf\x27\x1c\x00", InputArchive, 0},
		{"rar", "Rar!\x1a\x07\x01", InputArchive, 0},
		{"tar", "a.txt" + strings.Repeat("\x00", 252) + "ustar  \x00", InputArchive, 0},
		{"pdf", "%PDF-1.4\n", InputArchive, 0},
		{"utf-16 little endian", "\xff\xfea\x00.\x00b\x00", InputEncoding, 0},
		{"utf-16 big endian", "\xfe\xff\x00a\x00.\x00b", InputEncoding, 0},
		{"utf-32", "\xff\xfe\x00\x00a\x00\x00\x00", InputEncoding, 0},
		{"utf-16 without a mark", "a\x00.\x00b\x00\n\x00", InputBinary, 0},
		{"a NUL byte", "\x00", InputBinary, 0},
		{"an image", "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", InputBinary, 0},
		{"control characters", "\x01\x02\x03\x04\x05abc", InputBinary, 0},
		{"noise", "\xc1\x03\x9a\x11\xfe\x80\x1b\x7f\x02\xaa\xbb\xcc\xdd\xee\xe1\xe2", InputBinary, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, f := range Formats() {
				rules, _, err := read(t, f, strings.NewReader(tt.text), Limits{})
				e, ok := errors.AsType[*InputError](err)
				if !ok || e.What != tt.what || e.Line != tt.line || len(rules) > 0 {
					t.Errorf("%s: got %q, %v", f, rules, err)
				}
				_, _, err = read(t, f, bytes.NewReader(pack(t, tt.text)), Limits{})
				if e, ok := errors.AsType[*InputError](err); !ok || e.What != tt.what {
					t.Errorf("%s: packed: got %v", f, err)
				}
			}
		})
	}
}

func TestInputErrors(t *testing.T) {
	whole := pack(t, "a.example\nb.example\n"+strings.Repeat("c.example\n", 5000))
	corrupt := bytes.Clone(whole)
	corrupt[len(corrupt)-6] ^= 0xff // the checksum
	broken := bytes.Clone(whole)
	broken[20] ^= 0xff
	gone := errors.New("connection reset")
	tests := []struct {
		name  string
		in    io.Reader
		lim   Limits
		want  string
		cause error
	}{
		{"truncated gzip", bytes.NewReader(whole[:len(whole)-9]), Limits{}, "the gzip data is truncated: fetch the list again: unexpected EOF", io.ErrUnexpectedEOF},
		{"truncated gzip header", bytes.NewReader(whole[:5]), Limits{}, "the gzip data is truncated: fetch the list again: unexpected EOF", io.ErrUnexpectedEOF},
		{"corrupt gzip", bytes.NewReader(corrupt), Limits{}, "the gzip data is corrupt: fetch the list again: gzip: invalid checksum", gzip.ErrChecksum},
		{"broken gzip", bytes.NewReader(broken), Limits{}, "the gzip data is corrupt", nil},
		{"corrupt gzip header", strings.NewReader("\x1f\x8b\x00 not a header"), Limits{}, "the gzip data is corrupt: fetch the list again: gzip: invalid header", gzip.ErrHeader},
		{"rubbish after gzip", bytes.NewReader(append(bytes.Clone(whole), "rubbish rubbish"...)), Limits{}, "the gzip data is corrupt: fetch the list again: gzip: invalid header", gzip.ErrHeader},
		{"gzip inside gzip", bytes.NewReader(pack(t, string(whole))), Limits{}, "this is gzip inside gzip, not a list: unpack it first", nil},
		{"too large", strings.NewReader("a.example\nb.example\n"), Limits{Bytes: 19}, "the list is larger than 19 bytes: raise the limit if it is meant to be", nil},
		{"too large unpacked", bytes.NewReader(whole), Limits{Bytes: 20_000}, "the list is larger than 20000 bytes: raise the limit if it is meant to be", nil},
		{"too many lines", strings.NewReader("a.example\n\nb.example\n"), Limits{Lines: 2}, "line 3: the list has more than 2 lines: raise the limit if it is meant to have", nil},
		{"a NUL byte later", strings.NewReader("a.example\n\nb\x00.example\n"), Limits{}, "line 3: binary data, not a list: check where it came from", nil},
		{"a NUL byte behind the limit of a line", strings.NewReader("a.example\nb.exam\x00ple\n"), Limits{Line: 3}, "line 2: binary data, not a list: check where it came from", nil},
		{"a NUL byte in a comment", strings.NewReader("# \x00\n"), Limits{}, "line 1: binary data, not a list: check where it came from", nil},
		{"reader fails at once", iotest.ErrReader(gone), Limits{}, "read list: connection reset", gone},
		{"reader fails later", io.MultiReader(strings.NewReader("a.example\nb.exam"), iotest.ErrReader(gone)), Limits{}, "read list: line 2: connection reset", gone},
		{"reader fails inside gzip", io.MultiReader(bytes.NewReader(whole[:40]), iotest.ErrReader(gone)), Limits{}, "connection reset", gone},
		{"reader returns nothing", stuck{}, Limits{}, "read list: multiple Read calls return no data or error", io.ErrNoProgress},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := read(t, Domains, tt.in, tt.lim)
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.cause != nil && !errors.Is(err, tt.cause) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// A stuck reader never gets on.
type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// The rules before a fatal error are yielded whatever the sizes of reads are.
func TestFatalErrorIsInOrder(t *testing.T) {
	const text = "a.example\nb.example\n\x00\nc.example\n"
	for _, r := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text))} {
		rules, _, err := read(t, Domains, r, Limits{})
		if len(rules) != 2 || err == nil {
			t.Errorf("got %q, %v", rules, err)
		}
	}
}

func TestAccepted(t *testing.T) {
	var members bytes.Buffer
	members.Write(pack(t, "a.example\nb.exa"))
	members.Write(pack(t, ""))
	members.Write(pack(t, "mple\nc.example"))
	tests := []struct {
		name  string
		in    []byte
		lim   Limits
		rules int
	}{
		{"empty", nil, Limits{}, 0},
		{"one byte", []byte("\n"), Limits{}, 0},
		{"only a byte order mark", []byte("\ufeff"), Limits{}, 0},
		{"empty gzip", pack(t, ""), Limits{}, 0},
		{"gzip of several members", members.Bytes(), Limits{}, 3},
		{"gzip with a byte order mark", pack(t, "\ufeffa.example\n"), Limits{}, 1},
		{"as large as may be", []byte("a.example\nb.example\n"), Limits{Bytes: 20}, 2},
		{"as many lines as may be", []byte("a.example\n\nb.example"), Limits{Lines: 3}, 2},
		{"a name like an archive", []byte("BZh9.example\nPK.example\n"), Limits{}, 2},
		{"a few control characters", []byte("a.example\n\x1b[0m\x07\n" + strings.Repeat("b.example\n", 5)), Limits{}, 6},
		{"Latin-1 at the beginning", []byte("# \xe9\xe8\xe0\xe7\xf9\xea\xeb\na.example\n"), Limits{}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{bytes.NewReader(tt.in), iotest.OneByteReader(bytes.NewReader(tt.in)), iotest.DataErrReader(bytes.NewReader(tt.in))} {
				rep, err := Load(Domains, r, tt.lim, func(blocklists.Rule) error { return nil })
				if err != nil || rep.Rules != tt.rules {
					t.Errorf("got %d rules, %v", rep.Rules, err)
				}
				checkReport(t, rep)
			}
		})
	}
}

// Packed data that unpacks to nothing must end too.
func TestEndlessGzip(t *testing.T) {
	_, _, err := read(t, Domains, &endless{member: pack(t, "")}, Limits{Bytes: 1 << 20})
	if e, ok := errors.AsType[*InputError](err); !ok || e.What != InputBytes {
		t.Errorf("got %v", err)
	}
	bomb := pack(t, strings.Repeat("a.example\n", 1<<20))
	_, _, err = read(t, Domains, bytes.NewReader(bomb), Limits{Bytes: 1 << 20})
	if e, ok := errors.AsType[*InputError](err); !ok || e.What != InputBytes {
		t.Errorf("got %v", err)
	}
}

// An endless reader repeats one packed member.
type endless struct {
	member []byte
	at     int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.member[e.at:])
	e.at = (e.at + n) % len(e.member)
	return n, nil
}

func TestLongLines(t *testing.T) {
	tests := []struct {
		name, text string
		limit      int
		rules      []string
		skips      []string
	}{
		{"as long as may be", "a.example\nbb.example\n", 9, []string{"1 a.example…"}, []string{"2:1 line-too-long"}},
		{"crlf", "a.example\r\nbb.example\r\nc.example\r", 9, []string{"1 a.example…", "3 c.example…"}, []string{"2:1 line-too-long"}},
		{"at the end", "a.example\n" + strings.Repeat("x", 200_000), 0, []string{"1 a.example…"}, []string{"2:1 line-too-long"}},
		{"never two lines", strings.Repeat("x", 200_000) + " a.example\nb.example", 0, []string{"2 b.example…"}, []string{"1:1 line-too-long"}},
		{"longer than the buffer, then CR", strings.Repeat("x", 200_000) + "\rb.example\r\n", 0, []string{"2 b.example…"}, []string{"1:1 line-too-long"}},
		{"longer than the buffer, then CRLF", strings.Repeat("x", 131_073) + "\r\nb.example\r\n", 0, []string{"2 b.example…"}, []string{"1:1 line-too-long"}},
		{"a long comment", "#" + strings.Repeat("x", 70_000) + "\nb.example\n", 0, []string{"2 b.example…"}, []string{"1:1 line-too-long"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(tt.text), iotest.OneByteReader(strings.NewReader(tt.text)), iotest.HalfReader(strings.NewReader(tt.text))} {
				rules, skips, err := read(t, Domains, r, Limits{Line: tt.limit})
				if err != nil || !slices.Equal(rules, tt.rules) || !slices.Equal(skips, tt.skips) {
					t.Errorf("got %q, %q, %v", rules, skips, err)
				}
			}
		})
	}
	// Errors while a long line is skipped are errors.
	gone := errors.New("gone")
	_, _, err := read(t, Domains, io.MultiReader(strings.NewReader(strings.Repeat("x", 100_000)), iotest.ErrReader(gone)), Limits{})
	if !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	_, _, err = read(t, Domains, strings.NewReader(strings.Repeat("x", 100_000)+"\x00\n"), Limits{})
	if e, ok := errors.AsType[*InputError](err); !ok || e.What != InputBinary {
		t.Errorf("got %v", err)
	}
}

// Lines are cut as an independent reading cuts them, whatever the reads are.
func TestLines(t *testing.T) {
	for _, text := range []string{"", "\n", "\r", "\r\n", "\n\r", "a", "a\n", "a\nb", "a\r\nb\r\n", "a\rb\r", "\r\r\n\n", "a\n\n\rb", strings.Repeat("ab\rc\r\nd\n", 20_000)} {
		want := strings.Split(strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\r", "\n"), "\n")
		if want[len(want)-1] == "" {
			want = want[:len(want)-1]
		}
		for _, r := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text)), iotest.HalfReader(strings.NewReader(text))} {
			var got []string
			src := newLines(r, 10)
			for {
				line, long, err := src.next()
				if err == io.EOF {
					break
				}
				if err != nil || long {
					t.Fatal(long, err)
				}
				got = append(got, string(line))
			}
			if !slices.Equal(got, want) {
				t.Errorf("%.20q: got %.40q, want %.40q", text, got, want)
			}
		}
	}
}

func TestSkipError(t *testing.T) {
	text := strings.Repeat("x", 99) + "é\x1b[31m" + strings.Repeat("y", 100)
	for _, err := range Rules(Domains, strings.NewReader("a.example\n  "+text+"\n"), Limits{}) {
		if err == nil {
			continue
		}
		want := `line 2, column 3: invalid-name: "` + strings.Repeat("x", 99) + `…": name has a character that host names do not have`
		if !errors.Is(err, blocklists.ErrNameChar) || err.Error() != want {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
	if got := (&SkipError{1, 2, SkipSyntax, "a\x1b\u202e", nil}).Error(); got != `line 1, column 2: syntax: "a\x1b\u202e"` {
		t.Errorf("got %s", got)
	}
	if got := excerpt("a\xffb"); got != "a\ufffdb" {
		t.Errorf("got %q", got)
	}
}

// The report's JSON form is a contract: lint writes it.
func TestReportJSON(t *testing.T) {
	rep, err := Load(Domains, bytes.NewReader(pack(t, "# list\n\na.example\n@@b.example\tnote\n192.0.2.1\n")), Limits{}, func(blocklists.Rule) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"format":"domains","gzip":true,"bytes":45,"lines":5,"blank":1,"comments":1,"rule_lines":2,"skipped_lines":1,"noted":1,` +
		`"rules":2,"block":1,"allow":1,"kinds":{"suffix":2,"exact":0,"under":0,"prefix":0,"url":0,"signature":0},"skips":{"address":1},` +
		`"examples":[{"line":5,"column":1,"reason":"address","text":"192.0.2.1"}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	rep, _ = Load(Domains, strings.NewReader(""), Limits{}, nil)
	if got, _ := json.Marshal(rep); !strings.HasSuffix(string(got), `"skips":{},"examples":[]}`) {
		t.Errorf("got %s", got)
	}
}

func TestDetect(t *testing.T) {
	tests := []struct {
		text string
		want Format
	}{
		{"# names\na.example\n=b.example\n*.c.example # why\n@@d.example\n", Domains},
		{"# hosts\n127.0.0.1 localhost\n0.0.0.0 a.example b.example # c\n", Hosts},
		{"[Adblock Plus 2.0]\n! x\n&ad=\n", ABP},
		{"! x\n||a.example^\n@@||b.example^\n##.ad\n", ABP},
		{"address=/a.example/\nserver=/b.example/192.0.2.1\nlocal=/c.example/\n", Dnsmasq},
		{"$TTL 5\n; zone\n@ IN SOA a. b. 1 2 3 4 5\n NS a.\na.example CNAME .\n", RPZ},
		{"192.0.2.1\n2001:db8::/32 # why\n@@198.51.100.0/24\n", Prefixes},
		{"a.example/x\nhttp://b.example/y\n@@c.example/\n", URLs},
		{"", ""},
		{"# only comments\n", ""},
		{"a.example\n0.0.0.0 b.example\n", ""},
		{"what is this?\nno list\n", ""},
		{"payload:\n  - DOMAIN-SUFFIX,a.example\n", ""},
	}
	for _, tt := range tests {
		for _, sample := range [][]byte{[]byte(tt.text), pack(t, tt.text)} {
			got, err := Detect(sample)
			if got != tt.want || (err == nil) != (tt.want != "") || err != nil && !errors.Is(err, ErrUnknownFormat) {
				t.Errorf("%q: got %q, %v; want %q", tt.text, got, err, tt.want)
			}
		}
	}
	_, err := Detect([]byte("a.example\nb.example\n0.0.0.0 c.example\nwhat is this?\n"))
	const want = "the format of the list is not clear (2 lines look like domains, 1 lines look like hosts, 1 like none)"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if _, err := Detect([]byte("# x\n\n")); err == nil || err.Error() != "the format of the list is not clear (it begins with no entry at all)" {
		t.Errorf("got %v", err)
	}
	for _, text := range []string{"<!doctype html>", "PK\x03\x04", "a\x00b", "# x\n<html>"} {
		if _, err := Detect([]byte(text)); err == nil || errors.Is(err, ErrUnknownFormat) {
			t.Errorf("%q: got %v", text, err)
		}
	}
	// A sample cut in the middle of packed data is still a sample.
	packed := pack(t, strings.Repeat("a.example\n", 100)+"b.example")
	if f, err := Detect(packed[:len(packed)-10]); f != Domains || err != nil {
		t.Errorf("got %q, %v", f, err)
	}
}

// No file of the package may read other files: $INCLUDE and !#include never do.
func TestReadsNoFiles(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), "_test.go") || !strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		src, err := os.ReadFile(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(src, []byte("\t\"os\"\n")) || bytes.Contains(src, []byte("\t\"net\"\n")) {
			t.Errorf("%s does I/O of its own", e.Name())
		}
	}
}

package source

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "list.txt")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	o := Opener{Bundles: fstest.MapFS{"ban/domains.txt": {Data: []byte("from a bundle\n")}}}
	for _, tt := range []struct{ source, want, wantErr string }{
		{"embedded:ban/domains.txt", "from a bundle\n", ""},
		{"file:" + file, "from a file\n", ""},
		{"embedded:ban/none.txt", "", "not exist"},
		{"file:" + dir, "", "not a regular file"},
		{"file:" + fifo, "", "not a regular file"}, // and does not wait for a writer
		{"file:" + filepath.Join(dir, "none"), "", "no such file"},
		{"ftp://example.org/list", "", "neither embedded:PATH nor file:PATH"},
		{"", "", "neither embedded:PATH nor file:PATH"},
	} {
		r, err := o.Open(tt.source)
		if tt.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
				t.Errorf("Open(%q) = %v, want an error with %q", tt.source, err, tt.wantErr)
			}
			continue
		}
		if err != nil {
			t.Errorf("Open(%q): %v", tt.source, err)
			continue
		}
		got, err := io.ReadAll(r)
		_ = r.Close()
		if err != nil || string(got) != tt.want {
			t.Errorf("Open(%q) gives %q, %v, want %q", tt.source, got, err, tt.want)
		}
	}
	if _, err := (Opener{}).Open("embedded:ban/domains.txt"); err == nil {
		t.Error("the zero Opener opened an embedded source")
	}
}

func TestRevision(t *testing.T) {
	file := filepath.Join(t.TempDir(), "list.txt")
	src := "file:" + file
	var o Opener
	if _, err := o.Revision(src); !os.IsNotExist(err) {
		t.Errorf("revision of a missing file: %v", err)
	}
	write := func(text string) Revision {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
		r, err := o.Revision(src)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	a := write("one\n")
	if b, _ := o.Revision(src); a != b {
		t.Errorf("an untouched file has two revisions: %v and %v", a, b)
	}
	if b := write("two\n"); a == b {
		t.Error("a file replaced by one of the same size has the same revision")
	}
	a, _ = o.Revision(src)
	if err := os.Chtimes(file, time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if b, _ := o.Revision(src); a == b {
		t.Error("a file with another time has the same revision")
	}
	if runtime.GOOS == "linux" {
		a, _ = o.Revision(src)
		for ticked := false; !ticked; { // the clock of the file system
			if err := os.WriteFile(file+".other", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := o.Revision(src + ".other")
			ticked = err != nil || b.Changed != a.Changed
		}
		if err := os.WriteFile(file, []byte("six\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Time{}, a.ModTime); err != nil {
			t.Fatal(err)
		}
		if b, _ := o.Revision(src); a == b {
			t.Error("a file written to in place, with its size and time kept, has the same revision")
		}
	}
	if r, err := o.Revision("embedded:x"); err != nil || r != (Revision{}) {
		t.Errorf("an embedded source changes: %v, %v", r, err)
	}
	if _, err := o.Revision("rpz:x"); err == nil {
		t.Error("an unknown scheme has a revision")
	}
}

package ledger

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Pages together are the whole ledger, the newest first, over all its files; what
// is damaged is left out, and what is half written.
func TestPage(t *testing.T) {
	dir := t.TempDir()
	if page, more, err := Page(dir, 0, 9); err != nil || more || len(page) != 0 {
		t.Errorf("no ledger: %v %v %v", page, more, err)
	}
	l, _, _ := open(t, dir)
	l.maxFile = 3000
	fill(t, l, 100)
	if files, err := Files(dir); err != nil || len(files) < 5 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	next, before := uint64(100), uint64(0)
	for pages := 1; ; pages++ {
		page, more, err := Page(dir, before, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			if e.Seq != next {
				t.Fatalf("entry %d, want %d", e.Seq, next)
			}
			next--
		}
		if more != (next > 0) {
			t.Errorf("more is %v before entry %d", more, next)
		}
		if !more {
			if pages != 15 {
				t.Errorf("%d pages", pages)
			}
			break
		}
		before = page[len(page)-1].Seq
	}
	path := filepath.Join(dir, fileName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b = append(bytes.Replace(b, []byte(`{"seq":100`), []byte(`{"sXq":100`), 1), `{"seq":101,`...)
	b = bytes.Replace(b, []byte(`{"sXq":100,`), []byte(`{"sXq:100,`), 1)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if page, _, err := Page(dir, 0, 1); err != nil || len(page) != 1 || page[0].Seq != 99 {
		t.Errorf("behind damage: %+v %v", page, err)
	}
}

package source

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// A copy of a copy is whole or not there, and leaves the first alone.
func TestStoreDuplicate(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	c := Copy{URL: "https://a.example/", SHA256: "0a"}
	if err := s.Duplicate("a", Good, Before, c); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
	f, err := s.Create("a")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString("a.example\n")
	_ = f.Close()
	if err := s.Install("a", Good, f.Name(), c); err != nil {
		t.Fatal(err)
	}
	good, err := s.Load("a", Good)
	if err != nil {
		t.Fatal(err)
	}
	c.SHA256, c.Reason = good.SHA256, "because"
	if err := s.Duplicate("a", Good, Before, c); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load("a", Before); err != nil || got != c {
		t.Errorf("%+v, %v, want %+v", got, err, c)
	}
	if err := errors.Join(s.RemoveAll(Before), s.RemoveAll(Held), Store{}.RemoveAll(Before)); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(s.Dir, "a", "*"))
	if err != nil || len(left) != 2 || s.Has("a", Before) || !s.Has("a", Good) {
		t.Errorf("%v, %v", left, err)
	}
	if _, err := os.Stat(s.Path("a", Good) + ".json"); err != nil {
		t.Error(err)
	}
}

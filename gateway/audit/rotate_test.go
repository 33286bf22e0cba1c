package audit

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// files are the names in the folder.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		names = append(names, e.Name())
	}
	return names
}

func TestRotateBySize(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a[1].jsonl")
	for _, name := range []string{path + ".gz", path + ".9x", filepath.Join(dir, "a1.jsonl.7")} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shortest, err := json.Marshal(Record{Name: "n0"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Open(path, Options{Rotate: Rotate{Size: 10 * int64(len(shortest)+1), Keep: 3}}, mute)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for round := range 6 {
		for range 10 { // as many as are needed, and not one less
			l.Put(Record{Name: fmt.Sprint("n", n)})
			n++
		}
		eventually(t, "the file is put away", func() bool {
			st, err := os.Stat(path)
			return err == nil && st.Size() == 0 && l.Stats().Written == uint64(10*(round+1))
		})
	}
	l.Put(Record{Name: "last"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"a1.jsonl.7", "a[1].jsonl", "a[1].jsonl.1", "a[1].jsonl.2", "a[1].jsonl.3", "a[1].jsonl.9x", "a[1].jsonl.gz"}
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	var names []string
	for _, p := range []string{path + ".3", path + ".2", path + ".1", path} {
		for _, r := range lines(t, p) {
			names = append(names, r.Name)
		}
	}
	if len(names) != 31 || names[0] != "n30" || names[29] != "n59" || names[30] != "last" {
		t.Errorf("records %v, want the last 31 in their order", names)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

func TestRotateByAge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	line := fmt.Sprintf(`{"time":%q,"plane":"dns"}`+"\n", time.Now().Add(-25*time.Hour).Format(time.RFC3339Nano))
	if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path, Options{Rotate: Rotate{Age: 24 * time.Hour}}, mute)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "yesterday's file is put away", func() bool {
		b, err := os.ReadFile(path + ".1")
		return err == nil && string(b) == line
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{line: true, "": false, "no record\n": false, `{"time":"2999-01-01T00:00:00Z",`: false} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		if got := now.Sub(firstRecord(path, now)) > 24*time.Hour; got != want {
			t.Errorf("%q is old: %v, want %v", text, got, want)
		}
	}
}

func TestRotateDue(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		rotate Rotate
		size   int64
		age    time.Duration
		want   bool
	}{
		{Rotate{}, 1 << 40, 1e6 * time.Hour, false},
		{Rotate{Size: 10}, 9, time.Hour, false},
		{Rotate{Size: 10}, 10, 0, true},
		{Rotate{Age: time.Hour}, 1, time.Hour, true},
		{Rotate{Age: time.Hour}, 1, time.Hour - 1, false},
		{Rotate{Age: time.Hour}, 0, 2 * time.Hour, false}, // there is nothing to put away
	} {
		if got := tc.rotate.due(&file{size: tc.size, since: now.Add(-tc.age)}, now); got != tc.want {
			t.Errorf("%+v at %d bytes after %v: %v", tc.rotate, tc.size, tc.age, got)
		}
	}
}

// What is past its time goes, and nothing else does.
func TestRetention(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	now := time.Now()
	for name, days := range map[string]int{".1": 1, ".2": 29, ".3": 31, ".4": 400, ".x": 400, ".0": 400} {
		if err := os.WriteFile(path+name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := now.Add(-time.Duration(days) * 24 * time.Hour)
		if err := os.Chtimes(path+name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	l, err := Open(path, Options{Rotate: Rotate{Size: 1 << 30, Stay: 30 * 24 * time.Hour}}, mute)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"audit.jsonl", "audit.jsonl.0", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.x"}
	eventually(t, "old files are gone", func() bool { return slices.Equal(files(t, dir), want) })
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// A file that cannot be renamed: records go on into it, and it is told once.
func TestRotateFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 254)) // with more, no name at all
	var told strings.Builder
	l, err := Open(path, Options{Rotate: Rotate{Size: 1}}, slog.New(slog.NewTextHandler(&told, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		l.Put(Record{Name: "x"})
		eventually(t, "it is written", func() bool { return l.Stats().Written == uint64(i+1) })
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, path); len(got) != 3 {
		t.Errorf("%d records, want 3", len(got))
	}
	if n := strings.Count(told.String(), "cannot be put away"); n != 1 {
		t.Errorf("told %d times:\n%s", n, told.String())
	}
}

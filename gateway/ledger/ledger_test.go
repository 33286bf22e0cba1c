package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func open(t *testing.T, dir string) (*Ledger, string, error) {
	t.Helper()
	l, torn, damaged, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, torn, damaged
}

func fill(t *testing.T, l *Ledger, n int) (heads []Head) {
	t.Helper()
	for i := range n {
		h, err := l.Append(Entry{Who: "token:a", Role: "operator", What: "test", Why: fmt.Sprint(i), Generation: uint64(i)})
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, h)
	}
	return heads
}

func verify(t *testing.T, dir, noted string) (Head, error) {
	t.Helper()
	files, err := Files(dir)
	if err != nil {
		t.Fatal(err)
	}
	return Verify(files, noted)
}

// A ledger goes on where it ended, and verifies as a whole.
func TestGoesOn(t *testing.T) {
	dir := t.TempDir()
	l, _, _ := open(t, dir)
	first := fill(t, l, 5)
	_ = l.Close()
	if _, err := l.Append(Entry{}); err == nil {
		t.Error("a closed ledger takes an entry")
	}
	l, torn, damaged := open(t, dir)
	if torn != "" || damaged != nil || l.Head() != first[4] {
		t.Errorf("torn %q, damaged %v, head %v; want %v", torn, damaged, l.Head(), first[4])
	}
	second := fill(t, l, 3)
	for _, h := range append(first, second...) {
		if got, err := verify(t, dir, h.Hash); err != nil || got != second[2] {
			t.Errorf("noted entry %d: %v %v", h.Seq, got, err)
		}
	}
	if es, more, err := Page(dir, 0, 2); err != nil || !more || len(es) != 2 || es[0].Seq != 8 || es[0].Who != "token:a" {
		t.Errorf("page %+v %v %v", es, more, err)
	}
}

// Whatever is done to the lines is found, and said where.
func TestTampered(t *testing.T) {
	reseal := func(line string) string { // as somebody who knows how
		text := line[:len(line)-hashLen]
		sum := sha256.Sum256([]byte(text))
		return text + hashField + hex.EncodeToString(sum[:]) + `"}`
	}
	for _, tt := range []struct {
		name   string
		change func(lines []string) []string
		want   string
	}{
		{"changed", func(l []string) []string { l[3] = strings.Replace(l[3], "token:a", "token:b", 1); return l }, ":4: entry 4 was changed"},
		{"changed and hashed anew", func(l []string) []string {
			l[3] = reseal(strings.Replace(l[3], "token:a", "token:b", 1))
			return l
		}, ":5: entry 5 does not go on from the entry 4 before it"},
		{"hash changed", func(l []string) []string {
			end := len(l[0]) - len(`"}`) - 1
			other := "0"
			if l[0][end] == '0' {
				other = "1"
			}
			l[0] = l[0][:end] + other + `"}`
			return l
		}, ":1: entry 1 was changed"},
		{"not an entry", func(l []string) []string { l[6] = "nothing"; return l }, ":7: it was changed: it is no entry any more"},
		{"emptied", func(l []string) []string { l[6] = ""; return l }, ":7: it was changed"},
		{"taken out", func(l []string) []string { return slices.Delete(l, 4, 5) }, ":5: entry 5 was taken out"},
		{"several taken out", func(l []string) []string { return slices.Delete(l, 2, 6) }, ":3: entries 3 to 6 were taken out"},
		{"put in twice", func(l []string) []string { return slices.Insert(l, 5, l[2]) }, ":6: entry 3 was put in or moved"},
		{"put in", func(l []string) []string {
			return slices.Insert(l, 5, reseal(strings.Replace(l[4], `"seq":5`, `"seq":6`, 1)))
		}, ":6: entry 6 does not go on from the entry 5 before it"},
		{"exchanged", func(l []string) []string { l[4], l[5] = l[5], l[4]; return l }, ":5: entry 6 was moved"},
		{"moved to the end", func(l []string) []string { return append(slices.Delete(slices.Clone(l), 3, 4), l[3]) }, ":4: entry 5 was moved"},
		{"beginning written anew", func(l []string) []string {
			l[0] = reseal(strings.Replace(l[0], genesis, strings.Repeat("1", 64), 1))
			return l
		}, ":1: entry 1 goes on from another one"},
		{"cut off", func(l []string) []string { return l[:7] }, "the noted head"},
		{"empty", func([]string) []string { return nil }, "the noted head"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			l, _, _ := open(t, dir)
			heads := fill(t, l, 9)
			path := filepath.Join(dir, fileName)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			lines := tt.change(strings.Split(strings.TrimSuffix(string(b), "\n"), "\n"))
			if err := os.WriteFile(path, []byte(strings.Join(append(lines, ""), "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := verify(t, dir, heads[8].Hash); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Every single byte counts.
func TestEveryByte(t *testing.T) {
	dir := t.TempDir()
	l, _, _ := open(t, dir)
	fill(t, l, 3)
	path := filepath.Join(dir, fileName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	end := bytes.LastIndexByte(whole[:len(whole)-1], '\n') // the last line: only its own hash holds it
	for i := range whole[:len(whole)-1] {
		b := bytes.Clone(whole)
		b[i] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := verify(t, dir, ""); err == nil {
			t.Errorf("byte %d (last line from %d) changed: not found", i, end)
		}
	}
}

// What a kill has left half written is set aside, at whatever byte it came.
func TestTorn(t *testing.T) {
	dir := t.TempDir()
	l, _, _ := open(t, dir)
	heads := fill(t, l, 3)
	_ = l.Close()
	path := filepath.Join(dir, fileName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndexByte(whole[:len(whole)-1], '\n') + 1
	for cut := last; cut < len(whole); cut += 7 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		l, torn, damaged, err := Open(dir)
		if err != nil || damaged != nil || l.Head() != heads[1] {
			t.Fatalf("cut at %d: %v %v, head %v", cut, err, damaged, l.Head())
		}
		b, _ := os.ReadFile(torn)
		if cut > last && !bytes.Equal(b, whole[last:cut]) {
			t.Errorf("cut at %d: %q is set aside", cut, b)
		}
		fill(t, l, 1)
		_ = l.Close()
		if h, err := verify(t, dir, heads[1].Hash); err != nil || h.Seq != 3 {
			t.Errorf("cut at %d: %v %v", cut, h, err)
		}
	}
}

// A ledger that was tampered with goes on, and stays wrong.
func TestGoesOnBehindDamage(t *testing.T) {
	dir := t.TempDir()
	l, _, _ := open(t, dir)
	fill(t, l, 4)
	_ = l.Close()
	path := filepath.Join(dir, fileName)
	b, _ := os.ReadFile(path)
	if err := os.WriteFile(path, bytes.Replace(b, []byte(`"why":"2"`), []byte(`"why":"9"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	l, _, damaged := open(t, dir)
	if damaged == nil || !strings.Contains(damaged.Error(), "entry 3 was changed") {
		t.Fatalf("damaged: %v", damaged)
	}
	fill(t, l, 2)
	_ = l.Close()
	if _, _, damaged := open(t, dir); damaged != nil {
		t.Errorf("the new file: %v", damaged)
	}
	if _, err := verify(t, dir, ""); err == nil || !strings.Contains(err.Error(), "entry 3 was changed") {
		t.Errorf("the whole: %v", err)
	}
}

// Files are bounded, and go on from each other.
func TestRotation(t *testing.T) {
	dir := t.TempDir()
	l, _, _ := open(t, dir)
	l.maxFile = 1000
	heads := fill(t, l, 500)
	files, err := Files(dir)
	if err != nil || len(files) < 10 || len(files) > maxOld+1 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	if h, err := Verify(files, heads[490].Hash); err != nil || h != heads[499] {
		t.Errorf("%v %v, want %v", h, err, heads[499])
	}
	if _, err := Verify(slices.Delete(slices.Clone(files), 3, 4), ""); err == nil || !strings.Contains(err.Error(), "taken out") {
		t.Errorf("without a file: %v", err)
	}
	_ = l.Close()
	if l, _, damaged := open(t, dir); damaged != nil || l.Head() != heads[499] {
		t.Errorf("opened again: %v, head %v", damaged, l.Head())
	}
}

// Many at once are one chain. A reason that is too long is no entry.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	l, _, _ := open(t, dir)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { fill(t, l, 10) })
	}
	wg.Wait()
	if _, err := l.Append(Entry{Why: strings.Repeat("x", maxLine)}); err == nil {
		t.Error("an entry without bound")
	}
	if h, err := verify(t, dir, l.Head().Hash); err != nil || h.Seq != 80 {
		t.Errorf("%v %v", h, err)
	}
}
